// Callbacks on the whole road: an endpoint of the policy's author is asked for credentials, and whatever it
// does, a request goes on with what was answered or not at all.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <nlohmann/json.hpp>
#include <regex>

#include "credential/digest.h"
#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view one_callback = R"(
access_control: {allow_list: [api.example.com, other.example.com]}
callbacks:
  - match_hosts: [api.example.com, other.example.com]
    url: https://creds.example.net/issue
    ttl_seconds: 60
    request_headers: [{name: X-Endpoint-Key, type: opaque, value: endpoint-canary}]
)";
constexpr std::string_view showing = R"(
access_control: {allow_list: [api.example.com]}
callbacks:
  - {match_hosts: [api.example.com], url: https://creds.example.net/issue, ttl_seconds: 60, full_request: true}
)";

std::string answer(std::string_view body, std::string_view head = "200 OK") {
  return fmt::format("HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}", head,
                     body.size(), body);
}
std::string grant(std::string_view token) {
  return answer(fmt::format(R"({{"headers":{{"Authorization":"Bearer {}"}}}})", token));
}
std::string request(std::string_view path = "/") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: api.example.com\r\nauthorization: Bearer own\r\n\r\n", path);
}
constexpr std::string_view ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class Callback : public testing::Test {
 protected:
  void start(RoadOptions options = {.policy = std::string(one_callback)}) {
    options.prompt_peers = true;
    road_ = std::make_unique<Road>(std::move(options));
  }

  Peer& connect(const std::string& host = "api.example.com") { return road_->connect(host, 443, host); }
  /// What the endpoint was asked since last time, and its answer.
  std::string asked() {
    road_->settle();
    return road_->endpoint() ? road_->endpoint()->take() : "";
  }
  void endpoint_answers(std::string_view text) {
    road_->endpoint()->send(text);
    road_->settle();
  }
  std::string origin_received() {
    road_->settle();
    return road_->origin() ? road_->origin()->take() : "";
  }
  /// One request that is answered by the origin; what the origin read.
  std::string served(Peer& sandbox, std::string_view path = "/") {
    sandbox.send(request(path));
    std::string read = origin_received();
    if (read.empty()) return read;
    road_->origin()->send(ok);
    road_->settle();
    EXPECT_THAT(sandbox.take(), HasSubstr("200 OK"));
    return read;
  }
  std::vector<json> records() {
    std::vector<json> all;
    for (const std::string& line : road_->records()) {
      EXPECT_THAT(line, Not(HasSubstr("canary")));
      EXPECT_THAT(line, Not(HasSubstr("t0ken")));
      all.push_back(json::parse(line));
    }
    return all;
  }

  std::unique_ptr<Road> road_;
};

std::string decoded(std::string_view base64url) {
  std::string text(base64url);
  for (char& c : text) c = c == '-' ? '+' : c == '_' ? '/' : c;
  while (text.size() % 4) text += '=';
  std::string out(text.size(), '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                      reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  out.resize(static_cast<std::size_t>(size) - static_cast<std::size_t>(std::ranges::count(text, '=')));
  return out;
}

std::string field(const std::string& message, const std::string& name) {
  const std::size_t at = message.find("\r\n" + name + ": ");
  if (at == std::string::npos) return {};
  const std::size_t value = at + name.size() + 4;
  return message.substr(value, message.find("\r\n", value) - value);
}

TEST_F(Callback, IsAskedOnceAndItsAnswerIsUsedWhileItIsGood) {
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  const std::string question = asked();
  EXPECT_THAT(question,
              AllOf(testing::StartsWith("POST /issue HTTP/1.1\r\nHost: creds.example.net\r\n"),
                    HasSubstr("Content-Type: application/json\r\n"),
                    HasSubstr("X-Endpoint-Key: endpoint-canary\r\n"), Not(HasSubstr("Bearer own"))));
  EXPECT_EQ(road_->origins(), 0u) << "nothing goes to the origin before the answer";
  const std::string body = question.substr(question.find("\r\n\r\n") + 4);
  EXPECT_EQ(
      json::parse(body),
      json::parse(
          R"({"host":"api.example.com","port":443,"identity":{"tenant_id":"home","sandbox_id":"box"}})"));

  const std::string token = field(question, "X-LangSmith-Signature-JWT");
  const std::size_t dot = token.find('.');
  const json header = json::parse(decoded(token.substr(0, dot)));
  EXPECT_EQ(header["alg"], "EdDSA");
  EXPECT_EQ(header["kid"], callback_signer()->key.key_id());
  const json claims = json::parse(decoded(token.substr(dot + 1, token.rfind('.') - dot - 1)));
  EXPECT_EQ(claims["iss"], "https://postern.example.net");
  EXPECT_EQ(claims["sub"], "langsmith-sandbox-callback");
  EXPECT_EQ(claims["aud"], "https://creds.example.net/issue");
  EXPECT_EQ(claims["exp"], claims["iat"].get<long>() + 300);
  EXPECT_EQ(claims["nbf"], claims["iat"]);
  EXPECT_FALSE(claims["jti"].get<std::string>().empty());
  EXPECT_EQ(claims["body_sha256"], credential::hex(credential::sha256(body)));

  endpoint_answers(grant("t0ken1"));
  const std::string read = origin_received();
  ASSERT_NE(read, "") << sandbox.take();
  EXPECT_THAT(read, AllOf(HasSubstr("Authorization: Bearer t0ken1\r\n"), Not(HasSubstr("own"))));
  road_->origin()->send(ok);
  road_->settle();
  EXPECT_THAT(sandbox.take(), AllOf(HasSubstr("200 OK"), Not(HasSubstr("t0ken"))));

  EXPECT_THAT(served(sandbox, "/second"), HasSubstr("Bearer t0ken1"));
  EXPECT_THAT(asked(), "");
  const auto written = records();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[0]["credentials"][0]["source"], "callback:creds.example.net");
  EXPECT_FALSE(written[0]["credentials"][0].contains("cached"));
  EXPECT_EQ(written[1]["credentials"][0]["cached"], true);
  EXPECT_EQ(written[0]["decision"], "allowed");
}

TEST_F(Callback, IsAskedAgainAfterItsTime) {
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().advance(std::chrono::seconds(61));
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("POST /issue"));
  endpoint_answers(grant("t0ken2"));
  EXPECT_THAT(origin_received(), HasSubstr("Bearer t0ken2"));
}

TEST_F(Callback, IsAskedAheadOfTimeWhileItIsInUse) {
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().advance(std::chrono::seconds(55));
  EXPECT_THAT(served(sandbox), HasSubstr("Bearer t0ken1")) << "nobody waits for a refresh";
  EXPECT_THAT(asked(), HasSubstr("POST /issue"));
  EXPECT_THAT(served(sandbox), HasSubstr("Bearer t0ken1"));
  EXPECT_THAT(asked(), "") << "one question at a time";
  endpoint_answers(grant("t0ken2"));
  EXPECT_THAT(served(sandbox), HasSubstr("Bearer t0ken2"));
}

TEST_F(Callback, ARefreshThatFailsHurtsNobodyWhileTheGrantIsGood) {
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().advance(std::chrono::seconds(55));
  EXPECT_THAT(served(sandbox), HasSubstr("Bearer t0ken1"));
  asked();
  endpoint_answers(answer("{}", "500 No"));
  EXPECT_THAT(served(sandbox), HasSubstr("Bearer t0ken1"));
  EXPECT_THAT(asked(), "") << "not at once again";
  road_->clock().advance(std::chrono::seconds(10));
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("POST")) << "its time is over: there is nothing to use meanwhile";
  endpoint_answers(answer("{}", "500 No"));
  EXPECT_THAT(sandbox.take(), HasSubstr("502 Bad Gateway"));
}

TEST_F(Callback, ADateThatIsSetForwardEndsAGrantAndOneThatIsSetBackDoesNotProlongIt) {
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().set_wall(road_->clock().wall() + std::chrono::hours(1));
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("POST"));
  endpoint_answers(grant("t0ken2"));
  EXPECT_THAT(origin_received(), HasSubstr("t0ken2"));
  road_->origin()->send(ok);
  road_->settle();
  road_->clock().set_wall(road_->clock().wall() - std::chrono::hours(1));
  road_->clock().advance(std::chrono::seconds(61));
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("POST"));
}

TEST_F(Callback, AnAnswerIsForOneHostOnly) {
  start();
  Peer& first = connect();
  first.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  connect("other.example.com").send("GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n");
  EXPECT_THAT(asked(), HasSubstr(R"("host":"other.example.com")"));
}

TEST_F(Callback, ManyRequestsAtOnceAskOnce) {
  start();
  constexpr int many = 60;
  for (int i = 0; i < many; ++i) connect().send(request());
  const std::string question = asked();
  EXPECT_EQ(question.find("POST"), question.rfind("POST"));
  EXPECT_EQ(road_->endpoints(), 1u);
  endpoint_answers(grant("t0ken1"));
  EXPECT_TRUE(road_->wait_until([&] { return road_->origins() == many; }));
}

TEST_F(Callback, WhoLeavesMeanwhileGetsNothingAndTheOthersDo) {
  start();
  Peer& leaving = connect();
  leaving.send(request());
  asked();
  Peer& staying = connect();
  staying.send(request());
  road_->settle();
  leaving.reset();
  road_->settle();
  endpoint_answers(grant("t0ken1"));
  EXPECT_THAT(origin_received(), HasSubstr("t0ken1"));
  EXPECT_EQ(road_->origins(), 1u);
  road_->origin()->send(ok);
  road_->settle();
  EXPECT_THAT(staying.take(), HasSubstr("200 OK"));
  const auto written = records();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[0]["reason"], "sandbox_closed");
}

// ---- what can go wrong: each failure, with nothing known, with a grant in use, and with one that has
// expired

struct Failure {
  std::string name;
  std::string said;     ///< By the endpoint; empty: see below.
  bool closes = false;  ///< After what it said.
  bool silent = false;  ///< Says nothing until the time is over.
  std::string certificate = "creds.example.net";
};
void PrintTo(const Failure& failure, std::ostream* out) { *out << failure.name; }

std::vector<Failure> failures() {
  std::vector<Failure> all;
  const auto says = [&](std::string name, std::string text) {
    all.push_back({std::move(name), std::move(text)});
  };
  for (const std::string status :
       {"199 Odd", "301 Moved", "302 Found", "400 No", "401 No", "404 No", "429 Slow", "500 No", "503 No"})
    if (!status.starts_with("1"))
      says("status_" + status.substr(0, 3), answer(R"({"headers":{"Authorization":"x"}})", status));
  says("redirect", "HTTP/1.1 307 Go\r\nLocation: https://evil.example.net/\r\nContent-Length: 0\r\n\r\n");
  says("empty", answer(""));
  says("no_content", "HTTP/1.1 204 No Content\r\n\r\n");
  says("not_json", answer("Bearer t0ken"));
  says("cut_json", answer(R"({"headers":{"Authorization":"Bearer t0k)"));
  says("two_documents", answer(R"({"headers":{}} {"headers":{}})"));
  says("array", answer("[]"));
  says("no_headers", answer("{}"));
  says("headers_null", answer(R"({"headers":null})"));
  says("headers_list", answer(R"({"headers":["Authorization: x"]})"));
  says("value_number", answer(R"({"headers":{"Authorization":5}})"));
  says("value_null", answer(R"({"headers":{"Authorization":null}})"));
  says("value_list", answer(R"({"headers":{"Authorization":["t0ken"]}})"));
  says("value_with_crlf", answer(R"({"headers":{"Authorization":"t0ken\r\nX-Evil: 1"}})"));
  says("value_with_nul", answer(R"({"headers":{"Authorization":"t0ken\u0000"}})"));
  says("value_too_long",
       answer(fmt::format(R"({{"headers":{{"Authorization":"{}"}}}})", std::string(16385, 'x'))));
  says("name_with_crlf", answer(R"({"headers":{"X-A\r\nHost":"x"}})"));
  says("name_empty", answer(R"({"headers":{"":"x"}})"));
  says("twice_by_case", answer(R"({"headers":{"X-A":"1","x-a":"2"}})"));
  says("twice_by_key", answer(R"({"headers":{"X-A":"1","X-A":"2"}})"));
  for (const std::string name : {"Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE",
                                 "Trailer", "Proxy-Authorization", "Expect", "Sec-WebSocket-Key"})
    says("sets_" + std::regex_replace(name, std::regex("-"), "_"),
         answer(fmt::format(R"({{"headers":{{"{}":"x"}}}})", name)));
  std::string many = R"({"headers":{"X-0":"x")";
  for (int i = 1; i < 65; ++i) many += fmt::format(R"(,"X-{}":"x")", i);
  says("too_many", answer(many + "}}"));
  says("nested", answer(std::string(5000, '[')));
  says("encoded", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 14\r\n\r\n{\"headers\":{}}");
  says("announced_too_large",
       "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n" + std::string(1048577, ' '));
  says("endless", "HTTP/1.1 200 OK\r\n\r\n" + std::string(1048577, ' '));
  says("nonsense", "220 mail.example.net ESMTP\r\n\r\n");
  says("upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
  std::string flood;
  for (int i = 0; i < 20; ++i) flood += "HTTP/1.1 103 Early Hints\r\n\r\n";
  says("informational_flood", flood);
  all.push_back({.name = "closes_at_once", .closes = true});
  all.push_back({.name = "closes_within_the_head", .said = "HTTP/1.1 200 OK\r\nCont", .closes = true});
  all.push_back({.name = "closes_within_the_body",
                 .said = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"headers\":{}}",
                 .closes = true});
  all.push_back({.name = "says_nothing", .silent = true});
  all.push_back({.name = "stops_in_the_body",
                 .said = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
                 .silent = true});
  all.push_back({.name = "another_name", .certificate = "evil.example.net"});
  return all;
}

class CallbackFailure : public Callback, public testing::WithParamInterface<Failure> {
 protected:
  void endpoint_fails() {
    const Failure& failure = GetParam();
    road_->settle();
    ASSERT_TRUE(road_->endpoint());
    if (!failure.said.empty()) road_->endpoint()->send(failure.said);
    if (failure.closes) road_->endpoint()->half_close();
    road_->settle();
    if (failure.silent) {
      road_->clock().advance(std::chrono::seconds(11));
      road_->settle();
    }
  }
  void expect_refusal(Peer& sandbox) {
    ASSERT_TRUE(road_->wait_until([&] { return !sandbox.received().empty(); }));
    road_->settle();
    const std::string read = sandbox.take();
    EXPECT_THAT(read,
                AllOf(HasSubstr("HTTP/1.1 502 Bad Gateway"), HasSubstr("X-Postern-Reason: callback_failed"),
                      HasSubstr("callback resolution failed"), Not(HasSubstr("t0ken")),
                      Not(HasSubstr("creds.example.net"))));
  }
};

TEST_P(CallbackFailure, WithNothingKnownTheRequestIsNotSent) {
  start({.policy = std::string(one_callback), .endpoint_name = GetParam().certificate});
  Peer& sandbox = connect();
  sandbox.send(request());
  endpoint_fails();
  expect_refusal(sandbox);
  EXPECT_EQ(road_->origins(), 0u);
  // It recovers with the endpoint, at once.
  if (GetParam().certificate == "creds.example.net") {
    road_->endpoint()->close();
    road_->settle();
    const std::size_t before = road_->endpoints();
    Peer& again = connect();
    again.send(request());
    ASSERT_TRUE(road_->wait_until([&] {
      return road_->endpoints() > before && road_->endpoint()->received().find("POST") != std::string::npos;
    }));
    endpoint_answers(grant("t0ken1"));
    ASSERT_TRUE(road_->wait_until([&] { return road_->origin() && !road_->origin()->received().empty(); }))
        << again.take();
    EXPECT_THAT(origin_received(), HasSubstr("Bearer t0ken1"));
    road_->origin()->send(ok);
    road_->settle();
    EXPECT_THAT(again.take(), HasSubstr("200 OK"));
  }
  const auto written = records();
  EXPECT_EQ(written[0]["reason"], "callback_failed");
  EXPECT_EQ(written[0]["status"], 502);
  EXPECT_EQ(written.size(), GetParam().certificate == "creds.example.net" ? 2u : 1u);
}

TEST_P(CallbackFailure, AfterItsTimeAGrantIsNotUsed) {
  if (GetParam().certificate != "creds.example.net") return;  // There never was a grant.
  start();
  Peer& sandbox = connect();
  sandbox.send(request());
  asked();
  endpoint_answers(grant("t0ken1"));
  road_->origin()->send(ok);
  road_->settle();
  EXPECT_THAT(served(sandbox), HasSubstr("t0ken1"))
      << "while it is good nobody is asked, so nothing can fail";
  const std::size_t origins = road_->origins();
  road_->clock().advance(std::chrono::seconds(60));
  sandbox.send(request("/expired"));
  endpoint_fails();
  expect_refusal(sandbox);
  EXPECT_EQ(road_->origins(), origins);
  EXPECT_THAT(origin_received(), Not(HasSubstr("/expired")));
  const auto written = records();
  ASSERT_EQ(written.size(), 3u);
  EXPECT_EQ(written[2]["reason"], "callback_failed");
}

INSTANTIATE_TEST_SUITE_P(All, CallbackFailure, testing::ValuesIn(failures()),
                         [](const auto& tested) { return tested.param.name; });

TEST_F(Callback, APrivateAddressIsNotAsked) {
  start({.policy = R"(
access_control: {allow_list: [api.example.com]}
callbacks: [{match_hosts: [api.example.com], url: "https://127.0.0.1:1/", ttl_seconds: 60}]
)"});
  Peer& sandbox = connect();
  sandbox.send(request());
  road_->settle();
  EXPECT_THAT(sandbox.take(), AllOf(HasSubstr("callback_failed"), Not(HasSubstr("127.0.0.1"))));
  EXPECT_EQ(road_->origins(), 0u);
}

TEST_F(Callback, PlainHttpIsSpokenWithAddressesThatTheOperatorOpenedOnly) {
  start({.policy = R"(
access_control: {allow_list: [api.example.com]}
callbacks: [{match_hosts: [api.example.com], url: "http://creds.example.net/plain", ttl_seconds: 60}]
)",
         .endpoint_tls = false});
  Peer& sandbox = connect();
  sandbox.send(request());
  EXPECT_THAT(asked(), HasSubstr("POST /plain"));
  endpoint_answers(grant("t0ken1"));
  EXPECT_THAT(origin_received(), HasSubstr("t0ken1"));
}

TEST_F(Callback, OneThatHangsHoldsUpNobodyElse) {
  start({.policy = R"(
access_control: {allow_list: [api.example.com, other.example.com]}
callbacks:
  - {match_hosts: [api.example.com], url: https://creds.example.net/hangs, ttl_seconds: 60, full_request: true}
  - {match_hosts: [other.example.com], url: https://creds.example.net/works, ttl_seconds: 60}
)"});
  constexpr int hanging = 40;
  for (int i = 0; i < hanging; ++i) connect().send(request());
  road_->settle();
  EXPECT_EQ(road_->endpoints(), credential::Grants::asking_max) << "the others wait in line";
  Peer& sandbox = connect("other.example.com");
  sandbox.send("GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n");
  EXPECT_THAT(asked(), HasSubstr("POST /works"));
  endpoint_answers(grant("t0ken1"));
  EXPECT_THAT(origin_received(), HasSubstr("t0ken1"));
  road_->clock().advance(std::chrono::seconds(11));
  road_->settle();
  const auto written = records();
  EXPECT_EQ(std::ranges::count_if(written, [](const json& r) { return r["reason"] == "callback_failed"; }),
            hanging);
}

// ---- callbacks that see the request

TEST_F(Callback, TheRequestIsShownAndThenSentAsItWas) {
  start({.policy = std::string(showing)});
  Peer& sandbox = connect();
  const std::string text =
      "POST /v1/x?a=1&b=%20 HTTP/1.1\r\nHost: api.example.com\r\nX-Two: 1\r\nX-Two: 2\r\n"
      "Content-Length: 5\r\n\r\nhe";
  sandbox.send(text);
  EXPECT_EQ(asked(), "") << "its body is not complete";
  sandbox.send("llo");
  std::string question = asked();
  json shown = json::parse(question.substr(question.find("\r\n\r\n") + 4))["request"];
  EXPECT_EQ(shown["method"], "POST");
  EXPECT_EQ(shown["url"], "https://api.example.com/v1/x?a=1&b=%20");
  EXPECT_EQ(shown["scheme"], "https");
  EXPECT_EQ(shown["host"], "api.example.com");
  EXPECT_EQ(shown["path"], "/v1/x");
  EXPECT_EQ(shown["query"], "a=1&b=%20");
  EXPECT_EQ(shown["headers"]["X-Two"], json::parse(R"(["1","2"])"));
  EXPECT_EQ(shown["body_base64"], "aGVsbG8=");
  EXPECT_EQ(shown["body_truncated"], false);
  endpoint_answers(grant("t0ken1"));
  EXPECT_THAT(origin_received(),
              AllOf(testing::StartsWith("POST /v1/x?a=1&b=%20 HTTP/1.1\r\n"),
                    HasSubstr("X-Two: 1\r\nX-Two: 2\r\n"), HasSubstr("Content-Length: 5\r\n"),
                    HasSubstr("Bearer t0ken1"), testing::EndsWith("\r\n\r\nhello")));
  road_->origin()->send(ok);
  road_->settle();
  EXPECT_THAT(sandbox.take(), HasSubstr("200 OK"));
  // No answer is used twice.
  sandbox.send(request());
  question = asked();
  EXPECT_THAT(question, HasSubstr("POST /issue"));
  shown = json::parse(question.substr(question.find("\r\n\r\n") + 4))["request"];
  EXPECT_FALSE(shown.contains("query"));
  EXPECT_EQ(shown["body_base64"], "");
}

TEST_F(Callback, ALargeBodyIsShownInPartAndSentWhole) {
  start({.policy = std::string(showing)});
  Peer& sandbox = connect();
  constexpr std::size_t size = 3 * 1024 * 1024;
  sandbox.send(fmt::format("PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {}\r\n\r\n", size));
  for (std::size_t sent = 0; sent < size; sent += 64 * 1024)
    sandbox.send(std::string(64 * 1024, static_cast<char>('a' + sent / 65536 % 26)));
  ASSERT_TRUE(
      road_->wait_until([&] { return road_->endpoint() && road_->endpoint()->received().ends_with("}}"); }));
  const std::string question = asked();
  const json shown = json::parse(question.substr(question.find("\r\n\r\n") + 4))["request"];
  EXPECT_EQ(shown["body_truncated"], true);
  EXPECT_EQ(decoded(shown["body_base64"].get<std::string>()).size(), 1024u * 1024u);
  EXPECT_EQ(road_->origins(), 0u);
  endpoint_answers(grant("t0ken1"));
  ASSERT_TRUE(
      road_->wait_until([&] { return road_->origin() && road_->origin()->received().size() > size; }));
  const std::string read = origin_received();
  const std::string body = read.substr(read.find("\r\n\r\n") + 4);
  ASSERT_EQ(body.size(), size);
  for (std::size_t at = 0; at < size; at += 64 * 1024)
    ASSERT_EQ(body[at], static_cast<char>('a' + at / 65536 % 26));
}

TEST_F(Callback, ABodyThatTricklesOnIsShownAsFarAsItCame) {
  start({.policy = std::string(showing)});
  Peer& sandbox = connect();
  sandbox.send("POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  EXPECT_EQ(asked(), "");
  road_->clock().advance(std::chrono::seconds(6));
  const std::string question = asked();
  const json shown = json::parse(question.substr(question.find("\r\n\r\n") + 4))["request"];
  EXPECT_EQ(shown["body_base64"], "YWJj");
  EXPECT_EQ(shown["body_truncated"], true);
  endpoint_answers(grant("t0ken1"));
  EXPECT_THAT(origin_received(), testing::EndsWith("3\r\nabc\r\n"));
  sandbox.send("2\r\nde\r\n0\r\n\r\n");
  EXPECT_EQ(origin_received(), "2\r\nde\r\n0\r\n\r\n");
}

TEST_F(Callback, WhoExpectsAContinueIsWelcomedBeforeTheQuestion) {
  start({.policy = std::string(showing)});
  Peer& sandbox = connect();
  sandbox.send(
      "POST / HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  road_->settle();
  EXPECT_EQ(sandbox.take(), "HTTP/1.1 100 Continue\r\n\r\n");
  sandbox.send("hi");
  EXPECT_THAT(asked(), HasSubstr("aGk="));
  endpoint_answers(answer("{}", "500 No"));
  EXPECT_THAT(sandbox.take(), HasSubstr("502 Bad Gateway"));
  EXPECT_EQ(road_->origins(), 0u);
}

}  // namespace
}  // namespace postern::proxy::road
