#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "credential/injections.h"
#include "credential/secret_store.h"
#include "policy/decide.h"

namespace postern::credential {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

static_assert(!std::is_copy_constructible_v<InjectedHeader>);
static_assert(!std::is_copy_constructible_v<Injections>);

class EnvFile : public testing::Test {
 protected:
  EnvFile() {
    std::string path = "/tmp/postern-secrets-XXXXXX";
    const int fd = ::mkstemp(path.data());
    EXPECT_GE(fd, 0);
    ::close(fd);
    path_ = path;
  }
  ~EnvFile() override { ::unlink(path_.c_str()); }

  Result<void> load(std::string_view text) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << text;
    return read(path_);
  }
  Result<void> read(const std::string& path) {
    const auto found = read_env_file(path);
    if (!found) return std::unexpected(found.error());
    for (const SecretReference& reference : *found)
      if (auto added = store_.add(reference); !added) return added;
    return {};
  }
  /// The error without the file's name, or "loaded".
  std::string refusal(std::string_view text) {
    const auto loaded = load(text);
    if (loaded) return "loaded";
    EXPECT_EQ(loaded.error().reason, Reason::invalid_configuration);
    EXPECT_THAT(loaded.error().detail, testing::StartsWith(path_));
    return loaded.error().detail.substr(path_.size());
  }
  std::string value(std::string_view key) {
    const Secret* found = store_.find(key);
    return found == nullptr ? "none" : std::string(found->unwrap());
  }

  std::string path_;
  SecretStore store_;
};

TEST_F(EnvFile, ReadsTheUsualForms) {
  ASSERT_TRUE(
      load("# a comment\n"
           "\n"
           "PLAIN=value with = and#no space\n"
           "  export EXPORTED= spaced  \r\n"
           "SINGLE='a \"b\" \\n # c'   # behind\n"
           "DOUBLE=\"a 'b' \\\"c\\\" \\\\ \\$d\"\n"
           "LAST=no newline"));
  EXPECT_EQ(value("PLAIN"), "value with = and#no space");
  EXPECT_EQ(value("EXPORTED"), "spaced");
  EXPECT_EQ(value("SINGLE"), "a \"b\" \\n # c");
  EXPECT_EQ(value("DOUBLE"), "a 'b' \"c\" \\ $d");
  EXPECT_EQ(value("LAST"), "no newline");
  EXPECT_EQ(value("OTHER"), "none");
}

TEST_F(EnvFile, WhatOtherReadersReadDifferentlyIsRefused) {
  EXPECT_EQ(refusal("X=a #b\n"), ":1: X: a value with ' #' in it needs quotes, and a comment its own line");
  EXPECT_EQ(refusal("X =a\n"), ":1: what stands before = is not a secret's name (letters, digits and _)");
}

TEST_F(EnvFile, ErrorsNameTheLineAndNeverTheValue) {
  const std::string canary = "canary31337";
  for (const std::string& line : std::vector<std::string>{
           canary,
           "'" + canary + "'",
           "A B=" + canary,
           "1A=" + canary,
           "A='" + canary,
           "A=\"" + canary,
           "A='" + canary + "' x",
           "A=\"" + canary + "\" x",
           "A=\"" + canary + "\\q\"",
           "A=" + canary + " # x",
           "A=" + canary + "\"",
           "A=" + canary + "'",
           "A=" + canary + "\nA=" + canary,
           "A=" + canary + std::string(1, '\0'),
           "A=" + canary + std::string(secret_bytes_max, 'x'),
           canary + "-x=" + canary,
           "A=",
           "A=''",
           "=" + canary,
           "B=ok\n" + canary,
       }) {
    EXPECT_THAT(refusal("# first\n" + line + "\n"),
                AllOf(testing::MatchesRegex(":[23]: .*"), Not(HasSubstr("canary"))))
        << line;
  }
  EXPECT_TRUE(store_.empty()) << "nothing is set by a broken file";
  EXPECT_EQ(refusal("A=1234567\nB\n"), ":2: is not KEY=VALUE");
  EXPECT_EQ(refusal("A=1234567\nA=x\n"), ":2: A is set twice in this file");
  EXPECT_EQ(refusal(std::string(env_file_bytes_max + 1, '\n')), ": more than 1048576 bytes");
  const auto missing = read("/nonexistent.env");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().detail, "/nonexistent.env: cannot be read: No such file or directory");
}

TEST(SecretStore, TakesFromTheEnvironment) {
  SecretStore store;
  ::setenv("POSTERN_TEST_SECRET", "from-environment", 1);
  ASSERT_TRUE(store.add(*read_secret_option("POSTERN_TEST_SECRET")));
  EXPECT_EQ(store.find("POSTERN_TEST_SECRET")->unwrap(), "from-environment");
  EXPECT_THAT(
      store.add(*read_secret_option("POSTERN_TEST_UNSET")).error().detail,
      AllOf(HasSubstr("the environment variable POSTERN_TEST_UNSET is not set"), HasSubstr("accepted: ")));
  EXPECT_FALSE(read_secret_option("A-B"));
  EXPECT_FALSE(store.set("A-B", Secret("x")));
  EXPECT_FALSE(store.set("A", Secret("")));
}

TEST(SecretStore, RecognisesItsValuesInOtherText) {
  SecretStore store;
  ASSERT_TRUE(store.set("LONG", Secret("s3cr3t-value")));
  ASSERT_TRUE(store.set("SHORT", Secret("12345")));
  EXPECT_TRUE(store.appears_in("s3cr3t-value"));
  EXPECT_TRUE(store.appears_in("https://user:s3cr3t-value@host"));
  EXPECT_FALSE(store.appears_in("s3cr3t"));
  EXPECT_FALSE(store.appears_in("12345")) << "too short to tell from chance";
  EXPECT_FALSE(store.appears_in(""));
}

std::shared_ptr<const policy::Snapshot> snapshot(std::string_view text) {
  auto document = policy::parse_document(text, policy::Format::yaml);
  if (!document) {
    ADD_FAILURE() << policy::describe(document.error(), "p");
    document.emplace();
  }
  return *policy::compile(std::move(*document));
}

std::string lines(std::span<const InjectedHeader> headers) {
  std::string out;
  for (const auto& header : headers) append_header_line(header, out);
  return out;
}

TEST(Injections, AreReadyLinesPerRule) {
  SecretStore store;
  ASSERT_TRUE(store.set("A", Secret("first"), 9));
  ASSERT_TRUE(store.set("B", Secret("second"), 7));
  const auto policy = snapshot(R"(
rules:
  - {name: none, match_hosts: [a.com]}
  - name: all
    match_hosts: [b.com]
    headers:
      - {name: Authorization, type: workspace_secret, value: "Bearer {A}{{{B}}}"}
      - {name: X-Plain, type: plaintext, value: "{A}"}
      - {name: X-Opaque, type: opaque, value: "{B}"}
      - {name: X, type: plaintext, value: ""}
)");
  const auto injections = resolve(*policy, store);
  ASSERT_TRUE(injections) << policy::describe(injections.error(), "p");
  EXPECT_TRUE(injections->of(0).empty());
  EXPECT_TRUE(injections->of(2).empty());
  EXPECT_TRUE(injections->of(policy::no_rule).empty());
  const auto headers = injections->of(1);
  ASSERT_EQ(headers.size(), 4u);
  EXPECT_EQ(lines(headers),
            "Authorization: Bearer first{second}\r\nX-Plain: {A}\r\nX-Opaque: {B}\r\nX: \r\n");
  EXPECT_EQ(headers[0].name, "Authorization");
  EXPECT_EQ(source_of(headers[0]), "workspace_secret:A,B");
  EXPECT_EQ(headers[0].version, 9u) << "the newer of the two";
  EXPECT_EQ(headers[1].version, 0u);
  EXPECT_EQ(source_of(headers[1]), "plaintext");
  EXPECT_EQ(source_of(headers[2]), "opaque");
}

TEST(Injections, EveryMissingSecretIsNamed) {
  const auto policy = snapshot(R"(
rules:
  - name: r
    match_hosts: [a.com]
    headers:
      - {name: A, type: workspace_secret, value: "{ONE} {TWO}"}
      - {name: B, type: opaque}
  - {name: off, enabled: false, match_hosts: [a.com], headers: [{name: A, type: workspace_secret, value: "{THREE}"}]}
)");
  const auto injections = resolve(*policy, {});
  ASSERT_FALSE(injections);
  EXPECT_EQ(policy::describe(injections.error(), "p.yaml"),
            "p.yaml:6:9: rules[0].headers[0].value: there is no secret named ONE\n"
            "p.yaml:6:9: rules[0].headers[0].value: there is no secret named TWO\n"
            "p.yaml:7:9: rules[0].headers[1].value: no value is set for the opaque header B\n");
}

TEST(Injections, ALineBreakInASecretIsRefused) {  // threat 41
  for (const std::string& bad :
       {std::string("canary\n"), std::string("canary\r\nX-Evil: 1"), std::string("canary\0x", 8),
        std::string("can\x7f"
                    "ary"),
        std::string("\x01 canary")}) {
    SecretStore store;
    ASSERT_TRUE(store.set("K", Secret(bad)));
    const auto injections = resolve(*snapshot("rules: [{name: r, match_hosts: [a.com], headers: [{name: A, "
                                              "type: workspace_secret, value: 'x {K}'}]}]"),
                                    store);
    ASSERT_FALSE(injections);
    const std::string told = policy::describe(injections.error(), "p");
    EXPECT_THAT(told, AllOf(HasSubstr("the value for A (workspace_secret:K) holds CR, LF, NUL"),
                            Not(HasSubstr("canary"))));
  }
}

TEST(Injections, ALongValueIsRefused) {
  SecretStore store;
  ASSERT_TRUE(store.set("K", Secret(std::string(secret_bytes_max, 'x'))));
  const auto injections = resolve(*snapshot("rules: [{name: r, match_hosts: [a.com], headers: [{name: A, "
                                            "type: workspace_secret, value: '{K}{K}'}]}]"),
                                  store);
  ASSERT_FALSE(injections);
  EXPECT_THAT(policy::describe(injections.error(), "p"), HasSubstr("is longer than 16384 bytes"));
}

TEST(Resolve, AKeyOfAwsIsOneThatCanStandInASignature) {
  for (const std::string key :
       {"canary, SignedHeaders=", "canary/20260101", "canary\r\nX: y", "canary key"}) {
    SecretStore store;
    ASSERT_TRUE(store.set("KEY", Secret(std::string(key))));
    ASSERT_TRUE(store.set("SECRET", Secret("canary")));
    const auto injections =
        resolve(*snapshot("rules: [{name: r, type: aws, aws: {access_key_id: {type: workspace_secret, value: "
                          "'{KEY}'}, secret_access_key: {type: workspace_secret, value: '{SECRET}'}}}]"),
                store);
    ASSERT_FALSE(injections) << key;
    EXPECT_EQ(injections.error().front().where, "rules[0].aws.access_key_id.value");
    EXPECT_THAT(injections.error().front().message, Not(HasSubstr("canary")));
  }
}

}  // namespace
}  // namespace postern::credential
