// What a sandbox's removal and a change of its policy do to what is open, on the whole road.

#include <functional>
#include <gtest/gtest.h>

#include "proxy/http2_road_harness.h"
#include "proxy/websocket.h"

namespace postern::proxy::road {
namespace {

constexpr const char* request = "GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
constexpr const char* upgrade =
    "GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
constexpr const char* switched =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const kit::Pairs connect_head{{":method", "CONNECT"}, {":protocol", "websocket"},
                              {":scheme", "https"},   {":authority", "api.example.com"},
                              {":path", "/ws"},       {"sec-websocket-version", "13"}};

std::string allow(const std::string& hosts, const std::string& more_rules = {}) {
  return "access_control: {allow_list: [" + hosts + "]}\nrules:\n" + more_rules + R"(
  - name: api
    match_hosts: [api.example.com]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {API_KEY}"}]
    transform: {response: {scrub_secrets: false}}
)";
}
const std::string all_hosts = R"(api.example.com, tls.example.com, "db.example.com:5432")";

std::shared_ptr<const Egress> egress_of(const std::string& policy) {
  auto document = policy::parse_document(policy, policy::Format::yaml);
  if (!document) throw std::runtime_error(document.error().front().message);
  policy::CompileOptions options;
  options.default_egress = policy::DefaultEgress::hosts_of_rules;
  options.version = 8;
  auto snapshot = policy::compile(std::move(*document), options).value();
  credential::SecretStore secrets;
  (void)secrets.set("API_KEY", Secret(std::string(canary)));
  auto injections = credential::resolve(*snapshot, secrets).value();
  return make_egress(std::move(snapshot), std::move(injections));
}

bool says(const std::string& record, const std::string& reason) {
  return record.find("\"reason\":\"" + reason + "\"") != std::string::npos;
}

class TenantTest : public testing::Test {
 protected:
  void start(bool origin_tls = true) {
    RoadOptions options;
    options.origin_tls = origin_tls;
    // Bytes that are no frames go through a WebSocket too, when nobody looks into it.
    options.policy = std::string(default_policy) + "    transform: {response: {scrub_secrets: false}}\n";
    road_ = std::make_unique<Road>(std::move(options));
  }
  bool until(const std::function<bool()>& done) { return road_->wait_until(done); }
  Worker& worker() { return road_->worker(); }
  std::size_t connections() { return worker().overload.connections(); }
  bool nothing_left() {
    return until([&] { return road_->tenant().load.connections == 0 && worker().loop.active() == 0; });
  }

  /// Bytes pass both ways.
  void expect_open(Peer& sandbox, Peer& origin) {
    sandbox.take();
    origin.take();
    sandbox.send("ping");
    origin.send("pong");
    EXPECT_TRUE(until([&] { return origin.received() == "ping" && sandbox.received() == "pong"; }))
        << sandbox.received() << "|" << origin.received();
    sandbox.take();
    origin.take();
  }
  void open_relay() {
    Peer& sandbox = road_->connect("db.example.com", 5432);
    ASSERT_TRUE(until([&] { return road_->origin() != nullptr; }));
    expect_open(sandbox, *road_->origin());
  }
  void open_tls_relay() {
    Peer& sandbox = road_->connect("tls.example.com", 443, "tls.example.com");
    ASSERT_TRUE(until([&] { return road_->origin() != nullptr; }));
    sandbox.send("hello");
    ASSERT_TRUE(until([&] { return road_->origin()->received() == "hello"; }));
    expect_open(sandbox, *road_->origin());
  }
  void open_websocket() {
    Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
    sandbox.send(upgrade);
    ASSERT_TRUE(until([&] { return road_->origin() && road_->origin()->received().ends_with("\r\n\r\n"); }));
    road_->origin()->send(switched);
    ASSERT_TRUE(until([&] { return sandbox.received().ends_with("\r\n\r\n"); }));
    expect_open(sandbox, *road_->origin());
  }
  /// Closed, in no orderly way, and recorded so.
  void expect_ended(const std::string& reason) {
    Peer &sandbox = road_->sandbox(), &origin = *road_->origin();
    ASSERT_TRUE(until([&] { return sandbox.over() && origin.over(); }));
    EXPECT_EQ(sandbox.take(), "[reset]\n");
    EXPECT_EQ(origin.take(), "[reset]\n");
    EXPECT_TRUE(nothing_left());
    const auto records = road_->records();
    ASSERT_EQ(records.size(), 1u);
    EXPECT_TRUE(says(records[0], reason)) << records[0];
    const char* version = reason == "shutting_down" ? "\"policy_version\":7" : "\"policy_version\":8";
    EXPECT_NE(records[0].find(version), std::string::npos) << records[0];
  }

  std::unique_ptr<Road> road_;
};

// ---- a policy that changes

TEST_F(TenantTest, ARawConnectionThatIsNoLongerAllowedIsClosed) {
  start(false);
  open_relay();
  Worker::swap(road_->tenant(), egress_of(allow("api.example.com, tls.example.com")));
  expect_ended("not_in_allow_list");
}

TEST_F(TenantTest, ARawConnectionThatNobodyReadsIsClosedAsWell) {
  start(false);
  open_relay();
  // Its one direction waits for the origin to read, the other for it to write.
  road_->origin()->pause(true);
  road_->sandbox().send(std::string(32 * MiB, 'x'));
  road_->settle();
  ASSERT_FALSE(road_->sandbox().sent());
  Worker::swap(road_->tenant(), egress_of(allow("api.example.com")));
  EXPECT_TRUE(nothing_left());
  EXPECT_TRUE(says(road_->records().at(0), "not_in_allow_list"));
}

TEST_F(TenantTest, AnOpaqueConnectionEndsWhenAPartOfItsHostIsClosed) {
  start();
  open_tls_relay();
  const std::string closes_some =
      "  - {name: closed, match_hosts: [tls.example.com], match_paths: [/admin], action: deny}\n";
  Worker::swap(road_->tenant(), egress_of(allow(all_hosts, closes_some)));
  expect_ended("protocol_not_allowed");
}

TEST_F(TenantTest, AnOpaqueConnectionThatIsNoLongerAllowedIsClosed) {
  start();
  open_tls_relay();
  Worker::swap(road_->tenant(), egress_of(allow("api.example.com")));
  expect_ended("not_in_allow_list");
}

TEST_F(TenantTest, AWebSocketThatIsNoLongerAllowedIsClosed) {
  start();
  open_websocket();
  Worker::swap(road_->tenant(), egress_of(allow(all_hosts,
                                                "  - {name: closed, match_hosts: [api.example.com], "
                                                "match_paths: [/ws], action: deny}\n")));
  expect_ended("denied_by_rule");
}

TEST_F(TenantTest, WhatIsStillAllowedStaysOpen) {
  start(false);
  open_relay();
  for (int i = 0; i < 3; ++i) {
    Worker::swap(road_->tenant(), egress_of(allow(R"("db.example.com:5432")")));
    expect_open(road_->sandbox(), *road_->origin());
  }
  EXPECT_TRUE(road_->leave());
  EXPECT_TRUE(says(road_->records().at(0), "allowed"));
}

TEST_F(TenantTest, AWebSocketThatIsStillAllowedStaysOpen) {
  start();
  open_websocket();
  Worker::swap(road_->tenant(), egress_of(allow("api.example.com",
                                                "  - {name: closed, match_hosts: "
                                                "[api.example.com], match_paths: [/other], "
                                                "action: deny}\n")));
  expect_open(road_->sandbox(), *road_->origin());
}

TEST_F(TenantTest, NewSecretsOfTheSamePolicyCloseNothing) {
  start();
  open_websocket();
  auto same = std::make_shared<Egress>();
  same->snapshot = road_->tenant().egress->snapshot;
  Worker::swap(road_->tenant(), std::move(same));
  expect_open(road_->sandbox(), *road_->origin());
}

TEST_F(TenantTest, APolicyThatCameWhileTheOriginThoughtCountsForItsTunnel) {
  start();
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(upgrade);
  ASSERT_TRUE(until([&] { return road_->origin() && road_->origin()->received().ends_with("\r\n\r\n"); }));
  Worker::swap(road_->tenant(), egress_of(allow("tls.example.com")));
  road_->settle();
  EXPECT_FALSE(road_->origin()->over()) << "a request that was judged ends as it began";
  road_->origin()->send(switched);
  ASSERT_TRUE(until([&] { return sandbox.over() && road_->origin()->over(); }));
  EXPECT_TRUE(nothing_left());
  const std::string record = road_->records().at(0);
  EXPECT_TRUE(says(record, "not_in_allow_list") && record.find("\"policy_version\":8") != std::string::npos)
      << record;
}

TEST_F(TenantTest, AnAnswerThatWasBegunEndsAsItBegan) {
  start();
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(request);
  ASSERT_TRUE(until([&] { return road_->origin() && !road_->origin()->received().empty(); }));
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
  ASSERT_TRUE(until([&] { return sandbox.received().ends_with("half"); }));
  Worker::swap(road_->tenant(), egress_of(allow("tls.example.com")));
  road_->settle();
  road_->origin()->send("half");
  ASSERT_TRUE(until([&] { return sandbox.received().ends_with("halfhalf"); }));
  sandbox.take();
  sandbox.send(request);
  ASSERT_TRUE(until([&] {
    return sandbox.received().find("X-Postern-Reason: not_in_allow_list") != std::string::npos;
  })) << "and the next request is judged by what is in force";
}

TEST(TenantOfHttp2Test, AWebSocketOnAStreamIsClosedAndOtherStreamsStay) {
  Http2Road world(RoadOptions{});  // Its origins speak HTTP/1.1.
  Http2Peer& sandbox = world.connect("api.example.com", Offer::http2);
  kit::Seen tunnel, other;
  const auto stream = sandbox.end.ask(connect_head, tunnel, false);
  ASSERT_TRUE(world.until([&] {
    return world.road->origin() && world.road->origin()->received().find("\r\n\r\n") != std::string::npos;
  }));
  Peer& origin = *world.road->origin();
  const std::string head = origin.take();
  // The key is ours, so its answer has to be made.
  const std::size_t at = head.find("Sec-WebSocket-Key: ") + 19;
  const std::string key = head.substr(at, head.find('\r', at) - at);
  origin.send(
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
      "websocket\r\nSec-WebSocket-Accept: " +
      websocket_accept(key) + "\r\n\r\n");
  ASSERT_TRUE(world.until([&] { return tunnel.status() == 200; }));
  sandbox.end.ask(kit::get_request, other);
  ASSERT_TRUE(
      world.until([&] { return world.road->origins() == 2 && !world.road->origin()->received().empty(); }));

  Worker::swap(world.road->tenant(),
               egress_of(allow(all_hosts,
                               "  - {name: closed, match_hosts: [api.example.com], match_paths: [/ws], "
                               "action: deny}\n")));
  ASSERT_TRUE(world.until([&] { return tunnel.over && origin.over(); }));
  EXPECT_FALSE(tunnel.complete);
  EXPECT_FALSE(other.over);
  world.road->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  EXPECT_TRUE(world.until([&] { return other.over; }));
  EXPECT_EQ(other.body, "ok");
  const auto records = world.finish();
  EXPECT_TRUE(world.left);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(says(records[0], "denied_by_rule")) << records[0];
  EXPECT_TRUE(says(records[1], "allowed")) << records[1];
}

// ---- a sandbox that is removed

TEST_F(TenantTest, ItsRequestsUnderWayAreResetAndNobodyElses) {
  start();
  Tenant& neighbour = road_->new_tenant();
  neighbour.identity.name = std::make_shared<const std::string>("neighbour");
  Peer& removed = road_->connect("api.example.com", 443, "api.example.com");
  removed.send(request);
  ASSERT_TRUE(until([&] { return road_->origin() && !road_->origin()->received().empty(); }));
  Peer& slow_origin = *road_->origin();
  Peer& other = road_->connect("api.example.com", 443, "api.example.com", Offer::http1, &neighbour);
  other.send(request);
  ASSERT_TRUE(until([&] { return road_->origins() == 2 && !road_->origin()->received().empty(); }));

  worker().remove(road_->tenant());
  ASSERT_TRUE(until([&] { return removed.over() && slow_origin.over(); }));
  EXPECT_EQ(removed.take(), "[reset]\n");
  ASSERT_TRUE(until([&] { return road_->tenant().load.connections == 0; }));
  EXPECT_EQ(road_->tenant().load.exchanges, 0u);
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  EXPECT_TRUE(until([&] { return other.received().ends_with("ok"); }));
  EXPECT_TRUE(road_->leave());
  const auto records = road_->records();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(says(records[0], "shutting_down")) << records[0];
  EXPECT_TRUE(says(records[1], "allowed")) << records[1];
}

// Whatever stage it is in.
TEST_F(TenantTest, ConnectionsInEveryStageEnd) {
  start();
  Peer& silent = road_->connect("api.example.com", 443);
  Peer& plain = road_->connect("api.example.com", 80);
  Peer& idle = road_->connect("api.example.com", 443, "api.example.com");
  idle.send(request);
  ASSERT_TRUE(until([&] { return road_->origin() && !road_->origin()->received().empty(); }));
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  ASSERT_TRUE(until([&] { return idle.received().ends_with("ok"); }));
  road_->origin()->take();
  Peer& shaking = road_->connect("api.example.com", 443, "api.example.com", Offer::http2);
  Peer& answered = road_->connect("api.example.com", 443, "api.example.com");
  answered.send(request);
  ASSERT_TRUE(until([&] { return !road_->origin()->received().empty(); }));
  road_->origin()->take();
  road_->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
  ASSERT_TRUE(until([&] { return answered.received().ends_with("half"); }));
  ASSERT_EQ(road_->tenant().load.connections, 5u);
  worker().remove(road_->tenant());
  for (Peer* peer : {&silent, &plain, &idle, &shaking, &answered})
    EXPECT_TRUE(until([&] { return peer->over(); }));
  EXPECT_TRUE(answered.take().ends_with("half[reset]\n"));
  EXPECT_TRUE(nothing_left());
  for (const std::string& record : road_->records())
    EXPECT_TRUE(says(record, "shutting_down") || says(record, "allowed")) << record;
}

TEST_F(TenantTest, ItsTunnelsEnd) {
  start(false);
  open_relay();
  worker().remove(road_->tenant());
  expect_ended("shutting_down");
}

TEST_F(TenantTest, ItsWebSocketsEnd) {
  start();
  open_websocket();
  worker().remove(road_->tenant());
  expect_ended("shutting_down");
}

TEST_F(TenantTest, OneThatWaitsForItsOriginsHandshakeEndsWithThat) {
  RoadOptions options;
  options.origin_tls = false;  // It never answers the ClientHello.
  road_ = std::make_unique<Road>(std::move(options));
  Peer& sandbox = road_->connect("api.example.com", 443, "api.example.com");
  sandbox.send(request);
  ASSERT_TRUE(until([&] { return road_->origin() && !road_->origin()->received().empty(); }));
  worker().remove(road_->tenant());
  EXPECT_TRUE(until([&] { return sandbox.over(); }));
  road_->clock().advance(origin::Pool::handshake_timeout + std::chrono::seconds(1));
  EXPECT_TRUE(nothing_left());
  const auto records = road_->records();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_TRUE(says(records[0], "shutting_down")) << records[0];
}

TEST(TenantOfHttp2Test, StreamsOfARemovedSandboxEndAndItsConnectionsToOriginsGo) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen done, first, second;
  sandbox.end.ask(kit::get_request, done);
  ASSERT_TRUE(kit::send_head(*world.request(1), {{":status", "204"}}, true));
  ASSERT_TRUE(world.until([&] { return done.over; }));
  sandbox.end.ask(kit::get_request, first);
  sandbox.end.ask(kit::get_request, second);
  ASSERT_TRUE(world.request(3));
  EXPECT_EQ(world.road->worker().pool.http2_connections(), 1u);
  world.road->worker().remove(world.road->tenant());
  EXPECT_TRUE(world.until([&] { return first.over && second.over; }));
  EXPECT_TRUE(world.until([&] { return world.road->tenant().load.connections == 0; }));
  EXPECT_TRUE(world.until([&] { return world.road->worker().pool.http2_connections() == 0; }))
      << "nobody may use it any more";
  const auto records = world.finish();
  EXPECT_TRUE(world.left);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_TRUE(says(records[0], "allowed")) << records[0];
  for (int i : {1, 2}) EXPECT_TRUE(says(records[static_cast<std::size_t>(i)], "shutting_down")) << records[1];
}

TEST(TenantOfHttp2Test, AnIdleConnectionToAnOriginGoesWithItsSandbox) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen done;
  sandbox.end.ask(kit::get_request, done);
  ASSERT_TRUE(kit::send_head(*world.request(1), {{":status", "204"}}, true));
  ASSERT_TRUE(world.until([&] { return done.over; }));
  ASSERT_EQ(world.road->worker().pool.http2_connections(), 1u);
  world.road->worker().remove(world.road->tenant());
  EXPECT_TRUE(world.until([&] { return world.road->worker().pool.http2_connections() == 0; }));
}

// ---- who is told

struct Told final : TenantWatcher {
  explicit Told(TenantWatchers& all) : TenantWatcher(all) {}
  ~Told() = default;
  void on_tenant_changed() override {
    ++times;
    if (then) then();
  }
  int times = 0;
  std::function<void()> then;
};

TEST(TenantWatchers, EachIsToldOnceWhoeverGoesMeanwhile) {
  TenantWatchers all;
  std::vector<std::unique_ptr<Told>> told;
  for (int i = 0; i < 4; ++i) told.push_back(std::make_unique<Told>(all));
  std::unique_ptr<Told> late;
  told[0]->then = [&] { told[1].reset(); };
  told[2]->then = [&] { late = std::make_unique<Told>(all); };
  told[3]->then = [&] { told[3].reset(); };
  all.tell();
  EXPECT_EQ(told[0]->times, 1);
  EXPECT_EQ(told[2]->times, 1);
  EXPECT_EQ(late->times, 0);
  told[0]->then = told[2]->then = {};
  all.tell();
  EXPECT_EQ(told[0]->times, 2);
  EXPECT_EQ(late->times, 1);
  told.clear();
  late.reset();
  EXPECT_FALSE(all.any());
}

}  // namespace
}  // namespace postern::proxy::road
