#include "proxy/metadata_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "proxy/road_harness.h"

namespace postern::proxy {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

const credential::GoogleIdentity identity{"acme-prod",
                                          "robot@acme-prod.iam.gserviceaccount.com",
                                          {"https://a.example/one", "https://a.example/two"}};

MetadataAnswer get(std::string_view path, std::string_view query = {}, std::string_view method = "GET") {
  const HeaderField fields[] = {{"metadata-flavor", "Google"}};
  return answer_google_metadata(identity, {method, path, query, fields});
}

TEST(MetadataServer, AnswersWhatClientLibrariesAsk) {
  const std::string account = "/computeMetadata/v1/instance/service-accounts/default";
  EXPECT_EQ(get("/").body, "computeMetadata/\n");
  EXPECT_EQ(get("/computeMetadata/").body, "v1/\n");
  EXPECT_EQ(get("/computeMetadata/v1/").status, 200);
  EXPECT_EQ(get("/computeMetadata/v1/instance").status, 200)
      << "gcp-metadata asks whether there is one by this";
  EXPECT_EQ(get("/computeMetadata/v1/project/project-id").body, "acme-prod");
  EXPECT_EQ(get("/computeMetadata/v1/universe/universe-domain").body, "googleapis.com");
  EXPECT_EQ(get(account + "/email").body, identity.client_email);
  EXPECT_EQ(get(account + "/scopes").body, "https://a.example/one\nhttps://a.example/two\n");
  EXPECT_EQ(get(account + "/aliases").body, "default\n");
  const auto all = get(account + "/", "?recursive=true");
  EXPECT_EQ(all.type, "application/json");
  const auto json = nlohmann::json::parse(all.body);
  EXPECT_EQ(json["email"], identity.client_email);
  EXPECT_EQ(json["aliases"], nlohmann::json::array({"default"}));
  EXPECT_EQ(json["scopes"].size(), 2u);
  for (const std::string& name : {std::string("default"), identity.client_email}) {
    const auto token = nlohmann::json::parse(
        get("/computeMetadata/v1/instance/service-accounts/" + name + "/token", "?scopes=x").body);
    EXPECT_EQ(token["access_token"], "ya29.postern-injected");
    EXPECT_EQ(token["expires_in"], 3599);
    EXPECT_EQ(token["token_type"], "Bearer");
  }
  EXPECT_EQ(nlohmann::json::parse(get("/computeMetadata/v1/instance/", "?alt=json&recursive=true")
                                      .body)["serviceAccounts"]["default"]["email"],
            identity.client_email);
}

TEST(MetadataServer, EverythingElseIsNotThere) {
  for (const char* path :
       {"/computeMetadata/v1/instance/service-accounts/default/identity",
        "/computeMetadata/v1/instance/attributes/", "/computeMetadata/v1/instance/attributes/ssh-keys",
        "/computeMetadata/v1/instance/service-accounts/other/token",
        "/computeMetadata/v1/instance/service-accounts/default/token/x", "/computeMetadata/v1/instancex",
        "/computeMetadata/v1x", "/computeMetadata/v1beta1/instance/", "/latest/meta-data/",
        "/latest/api/token", "/metadata/identity/oauth2/token", "/0.1/meta-data/", "x", ""}) {
    EXPECT_EQ(get(path).status, 404) << path;
  }
  const HeaderField fields[] = {{"Metadata-Flavor", "Google"}};
  EXPECT_EQ(
      answer_google_metadata({"", "a@b", {}}, {"GET", "/computeMetadata/v1/project/project-id", "", fields})
          .status,
      404)
      << "a project that is not known";
}

TEST(MetadataServer, WantsItsFieldAndNoProxy) {
  const auto status = [](std::vector<HeaderField> fields,
                         std::string_view path = "/computeMetadata/v1/project/project-id") {
    return answer_google_metadata(identity, {"GET", path, "", fields}).status;
  };
  EXPECT_EQ(status({{"METADATA-FLAVOR", "google"}}), 200);
  EXPECT_EQ(status({}), 403);
  EXPECT_EQ(status({{"Metadata-Flavor", "Amazon"}}), 403);
  EXPECT_EQ(status({{"X-Metadata-Flavor", "Google"}}), 403);
  EXPECT_EQ(status({{"Metadata-Flavor", "Google"}, {"Metadata-Flavor", "x"}}), 403);
  EXPECT_EQ(status({{"Metadata-Flavor", "Google"}, {"Metadata-Flavor", "Google"}}), 403);
  EXPECT_EQ(status({{"Metadata-Flavor", "Google"}, {"X-Forwarded-For", "1.2.3.4"}}), 403);
  EXPECT_EQ(status({}, "/"), 200) << "whether there is one is asked without it";
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"})
    EXPECT_EQ(get("/computeMetadata/v1/project/project-id", "", method).status, 405) << method;
}

TEST(MetadataServer, AFederatedIdentityHasNoAddressAndIsTheDefault) {
  const HeaderField fields[] = {{"Metadata-Flavor", "Google"}};
  const credential::GoogleIdentity federated{"", "", {"a"}};
  const auto ask = [&](std::string_view path, std::string_view query = "") {
    return answer_google_metadata(federated, {"GET", path, query, fields});
  };
  const std::string accounts = "/computeMetadata/v1/instance/service-accounts/";
  EXPECT_EQ(ask(accounts + "default/email").body, "default");
  EXPECT_EQ(nlohmann::json::parse(ask(accounts, "?recursive=true").body).size(), 1u);
  EXPECT_EQ(ask(accounts + "/token").status, 404);
}

MetadataAnswer azure(std::string_view path, std::vector<HeaderField> fields = {{"Metadata", "true"}},
                     std::string_view method = "GET") {
  return answer_azure_metadata(
      {method, path, "?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net", fields},
      std::chrono::sys_seconds(std::chrono::seconds(1'700'000'000)));
}

TEST(MetadataServer, AzuresLibrariesGetAPlaceholder) {
  const std::string_view token = "/metadata/identity/oauth2/token";
  EXPECT_EQ(
      nlohmann::json::parse(azure(token).body),
      nlohmann::json::parse(
          R"({"access_token":"postern-injected","expires_in":"3599","expires_on":"1700003599","token_type":"Bearer"})"));
  EXPECT_EQ(azure(token, {}).status, 400) << "libraries ask whether there is one by this";
  EXPECT_EQ(azure(token, {{"Metadata", "false"}}).status, 400);
  EXPECT_EQ(azure(token, {{"Metadata", "true"}, {"metadata", "true"}}).status, 400);
  EXPECT_EQ(azure(token, {{"Metadata", "true"}, {"X-Forwarded-For", "1.2.3.4"}}).status, 403);
  EXPECT_EQ(azure(token, {{"Metadata", "true"}}, "POST").status, 405);
  for (const char* path :
       {"/metadata/instance", "/metadata/identity/oauth2/tokens", "/metadata/attested/document", "/",
        "/metadata/identity/oauth2/token/", "/latest/meta-data/", "/computeMetadata/v1/"})
    EXPECT_EQ(azure(path).status, 404) << path;
}

TEST(MetadataServer, EachCloudIsAnsweredOnBehalfOfItsRule) {
  EXPECT_EQ(metadata_rule_for({.google = 1, .azure = 2}, "/metadata/identity/oauth2/token"), 2u);
  EXPECT_EQ(metadata_rule_for({.google = 1, .azure = 2}, "/computeMetadata/v1/"), 1u);
  EXPECT_EQ(metadata_rule_for({.google = 1, .azure = policy::no_rule}, "/metadata/identity/oauth2/token"),
            1u);
  EXPECT_EQ(metadata_rule_for({.google = policy::no_rule, .azure = 2}, "/"), 2u);
}

std::string google_policy(std::string_view more = "") {
  return fmt::format(R"(
{}
rules:
  - name: google
    type: gcp
    gcp: {{service_account_json: {{type: workspace_secret, value: "{{GCP}}"}}, scopes: [https://a.example/one]}}
)",
                     more);
}

std::string service_account() {
  return nlohmann::json{
      {"type", "service_account"},      {"client_email", identity.client_email},
      {"project_id", "acme-prod"},      {"private_key_id", "k1"},
      {"private_key", road::rsa_pem()}, {"token_uri", "https://oauth2.googleapis.com/token"}}
      .dump();
}

std::string ask(std::string_view host,
                std::string_view path = "/computeMetadata/v1/instance/service-accounts/default/token",
                std::string_view more = "") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nMetadata-Flavor: Google\r\n{}\r\n", path, host, more);
}

std::string talk(road::Road& road, const std::string& dialled, const std::string& said,
                 std::uint16_t port = 80) {
  road::Peer& sandbox = road.connect(dialled, port);
  sandbox.send(said);
  EXPECT_TRUE(road.wait_until([&] { return !sandbox.received().empty(); }));
  road.settle();
  return sandbox.take();
}

TEST(MetadataOnTheRoad, IsAnsweredOnBothPlacesAndReachesNobody) {
  road::Road road({.policy = google_policy(), .secrets = {{"GCP", service_account()}}});
  for (const auto& [dialled, host] : {std::pair("169.254.169.254", "169.254.169.254"),
                                      std::pair("169.254.169.254", "metadata.google.internal"),
                                      std::pair("metadata.google.internal", "metadata.google.internal"),
                                      std::pair("metadata.google.internal", "metadata.google.internal:80")}) {
    EXPECT_THAT(talk(road, dialled, ask(host)),
                AllOf(HasSubstr("200 OK"), HasSubstr("Metadata-Flavor: Google\r\n"),
                      HasSubstr("ya29.postern-injected")))
        << dialled << " " << host;
  }
  EXPECT_THAT(
      talk(road, "169.254.169.254", ask("169.254.169.254", "/computeMetadata/v1/../../latest/meta-data")),
      HasSubstr("404 Not Found"));
  EXPECT_THAT(talk(road, "169.254.169.254", ask("169.254.169.254", "/", "Connection: metadata-flavor\r\n")),
              HasSubstr("200 OK"));
  EXPECT_THAT(talk(road, "169.254.169.254",
                   ask("169.254.169.254", "/computeMetadata/v1/", "Connection: metadata-flavor\r\n")),
              HasSubstr("403 Forbidden"))
      << "a field that ends here does not count";
  EXPECT_EQ(road.origins() + road.endpoints(), 0u);
  const auto lines = road.records();
  ASSERT_EQ(lines.size(), 7u) << "each is recorded";
  EXPECT_THAT(lines[0], AllOf(HasSubstr(R"("rule":"google")"), HasSubstr(R"("status":200)"),
                              HasSubstr(R"("host":"169.254.169.254")")));
}

TEST(MetadataOnTheRoad, OtherAddressesAndPortsAreRefusedAsEver) {
  road::Road road({.policy = google_policy("access_control: {allow_list: [\"*\", 169.254.0.0/16]}"),
                   .secrets = {{"GCP", service_account()}}});
  for (const char* address : {"169.254.169.253", "169.254.170.2", "100.100.100.200"})
    EXPECT_THAT(talk(road, address, ask(address)), AllOf(HasSubstr("403"), Not(HasSubstr("ya29"))))
        << address;
  EXPECT_EQ(road.origins(), 0u);
}

TEST(MetadataOnTheRoad, IsRefusedWithoutARuleAndWhereItIsDenied) {
  const std::string disabled =
      google_policy("access_control: {allow_list: [\"*\", 169.254.169.254]}") + "    enabled: false\n";
  for (const std::string& policy :
       {std::string(road::default_policy), disabled,
        google_policy("access_control: {deny_list: [169.254.169.254, metadata.google.internal]}"),
        google_policy("access_control: {deny_list: [\"*\"]}")}) {
    road::Road road({.policy = policy, .secrets = {{"GCP", service_account()}}});
    for (const char* place : {"169.254.169.254", "metadata.google.internal"}) {
      if (policy == disabled && std::string_view(place).starts_with("m"))
        continue;  // Asks a real nameserver.
      EXPECT_THAT(talk(road, place, ask(place)), AllOf(HasSubstr("403 Forbidden"), Not(HasSubstr("ya29"))))
          << place;
    }
    EXPECT_EQ(road.origins(), 0u);
  }
}

TEST(MetadataOnTheRoad, AnswersAzuresQuestionsAndNoneOfGooglesWhereOnlyAzureHasARule) {
  road::Road road({.policy = R"(
rules:
  - {name: entra, type: azure, azure: {tenant_id: 11111111-2222-3333-4444-555555555555, client_id: 11111111-2222-3333-4444-555555555555}}
)"});
  const std::string answer =
      talk(road, "169.254.169.254",
           ask("169.254.169.254", "/metadata/identity/oauth2/token?resource=x", "Metadata: true\r\n"));
  EXPECT_THAT(answer,
              AllOf(HasSubstr("200 OK"), HasSubstr("postern-injected"), Not(HasSubstr("Metadata-Flavor"))));
  EXPECT_THAT(
      talk(road, "169.254.169.254", ask("169.254.169.254", "/computeMetadata/v1/", "Metadata: true\r\n")),
      HasSubstr("404 Not Found"));
  ASSERT_TRUE(road.leave());
  EXPECT_THAT(road.records().front(),
              AllOf(HasSubstr(R"("rule":"entra")"), HasSubstr(R"("credentials":[])")));
  EXPECT_EQ(road.origins() + road.endpoints(), 0u);
}

TEST(GoogleTokenUri, NobodyButGoogleIsGivenAnAssertion) {
  for (const char* uri :
       {"https://evil.example.net/token", "http://oauth2.googleapis.com/token",
        "https://169.254.169.254/token", "https://127.0.0.1/token", "https://[::1]/token",
        "https://oauth2.googleapis.com.evil.example/token", "https://evilgoogleapis.com/token",
        "https://oauth2.googleapis.com:8443/token", "https://x@oauth2.googleapis.com/token",
        "https://googleapis.com.evil.example:443/", "https://metadata.google.internal/token"}) {
    auto account = nlohmann::json::parse(service_account());
    account["token_uri"] = uri;
    try {
      road::Road road({.policy = google_policy(), .secrets = {{"GCP", account.dump()}}});
      ADD_FAILURE() << uri << " was accepted";
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("token_uri")) << uri;
    }
  }
  road::Road road({.policy = google_policy(), .secrets = {{"GCP", service_account()}}});
}

}  // namespace
}  // namespace postern::proxy
