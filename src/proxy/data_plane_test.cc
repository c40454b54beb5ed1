// Several loops and sandboxes at once, with real connections from real threads: spreading, sandboxes that
// come and go, policies swapped, stopping and draining under load. Made for ThreadSanitizer as much as for
// what it says itself.

#include "proxy/data_plane.h"

#include <gtest/gtest.h>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <poll.h>
#include <set>
#include <sstream>
#include <thread>

#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

using namespace std::chrono_literals;

constexpr const char* host = "api.example.com";

Fd connect_to(std::uint16_t port) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return Fd();
  const timeval patience{.tv_sec = 30, .tv_usec = 0};  // A test that hangs must end.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return socket;
}

/// A blocking TLS connection.
class Talk {
 public:
  Talk(Fd socket, SslPtr secure) : socket_(std::move(socket)), secure_(std::move(secure)) {
    SSL_set_fd(secure_.get(), socket_.get());
  }
  Talk(Talk&&) = default;
  ~Talk() { ERR_clear_error(); }
  bool shake() { return SSL_do_handshake(secure_.get()) == 1; }
  bool write(std::string_view bytes) {
    return SSL_write(secure_.get(), bytes.data(), static_cast<int>(bytes.size())) > 0;
  }
  /// What came, up to `count` bytes at least or the end of a head; empty at the end of the connection.
  std::string read_head() {
    while (buffer_.find("\r\n\r\n") == std::string::npos)
      if (!more()) return {};
    const std::size_t end = buffer_.find("\r\n\r\n") + 4;
    std::string head = buffer_.substr(0, end);
    buffer_.erase(0, end);
    return head;
  }
  bool read_body(std::size_t count, std::string& body) {
    while (buffer_.size() < count)
      if (!more()) return false;
    body = buffer_.substr(0, count);
    buffer_.erase(0, count);
    return true;
  }
  bool nothing_left() const { return buffer_.empty(); }

 private:
  bool more() {
    char bytes[4096];
    const int count = SSL_read(secure_.get(), bytes, sizeof bytes);
    if (count > 0) buffer_.append(bytes, static_cast<std::size_t>(count));
    return count > 0;
  }
  Fd socket_;
  SslPtr secure_;
  std::string buffer_;
};

/// Answers every request with the credential that it carried.
class EchoOrigin {
 public:
  EchoOrigin() : listening_(listen_on_loopback(port_)), acceptor_([this] { accept_all(); }) {}
  ~EchoOrigin() {
    ending_ = true;
    connect_to(port_);  // wakes the acceptor
    acceptor_.join();
    for (auto& thread : threads_) thread.join();
  }
  std::uint16_t port() const { return port_; }

 private:
  void accept_all() {
    while (true) {
      pollfd waiting{listening_.get(), POLLIN, 0};
      ::poll(&waiting, 1, -1);
      Fd accepted(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (ending_) return;
      if (!accepted) continue;
      threads_.emplace_back(
          [talk = Talk(std::move(accepted), Certificates::shared().server(host))]() mutable {
            if (!talk.shake()) return;
            while (true) {
              const std::string head = talk.read_head();
              const std::size_t at = head.find("Authorization: Bearer ");
              if (at == std::string::npos) return;
              const std::string secret = head.substr(at + 22, head.find('\r', at) - at - 22);
              talk.write("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(secret.size()) + "\r\n\r\n" +
                         secret);
            }
          });
    }
  }
  std::uint16_t port_ = 0;
  Fd listening_;
  std::atomic<bool> ending_ = false;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

/// Policy and secret of one version: rule-N puts secret-N on.
std::shared_ptr<const Egress> version(std::uint64_t number) {
  const std::string n = std::to_string(number);
  auto document = policy::parse_document(
      "rules:\n- name: rule-" + n +
          "\n  match_hosts: [api.example.com]\n"
          "  headers: [{name: Authorization, type: workspace_secret, value: 'Bearer {KEY}'}]\n"
          "  transform: {response: {scrub_secrets: false}}\n",
      policy::Format::yaml);
  if (!document) throw std::runtime_error(document.error().front().message);
  policy::CompileOptions options;
  options.default_egress = policy::DefaultEgress::hosts_of_rules;
  options.version = number;
  auto snapshot = policy::compile(std::move(*document), options);
  if (!snapshot) throw std::runtime_error(snapshot.error().front().message);
  credential::SecretStore secrets;
  (void)secrets.set("KEY", Secret("secret-" + n));
  auto injections = credential::resolve(**snapshot, secrets);
  return make_egress(std::move(*snapshot), std::move(*injections));
}

class DataPlaneTest : public testing::Test {
 protected:
  void SetUp() override {
    std::signal(SIGPIPE, SIG_IGN);
    sink_ = Fd(::memfd_create("journal", MFD_CLOEXEC));
    journal_ = std::make_unique<audit::Journal>(Fd(::dup(sink_.get())));
    ca_file_ =
        std::filesystem::temp_directory_path() / ("postern-loops-" + std::to_string(::getpid()) + ".pem");
    std::ofstream(ca_file_) << Certificates::shared().origins().certificate_pem();
  }
  void TearDown() override { std::filesystem::remove(ca_file_); }

  void start(unsigned loops) {
    DataPlaneConfig config;
    config.overrides[host].push_back({IpAddress::v4(INADDR_LOOPBACK), origin_.port()});
    config.origin_ca_files = {ca_file_};
    config.loops = loops;
    // As a sandbox would have dialled it.
    config.dialled = [](int) { return std::optional<Endpoint>({IpAddress::v4(0xcb007109), 443}); };
    plane_ = std::make_unique<DataPlane>(std::move(config), Certificates::shared().workspace(), *journal_);
    const Box box = add("box", 1);
    port_ = box.port;
    id_ = box.id;
  }
  struct Box {
    DataPlane::Id id = 0;
    std::uint16_t port = 0;
  };
  /// A sandbox with the policy of this version.
  Box add(const std::string& name, std::uint64_t number) {
    Box box;
    SandboxEntry entry{.sandbox = name, .workspace = "home", .egress = version(number), .sockets = {}};
    entry.sockets.tcp4 = listen_on_loopback(box.port);
    box.id = plane_->add(std::move(entry));
    return box;
  }

  std::optional<Talk> connect() { return connect(port_); }
  static std::optional<Talk> connect(std::uint16_t port) {
    Talk talk(connect_to(port), Certificates::shared().client(host));
    if (!talk.shake()) return std::nullopt;
    return talk;
  }
  enum class Outcome : std::uint8_t { answered, not_taken, cut };
  /// One exchange; `secret` is what the origin saw.
  static Outcome ask(Talk& talk, std::string& secret, bool* last = nullptr) {
    if (!talk.write("GET /v1 HTTP/1.1\r\nHost: api.example.com\r\n\r\n")) return Outcome::not_taken;
    const std::string head = talk.read_head();
    if (head.empty()) return talk.nothing_left() ? Outcome::not_taken : Outcome::cut;
    const std::size_t length = head.find("Content-Length: ");
    if (!head.starts_with("HTTP/1.1 200 ") || length == std::string::npos) return Outcome::cut;
    if (last) *last = head.find("Connection: close") != std::string::npos;
    return talk.read_body(std::stoul(head.substr(length + 16)), secret) ? Outcome::answered : Outcome::cut;
  }
  /// A client that asks until it is told to stop or its connection ends; whole answers by their secret.
  struct Client {
    std::thread thread;
    std::map<std::string, int> answers;
    bool cut = false;
    bool in_order = true;
    bool ended = false;
  };
  void start_clients(int count) { start_clients(count, port_); }
  void start_clients(int count, std::uint16_t port) {
    for (int i = 0; i < count; ++i) {
      Client& client = *clients_.emplace_back(std::make_unique<Client>());
      auto talk = connect(port);
      ASSERT_TRUE(talk);
      client.thread = std::thread([this, &client, talk = std::move(*talk)]() mutable {
        std::string secret, before;
        while (!enough_) {
          bool last = false;
          const Outcome outcome = ask(talk, secret, &last);
          client.cut = outcome == Outcome::cut;
          client.ended = last || outcome != Outcome::answered;
          if (outcome != Outcome::answered) return;
          ++client.answers[secret];
          ++answered_;
          const auto number = [](const std::string& of) { return of.empty() ? 0 : std::stoi(of.substr(7)); };
          client.in_order = client.in_order && number(secret) >= number(before);
          before = secret;
          if (last) return;
        }
      });
    }
  }
  void wait_for_answers(int count) {
    const auto end = std::chrono::steady_clock::now() + 60s;
    for (const int wanted = answered_ + count; answered_ < wanted && std::chrono::steady_clock::now() < end;)
      std::this_thread::yield();
  }
  void join_clients() {
    enough_ = true;
    for (auto& client : clients_) client->thread.join();
  }

  std::vector<nlohmann::json> records() {
    plane_.reset();
    journal_->close();
    std::string text(static_cast<std::size_t>(::lseek(sink_.get(), 0, SEEK_END)), '\0');
    EXPECT_EQ(::pread(sink_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    std::vector<nlohmann::json> all;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }

  EchoOrigin origin_;
  Fd sink_;
  std::string ca_file_;
  std::uint16_t port_ = 0;
  DataPlane::Id id_ = 0;
  std::unique_ptr<audit::Journal> journal_;
  std::unique_ptr<DataPlane> plane_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::map<std::string, int> extra_;
  std::atomic<bool> enough_ = false;
  std::atomic<int> answered_ = 0;
};

TEST_F(DataPlaneTest, AFewConnectionsNeedOneLoop) {
  start(4);
  std::vector<Talk> talks;
  for (int i = 0; i < 4; ++i) {
    auto talk = connect();
    ASSERT_TRUE(talk);
    std::string secret;
    EXPECT_EQ(ask(*talk, secret), Outcome::answered);
    EXPECT_EQ(secret, "secret-1");
    talks.push_back(std::move(*talk));
  }
  EXPECT_EQ(plane_->connections(), std::vector<std::size_t>{4});
}

TEST_F(DataPlaneTest, ManyConnectionsSpreadOverTheLoops) {
  start(3);
  std::vector<Talk> talks;
  for (int i = 0; i < 30; ++i) {
    auto talk = connect();
    ASSERT_TRUE(talk);
    std::string secret;
    EXPECT_EQ(ask(*talk, secret), Outcome::answered);
    talks.push_back(std::move(*talk));
  }
  const auto connections = plane_->connections();
  ASSERT_EQ(connections.size(), 3u);
  EXPECT_EQ(std::accumulate(connections.begin(), connections.end(), std::size_t{0}), 30u);
  for (const std::size_t on_loop : connections) EXPECT_GE(on_loop, 6u);
  // And each still works where it is.
  for (Talk& talk : talks) {
    std::string secret;
    EXPECT_EQ(ask(talk, secret), Outcome::answered);
  }
  talks.clear();
  EXPECT_EQ(records().size(), 60u);
}

// Threat 93, and: a swap drops nothing.
TEST_F(DataPlaneTest, AnOldRuleNeverMeetsANewSecretAndASwapDropsNothing) {
  start(3);
  start_clients(12);
  constexpr int last = 30;
  for (int number = 2; number <= last; ++number) {
    EXPECT_TRUE(plane_->swap(id_, version(static_cast<std::uint64_t>(number))));
    // What is asked from now on is judged by it, whatever the loop.
    if (number % 10 == 0) {
      auto talk = connect();
      ASSERT_TRUE(talk);
      std::string secret;
      EXPECT_EQ(ask(*talk, secret), Outcome::answered);
      EXPECT_EQ(secret, "secret-" + std::to_string(number));
      ++extra_[secret];
    }
    wait_for_answers(24);
  }
  join_clients();
  std::map<std::string, int> seen = extra_;
  for (const auto& client : clients_) {
    EXPECT_FALSE(client->cut);
    EXPECT_FALSE(client->ended);
    EXPECT_TRUE(client->in_order);
    for (const auto& [secret, count] : client->answers) seen[secret] += count;
  }
  EXPECT_GE(seen.size(), static_cast<std::size_t>(last / 2));
  std::map<std::string, int> recorded;
  for (const auto& record : records()) {
    if (record["kind"] != "http") continue;
    EXPECT_EQ(record["reason"], "allowed");
    EXPECT_EQ(record["rule"], "rule-" + std::to_string(record["policy_version"].get<int>()));
    ++recorded["secret-" + record["rule"].get<std::string>().substr(5)];
  }
  EXPECT_EQ(recorded, seen);
}

TEST_F(DataPlaneTest, DrainingUnderLoadCutsNoAnswer) {
  start(3);
  start_clients(12);
  wait_for_answers(100);
  plane_->drain(20s);
  for (auto& client : clients_) client->thread.join();
  for (const auto& client : clients_) {
    EXPECT_FALSE(client->cut);
    EXPECT_TRUE(client->ended);
  }
  for (const std::size_t on_loop : plane_->connections()) EXPECT_EQ(on_loop, 0u);
  int answers = 0;
  for (const auto& record : records()) {
    EXPECT_EQ(record["reason"], "allowed");
    ++answers;
  }
  EXPECT_EQ(answers, answered_);
}

TEST_F(DataPlaneTest, StoppingUnderLoadLosesNoRecord) {
  start(3);
  start_clients(12);
  wait_for_answers(100);
  const auto all = records();  // after the data plane has ended
  join_clients();
  int allowed = 0;
  for (const auto& record : all) {
    const std::string reason = record["reason"];
    EXPECT_TRUE(reason == "allowed" || reason == "shutting_down") << record;
    allowed += reason == "allowed" ? 1 : 0;
  }
  EXPECT_GE(allowed, answered_);
}

TEST_F(DataPlaneTest, EndingAtOnceIsNoTrouble) {
  for (int i = 0; i < 5; ++i) {
    start(3);
    plane_.reset();
  }
  // In the middle of starting the others.
  for (int i = 0; i < 5; ++i) {
    start(3);
    std::vector<Fd> knocking;
    for (int k = 0; k < 8; ++k) knocking.push_back(connect_to(port_));
    plane_.reset();
  }
}

// ---- several sandboxes

TEST_F(DataPlaneTest, WhatBelongsToOneSandboxNeverReachesAnother) {
  start(3);
  std::map<std::string, std::string> name_of;  // by secret
  name_of["secret-1"] = "box";
  start_clients(2);
  for (std::uint64_t number = 101; number <= 107; ++number) {
    const std::string n = std::to_string(number);
    name_of["secret-" + n] = "box-" + n;
    start_clients(2, add("box-" + n, number).port);
  }
  wait_for_answers(1000);
  join_clients();
  std::map<std::string, int> seen, recorded;
  for (const auto& client : clients_) {
    EXPECT_FALSE(client->cut);
    EXPECT_FALSE(client->ended);
    EXPECT_EQ(client->answers.size(), 1u) << "a client saw the credentials of two sandboxes";
    for (const auto& [secret, count] : client->answers) seen[secret] += count;
  }
  EXPECT_EQ(seen.size(), 8u);
  for (const auto& record : records()) {
    const std::string secret = "secret-" + record["rule"].get<std::string>().substr(5);
    EXPECT_EQ(record["sandbox"], name_of[secret]);
    ++recorded[secret];
  }
  EXPECT_EQ(recorded, seen);
}

TEST_F(DataPlaneTest, SandboxesAreSpreadOverTheLoops) {
  start(3);
  std::vector<Box> boxes;
  std::vector<Talk> talks;
  const auto ask_once = [&](const Box& box) {
    auto talk = connect(box.port);
    std::string secret;
    ASSERT_TRUE(talk && ask(*talk, secret) == Outcome::answered);
    talks.push_back(std::move(*talk));
  };
  // The other loops start with the second one.
  ask_once(boxes.emplace_back(add("second", 2)));
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (plane_->connections().size() < 3 && std::chrono::steady_clock::now() < end)
    std::this_thread::yield();
  ASSERT_EQ(plane_->connections().size(), 3u);
  for (int i = 0; i < 10; ++i) ask_once(boxes.emplace_back(add("another", 2)));
  EXPECT_EQ(plane_->connections(), (std::vector<std::size_t>{3, 4, 4})) << "each is served where it lives";
}

TEST_F(DataPlaneTest, ASwapIsOfOneSandboxOnly) {
  start(2);
  const Box other = add("other", 50);
  auto of_other = connect(other.port), of_first = connect();
  ASSERT_TRUE(of_other && of_first);
  std::string secret;
  EXPECT_TRUE(plane_->swap(id_, version(2)));
  EXPECT_EQ(ask(*of_other, secret), Outcome::answered);
  EXPECT_EQ(secret, "secret-50");
  EXPECT_EQ(ask(*of_first, secret), Outcome::answered);
  EXPECT_EQ(secret, "secret-2");
  plane_->remove(other.id);
  EXPECT_FALSE(plane_->swap(other.id, version(51)));
  EXPECT_TRUE(plane_->swap(id_, version(3)));
  EXPECT_EQ(ask(*of_first, secret), Outcome::answered);
  EXPECT_EQ(secret, "secret-3");
  EXPECT_NE(ask(*of_other, secret), Outcome::answered);
  EXPECT_FALSE(connect_to(other.port)) << "its sockets are closed";
  plane_->remove(other.id);  // Once more is no trouble.
}

TEST_F(DataPlaneTest, SandboxesComeAndGoUnderLoad) {
  start(3);
  start_clients(6);
  const Box other = add("other", 50);
  start_clients(3, other.port);
  constexpr int threads_count = 3, rounds = 12;
  std::atomic<int> wrong = 0, served = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < threads_count; ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < rounds; ++round) {
        const auto number = static_cast<std::uint64_t>(1000 * (t + 1) + round);
        const Box box = add("passing", number);
        std::vector<Talk> talks;
        for (int i = 0; i < 3; ++i)
          if (auto talk = connect(box.port)) talks.push_back(std::move(*talk));
        std::string secret;
        for (Talk& talk : talks) {
          const bool answered = ask(talk, secret) == Outcome::answered;
          if (!answered || secret != "secret-" + std::to_string(number)) ++wrong;
          ++served;
        }
        if (round % 3 == 0) {
          if (!plane_->swap(box.id, version(number + 500))) ++wrong;
          if (ask(talks.front(), secret) != Outcome::answered ||
              secret != "secret-" + std::to_string(number + 500))
            ++wrong;
        }
        // Some are under way: dialled and not accepted, or asked and not answered.
        std::vector<Fd> knocking;
        for (int i = 0; i < 3; ++i) knocking.push_back(connect_to(box.port));
        for (Talk& talk : talks) talk.write("GET /v1 HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        plane_->remove(box.id);
        // Whatever was answered before it went, nothing comes any more.
        for (Talk& talk : talks)
          while (!talk.read_head().empty()) {
          }
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(served, threads_count * rounds * 3);
  wait_for_answers(50);  // The others are served as before.
  join_clients();
  for (const auto& client : clients_) {
    EXPECT_FALSE(client->cut);
    EXPECT_FALSE(client->ended);
    EXPECT_EQ(client->answers.size(), 1u);
  }
  for (const auto& record : records()) {
    const std::string reason = record["reason"];
    EXPECT_TRUE(reason == "allowed" || (reason == "shutting_down" && record["sandbox"] == "passing"))
        << record;
  }
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

TEST_F(DataPlaneTest, ASandboxThatGoesLeavesNoDescriptor) {
  start(2);
  const auto come_and_go = [&](int times) {
    for (int i = 0; i < times; ++i) {
      std::uint16_t port = 0, dns_port = 0;
      SandboxEntry entry{.sandbox = "passing", .workspace = "home", .egress = version(1), .sockets = {}};
      entry.sockets.tcp4 = listen_on_loopback(port);
      entry.sockets.dns_tcp4 = listen_on_loopback(dns_port);
      entry.sockets.dns_udp4 = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      const auto id = plane_->add(std::move(entry));
      const Fd connection = connect_to(port), question = connect_to(dns_port);
      EXPECT_TRUE(connection && question);
      if (i % 4 == 0) {
        auto talk = connect(port);
        std::string secret;
        EXPECT_TRUE(talk && ask(*talk, secret) == Outcome::answered);
      }
      plane_->remove(id);
      EXPECT_FALSE(connect_to(port));
      EXPECT_FALSE(connect_to(dns_port));
    }
  };
  come_and_go(24);  // What is made once. Connections to origins are nobody's, and few.
  const std::size_t before = open_descriptors();
  come_and_go(200);
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (open_descriptors() > before + 4 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_LE(open_descriptors(), before + 4);
}

Fd udp_on_loopback(std::uint16_t& port) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return socket;
}

TEST_F(DataPlaneTest, NamesAreAnsweredByTheSandboxThatWasAsked) {
  start(2);
  std::vector<std::uint16_t> ports;
  std::vector<DataPlane::Id> ids;
  for (const char* name : {"second", "third"}) {
    SandboxEntry entry{.sandbox = name, .workspace = "home", .egress = version(2), .sockets = {}};
    entry.sockets.dns_udp4 = udp_on_loopback(ports.emplace_back());
    ids.push_back(plane_->add(std::move(entry)));
  }
  const auto ask_for = [](char letter, std::uint16_t port) {
    std::uint16_t own_port = 0;
    const Fd socket = udp_on_loopback(own_port);
    ::fcntl(socket.get(), F_SETFL, 0);
    const timeval patience{.tv_sec = 30, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return false;
    const std::string query = std::string("\0\x07\x01\0\0\1\0\0\0\0\0\0\x01", 13) + letter +
                              std::string(
                                  "\x04"
                                  "evil\0\0\1\0\1",
                                  10);
    char answer[512];
    return ::send(socket.get(), query.data(), query.size(), 0) == static_cast<ssize_t>(query.size()) &&
           ::recv(socket.get(), answer, sizeof answer, 0) > 12;
  };
  EXPECT_TRUE(ask_for('b', ports[0]));
  EXPECT_TRUE(ask_for('c', ports[1]));
  plane_->remove(ids[0]);
  EXPECT_FALSE(ask_for('d', ports[0]));
  EXPECT_TRUE(ask_for('e', ports[1]));
  std::map<std::string, std::string> asked;
  for (const auto& record : records()) asked[record["host"]] = record["sandbox"];
  EXPECT_EQ(asked, (std::map<std::string, std::string>{
                       {"b.evil", "second"}, {"c.evil", "third"}, {"e.evil", "third"}}));
}

TEST_F(DataPlaneTest, AfterDrainingNobodyNewIsServed) {
  start(2);
  plane_->drain(20s);
  const Box late = add("late", 2);
  const Fd knocking = connect_to(late.port);
  ASSERT_TRUE(knocking) << "it waits in the queue";
  EXPECT_TRUE(plane_->swap(late.id, version(3)));
  char byte;
  EXPECT_LT(::recv(knocking.get(), &byte, 1, MSG_DONTWAIT), 0);
  plane_->remove(late.id);
  EXPECT_LE(::recv(knocking.get(), &byte, 1, 0), 0);
}

}  // namespace
}  // namespace postern::proxy::road
