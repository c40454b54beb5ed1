#include "cli/secret_sources.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>

#include "credential/injections.h"

namespace postern::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

Result<credential::SecretStore> read(std::vector<std::string> secrets, std::vector<std::string> files) {
  return SecretSources({.secrets = std::move(secrets), .secret_files = std::move(files)}).read();
}

class Secrets : public testing::Test {
 protected:
  Secrets() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-options-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    file_ = directory_ + "/secrets.env";
    ::setenv("POSTERN_TEST_TOKEN", "from-the-environment", 1);
  }
  ~Secrets() override {
    std::filesystem::remove_all(directory_);
    ::unsetenv("POSTERN_TEST_TOKEN");
  }
  void write(const std::string& text) const { std::ofstream(file_) << text; }
  std::string directory_, file_;
};

TEST_F(Secrets, ComeFromTheEnvironmentTheLineAndFiles) {
  write("IN_FILE=file-value\n");
  const auto secrets = read({"POSTERN_TEST_TOKEN", "GIVEN=a=b"}, {file_});
  ASSERT_TRUE(secrets) << secrets.error().detail;
  EXPECT_NE(secrets->find("POSTERN_TEST_TOKEN"), nullptr);
  EXPECT_TRUE(secrets->appears_in("x from-the-environment x"));
  EXPECT_TRUE(secrets->appears_in("file-value"));
  EXPECT_NE(secrets->find("GIVEN"), nullptr);
}

TEST_F(Secrets, OneOnTheLineWinsOverAFile) {
  write("KEY=from-the-file\n");
  const auto secrets = read({"KEY=from-the-line"}, {file_});
  ASSERT_TRUE(secrets);
  EXPECT_TRUE(secrets->appears_in("from-the-line"));
  EXPECT_FALSE(secrets->appears_in("from-the-file"));
}

TEST_F(Secrets, AComplaintNamesTheOptionAndNeverTheValue) {
  write("GOOD=1\nbroken-hunter2 line\n");
  const auto from_file = read({}, {file_});
  const auto missing_file = read({}, {directory_ + "/absent.env"});
  const auto unset = read({"POSTERN_TEST_NOT_SET"}, {});
  const auto empty = read({"EMPTY="}, {});
  const auto bad_key = read({"not a key=hunter2"}, {});
  ASSERT_FALSE(from_file || missing_file || unset || empty || bad_key);
  for (const auto* result : {&from_file, &missing_file, &unset, &empty, &bad_key}) {
    EXPECT_EQ(result->error().reason, Reason::invalid_configuration);
    EXPECT_TRUE(result->error().detail.starts_with("--secret")) << result->error().detail;
    EXPECT_EQ(result->error().detail.find("hunter2"), std::string::npos) << result->error().detail;
  }
  EXPECT_NE(unset.error().detail.find("POSTERN_TEST_NOT_SET"), std::string::npos);
}

TEST_F(Secrets, ComeFromFilesAndCommandsThatAreNamed) {
  write("from-the-file\n");
  const auto secrets =
      read({"A=file:" + file_, "B=cmd:printf 'printed %s\\n' here", "C=value:file:literal"}, {});
  ASSERT_TRUE(secrets) << secrets.error().detail;
  EXPECT_TRUE(secrets->appears_in("x from-the-file x"));
  EXPECT_TRUE(secrets->appears_in("printed here"));
  EXPECT_TRUE(secrets->appears_in("file:literal"));
  EXPECT_EQ(secrets->find("A=file:"), nullptr);
}

TEST_F(Secrets, LinesOfAFileAreReferencesToo) {
  std::ofstream(directory_ + "/key.txt") << "from-the-key-file\n";
  write("A=file:key.txt\nB='cmd:echo printed here'\nC=\"value:cmd:literal\"\nD=plain: text\n");
  SecretSources sources({.secrets = {"E=file:" + directory_ + "/key.txt"}, .secret_files = {file_}});
  const auto secrets = sources.read();
  ASSERT_TRUE(secrets) << secrets.error().detail;
  EXPECT_TRUE(secrets->appears_in("from-the-key-file")) << "a relative path begins where its file is";
  EXPECT_TRUE(secrets->appears_in("printed here"));
  EXPECT_TRUE(secrets->appears_in("cmd:literal"));
  EXPECT_TRUE(secrets->appears_in("plain: text"));
  EXPECT_EQ(sources.files(),
            (std::vector<std::string>{file_, directory_ + "/key.txt", directory_ + "/key.txt"}));
}

TEST_F(Secrets, WhatAPolicyRefersToIsRead) {
  std::ofstream(directory_ + "/key.txt") << "from-the-key-file\n";
  const std::string policy = directory_ + "/policy.yaml";
  std::ofstream(policy) << R"(rules:
  - name: a
    match_hosts: [api.example.com]
    headers: [{name: X-Key, type: opaque, from: "file:key.txt"}]
  - name: b
    match_hosts: [b.example.com]
    enabled: false
    headers: [{name: X-Key, type: opaque, from: "file:absent.txt"}]
)";
  auto document = policy::load_document(policy);
  ASSERT_TRUE(document) << document.error().front().message;
  const auto snapshot = policy::compile(std::move(*document)).value();
  SecretSources sources({.policy_file = policy, .policy = snapshot});
  auto secrets = sources.read();
  ASSERT_TRUE(secrets) << secrets.error().detail;
  const auto injections = credential::resolve(*snapshot, *secrets);
  ASSERT_TRUE(injections) << injections.error().front().message;
  std::string line;
  append_header_line(injections->of(0)[0], line);
  EXPECT_EQ(line, "X-Key: from-the-key-file\r\n");
  EXPECT_FALSE(credential::resolve(*snapshot, credential::SecretStore()));

  std::filesystem::remove(directory_ + "/key.txt");
  const auto changed = sources.look(*secrets);
  ASSERT_TRUE(changed && !*changed);
  EXPECT_THAT(changed->error().detail,
              testing::AllOf(HasSubstr(policy + ":4:15: rules[0].headers[0].from"),
                             HasSubstr("key.txt: cannot be read: No such file"), HasSubstr("accepted: ")));
}

TEST_F(Secrets, AreLookedAtAgainWhenAFileChanges) {
  std::ofstream(directory_ + "/key.txt") << "one-one-one";
  SecretSources sources({.secrets = {"A=file:" + directory_ + "/key.txt"}});
  auto secrets = sources.read();
  ASSERT_TRUE(secrets);
  EXPECT_TRUE(sources.may_change());
  EXPECT_FALSE(sources.look(*secrets)) << "nothing has changed";
  std::ofstream(directory_ + "/key.txt") << "two-two-two-two";
  auto changed = sources.look(*secrets);
  ASSERT_TRUE(changed && *changed);
  EXPECT_FALSE((*changed)->same_as(*secrets));
  EXPECT_TRUE((*changed)->appears_in("two-two-two-two"));
  EXPECT_FALSE(sources.look(**changed));
  std::filesystem::remove(directory_ + "/key.txt");
  EXPECT_FALSE(sources.look(**changed)->has_value());
  EXPECT_FALSE(sources.look(**changed)) << "said once";
}

TEST_F(Secrets, WhatIsReferredToLaterIsNotHiddenAndNotRead) {
  std::ofstream(directory_ + "/later.txt") << "later-later";
  write("A=plain-plain\n");
  SecretSources sources({.secret_files = {file_}});
  const auto secrets = sources.read();
  ASSERT_TRUE(secrets);
  for (const char* line : {"A=file:later.txt # x\n", "A=file:later.txt\n", "A=vault:secret/a#b\n",
                           "A=cmd:echo ran\nB=cmd:echo ran\n"}) {
    write(line);
    const auto changed = sources.look(*secrets);
    ASSERT_TRUE(changed && !*changed) << line;
  }
  write("A=other-plain\n");
  const auto changed = sources.look(*secrets);
  ASSERT_TRUE(changed && *changed) << "and it goes on";
  EXPECT_TRUE((*changed)->appears_in("other-plain"));
}

TEST_F(Secrets, VaultMustBeKnownBeforeItIsAsked) {
  ::unsetenv("VAULT_ADDR");
  const auto unset = read({"A=vault:secret/a#b"}, {});
  ASSERT_FALSE(unset);
  EXPECT_THAT(unset.error().detail, HasSubstr("VAULT_ADDR is not set"));
  const auto form = read({"A=vault:secret"}, {});
  ASSERT_FALSE(form);
  EXPECT_THAT(form.error().detail,
              testing::AllOf(testing::StartsWith("--secret: A: vault: is not PATH#FIELD"),
                             HasSubstr("accepted: KEY=VALUE")));
}

TEST_F(Secrets, CommandsAreNotRunAgain) {
  const std::string command = "B=cmd:echo run >> " + file_ + "; wc -l < " + file_ + "; echo long enough";
  std::ofstream(directory_ + "/key.txt") << "one-one-one";
  SecretSources sources({.secrets = {command, "A=file:" + directory_ + "/key.txt"}});
  const auto first = sources.read();
  ASSERT_TRUE(first) << first.error().detail;
  std::ofstream(directory_ + "/key.txt") << "two-two-two-two";
  auto second = sources.look(*first);
  ASSERT_TRUE(second && *second);
  EXPECT_TRUE((*second)->appears_in("two-two-two-two"));
  EXPECT_TRUE((*second)->appears_in("1\nlong enough"));
}

TEST_F(Secrets, WhatCannotBeReadIsSaidWithoutWhatItMayHold) {
  for (const std::string& option :
       std::vector<std::string>{"A=file:" + directory_ + "/absent", "A=file:" + directory_, "A=cmd:exit 3",
                                "A=cmd:kill -9 $$", "A=cmd:true", "A=cmd:echo hunter2 >&2; exit 1",
                                "A=cmd:head -c 20000 /dev/zero | tr '\\0' x", "not a key=cmd:echo hunter2"}) {
    const auto found = read({option}, {});
    ASSERT_FALSE(found) << option;
    EXPECT_THAT(found.error().detail,
                testing::AllOf(testing::StartsWith("--secret: "), HasSubstr("accepted: ")));
    EXPECT_THAT(found.error().detail, Not(HasSubstr("hunter2")));
  }
  EXPECT_THAT(read({"A=cmd:exit 3"}, {}).error().detail,
              testing::StartsWith("--secret: A: its command failed with status 3 (accepted: "));
}

}  // namespace
}  // namespace postern::cli
