#include "origin/dialler.h"

#include <gtest/gtest.h>

#include "origin/fake_dns.h"

namespace postern::origin {
namespace {

using namespace std::chrono_literals;

/// A listening socket on one loopback address; port 0 chooses one.
Fd listen_on(const char* address_text, std::uint16_t& port, int backlog = 16) {
  Fd socket(::socket(IpAddress::parse(address_text)->is_v4() ? AF_INET : AF_INET6,
                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const Endpoint endpoint{*IpAddress::parse(address_text), port};
  socklen_t size = endpoint.to_sockaddr(address);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(socket.get(), backlog), 0);
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = Endpoint::from_sockaddr(reinterpret_cast<const sockaddr&>(address))->port;
  return socket;
}

/// Whether this machine has IPv6 at all: it may have none, not even the loopback address.
bool has_ipv6() {
  const Fd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address;
  const socklen_t size = Endpoint{*IpAddress::parse("::1"), 0}.to_sockaddr(address);
  return socket && ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) == 0;
}

/// Which of our addresses were connected to.
std::vector<std::string> visited(const Fd& listening) {
  std::vector<std::string> out;
  while (true) {
    const Fd accepted(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!accepted) return out;
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    ::getsockname(accepted.get(), reinterpret_cast<sockaddr*>(&address), &size);
    out.push_back(IpAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(address))->to_string());
  }
}

class DiallerTest : public testing::Test {
 protected:
  ~DiallerTest() override { loop_.abandon(); }

  void allow(std::initializer_list<const char*> networks) {
    std::vector<Cidr> list;
    for (const char* text : networks) list.push_back(*Cidr::parse(text));
    dialler_ = std::make_unique<Dialler>(loop_, *resolver_, std::move(list));
  }
  void fix(const std::string& name, std::vector<Override> entries) {
    auto map = std::make_shared<Overrides>();
    (*map)[name] = std::move(entries);
    resolver_ = std::make_unique<Resolver>(loop_, map, dns_.server);
    dialler_ = std::make_unique<Dialler>(loop_, *resolver_, std::vector<Cidr>{});
  }
  static io::Task<void> run(Dialler& dialler, const Host& host, std::uint16_t port, TimePoint deadline,
                            DialTimings& timings, std::optional<Result<Dialled>>& out) {
    out.emplace(co_await dialler.dial(host, port, deadline, timings));
  }
  void start(const Host& host, std::uint16_t port) {
    host_ = host;
    out_.reset();
    loop_.spawn(run(*dialler_, host_, port, loop_.now() + 15s, timings_, out_));
  }
  bool turn_until_done(int turns = 500) {
    for (int turn = 0; turn < turns && !out_; ++turn) loop_.run_once(10ms);
    return out_.has_value();
  }
  Result<Dialled> dial(const Host& host, std::uint16_t port) {
    start(host, port);
    if (!turn_until_done()) return fail(Reason::internal, "no outcome");
    return std::move(*out_);
  }
  static Host name(const char* text) { return {text, std::nullopt}; }

  ManualClock clock_;
  io::Loop loop_{clock_};
  FakeDns dns_{loop_};
  std::unique_ptr<Resolver> resolver_ = std::make_unique<Resolver>(loop_, nullptr, dns_.server);
  std::unique_ptr<Dialler> dialler_ = std::make_unique<Dialler>(loop_, *resolver_, std::vector<Cidr>{});
  Host host_;
  DialTimings timings_;
  std::optional<Result<Dialled>> out_;
};

TEST_F(DiallerTest, APrivateAddressIsNeverDialled) {
  std::uint16_t port = 0;
  const Fd door = listen_on("0.0.0.0", port);
  for (const char* address :
       {"127.0.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0", "::1",
        "::ffff:127.0.0.1", "fe80::1", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::"}) {
    const std::string host = std::string("h") + std::to_string(dns_.names.size()) + ".example.com";
    dns_.names[host] = {.addresses = {address}};
    const auto outcome = dial(name(host.c_str()), port);
    ASSERT_FALSE(outcome) << address;
    EXPECT_EQ(outcome.error().reason, Reason::private_address) << address;
  }
  EXPECT_TRUE(visited(door).empty());
}

TEST_F(DiallerTest, ALiteralIsCheckedLikeAnAnswer) {
  const auto outcome = dial({"127.0.0.1", IpAddress::parse("127.0.0.1")}, 80);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().reason, Reason::private_address);
}

TEST_F(DiallerTest, OfAMixedAnswerOnlyWhatMayBeReachedIsDialled) {
  std::uint16_t port = 0;
  const Fd door = listen_on("0.0.0.0", port);
  allow({"127.0.0.7/32"});
  dns_.names["mixed.example.com"] = {.addresses = {"127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8"}};
  const auto outcome = dial(name("mixed.example.com"), port);
  ASSERT_TRUE(outcome) << outcome.error().detail;
  EXPECT_EQ(outcome->endpoint.address.to_string(), "127.0.0.7");
  EXPECT_EQ(visited(door), (std::vector<std::string>{"127.0.0.7"}));
}

TEST_F(DiallerTest, AnOpenedNetworkIsOpenAndItsNeighbourIsNot) {
  std::uint16_t port = 0;
  const Fd door = listen_on("0.0.0.0", port);
  allow({"127.1.0.0/16"});
  dns_.names["in.example.com"] = {.addresses = {"127.1.2.3"}};
  dns_.names["out.example.com"] = {.addresses = {"127.2.0.1"}};
  EXPECT_TRUE(dial(name("in.example.com"), port));
  EXPECT_EQ(dial(name("out.example.com"), port).error().reason, Reason::private_address);
}

TEST_F(DiallerTest, TheOperatorsMapNamesAddressAndPortAndNeedsNoPermission) {
  std::uint16_t port = 0;
  const Fd door = listen_on("127.0.0.1", port);
  fix("fixed.example.com", {{*IpAddress::parse("127.0.0.1"), port}});
  const auto outcome = dial(name("fixed.example.com"), 443);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->endpoint.to_string(), "127.0.0.1:" + std::to_string(port));
  EXPECT_TRUE(dns_.asked.empty());
}

TEST_F(DiallerTest, WhenTheFirstAddressRefusesTheSecondIsUsedAtOnce) {
  std::uint16_t port = 0;
  const Fd door = listen_on("127.0.0.3", port);
  fix("two.example.com", {{*IpAddress::parse("127.0.0.2"), port}, {*IpAddress::parse("127.0.0.3"), port}});
  const auto outcome = dial(name("two.example.com"), port);
  ASSERT_TRUE(outcome) << outcome.error().detail;
  EXPECT_EQ(outcome->endpoint.address.to_string(), "127.0.0.3");
  EXPECT_EQ(clock_.now(), loop_.now());
}

TEST_F(DiallerTest, WhenTheFirstAddressIsSlowTheSecondIsTriedAfterAQuarterSecond) {
  std::uint16_t port = 0;
  const Fd full = listen_on("127.0.0.2", port, 0);
  std::vector<std::unique_ptr<Fd>> crowd;
  for (int i = 0; i < 8; ++i) {
    auto one = std::make_unique<Fd>(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_storage address;
    const Endpoint endpoint{*IpAddress::parse("127.0.0.2"), port};
    const socklen_t size = endpoint.to_sockaddr(address);
    (void)::connect(one->get(), reinterpret_cast<sockaddr*>(&address), size);
    crowd.push_back(std::move(one));
  }
  const Fd door = listen_on("127.0.0.3", port);
  fix("two.example.com", {{*IpAddress::parse("127.0.0.2"), port}, {*IpAddress::parse("127.0.0.3"), port}});
  start(name("two.example.com"), port);
  EXPECT_FALSE(turn_until_done(3));
  clock_.advance(Dialler::attempt_delay - 1ms);
  EXPECT_FALSE(turn_until_done(3));
  clock_.advance(1ms + io::Loop::tick);
  ASSERT_TRUE(turn_until_done());
  ASSERT_TRUE(*out_) << out_->error().detail;
  EXPECT_EQ((*out_)->endpoint.address.to_string(), "127.0.0.3");
}

TEST_F(DiallerTest, AnIpv6AddressIsDialledAsWellAsAnother) {
  std::uint16_t port = 0;
  const bool six = has_ipv6();
  const Fd door = listen_on(six ? "::1" : "127.0.0.1", port);
  fix("six.example.com", {{*IpAddress::parse("::1"), port}});
  const auto outcome = dial(name("six.example.com"), 443);
  ASSERT_EQ(outcome.has_value(), six);
  if (six)
    EXPECT_EQ(outcome->endpoint.to_string(), "[::1]:" + std::to_string(port));
  else
    EXPECT_EQ(outcome.error().reason, Reason::connect_failed);

  // The same as an answer of the name server, and as a literal in the URL.
  allow({"::1/128"});
  dns_.names["asked.example.com"] = {.addresses = {"::1"}};
  EXPECT_EQ(dial(name("asked.example.com"), port).has_value(), six);
  EXPECT_EQ(dial({"::1", IpAddress::parse("::1")}, port).has_value(), six);
}

TEST_F(DiallerTest, OfBothFamiliesIpv6IsTriedFirst) {
  std::uint16_t port = 0;
  const bool six = has_ipv6();
  Fd four, door;
  for (int i = 0; i < 50 && !door; ++i) {  // A port that is free in both.
    port = 0;
    four = listen_on("127.0.0.2", port);
    door = Fd(::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_storage address;
    const socklen_t size = Endpoint{*IpAddress::parse("::1"), port}.to_sockaddr(address);
    if (!six) break;
    if (::bind(door.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(door.get(), 16) != 0)
      door.reset();
  }
  allow({"127.0.0.2/32", "::1/128"});
  dns_.names["both.example.com"] = {.addresses = {"127.0.0.2", "::1"}};
  const auto outcome = dial(name("both.example.com"), port);
  ASSERT_TRUE(outcome) << outcome.error().detail;
  EXPECT_EQ(outcome->endpoint.address.to_string(), six ? "::1" : "127.0.0.2");
  EXPECT_EQ(visited(four).empty(), six);
}

TEST_F(DiallerTest, WhereIpv6LeadsNowhereIpv4IsUsedAtOnce) {
  std::uint16_t port = 0;
  const Fd door = listen_on("127.0.0.2", port);
  allow({"127.0.0.2/32", "::1/128"});
  dns_.names["both.example.com"] = {.addresses = {"127.0.0.2", "::1"}};
  const auto outcome = dial(name("both.example.com"), port);  // Nobody listens on [::1]:port.
  ASSERT_TRUE(outcome) << outcome.error().detail;
  EXPECT_EQ(outcome->endpoint.address.to_string(), "127.0.0.2");
  EXPECT_EQ(visited(door), (std::vector<std::string>{"127.0.0.2"}));
}

TEST_F(DiallerTest, WhenEveryAddressRefusesTheDialFails) {
  std::uint16_t port = 0;
  listen_on("127.0.0.2", port).reset();
  fix("two.example.com", {{*IpAddress::parse("127.0.0.2"), port},
                          {*IpAddress::parse("127.0.0.3"), port},
                          {*IpAddress::parse("127.0.0.4"), port}});
  const auto outcome = dial(name("two.example.com"), port);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().reason, Reason::connect_failed);
  clock_.advance(Dialler::attempt_delay + io::Loop::tick);
  loop_.run_once(0ms);
  EXPECT_EQ(loop_.active(), 0u) << "an attempt is left behind";
}

TEST_F(DiallerTest, AnUnknownNameIsSaidToBeOne) {
  const auto outcome = dial(name("missing.example.com"), 80);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().reason, Reason::name_not_found);
}

}  // namespace
}  // namespace postern::origin
