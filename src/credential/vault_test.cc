#include "credential/vault.h"

#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <map>

namespace postern::credential {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(VaultReference, APathIsThatOfTheCommandLineOrOfTheApi) {
  const std::map<std::string, std::string> paths = {
      {"secret/app", "secret/data/app"},
      {"secret/agents/openai", "secret/data/agents/openai"},
      {"secret/data/app", "secret/data/app"},
      {"team/kv/data/agents/openai", "team/kv/data/agents/openai"},
      {"secret/my app/ü", "secret/data/my%20app/%C3%BC"},
      {"data/app", "data/data/app"},
  };
  for (const auto& [said, path] : paths) {
    const auto reference = parse_vault_reference(said + "#key");
    ASSERT_TRUE(reference) << said << ": " << reference.error().detail;
    EXPECT_EQ(reference->path, path) << said;
    EXPECT_EQ(reference->field, "key");
  }
  EXPECT_EQ(parse_vault_reference("secret/app#a field")->field, "a field");
}

TEST(VaultReference, WhatCouldBeReadAsAnotherPathIsRefused) {
  for (const std::string said :
       {"", "#key", "secret#key", "secret/app", "secret/app#", "/secret/app#key", "secret//app#key",
        "secret/app/#key", "secret/../sys/seal#key", "secret/./app#key", "secret/app?version=1#key",
        "secret/%2e%2e/x#key", "secret/a\\b#key", "secret/app\n#key", "secret/app#key\r\nX: 1",
        "secret/data#key", "a#b/c#key"}) {
    EXPECT_FALSE(parse_vault_reference(said)) << said;
  }
  EXPECT_FALSE(parse_vault_reference("secret/" + std::string(600, 'x') + "#key"));
}

class Environment {
 public:
  explicit Environment(std::map<std::string, std::string> set) : set_(std::move(set)) {}
  Result<VaultSettings> settings() const {
    return vault_settings([this](const char* name) -> const char* {
      const auto found = set_.find(name);
      return found == set_.end() ? nullptr : found->second.c_str();
    });
  }

 private:
  std::map<std::string, std::string> set_;
};

TEST(VaultSettings, AreThoseOfVaultsOwnCommandLine) {
  const auto all = Environment({{"VAULT_ADDR", "https://vault.example.com:8200/"},
                                {"VAULT_TOKEN", "hvs.canary"},
                                {"VAULT_NAMESPACE", "team"},
                                {"VAULT_CACERT", "/etc/vault.pem"},
                                {"HOME", "/home/me"}})
                       .settings();
  ASSERT_TRUE(all) << all.error().detail;
  EXPECT_EQ(all->address.origin() + all->address.target, "https://vault.example.com:8200");
  EXPECT_EQ(all->token.unwrap(), "hvs.canary");
  EXPECT_EQ(all->name_space, "team");
  EXPECT_EQ(all->ca_file, "/etc/vault.pem");
  EXPECT_EQ(all->token_file, "/home/me/.vault-token");
}

TEST(VaultSettings, WhatIsWrongIsNamedWithoutAToken) {
  const std::vector<std::map<std::string, std::string>> wrong = {
      {},
      {{"VAULT_ADDR", "vault.example.com"}},
      {{"VAULT_ADDR", "https://canary@vault.example.com"}},
      {{"VAULT_ADDR", "https://vault.example.com/?x"}},
      {{"VAULT_ADDR", "https://vault.example.com"}, {"VAULT_TOKEN", "canary\r\nX: 1"}},
      {{"VAULT_ADDR", "https://vault.example.com"}, {"VAULT_NAMESPACE", "a\r\nX: 1"}},
  };
  for (const auto& set : wrong) {
    const auto settings = Environment(set).settings();
    ASSERT_FALSE(settings);
    EXPECT_THAT(settings.error().detail, AllOf(StartsWith("VAULT_"), Not(HasSubstr("canary"))));
  }
}

constexpr std::string_view good =
    R"({"request_id":"x","lease_duration":0,"data":{"data":{"key":"canary","number":7,"none":null},"metadata":{"version":3,"destroyed":false}}})";

TEST(VaultAnswer, GivesTheFieldsThatAreText) {
  const auto entry = read_vault_answer(200, good);
  ASSERT_TRUE(entry) << entry.error().detail;
  EXPECT_EQ(take_vault_field(*entry, "key")->unwrap(), "canary");
  for (const char* name : {"number", "none", "absent"}) EXPECT_FALSE(take_vault_field(*entry, name)) << name;
}

TEST(VaultAnswer, WhatIsNoneIsSaidWithoutAnythingOfIt) {
  const std::vector<std::pair<int, std::string>> answers = {
      {200, "canary"},
      {200, ""},
      {200, "[\"canary\"]"},
      {200, R"({"data":{"key":"canary"}})"},                             // KV version 1
      {200, R"({"data":{"data":{"data":{"key":"canary"}}}})"},           // no metadata
      {200, R"({"data":{"data":"canary","metadata":{}}})"},              // wrong type
      {200, R"({"data":{"data":null,"metadata":{"destroyed":true}}})"},  // deleted
      {200, R"({"data":{"data":{"k":"a","k":"b"},"metadata":{}}})"},     // twice
      {200, R"({"data":{"data":{"key":"canary"},"metadata":{}}} x)"},
      {200, std::string(good.substr(0, good.size() - 2))},
      {204, ""},
      {301, "canary"},
      {307, "canary"},
      {400, R"({"errors":["canary"]})"},
      {403, R"({"errors":["permission denied: canary"]})"},
      {404, R"({"errors":[]})"},
      {503, "canary"},
  };
  for (const auto& [status, body] : answers) {
    const auto entry = read_vault_answer(status, body);
    ASSERT_FALSE(entry) << status << " " << body;
    EXPECT_THAT(entry.error().detail, Not(HasSubstr("canary")));
    EXPECT_EQ(entry.error().reason, Reason::invalid_configuration);
  }
  EXPECT_THAT(read_vault_answer(200, answers[6].second).error().detail, HasSubstr("deleted"));
  EXPECT_THAT(read_vault_answer(307, "").error().detail, HasSubstr("redirects are not followed"));
}

/// Takes down the one question that it is asked.
class OneAnswer final : public Caller {
 public:
  io::Task<Result<CallAnswer>> call(const Call& call) override {
    question = fmt::format("{} {}{}\n", call.method, call.url.origin(), call.url.target);
    for (const HeaderField& field : call.fields) question += fmt::format("{}: {}\n", field.name, field.value);
    for (const InjectedHeader& header : call.credentials) append_header_line(header, question);
    CallAnswer answer;
    answer.status = 200;
    answer.body.append(good);
    co_return answer;
  }
  io::Loop& loop() override { return loop_; }
  const Clock& clock() override { return clock_; }
  std::string question;

 private:
  ManualClock clock_;
  io::Loop loop_{clock_};
};

Result<VaultEntry> ask(OneAnswer& caller, const VaultSettings& settings, const std::string& path) {
  struct Asking {
    static io::Task<void> run(OneAnswer& caller, const VaultSettings& settings, const std::string& path,
                              std::optional<Result<VaultEntry>>& out) {
      auto answer = co_await ask_vault(caller, settings, path, TimePoint::max());
      out.emplace(std::move(answer));
    }
  };
  std::optional<Result<VaultEntry>> out;
  caller.loop().spawn(Asking::run(caller, settings, path, out));
  return std::move(*out);
}

TEST(VaultQuestion, CarriesTheTokenAndTheNamespace) {
  OneAnswer caller;
  const auto settings = Environment({{"VAULT_ADDR", "https://vault.example.com:8200/prefix/"},
                                     {"VAULT_TOKEN", "hvs.canary"},
                                     {"VAULT_NAMESPACE", "team"}})
                            .settings();
  ASSERT_TRUE(ask(caller, *settings, "secret/data/app"));
  EXPECT_THAT(caller.question,
              AllOf(StartsWith("GET https://vault.example.com:8200/prefix/v1/secret/data/app\n"),
                    HasSubstr("X-Vault-Token: hvs.canary\r\n"), HasSubstr("X-Vault-Namespace: team\n"),
                    HasSubstr("X-Vault-Request: true\n")));
}

TEST(VaultQuestion, TheFileOfTheTokenIsReadEachTime) {
  std::string directory = (std::filesystem::temp_directory_path() / "postern-vault-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string file = directory + "/token";
  OneAnswer caller;
  const auto settings =
      Environment({{"VAULT_ADDR", "https://vault.example.com"}, {"VAULT_TOKEN_FILE", file}}).settings();
  const auto missing = ask(caller, *settings, "secret/data/app");
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().detail, AllOf(HasSubstr("VAULT_TOKEN is not set"), HasSubstr(file)));
  for (const char* token : {"hvs.one", "hvs.two"}) {
    std::ofstream(file) << token << "\n";
    ASSERT_TRUE(ask(caller, *settings, "secret/data/app"));
    EXPECT_THAT(caller.question, HasSubstr(fmt::format("X-Vault-Token: {}\r\n", token)));
  }
  std::ofstream(file) << "canary\r\nX: 1";
  const auto split = ask(caller, *settings, "secret/data/app");
  ASSERT_FALSE(split);
  EXPECT_THAT(split.error().detail, Not(HasSubstr("canary")));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace postern::credential
