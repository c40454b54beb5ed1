#include "sandbox/environment.h"

#include <gmock/gmock.h>

namespace postern::sandbox {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Variable> pass(std::vector<const char*> caller, const EnvironmentRules& rules = {}) {
  return program_environment(caller, rules);
}

TEST(Environment, OrdinaryVariablesPassInTheirOrder) {
  EXPECT_THAT(pass({"PATH=/bin", "TERM=xterm", "EMPTY=", "LANG=C"}),
              ElementsAre(Variable{"PATH", "/bin"}, Variable{"TERM", "xterm"}, Variable{"EMPTY", ""},
                          Variable{"LANG", "C"}));
}

TEST(Environment, ANameThatUsuallyHoldsACredentialIsDropped) {
  for (const char* name : {"OPENAI_API_KEY",
                           "GITHUB_TOKEN",
                           "GH_TOKEN",
                           "AWS_SECRET_ACCESS_KEY",
                           "AWS_ACCESS_KEY_ID",
                           "AWS_SESSION_TOKEN",
                           "DB_PASSWORD",
                           "PGPASSWORD",
                           "MYSQL_PWD",
                           "STRIPE_SECRET_KEY",
                           "CLIENT_SECRET",
                           "MY_SECRET_VALUE",
                           "NPM_TOKEN",
                           "AZURE_CLIENT_SECRET",
                           "GOOGLE_APPLICATION_CREDENTIALS",
                           "SSH_PRIVATE_KEY",
                           "lower_api_key",
                           "GITHUB_PAT",
                           "AZURE_STORAGE_CONNECTION_STRING",
                           "TOKEN",
                           "SENTRY_AUTH_TOKEN",
                           "DEPLOY_KEY_PASSPHRASE"}) {
    EXPECT_TRUE(names_a_credential(name)) << name;
    EXPECT_THAT(pass({(std::string(name) + "=x").c_str()}), IsEmpty()) << name;
  }
}

TEST(Environment, NamesThatOnlyLookAlikePass) {
  for (const char* name :
       {"MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PATH", "MONKEY", "PASSENGER", "SECRETARY",
        "AUTHOR", "GIT_AUTHOR_NAME", "XDG_SESSION_TYPE", "PATCH", "COMPASS"}) {
    EXPECT_FALSE(names_a_credential(name)) << name;
  }
}

TEST(Environment, AValueThatHasTheFormOfACredentialIsDroppedWhateverItsName) {
  for (const char* value :
       {"ghp_0123456789abcdef0123", "sk-proj-0123456789abcdef", "AKIAIOSFODNN7EXAMPLE",
        "xoxb-1234567890-abcdef", "-----BEGIN RSA PRIVATE KEY-----\nMIIE", "postgres://user:password@host/db",
        "redis://:password@host:6379/0", "glpat-0123456789abcdef0", "https://user:token@example.com"}) {
    EXPECT_TRUE(looks_like_a_credential(value)) << value;
  }
  for (const char* value :
       {"sk-short", "https://example.com/a:b@c", "https://user@example.com", "AKIA", "/usr/bin:/bin",
        "unix:path=/x", "https://example.com?q=a:b@c", "http://[::1]:80/"}) {
    EXPECT_FALSE(looks_like_a_credential(value)) << value;
  }
}

TEST(Environment, WaysOutAreDropped) {
  EXPECT_THAT(
      pass({"SSH_AUTH_SOCK=/tmp/x", "DBUS_SESSION_BUS_ADDRESS=unix:x", "DISPLAY=:0", "WAYLAND_DISPLAY=w",
            "DOCKER_HOST=tcp://x", "HTTP_PROXY=p", "http_proxy=p", "All_Proxy=p", "no_proxy=p",
            "TMPDIR=/tmp/mine", "POSTERN_STATE=/x", "XDG_RUNTIME_DIR=/run/user/0", "LISTEN_FDS=3"}),
      IsEmpty());
}

TEST(Environment, AKeptNamePassesButNeverWithAPosternSecret) {
  EnvironmentRules rules{.keep = {"GITHUB_TOKEN", "API_KEY"}, .holds_secret = [](std::string_view value) {
                           return value.find("hush") != value.npos;
                         }};
  EXPECT_THAT(pass({"GITHUB_TOKEN=placeholder", "API_KEY=xhushx", "NOTE=a hush b"}, rules),
              ElementsAre(Variable{"GITHUB_TOKEN", "placeholder"}));
}

TEST(Environment, WhatIsSetReplacesWhatTheCallerHadAndTheLaterWins) {
  EnvironmentRules rules{.set = {{"A", "1"}, {"OPENAI_API_KEY", "injected"}, {"A", "2"}}};
  EXPECT_THAT(pass({"A=0", "B=b"}, rules),
              ElementsAre(Variable{"A", "2"}, Variable{"B", "b"}, Variable{"OPENAI_API_KEY", "injected"}));
}

TEST(Environment, EntriesWithoutANameOrAnEqualsSignAreNoVariables) {
  EXPECT_THAT(pass({"=C:=x", "JUSTTEXT", ""}), IsEmpty());
}

}  // namespace
}  // namespace postern::sandbox
