// Limits on the whole road: what is let in, what holds a place, what is counted, and how a refusal reads.

#include "proxy/limited_request.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "proxy/http2_road_harness.h"

namespace postern::proxy::road {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string policy_with(const std::string& limits, const std::string& of_sandbox = "") {
  return fmt::format(R"(
{}
access_control: {{allow_list: [api.example.com, other.example.com, plain.example.com]}}
rules:
  - {{name: llm, match_hosts: [api.example.com], limits: {{{}}}}}
  - {{name: free, match_hosts: [other.example.com]}}
)",
                     of_sandbox.empty() ? "" : "limits: {" + of_sandbox + "}", limits);
}

std::shared_ptr<const Egress> egress_of(const std::string& policy, std::shared_ptr<quota::Ledger> ledger) {
  auto document = policy::parse_document(policy, policy::Format::yaml).value();
  auto snapshot = policy::compile(std::move(document)).value();
  auto injections = credential::resolve(*snapshot, {}).value();
  return make_egress(std::move(snapshot), std::move(injections), nullptr, std::move(ledger));
}

constexpr const char* get = "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n";

class Limited : public testing::Test {
 protected:
  void begin(const std::string& limits, const std::string& of_sandbox = "") {
    road_ =
        std::make_unique<Road>(RoadOptions{.policy = policy_with(limits, of_sandbox), .prompt_peers = true});
  }

  Peer& ask(const std::string& request = get, const std::string& host = "api.example.com") {
    Peer& sandbox = road_->connect(host, 443, host);
    sandbox.send(request);
    return sandbox;
  }
  /// Once the origin got something that ends so: on a connection of its own.
  bool arrives(const std::string& end = "\r\n\r\n") {
    return road_->wait_until(
        [&] { return road_->origins() > answered_ && road_->origin()->received().ends_with(end); });
  }
  void answer(const std::string& body = "ok", const std::string& fields = "",
              const std::string& status = "200 OK") {
    answered_ = road_->origins();
    road_->origin()->send(fmt::format("HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: {}\r\n{}\r\n{}",
                                      status, body.size(), fields, body));
  }
  std::string read(Peer& sandbox) {
    EXPECT_TRUE(road_->wait_until([&] { return !sandbox.received().empty(); }));
    road_->settle();
    return sandbox.take();
  }
  void expect_let_through(const std::string& request = get, const std::string& end = "\r\n\r\n",
                          const std::string& body = "ok", const std::string& fields = "",
                          const std::string& status = "200 OK") {
    Peer& sandbox = ask(request);
    ASSERT_TRUE(arrives(end)) << sandbox.received();
    answer(body, fields, status);
    EXPECT_THAT(read(sandbox), HasSubstr(status));
  }
  /// Nobody was asked.
  std::string expect_refused(const std::string& request = get) {
    const std::size_t before = road_->origins();
    std::string said = read(ask(request));
    EXPECT_THAT(said, AllOf(HasSubstr("HTTP/1.1 429 Too Many Requests\r\n"),
                            HasSubstr("X-Postern-Reason: limit_exceeded\r\n"), HasSubstr("Retry-After: ")));
    EXPECT_EQ(road_->origins(), before);
    return said;
  }
  quota::DayUse used(const std::string& rule = "llm") const {
    for (const auto& use : road_->tenant().egress->ledger->used(quota::day_of(road_->clock().wall())))
      if (use.rule == rule) return use;
    return {};
  }

  std::unique_ptr<Road> road_;
  std::size_t answered_ = 0;
};

TEST_F(Limited, ARefusalSaysWhatIsReachedAndWhenToComeAgain) {
  begin("requests_per_second: 1");
  expect_let_through();
  EXPECT_THAT(expect_refused(),
              AllOf(HasSubstr("Retry-After: 1\r\n"), HasSubstr("requests_per_second of the rule 'llm' (1)")));
  road_->clock().advance(std::chrono::seconds(1));
  expect_let_through();
  road_->leave();
  const auto lines = road_->records();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[1], AllOf(HasSubstr(R"("reason":"limit_exceeded")"),
                              HasSubstr(R"("limit":"requests_per_second")"), HasSubstr(R"("status":429)")));
}

TEST_F(Limited, ADayLastsUntilMidnight) {
  begin("requests_per_day: 1");
  expect_let_through();
  EXPECT_THAT(expect_refused(), HasSubstr("Retry-After: 86400\r\n"));
}

TEST_F(Limited, TheRuleIsTheSameHoweverItsHostIsWritten) {
  begin("requests_per_day: 1");
  expect_let_through();
  Peer& sandbox = road_->connect("api.example.com", 443, "API.example.com");
  sandbox.send("GET / HTTP/1.1\r\nHost: API.Example.COM:443\r\n\r\n");
  EXPECT_THAT(read(sandbox), HasSubstr("429 Too Many"));
}

TEST_F(Limited, OtherRulesAreNotLimitedButTheSandboxIs) {
  begin("requests_per_day: 1", "requests_per_day: 2");
  expect_let_through();
  EXPECT_THAT(expect_refused(), HasSubstr("of the rule 'llm' (1)"));
  const std::string other = "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
  Peer& sandbox = ask(other, "other.example.com");
  ASSERT_TRUE(arrives()) << sandbox.received();
  answer();
  EXPECT_THAT(read(sandbox), HasSubstr("200 OK"));
  EXPECT_THAT(read(ask(other, "other.example.com")),
              AllOf(HasSubstr("429 Too Many"), HasSubstr("requests_per_day of the sandbox (2)")));
}

TEST_F(Limited, WhatIsDeniedCostsNothing) {
  begin("requests_per_day: 1");
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send("GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n");
  EXPECT_THAT(read(sandbox), HasSubstr("421"));
  expect_let_through();
}

TEST_F(Limited, APlaceIsHeldUntilTheAnswerIsThere) {
  begin("concurrent_requests: 1");
  Peer& first = ask();
  ASSERT_TRUE(arrives());
  EXPECT_THAT(expect_refused(), HasSubstr("concurrent_requests of the rule 'llm' (1)"));
  answer();
  EXPECT_THAT(read(first), HasSubstr("200 OK"));
  expect_let_through();
}

TEST_F(Limited, APlaceIsFreeWhenTheSandboxLeaves) {
  begin("concurrent_requests: 1");
  Peer& first = ask();
  ASSERT_TRUE(arrives());
  answered_ = road_->origins();
  first.close();
  road_->settle();
  expect_let_through();
}

TEST_F(Limited, ABodyThatIsAnnouncedAsTooLongIsRefusedAtOnce) {
  begin("request_bytes_per_day: 10");
  EXPECT_THAT(expect_refused("POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 11\r\n\r\n"),
              HasSubstr("request_bytes_per_day of the rule 'llm' (10)"));
  expect_let_through("POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 10\r\n\r\n0123456789",
                     "0123456789");
  EXPECT_EQ(used().request_bytes, 10u);
  expect_refused("POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 1\r\n\r\n0");
  expect_let_through();
}

TEST_F(Limited, ABodyOfUnknownLengthIsCutOffAndIsNotWholeForTheOrigin) {
  begin("request_bytes_per_day: 10");
  Peer& sandbox =
      ask("POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n");
  ASSERT_TRUE(arrives("5\r\n01234\r\n"));
  sandbox.send("6\r\n567890\r\n0\r\n\r\n");
  EXPECT_THAT(read(sandbox), AllOf(HasSubstr("429 Too Many"), HasSubstr("Retry-After: 86400\r\n")));
  EXPECT_TRUE(road_->wait_until([&] { return road_->origin()->over(); }));
  EXPECT_THAT(road_->origin()->received(), AllOf(Not(HasSubstr("567890")), Not(HasSubstr("0\r\n\r\n"))));
  EXPECT_EQ(used().request_bytes, 5u);
}

TEST_F(Limited, ABodyThatGoesOnAfterItsAnswerBeganEndsBoth) {
  begin("request_bytes_per_day: 10");
  Peer& sandbox =
      ask("POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n");
  ASSERT_TRUE(arrives("5\r\n01234\r\n"));
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome");
  EXPECT_THAT(read(sandbox), HasSubstr("some"));
  sandbox.send("6\r\n567890\r\n0\r\n\r\n");
  EXPECT_TRUE(road_->wait_until([&] { return sandbox.over() && road_->origin()->over(); }));
  EXPECT_THAT(road_->origin()->received(), Not(HasSubstr("567890")));
  road_->leave();
  EXPECT_THAT(road_->records().at(0),
              AllOf(HasSubstr("limit_exceeded"), HasSubstr(R"("limit":"request_bytes_per_day")")));
}

TEST_F(Limited, CountsGoOnUnderAnotherPolicy) {
  begin("requests_per_day: 2");
  expect_let_through();
  const auto ledger = road_->tenant().egress->ledger;
  Worker::swap(road_->tenant(),
               egress_of(policy_with("requests_per_day: 2, concurrent_requests: 9"), ledger));
  EXPECT_EQ(used().requests, 1u);
  expect_let_through();
  expect_refused();
}

const std::string chat = "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 8\r\n\r\n{\"m\":12}";
constexpr const char* json = "Content-Type: application/json\r\n";

TEST_F(Limited, TokensAreThoseThatTheAnswerReports) {
  begin("tokens_per_day: 100");
  const std::string usage =
      R"({"usage":{"prompt_tokens":40,"completion_tokens":20,"total_tokens":60},"choices":[]})";
  expect_let_through(chat, "12}", usage, json);
  EXPECT_EQ(used().tokens, 60u);
  expect_let_through(chat, "12}", usage, json);
  EXPECT_EQ(used().tokens, 120u);
  EXPECT_THAT(expect_refused(chat), HasSubstr("tokens_per_day of the rule 'llm' (100)"));
}

TEST_F(Limited, WithoutAReportAQuarterOfTheBytesIsCounted) {
  begin("tokens_per_day: 100");
  expect_let_through(chat, "12}", std::string(92, 'x'));
  EXPECT_EQ(used().tokens, 25u);
}

TEST_F(Limited, AnErrorThatReportsNothingCostsNothing) {
  begin("tokens_per_day: 100");
  expect_let_through(chat, "12}", std::string(92, 'x'), json, "429 Too Many Requests");
  EXPECT_EQ(used().tokens, 0u);
  EXPECT_EQ(used().requests, 1u);
}

TEST_F(Limited, LeavingBeforeTheReportIsNoWayAround) {
  begin("tokens_per_day: 100");
  Peer& sandbox = ask(chat);
  ASSERT_TRUE(arrives("12}"));
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + std::string(192, 'x'));
  EXPECT_THAT(read(sandbox), HasSubstr("xxx"));
  sandbox.close();
  road_->settle();
  EXPECT_EQ(used().tokens, 50u);
}

TEST_F(Limited, OnlyWhatCanBeReadBackIsAskedForWhereTokensCount) {
  begin("tokens_per_day: 100");
  Peer& sandbox =
      ask("GET / HTTP/1.1\r\nHost: api.example.com\r\nAccept-Encoding: dcb, gzip\r\n"
          "Accept-Encoding: br;q=0.5\r\n\r\n");
  ASSERT_TRUE(arrives()) << sandbox.received();
  EXPECT_THAT(road_->origin()->received(),
              AllOf(HasSubstr("Accept-Encoding: gzip, br;q=0.5\r\n"), Not(HasSubstr("dcb"))));
}

TEST_F(Limited, ATunnelPaysWhileItIsOpen) {
  begin("tokens_per_day: 100, request_bytes_per_day: 1000");
  Peer& sandbox =
      ask("GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n");
  ASSERT_TRUE(arrives()) << sandbox.received();
  road_->origin()->send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n");
  EXPECT_THAT(read(sandbox), HasSubstr("101"));
  (void)road_->origin()->take();
  sandbox.send(std::string(200, 'a'));
  ASSERT_TRUE(road_->wait_until([&] { return road_->origin()->received().size() == 200; }));
  EXPECT_EQ(used().tokens, 50u);
  EXPECT_EQ(used().request_bytes, 200u);
  road_->origin()->send(std::string(300, 'b'));
  EXPECT_TRUE(road_->wait_until([&] { return sandbox.over(); }));
  road_->leave();
  EXPECT_THAT(road_->records().at(0), HasSubstr(R"("limit":"tokens_per_day")"));
}

TEST(LimitedHttp2, StreamsOfOneConnectionAreRequests) {
  Http2Road world({.policy = policy_with("concurrent_requests: 2"), .origin_http2 = true});
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen[4];
  sandbox.end.ask(kit::get_request, seen[0]);
  sandbox.end.ask(kit::get_request, seen[1]);
  const auto second = world.request(2);
  ASSERT_TRUE(second);
  sandbox.end.ask(kit::get_request, seen[2]);
  EXPECT_TRUE(world.until([&] { return seen[2].over; }));
  EXPECT_EQ(seen[2].status(), 429);
  EXPECT_THAT(seen[2].heads.back().second, testing::Contains(testing::Pair("retry-after", "1")));
  ASSERT_TRUE(kit::send_head(*second, {{":status", "200"}}, true));
  EXPECT_TRUE(world.until([&] { return seen[0].over || seen[1].over; }));
  sandbox.end.ask(kit::get_request, seen[3]);
  EXPECT_TRUE(world.request(3));
  world.finish();
}

TEST(LimitedHttp2, AStreamThatIsResetLeavesItsPlace) {
  Http2Road world({.policy = policy_with("concurrent_requests: 1"), .origin_http2 = true});
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen first, second;
  const auto stream = sandbox.end.ask(kit::get_request, first);
  ASSERT_TRUE(world.request());
  stream->reset(http2::ErrorCode::cancel);
  world.settle();
  sandbox.end.ask(kit::get_request, second);
  EXPECT_TRUE(world.request(2));
  world.finish();
}

ResponseHead head_with(std::span<HeaderField> fields, int status = 200) {
  ResponseHead head;
  head.status = status;
  head.fields = fields;
  return head;
}

std::string coded(transform::Coding coding, std::string_view plain) {
  transform::Encoder encoder(coding);
  encoder.feed(plain, true);
  std::string out;
  for (auto piece = encoder.pull().value(); !piece.empty(); piece = encoder.pull().value()) out += piece;
  return out;
}

TEST(TokenMeter, ReadsWhatIsCompressed) {
  HeaderField fields[] = {{"Content-Encoding", "gzip"}};
  TokenMeter meter;
  meter.begin(head_with(fields));
  const std::string body = coded(transform::Coding::gzip,
                                 R"({"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}})");
  for (std::size_t i = 0; i < body.size(); ++i)
    meter.feed(std::string_view(body).substr(i, 1), i + 1 == body.size());
  EXPECT_EQ(meter.tokens(1'000), 3u);
}

TEST(TokenMeter, EstimatesByWhatComesOutOfACoding) {
  HeaderField fields[] = {{"Content-Encoding", "gzip"}};
  TokenMeter meter;
  meter.begin(head_with(fields));
  meter.feed(coded(transform::Coding::gzip, std::string(4'000, 'x')), true);
  EXPECT_EQ(meter.tokens(400), 1'100u);
}

TEST(TokenMeter, TakesWhatItCannotDecodeAsItIs) {
  HeaderField unknown[] = {{"Content-Encoding", "dcb"}};
  TokenMeter meter;
  meter.begin(head_with(unknown));
  meter.feed(std::string(400, 'x'), true);
  EXPECT_EQ(meter.tokens(0), 100u);

  HeaderField wrong[] = {{"Content-Encoding", "gzip"}};
  TokenMeter broken;
  broken.begin(head_with(wrong));
  broken.feed(std::string(200, 'x'), false);
  broken.feed(std::string(200, 'x'), true);
  EXPECT_EQ(broken.tokens(0), 100u);
}

}  // namespace
}  // namespace postern::proxy::road
