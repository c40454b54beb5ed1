// What a worker does at its limits, on the whole road.

#include "proxy/worker.h"

#include <functional>
#include <gtest/gtest.h>

#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

using testing::Test;

constexpr const char* request = "GET /v1/models HTTP/1.1\r\nHost: api.example.com\r\n\r\n";
constexpr const char* answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class WorkerTest : public Test {
 protected:
  void start(LoadLimits load) {
    RoadOptions options;
    options.load = load;
    road_ = std::make_unique<Road>(std::move(options));
  }
  Peer& connect() { return road_->connect("api.example.com", 443, "api.example.com"); }
  /// Asks, and waits until the origin has the request.
  void ask(Peer& sandbox) {
    sandbox.send(request);
    ASSERT_TRUE(road_->wait_until([&] { return road_->origin() && !road_->origin()->received().empty(); }));
    road_->origin()->take();
  }
  /// A whole exchange; what the sandbox read.
  std::string exchange(Peer& sandbox) {
    ask(sandbox);
    road_->origin()->send(answer);
    EXPECT_TRUE(
        road_->wait_until([&] { return sandbox.received().find("\r\n\r\nok") != std::string::npos; }));
    road_->settle();
    return sandbox.take();
  }
  std::size_t connections() { return road_->worker().overload.connections(); }

  std::unique_ptr<Road> road_;
};

TEST_F(WorkerTest, WhoHasRestedLongestMakesRoom) {
  start({.connections_max = 8});  // soft: 6
  std::vector<Peer*> sandboxes;
  for (int i = 0; i < 6; ++i) {
    sandboxes.push_back(&connect());
    exchange(*sandboxes.back());
  }
  exchange(*sandboxes[0]);  // The second has rested longest now.
  EXPECT_FALSE(sandboxes[1]->over());
  exchange(connect());
  EXPECT_TRUE(road_->wait_until([&] { return sandboxes[1]->over(); }));
  EXPECT_EQ(sandboxes[1]->take(), "[end]\n");
  EXPECT_FALSE(sandboxes[0]->over());
  EXPECT_FALSE(sandboxes[2]->over());
  EXPECT_EQ(connections(), 6u);
  EXPECT_EQ(road_->worker().refused(), 0u);
}

TEST_F(WorkerTest, BeyondTheHardLimitAConnectionIsReset) {
  start({.connections_max = 5});
  for (int i = 0; i < 4; ++i) connect();  // Four fifths; none rests, for none has asked anything.
  road_->settle();
  EXPECT_EQ(connections(), 4u);
  Peer& refused = connect();
  road_->settle();
  EXPECT_TRUE(refused.over());
  EXPECT_EQ(connections(), 4u);
  EXPECT_EQ(road_->worker().refused(), 1u);
}

TEST_F(WorkerTest, ARequestTooManyReadsThatPosternIsAtItsLimit) {
  start({.exchanges_max = 2});
  Peer &first = connect(), &second = connect(), &third = connect();
  ask(first);
  ask(second);
  third.send(request);
  ASSERT_TRUE(road_->wait_until([&] { return third.over(); }));
  const std::string refusal = third.take();
  EXPECT_TRUE(refusal.starts_with("HTTP/1.1 503 ")) << refusal;
  EXPECT_NE(refusal.find("X-Postern-Reason: overloaded"), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("Connection: close"), std::string::npos) << refusal;
  // What was under way is not harmed.
  road_->origin()->send(answer);
  EXPECT_TRUE(road_->wait_until([&] { return second.received().ends_with("ok"); }));
  EXPECT_TRUE(road_->leave());
  EXPECT_EQ(road_->worker().overload.exchanges(), 0u);
  const auto records = road_->records();
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("\"reason\":\"overloaded\""), std::string::npos) << records[0];
}

TEST_F(WorkerTest, AboveTheSoftLimitAnswersEndTheirConnections) {
  start({.exchanges_max = 4});  // soft: 3
  std::vector<Peer*> sandboxes;
  for (int i = 0; i < 4; ++i) ask(*sandboxes.emplace_back(&connect()));
  EXPECT_TRUE(road_->worker().shedding());
  road_->origin()->send(answer);
  ASSERT_TRUE(road_->wait_until([&] { return sandboxes[3]->over(); }));
  EXPECT_NE(sandboxes[3]->take().find("Connection: close"), std::string::npos);
  sandboxes[2]->close();
  ASSERT_TRUE(road_->wait_until([&] { return road_->worker().overload.exchanges() == 2; }));
  // Below it connections are kept again.
  EXPECT_EQ(exchange(connect()).find("Connection: close"), std::string::npos);
}

TEST_F(WorkerTest, ShortOfMemoryIdleConnectionsGoWithinSeconds) {
  start({.process = {.memory_bytes = 1, .descriptors = UINT64_MAX}});
  Peer &first = connect(), &second = connect();
  EXPECT_NE(exchange(first).find("Connection: close"), std::string::npos);
  EXPECT_TRUE(first.over());
  // Some are served whatever is measured: nothing here would give the memory back.
  EXPECT_NE(exchange(second).find("HTTP/1.1 200 OK"), std::string::npos);
  EXPECT_LE(road_->worker().pool.idle(), limits::pool_idle_when_shedding);
}

TEST_F(WorkerTest, TheProcessIsLookedAtAgainWhileConnectionsAreOpen) {
  start({.exchanges_max = 4});  // soft: 3
  for (int i = 0; i < 8; ++i) exchange(connect());
  EXPECT_EQ(road_->worker().connections.resting(), 8u);
  for (int i = 0; i < 4; ++i) ask(connect());
  ASSERT_TRUE(road_->worker().shedding());
  for (const std::size_t left : {5u, 3u, 2u, 1u, 0u}) {
    road_->clock().advance(limits::process_look_time + io::Loop::tick);
    road_->settle();
    EXPECT_EQ(road_->worker().connections.resting(), left);
  }
}

// Threat 71, in units of work: how much is done for the noisy sandbox while another one's request waits.
class NoisySandboxTest : public WorkerTest {
 protected:
  static constexpr const char* refused = "GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n";

  void SetUp() override {
    start({});
    for (int i = 0; i < 50; ++i)
      quiet_.push_back(&road_->connect("evil.example.com", 80, {}, Offer::http1, &road_->new_tenant()));
    road_->settle();
  }
  /// One request of each quiet sandbox: the most that `work` grew between its sending and its answer.
  std::size_t most_work_meanwhile(const std::function<std::size_t()>& work, std::size_t work_in_all) {
    std::size_t most = 0;
    for (Peer* peer : quiet_) {
      peer->send(refused);
      const std::size_t before = work();
      EXPECT_TRUE(road_->wait_until([&] { return !peer->received().empty(); }));
      most = std::max(most, work() - before);
    }
    EXPECT_LT(work(), work_in_all) << "the noise ended before the test";
    return most;
  }
  std::vector<Peer*> quiet_;
};

TEST_F(NoisySandboxTest, ItsRequestsInLineDelayOthersByAFew) {
  Tenant& flooding = road_->new_tenant();
  std::vector<Peer*> noisy;
  std::string many;
  for (int i = 0; i < 500; ++i) many += refused;
  for (int i = 0; i < 64; ++i) {
    noisy.push_back(&road_->connect("evil.example.com", 80, {}, Offer::http1, &flooding));
    noisy.back()->send(many);
  }
  ASSERT_TRUE(road_->wait_until([&] { return !noisy.front()->received().empty(); }));
  const std::string& first = noisy.front()->received();
  const std::size_t one_answer = first.find("HTTP/1.1 403", 1);
  const auto answered = [&] {
    std::size_t bytes = 0;
    for (Peer* peer : noisy) bytes += peer->received().size();
    return bytes / one_answer;
  };
  // One event of it is four requests, and the clock, which stands still, lets five of them pass for a look
  // at epoll; two turns pass in the test's own hands.
  EXPECT_LE(most_work_meanwhile(answered, 64u * 500), 2u * 5 * 4);
}

TEST_F(NoisySandboxTest, ItsNewConnectionsDelayOthersByAFew) {
  Tenant& flooding = road_->new_tenant();
  const Fd door(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(door.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(door.get(), 1024), 0);
  ASSERT_EQ(::getsockname(door.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  constexpr std::size_t knocking = 800;
  std::vector<Fd> clients;
  for (std::size_t i = 0; i < knocking; ++i) {
    clients.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(clients.back().get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  }
  std::size_t accepted = 0;
  road_->worker().serve(flooding, door.get(), [&](Fd) { ++accepted; });
  // Of a slice of 64 KiB each connection counts 8.
  EXPECT_LE(most_work_meanwhile([&] { return accepted; }, knocking), 2u * 5 * 8);
}

}  // namespace
}  // namespace postern::proxy::road
