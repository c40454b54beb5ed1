#include "control/auth.h"

#include <gmock/gmock.h>
#include <map>

#include "credential/secret_test_kit.h"

namespace postern::control {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// Keys in memory, which counts how often it was asked.
class Keys final : public KeyLookup {
 public:
  std::string add(std::string workspace, Scope scope) {
    credential::NewApiKey key = credential::make_api_key();
    known_[key.proof.id] = {key.proof.digest, {std::move(workspace), scope, key.proof.id}};
    return credential::revealed(key.text);
  }
  Result<std::optional<Principal>> find(const credential::ApiKeyProof& proof) const override {
    ++asked;
    if (broken) return fail(Reason::internal, "the disk is gone");
    const auto found = known_.find(proof.id);
    if (found == known_.end() || !credential::same_digest(found->second.digest, proof.digest))
      return std::nullopt;
    return found->second.principal;
  }
  mutable int asked = 0;
  bool broken = false;

 private:
  struct Known {
    credential::Digest digest;
    Principal principal;
  };
  std::map<std::string, Known> known_;
};

Request asking(Fields fields) {
  Request request;
  request.method = "GET";
  request.target = "/v2/sandboxes/boxes";
  request.host = "127.0.0.1:8080";
  request.fields = std::move(fields);
  return request;
}

struct Auth : ::testing::Test {
  Keys keys;
  std::string key = keys.add("acme", Scope::workspace);
  std::string admin = keys.add("home", Scope::admin);

  /// "workspace", or the status.
  std::string as(Fields fields) {
    Request request = asking(std::move(fields));
    const auto principal = authenticate(request, keys);
    return principal ? principal->workspace : std::to_string(principal.error().status);
  }
};

TEST_F(Auth, AKeyIsTakenFromEveryPlaceThatCallersUse) {
  EXPECT_EQ(as({{"X-Api-Key", key}}), "acme");
  EXPECT_EQ(as({{"x-api-key", key}}), "acme");
  EXPECT_EQ(as({{"X-API-KEY", key}}), "acme");
  EXPECT_EQ(as({{"X-Service-Key", key}}), "acme");
  EXPECT_EQ(as({{"Authorization", "Bearer " + key}, {"X-Tenant-Id", "acme"}}), "acme");
  EXPECT_EQ(as({{"authorization", "bearer  " + key}, {"x-tenant-id", "acme"}}), "acme");
}

TEST_F(Auth, ThePrincipalSaysWhoAndForWhat) {
  Request request = asking({{"X-Api-Key", key}});
  const auto principal = authenticate(request, keys);
  ASSERT_TRUE(principal);
  EXPECT_EQ(principal->scope, Scope::workspace);
  EXPECT_EQ(principal->key_id, key.substr(8, 16));
}

TEST_F(Auth, WhatIsNoValidKeyIsAlwaysAnsweredInTheSameWords) {
  const std::string unknown = credential::revealed(credential::make_api_key().text);
  std::string guessed = key;
  guessed.back() = guessed.back() == 'A' ? 'B' : 'A';
  const std::string mistyped = key.substr(1);
  for (const Fields& fields :
       std::vector<Fields>{{},
                           {{"X-Api-Key", ""}},
                           {{"X-Api-Key", unknown}},
                           {{"X-Api-Key", guessed}},
                           {{"X-Api-Key", mistyped}},
                           {{"X-Api-Key", key + " "}},
                           {{"X-Api-Key", key}, {"X-Api-Key", key}},
                           {{"Authorization", "Bearer " + key}},
                           {{"Authorization", key}, {"X-Tenant-Id", "acme"}},
                           {{"Authorization", "Basic " + key}, {"X-Tenant-Id", "acme"}},
                           {{"X-Api-Key", unknown}, {"X-Service-Key", key}}}) {
    Request request = asking(fields);
    const auto principal = authenticate(request, keys);
    ASSERT_FALSE(principal);
    EXPECT_EQ(to_response(principal.error()).body, to_response(unauthorized()).body);
    EXPECT_EQ(principal.error().status, 401);
  }
}

TEST_F(Auth, AnUnknownKeyTakesTheSameSteps) {
  as({{"X-Api-Key", key}});
  EXPECT_EQ(keys.asked, 1);
  as({{"X-Api-Key", credential::revealed(credential::make_api_key().text)}});
  EXPECT_EQ(keys.asked, 2);
}

TEST_F(Auth, NoKeyIsLeftInTheRequestOrSaidInAnAnswer) {
  for (const char* tenant : {"acme", "other"}) {
    Request request =
        asking({{"X-Api-Key", key}, {"Authorization", "Bearer " + admin}, {"X-Tenant-Id", tenant}});
    const auto principal = authenticate(request, keys);
    for (const Field& field : request.fields) EXPECT_THAT(field.value, Not(HasSubstr("postern_")));
    if (!principal) {
      EXPECT_THAT(to_response(principal.error()).body, Not(HasSubstr(key.substr(8))));
    }
  }
}

TEST_F(Auth, OnlyAnAdminActsInAnotherWorkspace) {
  EXPECT_EQ(as({{"X-Api-Key", key}, {"X-Tenant-Id", "acme"}}), "acme");
  EXPECT_EQ(as({{"X-Api-Key", key}, {"X-Tenant-Id", "other"}}), "403");
  EXPECT_EQ(as({{"X-Api-Key", key}, {"X-Tenant-Id", ""}}), "403");
  EXPECT_EQ(as({{"X-Api-Key", admin}, {"X-Tenant-Id", "other"}}), "other");
  EXPECT_EQ(as({{"X-Api-Key", admin}, {"X-Tenant-Id", "one"}, {"X-Tenant-Id", "two"}}), "403");
  EXPECT_EQ(as({{"X-Api-Key", admin}}), "home");
}

TEST_F(Auth, KeysThatCannotBeLookedUpAreNotWrongOnes) {
  keys.broken = true;
  EXPECT_EQ(as({{"X-Api-Key", key}}), "503");
}

TEST(Scopes, EachIncludesThoseBeforeIt) {
  const auto may = [](Scope has, Scope needs) { return !require({"w", has, "k"}, needs); };
  EXPECT_TRUE(may(Scope::read_only, Scope::read_only));
  EXPECT_FALSE(may(Scope::read_only, Scope::workspace));
  EXPECT_FALSE(may(Scope::workspace, Scope::admin));
  EXPECT_TRUE(may(Scope::admin, Scope::read_only));
  EXPECT_EQ(require({"w", Scope::read_only, "k"}, Scope::workspace)->status, 403);
}

/// 0 when it is let through.
int guarded(std::string host, Fields fields = {}) {
  static const PageGuard guard({"postern.internal"}, {"https://console.example"});
  Request request = asking(std::move(fields));
  request.host = std::move(host);
  const auto refused = guard.refuse(request);
  return refused ? refused->status : 0;
}

TEST(PageGuard, AddressesAndOwnNamesAreTaken) {
  for (const char* host : {"127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "10.0.0.7:80", "localhost:8080",
                           "LOCALHOST", "api.localhost", "postern.internal:9", "Postern.Internal."})
    EXPECT_EQ(guarded(host), 0) << host;
}

TEST(PageGuard, ANameThatWasReboundToUsIsRefused) {
  for (const char* host : {"evil.example", "127.0.0.1.nip.example", "localhost.evil.example",
                           "evil.example:8080", "postern.internal.evil.example", "", "a b"})
    EXPECT_EQ(guarded(host), 421) << host;
}

TEST(PageGuard, APageIsRefusedUnlessItIsAllowed) {
  const std::string ours = "127.0.0.1:8080";
  EXPECT_EQ(guarded(ours, {{"Origin", "https://console.example"}}), 0);
  for (const char* origin : {"https://evil.example", "null", "http://127.0.0.1:8080", "",
                             "https://console.example.evil.example", "http://console.example"})
    EXPECT_EQ(guarded(ours, {{"Origin", origin}}), 403) << origin;
  EXPECT_EQ(guarded(ours, {{"Origin", "https://console.example"}, {"Origin", "https://evil.example"}}), 403);
}

TEST(PageGuard, APageThatSendsNoOriginIsKnownByWhatItsBrowserSays) {
  const std::string ours = "localhost:8080";
  EXPECT_EQ(guarded(ours, {{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Mode", "no-cors"}}), 403);
  EXPECT_EQ(guarded(ours, {{"sec-fetch-site", "same-site"}}), 403);
  EXPECT_EQ(guarded(ours, {{"Sec-Fetch-Site", "none"}}), 0);
  EXPECT_EQ(guarded(ours, {{"Sec-Fetch-Mode", "cors"}}), 0);  // Node's fetch
}

}  // namespace
}  // namespace postern::control
