// Workload identities on the whole road: a token of ours is exchanged for a cloud's, which is put on
// requests. Roles of AWS, whose requests are signed, are in signing_test.cc.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "credential/jwt_test_kit.h"
#include "proxy/credential_road_test_kit.h"

namespace postern::proxy::road {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr std::string_view ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
constexpr const char* storage = "storage.googleapis.com";
constexpr const char* vault = "acme.vault.azure.net";
constexpr const char* other_vault = "umbrella.vault.azure.net";
constexpr const char* blobs = "acme.blob.core.windows.net";
const std::string pool =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q";
const std::string federated = fmt::format(R"(
rules:
  - name: google
    type: gcp
    gcp: {{workload_identity_provider: {}, scopes: [https://www.googleapis.com/auth/devstorage.read_only]}}
)",
                                          pool);
const std::string impersonating = fmt::format(R"(
rules:
  - name: google
    type: gcp
    gcp:
      workload_identity_provider: {}
      service_account_email: robot@acme.iam.gserviceaccount.com
      scopes: [https://www.googleapis.com/auth/devstorage.read_only]
)",
                                              pool);
constexpr std::string_view entra = R"(
rules:
  - name: entra
    type: azure
    azure:
      tenant_id: 11111111-2222-3333-4444-555555555555
      client_id: 66666666-7777-8888-9999-000000000000
)";

std::string field_of(const std::string& form, std::string_view name) {
  const auto at = form.find(fmt::format("{}=", name));
  if (at == std::string::npos) return "";
  const auto start = at + name.size() + 1;
  return form.substr(start, std::min(form.find('&', start), form.size()) - start);
}

class Federation : public CredentialRoad {
 protected:
  void start(std::string_view policy, std::string endpoint, bool with_identity = true) {
    RoadOptions options;
    options.policy = policy;
    options.prompt_peers = true;
    options.endpoint_name = std::move(endpoint);
    options.origin_hosts = {vault, other_vault, blobs};
    if (with_identity) options.identity = workload_identity();
    road_ = std::make_unique<Road>(std::move(options));
  }
  Peer& send(const std::string& host) {
    Peer& sandbox = road_->connect(host, 443, host);
    sandbox.send(
        fmt::format("GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer placeholder\r\n\r\n", host));
    return sandbox;
  }
};

TEST_F(Federation, GoogleGivesATokenForOurs) {
  start(federated, "sts.googleapis.com");
  send(storage);
  const std::string question = asked();
  EXPECT_THAT(question, AllOf(StartsWith("POST /v1/token HTTP/1.1\r\nHost: sts.googleapis.com\r\n"),
                              Not(HasSubstr("Authorization"))));
  EXPECT_EQ(field_of(question, "subject_token_type"), "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt");
  EXPECT_EQ(field_of(question, "scope"), "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fdevstorage.read_only");
  const json claims = credential::claims_of(field_of(question, "subject_token"));
  EXPECT_EQ(claims["iss"], "https://postern.example.net");
  EXPECT_EQ(claims["sub"], "workspace:home");
  EXPECT_EQ(claims["aud"], "https:" + pool);
  road_->endpoint()->send(
      json_answer(R"({"access_token":"ya29.canary","token_type":"Bearer","expires_in":3600})"));
  EXPECT_THAT(origin_received(),
              AllOf(HasSubstr("Authorization: Bearer ya29.canary\r\n"), Not(HasSubstr("placeholder"))));
  road_->origin()->send(ok);
  road_->settle();
  send(storage);
  EXPECT_EQ(asked(), "") << "kept";
  EXPECT_THAT(origin_received(), HasSubstr("ya29.canary"));
  road_->origin()->send(ok);
  road_->settle();
  ASSERT_TRUE(road_->leave());
  EXPECT_THAT(road_->records().front(), AllOf(HasSubstr("gcp:" + pool), Not(HasSubstr("canary"))));
}

TEST_F(Federation, AServiceAccountIsImpersonatedWithIt) {
  start(impersonating, "sts.googleapis.com");
  send(storage);
  EXPECT_EQ(field_of(asked(), "scope"), "https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform");
  road_->name_endpoint("iamcredentials.googleapis.com");
  road_->endpoint()->send(
      json_answer(R"({"access_token":"federated-canary","token_type":"Bearer","expires_in":3600})"));
  const std::string question = asked();
  EXPECT_THAT(
      question,
      AllOf(StartsWith(
                "POST /v1/projects/-/serviceAccounts/robot@acme.iam.gserviceaccount.com:generateAccessToken "
                "HTTP/1.1\r\n"
                "Host: iamcredentials.googleapis.com\r\n"),
            HasSubstr("Authorization: Bearer federated-canary\r\n"),
            HasSubstr(
                R"({"scope":["https://www.googleapis.com/auth/devstorage.read_only"],"lifetime":"3600s"})")));
  EXPECT_EQ(origin_received(), "");
  road_->endpoint()->send(
      json_answer(R"({"accessToken":"ya29.canary","expireTime":"2026-01-02T00:10:00Z"})"));
  EXPECT_THAT(origin_received(), HasSubstr("Authorization: Bearer ya29.canary\r\n"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().advance(std::chrono::seconds(545));  // its end less the margin
  asked();
  road_->name_endpoint("sts.googleapis.com");
  send(storage);
  EXPECT_THAT(asked(), StartsWith("POST /v1/token"));
}

TEST_F(Federation, AnImpersonationThatFailsFailsClosed) {
  const std::vector<std::string> failures = {
      json_answer(R"({"error":{"code":403,"message":"canary","status":"PERMISSION_DENIED"}})",
                  "403 Forbidden"),
      json_answer(R"({"accessToken":"canary"})"),
      json_answer(R"({"accessToken":"canary","expireTime":"never"})"),
      json_answer(R"({"accessToken":"canary","expireTime":"2026-01-01T00:00:00Z"})"),
      json_answer(R"({"expireTime":"2026-01-02T00:10:00Z"})"),
      json_answer(R"({"accessToken":"canary\r\nX: 1","expireTime":"2026-01-02T00:10:00Z"})"),
      json_answer("canary"),
  };
  for (const std::string& said : failures) {
    SCOPED_TRACE(said);
    start(impersonating, "sts.googleapis.com");
    Peer& sandbox = send(storage);
    asked();
    road_->name_endpoint("iamcredentials.googleapis.com");
    road_->endpoint()->send(
        json_answer(R"({"access_token":"federated-canary","token_type":"Bearer","expires_in":3600})"));
    asked();
    road_->endpoint()->send(said);
    expect_refusal(sandbox);
  }
}

TEST_F(Federation, EntraGivesOneTokenForEachResource) {
  start(entra, "login.microsoftonline.com");
  send(vault);
  const std::string question = asked();
  EXPECT_THAT(question,
              StartsWith("POST /11111111-2222-3333-4444-555555555555/oauth2/v2.0/token HTTP/1.1\r\n"));
  EXPECT_EQ(field_of(question, "client_id"), "66666666-7777-8888-9999-000000000000");
  EXPECT_EQ(field_of(question, "scope"), "https%3A%2F%2Fvault.azure.net%2F.default");
  EXPECT_EQ(field_of(question, "client_assertion_type"),
            "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
  const json claims = credential::claims_of(field_of(question, "client_assertion"));
  EXPECT_EQ(claims["aud"], "api://AzureADTokenExchange");
  EXPECT_EQ(claims["sub"], "workspace:home");
  road_->endpoint()->send(
      json_answer(R"({"access_token":"vault-canary","token_type":"Bearer","expires_in":3599})"));
  EXPECT_THAT(origin_received(), HasSubstr("Authorization: Bearer vault-canary\r\n"));
  road_->origin()->send(ok);
  road_->settle();
  send(other_vault);
  EXPECT_EQ(asked(), "") << "the same resource";
  EXPECT_THAT(origin_received(), HasSubstr("vault-canary"));
  road_->origin()->send(ok);
  road_->settle();
  send(blobs);
  EXPECT_EQ(field_of(asked(), "scope"), "https%3A%2F%2Fstorage.azure.com%2F.default");
  EXPECT_EQ(origin_received(), "") << "not the other's token";
  road_->endpoint()->send(
      json_answer(R"({"access_token":"storage-canary","token_type":"Bearer","expires_in":3599})"));
  EXPECT_THAT(origin_received(), HasSubstr("Authorization: Bearer storage-canary\r\n"));
}

TEST_F(Federation, EntraIsRefusedFailsClosed) {
  start(entra, "login.microsoftonline.com");
  Peer& sandbox = send(vault);
  asked();
  road_->endpoint()->send(
      json_answer(R"({"error":"invalid_client","error_description":"canary"})", "401 Unauthorized"));
  expect_refusal(sandbox);
}

TEST_F(Federation, WhereNobodySignsThereIsNoCredential) {
  for (const auto& [policy, host] :
       {std::pair<std::string_view, const char*>(federated, storage), {entra, vault}}) {
    start(policy, "sts.googleapis.com", false);
    Peer& sandbox = send(host);
    expect_refusal(sandbox);
    EXPECT_EQ(road_->endpoints(), 0u);
  }
}

TEST_F(Federation, ATokenOfEntrasIsNotSentInTheClear) {
  start(entra, "login.microsoftonline.com");
  Peer& sandbox = road_->connect(vault, 80);
  sandbox.send(fmt::format("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", vault));
  road_->settle();
  EXPECT_THAT(sandbox.take(), HasSubstr("plaintext_credential"));
  EXPECT_EQ(road_->origins() + road_->endpoints(), 0u);
}

}  // namespace
}  // namespace postern::proxy::road
