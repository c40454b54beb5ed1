// Access tokens on the whole road: asked for at a token endpoint, put on requests, and failing closed.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "credential/refresh_tokens.h"
#include "proxy/credential_road_test_kit.h"

namespace postern::proxy::road {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view client_credentials = R"(
rules:
  - name: service
    type: oauth2
    match_hosts: [api.example.com]
    oauth2:
      token_url: https://creds.example.net/token
      client_id: "me&you"
      client_secret: {type: opaque, value: "s3cret:/+"}
      scopes: [read, write]
)";
constexpr std::string_view refreshing = R"(
rules:
  - name: service
    type: oauth2
    match_hosts: [api.example.com]
    oauth2:
      token_url: https://creds.example.net/token
      grant: refresh_token
      client_id: me
      refresh_token: {type: opaque, value: refresh-canary-0}
)";

std::string request(std::string_view host = "api.example.com") {
  return fmt::format("GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer own\r\n\r\n", host);
}
constexpr std::string_view ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class Token : public CredentialRoad {
 protected:
  void start(RoadOptions options) {
    options.prompt_peers = true;
    road_ = std::make_unique<Road>(std::move(options));
  }
  void endpoint_answers(std::string_view text) {
    road_->endpoint()->send(text);
    road_->settle();
  }
};

TEST_F(Token, ClientCredentialsAreExchangedOnceAndTheTokenIsUsedUntilShortlyBeforeItsEnd) {
  start({.policy = std::string(client_credentials)});
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(request());
  const std::string question = asked();
  // RFC 6749 §2.3.1: form-encoded, joined, and then base64.
  EXPECT_THAT(question, AllOf(testing::StartsWith("POST /token HTTP/1.1\r\nHost: creds.example.net\r\n"),
                              HasSubstr("Content-Type: application/x-www-form-urlencoded\r\n"),
                              HasSubstr("Authorization: Basic bWUlMjZ5b3U6czNjcmV0JTNBJTJGJTJC\r\n"),
                              testing::EndsWith("\r\n\r\ngrant_type=client_credentials&scope=read+write")));
  endpoint_answers(json_answer(R"({"access_token":"t0ken1","token_type":"Bearer","expires_in":600})"));
  EXPECT_THAT(origin_received(), AllOf(HasSubstr("Authorization: Bearer t0ken1\r\n"), Not(HasSubstr("own"))));
  road_->origin()->send(ok);
  road_->settle();
  const auto later = [this](std::chrono::seconds by) {  // Connections that rest do not rest that long.
    road_->clock().advance(by);
    asked();
    origin_received();
    road_->connect("api.example.com", 443, "api.example.com").send(request());
  };
  later(std::chrono::seconds(300));
  EXPECT_EQ(asked(), "");
  EXPECT_THAT(origin_received(), HasSubstr("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  later(std::chrono::seconds(245));  // 55 s before its end by its own words
  EXPECT_THAT(asked(), HasSubstr("POST /token"));
  const auto lines = road_->records();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("oauth2:creds.example.net"), Not(HasSubstr("t0ken")),
                              Not(HasSubstr("s3cret"))));
}

TEST_F(Token, EveryFailureOfATokenEndpointFailsClosed) {
  const std::vector<std::pair<std::string, std::string>> failures = {
      {"refused",
       json_answer(R"({"error":"invalid_client","error_description":"canary"})", "401 Unauthorized")},
      {"redirect", "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n"},
      {"no JSON", json_answer("access_token=canary")},
      {"no token", json_answer(R"({"token_type":"Bearer"})")},
      {"number", json_answer(R"({"access_token":1})")},
      {"empty", json_answer(R"({"access_token":""})")},
      {"not bearer", json_answer(R"({"access_token":"canary","token_type":"mac"})")},
      {"line break", json_answer(R"({"access_token":"canary\r\nX: 1"})")},
      {"too long", json_answer(fmt::format(R"({{"access_token":"{}"}})", std::string(20000, 'x')))},
      {"too large", "HTTP/1.1 200 OK\r\n\r\n" + std::string(300 * 1024, ' ')},
  };
  for (const auto& [name, said] : failures) {
    SCOPED_TRACE(name);
    start({.policy = std::string(client_credentials)});
    Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
    sandbox.send(request());
    asked();
    endpoint_answers(said);
    const std::string line = expect_refusal(sandbox);
    if (name == "refused") {
      EXPECT_THAT(line, HasSubstr("answered 401: invalid_client"));
    }
  }
}

TEST_F(Token, ARefreshTokenThatIsReplacedIsKept) {
  std::string pattern = (std::filesystem::temp_directory_path() / "postern-refresh-XXXXXX").string();
  const std::string directory = std::string(::mkdtemp(pattern.data())) + "/refresh";
  const auto kept = std::make_shared<credential::RefreshTokenFiles>(directory);
  start({.policy = std::string(refreshing), .refresh_tokens = kept});
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(request());
  EXPECT_THAT(asked(), testing::EndsWith(
                           "\r\n\r\ngrant_type=refresh_token&refresh_token=refresh-canary-0&client_id=me"));
  endpoint_answers(
      json_answer(R"({"access_token":"t0ken1","expires_in":60,"refresh_token":"refresh-canary-1"})"));
  EXPECT_THAT(origin_received(), HasSubstr("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().advance(std::chrono::seconds(60));
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("refresh_token=refresh-canary-1"));
  std::vector<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(directory))
    if (file.path().filename() != "lock") files.push_back(file.path());
  ASSERT_EQ(files.size(), 1u);
  EXPECT_THAT(files[0], Not(HasSubstr("canary")));
  std::ifstream file(files[0]);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "refresh-canary-1");
  EXPECT_EQ(std::filesystem::status(files[0]).permissions(), std::filesystem::perms(0600));

  // Another run begins with what was kept.
  start({.policy = std::string(refreshing), .refresh_tokens = kept});
  road_->connect("api.example.com", 443, "api.example.com").send(request());
  EXPECT_THAT(asked(), HasSubstr("refresh_token=refresh-canary-1"));
  road_.reset();
  std::filesystem::remove_all(std::filesystem::path(directory).parent_path());
}

TEST_F(Token, ARefreshTokenThatCannotBeKeptIsAFailure) {
  const auto kept = std::make_shared<credential::RefreshTokenFiles>("/dev/null/refresh");
  start({.policy = std::string(refreshing), .refresh_tokens = kept});
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(request());
  asked();
  endpoint_answers(json_answer(R"({"access_token":"t0ken1","refresh_token":"refresh-canary-1"})"));
  EXPECT_THAT(sandbox.take(), HasSubstr("credential_unavailable"));
  EXPECT_EQ(road_->origins(), 0u);
}

TEST_F(Token, AGoogleServiceAccountsAssertionIsExchanged) {
  const json account = {{"type", "service_account"},
                        {"client_email", "robot@acme.iam.gserviceaccount.com"},
                        {"private_key_id", "k1"},
                        {"private_key", rsa_pem()},
                        {"token_uri", "https://oauth2.googleapis.com/token"}};
  start({.policy = R"(
rules:
  - name: google
    type: gcp
    gcp: {service_account_json: {type: workspace_secret, value: "{GCP}"}, scopes: [https://www.googleapis.com/auth/devstorage.read_only]}
)",
         .secrets = {{"GCP", account.dump()}},
         .endpoint_name = "oauth2.googleapis.com"});
  Peer& sandbox = road_->connect("storage.googleapis.com", 443, "storage.googleapis.com");
  sandbox.send(request("storage.googleapis.com"));
  EXPECT_THAT(
      asked(),
      AllOf(HasSubstr("POST /token"),
            HasSubstr("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")));
  endpoint_answers(json_answer(R"({"access_token":"ya29.t0ken","expires_in":3599,"token_type":"Bearer"})"));
  EXPECT_THAT(origin_received(), HasSubstr("Authorization: Bearer ya29.t0ken\r\n"));
}

TEST_F(Token, AGithubAppSignsInForGitByBasic) {
  start({.policy = R"(
rules:
  - name: git
    type: github_app
    github_app:
      app_id: 12345
      installation_id: 678
      private_key: {type: workspace_secret, value: "{APP_KEY}"}
      repositories: [widgets]
      permissions: {contents: read}
)",
         .secrets = {{"APP_KEY", rsa_pem()}},
         .endpoint_name = "api.github.com"});
  Peer& sandbox = road_->connect("github.com", 443, "github.com");
  sandbox.send(request("github.com"));
  const std::string question = asked();
  EXPECT_THAT(question,
              AllOf(testing::StartsWith("POST /app/installations/678/access_tokens HTTP/1.1\r\n"),
                    HasSubstr("Authorization: Bearer eyJ"),
                    testing::EndsWith(R"({"repositories":["widgets"],"permissions":{"contents":"read"}})")));
  endpoint_answers(
      json_answer(R"({"token":"ghs_t0ken","expires_at":"2026-01-02T01:00:00Z"})", "201 Created"));
  // base64 of x-access-token:ghs_t0ken
  EXPECT_THAT(origin_received(), HasSubstr("Authorization: Basic eC1hY2Nlc3MtdG9rZW46Z2hzX3Qwa2Vu\r\n"));
}

TEST(TokenAnswer, ALifetimeIsReadAsNumberOrTextAndBounded) {
  const auto lifetime = [](const std::string& said) {
    return credential::read_token_answer(200, R"({"access_token":"a",)" + said + "}")
        .value()
        .lifetime.count();
  };
  EXPECT_EQ(lifetime(R"("expires_in":"120")"), 120);
  EXPECT_EQ(lifetime(R"("expires_in":1e9)"), 1);
  EXPECT_EQ(lifetime(R"("expires_in":-5)"), 3600);
  EXPECT_EQ(lifetime(R"("expires_in":99999999999)"), 86400);
  EXPECT_EQ(lifetime(R"("x":1)"), 3600);
}

}  // namespace
}  // namespace postern::proxy::road
