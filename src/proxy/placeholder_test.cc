// Placeholders on the whole road: one account's stands for that account's credential, in that header, for
// that host, and for nothing else (docs/security.md 42, 43). And URLs that carry their own signature.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view two_accounts = R"(
access_control: {allow_list: [api.example.com, other.example.com, plain.example.com]}
rules:
  - name: first
    match_hosts: [api.example.com]
    match_headers: ["authorization: Bearer placeholder-first"]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {FIRST}"}]
  - name: second
    match_hosts: [api.example.com]
    match_headers: ["authorization: Bearer placeholder-second"]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {SECOND}"}]
  - name: other
    match_hosts: [other.example.com]
    match_headers: ["x-api-key: placeholder-other"]
    headers: [{name: X-Api-Key, type: opaque, value: real-other-canary}]
)";

class Placeholder : public testing::Test {
 protected:
  Placeholder()
      : road_({.policy = std::string(two_accounts),
               .prompt_peers = true,
               .secrets = {{"FIRST", "real-first-canary"}, {"SECOND", "real-second-canary"}}}) {}

  /// What the origin gets of a request with these lines.
  std::string sent(const std::string& lines, const std::string& host = "api.example.com",
                   const std::string& target = "/") {
    Peer& sandbox = road_.connect(host, 443, host);
    sandbox.send(fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", target, host, lines));
    const std::size_t before = road_.origins();
    const auto head_is_there = [&] {
      return road_.origins() > before && road_.origin()->received().ends_with("\r\n\r\n");
    };
    EXPECT_TRUE(road_.wait_until([&] { return head_is_there() || !sandbox.received().empty(); }));
    std::string head = road_.origin() ? road_.origin()->take() : "";
    EXPECT_THAT(head, HasSubstr(" HTTP/1.1\r\n")) << sandbox.received();
    if (road_.origin())
      road_.origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    EXPECT_TRUE(road_.wait_until([&] { return sandbox.received().ends_with("ok"); }));
    road_.settle();
    EXPECT_THAT(sandbox.take(), Not(HasSubstr("canary")));
    return head;
  }

  Road road_;
};

TEST_F(Placeholder, EachStandsForItsOwnAccount) {
  EXPECT_THAT(sent("Authorization: Bearer placeholder-first\r\n"),
              AllOf(HasSubstr("Authorization: Bearer real-first-canary\r\n"), Not(HasSubstr("placeholder"))));
  EXPECT_THAT(
      sent("authorization:   Bearer placeholder-second\r\n"),
      AllOf(HasSubstr("Authorization: Bearer real-second-canary\r\n"), Not(HasSubstr("placeholder"))));
  const auto lines = road_.records();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], AllOf(HasSubstr(R"("rule":"first")"), HasSubstr("workspace_secret:FIRST")));
  EXPECT_THAT(lines[1], AllOf(HasSubstr(R"("rule":"second")"), HasSubstr("workspace_secret:SECOND")));
}

TEST_F(Placeholder, WithNeitherThereIsNoCredential) {
  for (const char* lines :
       {"", "Authorization: Bearer mine\r\n", "Authorization: Bearer placeholder-third\r\n",
        "Authorization: bearer placeholder-first\r\n", "Authorization: Bearer placeholder-first x\r\n",
        "Authorization: Bearer PLACEHOLDER-FIRST\r\n", "Authorization: placeholder-first\r\n",
        "Authorization: Basic placeholder-first\r\n",
        // Two accounts at once, or one twice: origins differ in which counts.
        "Authorization: Bearer placeholder-first\r\nAuthorization: Bearer placeholder-second\r\n",
        "Authorization: Bearer placeholder-first\r\nAuthorization: Bearer mine\r\n",
        "Authorization: Bearer mine\r\nAuthorization: Bearer placeholder-first\r\n",
        // One that ends at this hop does not count.
        "Connection: authorization\r\nAuthorization: Bearer placeholder-first\r\n"})
    EXPECT_THAT(sent(lines), Not(HasSubstr("canary"))) << lines;
  EXPECT_THAT(sent("Authorization: Bearer placeholder-first\r\n"), HasSubstr("real-first-canary"));
}

TEST_F(Placeholder, InOtherPlacesItIsOnlyText) {
  const std::string head = sent(
      "User-Agent: placeholder-first\r\nOrigin: https://placeholder-first\r\nX-Authorization: Bearer "
      "placeholder-first\r\n"
      "Proxy-Authorization: Bearer placeholder-first\r\nCookie: a=placeholder-second\r\nAuthorization_: "
      "Bearer placeholder-first\r\n",
      "api.example.com", "/?access_token=placeholder-first");
  EXPECT_THAT(head, AllOf(HasSubstr("User-Agent: placeholder-first\r\n"),
                          HasSubstr("/?access_token=placeholder-first"), Not(HasSubstr("canary"))));
  EXPECT_THAT(sent("User-Agent: placeholder-second\r\nX-Copy: Bearer placeholder-first\r\nAuthorization: "
                   "Bearer placeholder-first\r\n"),
              AllOf(HasSubstr("Authorization: Bearer real-first-canary\r\n"),
                    HasSubstr("User-Agent: placeholder-second\r\n"),
                    HasSubstr("X-Copy: Bearer placeholder-first\r\n"), Not(HasSubstr("real-second"))));
}

TEST_F(Placeholder, ForAnotherHostItIsOnlyText) {
  EXPECT_THAT(sent("Authorization: Bearer placeholder-first\r\n", "other.example.com"),
              Not(HasSubstr("canary")));
  EXPECT_THAT(sent("X-Api-Key: placeholder-first\r\n", "other.example.com"), Not(HasSubstr("canary")));
  EXPECT_THAT(sent("X-Api-Key: placeholder-other\r\n"), Not(HasSubstr("canary")));
  EXPECT_THAT(sent("X-Api-Key: placeholder-other\r\nAuthorization: Bearer placeholder-first\r\n",
                   "other.example.com"),
              AllOf(HasSubstr("X-Api-Key: real-other-canary\r\n"), Not(HasSubstr("real-first"))));
}

TEST_F(Placeholder, OverPlainHttpItIsRefused) {
  Peer& sandbox = road_.connect("api.example.com", 80);
  sandbox.send("GET / HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer placeholder-first\r\n\r\n");
  ASSERT_TRUE(road_.wait_until([&] { return !sandbox.received().empty(); }));
  EXPECT_THAT(sandbox.take(), AllOf(HasSubstr("plaintext_credential"), Not(HasSubstr("canary"))));
  EXPECT_EQ(road_.origins(), 0u);
}

constexpr std::string_view signed_by_google =
    "/b/o?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a&X-Goog-Signature=ab";

TEST_F(Placeholder, BesideASignatureInTheUrlNothingIsInjectedAndNothingOfThatNameIsPassedOn) {
  for (const char* target :
       {signed_by_google.data(), "/k?X-Amz-Algorithm=a&X-Amz-Credential=b&X-Amz-Signature=c",
        "/k?sv=1&se=2&sig=3"})
    EXPECT_THAT(sent("Authorization: Bearer placeholder-first\r\nX-Other: x\r\n", "api.example.com", target),
                AllOf(HasSubstr(target), HasSubstr("X-Other: x\r\n"), Not(HasSubstr("canary")),
                      Not(HasSubstr("Authorization"))))
        << target;
  // Half a signature is none.
  EXPECT_THAT(sent("Authorization: Bearer placeholder-first\r\n", "api.example.com", "/k?sig=3"),
              HasSubstr("real-first-canary"));
  const auto lines = road_.records();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_THAT(lines[0], AllOf(HasSubstr(R"("rule":"first")"), HasSubstr(R"("credentials":[])")));
}

TEST(PresignedUrl, IsNotAskedAboutAndADeniedOneStaysDenied) {
  Road road({.policy = R"(
rules:
  - {name: closed, match_hosts: [api.example.com], match_paths: [/closed], action: deny}
callbacks:
  - {match_hosts: [api.example.com], url: "https://creds.example.net/issue", ttl_seconds: 60}
)",
             .prompt_peers = true});
  Peer& sandbox = road.connect("api.example.com", 443, "api.example.com");
  sandbox.send(fmt::format("GET {} HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer mine\r\n\r\n",
                           signed_by_google));
  ASSERT_TRUE(road.wait_until([&] { return road.origin() && !road.origin()->received().empty(); }));
  EXPECT_THAT(road.origin()->take(), AllOf(HasSubstr(signed_by_google), Not(HasSubstr("Bearer mine"))));
  EXPECT_EQ(road.endpoints(), 0u);
  Peer& closed = road.connect("api.example.com", 443, "api.example.com");
  closed.send("GET /closed?sv=1&se=2&sig=3 HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
  ASSERT_TRUE(road.wait_until([&] { return !closed.received().empty(); }));
  EXPECT_THAT(closed.take(), HasSubstr("denied_by_rule"));
}

}  // namespace
}  // namespace postern::proxy::road
