#include "origin/pool.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

namespace postern::origin {
namespace {

using namespace std::chrono_literals;

class PoolTest : public testing::Test {
 protected:
  PoolTest() {
    // As many descriptors as may be had: some tests fill the pool, with both ends of each connection.
    rlimit descriptors{};
    ::getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &descriptors);
  }
  ~PoolTest() override { loop_.abandon(); }

  static Fd open_door(std::uint16_t& port) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(socket.get(), 1024) != 0)
      std::abort();
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    return socket;
  }
  std::shared_ptr<const Overrides> overrides() const {
    auto map = std::make_shared<Overrides>();
    for (const char* name : {"a.example.com", "b.example.com"})
      (*map)[name] = {{IpAddress::v4(INADDR_LOOPBACK), port_}};
    return map;
  }

  using Outcome = Result<std::unique_ptr<Connection>>;
  static io::Task<void> run(Pool& pool, const Host& host, std::uint16_t port, bool use_tls,
                            Freshness freshness, bool must_be_alive, std::optional<Outcome>& out) {
    ReachTimings timings;
    const Wanted wanted{
        .host = host, .port = port, .tls = use_tls, .freshness = freshness, .must_be_alive = must_be_alive};
    Result<Reached> reached;
    if (auto ready = pool.reuse(wanted))
      reached = std::move(*ready);
    else
      reached = co_await pool.reach(wanted, timings);
    if (reached)
      out.emplace(std::move(reached->connection));
    else
      out.emplace(std::unexpected(std::move(reached.error())));
  }
  Outcome reach(const char* name, std::uint16_t port = 80, bool use_tls = false,
                Freshness freshness = Freshness::pooled_or_new, bool must_be_alive = false) {
    std::optional<Outcome> out;
    const Host host{name, std::nullopt};
    loop_.spawn(run(pool_, host, port, use_tls, freshness, must_be_alive, out));
    for (int turn = 0; turn < 300 && !out; ++turn) {
      loop_.run_once(10ms);
      take_in();
    }
    if (!out) {
      loop_.abandon();
      return fail(Reason::internal, "no outcome");
    }
    return std::move(*out);
  }
  /// A connection as it is after an exchange: everything that came has been read, and nothing is there.
  std::unique_ptr<Connection> settled(const char* name, std::uint16_t port = 80) {
    auto connection = reach(name, port).value();
    take_in();
    quiet(*connection);
    return connection;
  }
  static io::Task<void> drain(io::Stream& stream, TimePoint deadline) {
    char space[64];
    (void)co_await stream.read(space, deadline);
  }
  void quiet(Connection& connection) {
    loop_.spawn(drain(*connection.stream, loop_.now() + 1h));
    connection.stream->cancel_read();
  }
  void take_in() {
    while (true) {
      Fd accepted(::accept4(door_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!accepted) return;
      origins_.push_back(std::move(accepted));
    }
  }
  void turn(int times = 3) {
    for (int i = 0; i < times; ++i) loop_.run_once(2ms);
  }
  bool wait_for_idle(std::size_t count) {
    for (int i = 0; i < 300 && pool_.idle() != count; ++i) loop_.run_once(10ms);
    return pool_.idle() == count;
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
  io::BufferPool buffers_;
  std::uint16_t port_ = 0;
  Fd door_ = open_door(port_);
  std::vector<Fd> origins_;
  Resolver resolver_{loop_, overrides()};
  Dialler dialler_{loop_, resolver_, {}};
  tls::TrustStore trust_ = tls::TrustStore::load({}).value();
  tls::OriginContext tls_{trust_};
  Pool pool_{loop_, buffers_, dialler_, tls_};
};

TEST_F(PoolTest, AnIdleConnectionIsUsedAgain) {
  auto first = settled("a.example.com");
  EXPECT_FALSE(first->reused);
  const io::Stream* const stream = first->stream.get();
  pool_.give_back(std::move(first));
  EXPECT_EQ(pool_.idle(), 1u);
  const auto second = reach("a.example.com").value();
  EXPECT_EQ(second->stream.get(), stream);
  EXPECT_TRUE(second->reused);
  EXPECT_EQ(pool_.idle(), 0u);
  EXPECT_EQ(origins_.size(), 1u);
}

TEST_F(PoolTest, KeysNeverMixHostPortOrScheme) {
  pool_.give_back(settled("a.example.com"));
  EXPECT_FALSE(reach("b.example.com").value()->reused);
  EXPECT_FALSE(reach("a.example.com", 81).value()->reused);
  EXPECT_EQ(pool_.idle(), 1u);
  // The origin says nothing to a ClientHello; what matters is that the plain connection stays where it is.
  std::optional<Outcome> out;
  const Host host{"a.example.com", std::nullopt};
  loop_.spawn(run(pool_, host, 80, true, Freshness::pooled_or_new, false, out));
  turn();
  EXPECT_FALSE(out);
  EXPECT_EQ(pool_.idle(), 1u);
  EXPECT_TRUE(reach("a.example.com").value()->reused);
}

TEST_F(PoolTest, AFreshOneIsFresh) {
  pool_.give_back(settled("a.example.com"));
  EXPECT_FALSE(reach("a.example.com", 80, false, Freshness::new_only).value()->reused);
  EXPECT_EQ(pool_.idle(), 1u);
}

TEST_F(PoolTest, AConnectionThatItsOriginClosesLeavesAtOnce) {
  pool_.give_back(settled("a.example.com"));
  origins_[0].reset();
  EXPECT_TRUE(wait_for_idle(0));
  EXPECT_FALSE(reach("a.example.com").value()->reused);
}

TEST_F(PoolTest, AClosedConnectionIsNotGivenToARequestThatCannotBeRepeated) {
  pool_.give_back(settled("a.example.com"));
  origins_[0].reset();  // and the loop has had no turn since
  const auto connection = reach("a.example.com", 80, false, Freshness::pooled_or_new, true);
  ASSERT_TRUE(connection);
  EXPECT_FALSE((*connection)->reused);
}

TEST_F(PoolTest, BytesThatNobodyAskedForEndAnIdleConnection) {
  pool_.give_back(settled("a.example.com"));
  ASSERT_EQ(::send(origins_[0].get(), "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL), 19);
  EXPECT_TRUE(wait_for_idle(0));
}

TEST_F(PoolTest, BytesAfterTheAnswerKeepAConnectionOutOfThePool) {
  auto read_ahead = settled("a.example.com");
  read_ahead->input.append("HTTP/1.1 200 OK");
  pool_.give_back(std::move(read_ahead));
  EXPECT_EQ(pool_.idle(), 0u);

  auto unread = settled("a.example.com");
  ASSERT_EQ(::send(origins_.back().get(), "x", 1, MSG_NOSIGNAL), 1);
  turn();
  pool_.give_back(std::move(unread));
  EXPECT_EQ(pool_.idle(), 0u);
}

TEST_F(PoolTest, KeepsNoMoreThanItsLimits) {
  std::vector<std::unique_ptr<Connection>> all;
  for (std::size_t i = 0; i < Pool::idle_per_origin_max + 3; ++i) all.push_back(settled("a.example.com"));
  for (auto& one : all) pool_.give_back(std::move(one));
  EXPECT_EQ(pool_.idle(), Pool::idle_per_origin_max);
  all.clear();
  for (std::uint16_t port = 1; pool_.idle() < Pool::idle_total_max && port < 20; ++port) {
    for (std::size_t i = 0; i < Pool::idle_per_origin_max; ++i) all.push_back(settled("b.example.com", port));
    for (auto& one : all) pool_.give_back(std::move(one));
    all.clear();
  }
  EXPECT_EQ(pool_.idle(), Pool::idle_total_max);
  pool_.give_back(settled("b.example.com", 999));
  EXPECT_EQ(pool_.idle(), Pool::idle_total_max);
}

TEST_F(PoolTest, KeepsLessWhenToldTo) {
  std::vector<std::unique_ptr<Connection>> all;
  for (std::uint16_t port = 1; port <= 5; ++port)
    for (int i = 0; i < 4; ++i) all.push_back(settled("a.example.com", port));
  for (auto& one : all) pool_.give_back(std::move(one));
  all.clear();
  ASSERT_EQ(pool_.idle(), 20u);
  pool_.keep_idle(7);
  EXPECT_EQ(pool_.idle(), 7u);
  pool_.give_back(settled("a.example.com", 9));
  EXPECT_EQ(pool_.idle(), 7u);
  pool_.keep_idle(Pool::idle_total_max);
  pool_.give_back(settled("a.example.com", 9));
  EXPECT_EQ(pool_.idle(), 8u);
  pool_.keep_idle(0);
  EXPECT_EQ(pool_.idle(), 0u);
}

TEST_F(PoolTest, TheOldestAreSweptAndTheUsedStay) {
  pool_.give_back(settled("a.example.com"));
  clock_.advance(Pool::idle_max - 5s);
  turn();
  pool_.give_back(settled("b.example.com"));
  EXPECT_EQ(pool_.idle(), 2u);
  clock_.advance(5s + io::Loop::tick);
  turn();
  EXPECT_EQ(pool_.idle(), 1u);
  char byte;
  EXPECT_EQ(::recv(origins_[0].get(), &byte, 1, 0), 0) << "an orderly end";
  clock_.advance(Pool::idle_max);
  turn();
  EXPECT_EQ(pool_.idle(), 0u);
}

TEST_F(PoolTest, AConnectionThatWasTakenIsNotSwept) {
  pool_.give_back(settled("a.example.com"));
  const auto taken = reach("a.example.com").value();
  clock_.advance(Pool::idle_max * 2);
  turn();
  char byte;
  EXPECT_EQ(::recv(origins_[0].get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EAGAIN);
}

}  // namespace
}  // namespace postern::origin
