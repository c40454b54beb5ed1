#include "cli/run_options.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

namespace postern::cli {
namespace {

TEST(Overrides, TakeAnAddressWithAndWithoutAPort) {
  const auto map =
      parse_overrides({"api.example.com=127.0.0.1:8443", "api.example.com=[::1]:9443",
                       "db.example.com=10.0.0.7", "six.example.com=fd00::7", "SIX.example.com.=[fd00::8]"});
  ASSERT_TRUE(map) << map.error().detail;
  ASSERT_EQ(map->size(), 3u);
  const auto& api = map->at("api.example.com");
  ASSERT_EQ(api.size(), 2u) << "several entries are several addresses";
  EXPECT_EQ(api[0].address.to_string(), "127.0.0.1");
  EXPECT_EQ(api[0].port, 8443);
  EXPECT_EQ(api[1].address.to_string(), "::1");
  EXPECT_EQ(api[1].port, 9443);
  EXPECT_EQ(map->at("db.example.com")[0].port, std::nullopt);
  EXPECT_EQ(map->at("six.example.com").size(), 2u) << "names are canonical";
}

TEST(Overrides, WhatIsNoneIsNamedWithTheAcceptedForm) {
  for (const char* wrong :
       {"", "api.example.com", "=127.0.0.1", "api.example.com=", "api.example.com=other.example.com",
        "api.example.com=127.0.0.1:", "api.example.com=127.0.0.1:99999", "api.example.com=127.0.0.1:x",
        "api.example.com=1.2.3", "1.2.3.4=127.0.0.1", "api.example.com=[::1", "api.example.com=::1:80:x",
        "bad host=127.0.0.1"}) {
    const auto map = parse_overrides({wrong});
    ASSERT_FALSE(map) << wrong;
    EXPECT_EQ(map.error().reason, Reason::invalid_configuration);
    EXPECT_NE(map.error().detail.find("--resolve '" + std::string(wrong) + "'"), std::string::npos)
        << map.error().detail;
    EXPECT_NE(map.error().detail.find("HOST=IP[:PORT]"), std::string::npos);
  }
}

TEST(Networks, AreNetworksOrSingleAddresses) {
  const auto networks = parse_networks({"10.1.0.0/16", "192.168.7.4", "fd00:1::/64", "fd00::7"});
  ASSERT_TRUE(networks) << networks.error().detail;
  ASSERT_EQ(networks->size(), 4u);
  EXPECT_EQ((*networks)[1].to_string(), "192.168.7.4/32");
  EXPECT_EQ((*networks)[3].to_string(), "fd00::7/128");
}

TEST(Networks, WhatIsNoneIsNamed) {
  for (const char* wrong : {"", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "ten", "10.0.0.0/8 ", "::/129"}) {
    const auto networks = parse_networks({"10.1.0.0/16", wrong});
    ASSERT_FALSE(networks) << wrong;
    EXPECT_NE(networks.error().detail.find("--allow-private '" + std::string(wrong) + "'"), std::string::npos)
        << networks.error().detail;
  }
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
  const auto secrets = read_secrets({"POSTERN_TEST_TOKEN", "GIVEN=a=b"}, {file_});
  ASSERT_TRUE(secrets) << secrets.error().detail;
  EXPECT_NE(secrets->find("POSTERN_TEST_TOKEN"), nullptr);
  EXPECT_TRUE(secrets->appears_in("x from-the-environment x"));
  EXPECT_TRUE(secrets->appears_in("file-value"));
  EXPECT_NE(secrets->find("GIVEN"), nullptr);
}

TEST_F(Secrets, OneOnTheLineWinsOverAFile) {
  write("KEY=from-the-file\n");
  const auto secrets = read_secrets({"KEY=from-the-line"}, {file_});
  ASSERT_TRUE(secrets);
  EXPECT_TRUE(secrets->appears_in("from-the-line"));
  EXPECT_FALSE(secrets->appears_in("from-the-file"));
}

TEST_F(Secrets, AComplaintNamesTheOptionAndNeverTheValue) {
  write("GOOD=1\nbroken-hunter2 line\n");
  const auto from_file = read_secrets({}, {file_});
  const auto missing_file = read_secrets({}, {directory_ + "/absent.env"});
  const auto unset = read_secrets({"POSTERN_TEST_NOT_SET"}, {});
  const auto empty = read_secrets({"EMPTY="}, {});
  const auto bad_key = read_secrets({"not a key=hunter2"}, {});
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
      read_secrets({"A=file:" + file_, "B=cmd:printf 'printed %s\\n' here", "C=value:file:literal"}, {});
  ASSERT_TRUE(secrets) << secrets.error().detail;
  EXPECT_TRUE(secrets->appears_in("x from-the-file x"));
  EXPECT_TRUE(secrets->appears_in("printed here"));
  EXPECT_TRUE(secrets->appears_in("file:literal"));
  EXPECT_EQ(files_of_secrets({"A=file:" + file_, "B=cmd:x", "C"}, {"x.env"}),
            (std::vector<std::string>{"x.env", file_}));
}

TEST_F(Secrets, CommandsAreNotRunAgain) {
  const std::string command = "B=cmd:echo run >> " + file_ + "; wc -l < " + file_ + "; echo long enough";
  const auto first = read_secrets({command}, {});
  ASSERT_TRUE(first) << first.error().detail;
  const auto second = read_secrets({command}, {}, &*first);
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->appears_in("1\nlong enough"));
}

TEST_F(Secrets, WhatCannotBeReadIsSaidWithoutWhatItMayHold) {
  for (const std::string& option :
       std::vector<std::string>{"A=file:" + directory_ + "/absent", "A=file:" + directory_, "A=cmd:exit 3",
                                "A=cmd:kill -9 $$", "A=cmd:true", "A=cmd:echo hunter2 >&2; exit 1",
                                "A=cmd:head -c 20000 /dev/zero | tr '\\0' x", "not a key=cmd:echo hunter2"}) {
    const auto read = read_secrets({option}, {});
    ASSERT_FALSE(read) << option;
    EXPECT_TRUE(read.error().detail.starts_with("--secret: ")) << read.error().detail;
    EXPECT_EQ(read.error().detail.find("hunter2"), std::string::npos) << read.error().detail;
  }
  EXPECT_EQ(read_secrets({"A=cmd:exit 3"}, {}).error().detail,
            "--secret: A: its command failed with status 3");
}

}  // namespace
}  // namespace postern::cli
