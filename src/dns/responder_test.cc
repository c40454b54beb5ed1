#include "dns/responder.h"

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <list>
#include <map>
#include <netinet/in.h>
#include <set>
#include <string>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "wire/byte_reader.h"
#include "wire/dns.h"

namespace postern::dns {
namespace {

using namespace std::chrono_literals;
using wire::DnsType;

constexpr int no_error = 0, format_error = 1, server_failure = 2, no_such_name = 3, not_implemented = 4;

// Messages, written and read independently of wire/dns

std::string u16(std::size_t n) { return {static_cast<char>(n >> 8 & 0xff), static_cast<char>(n & 0xff)}; }

std::string encoded(std::string_view name) {
  std::string out;
  while (!name.empty()) {
    const std::size_t dot = std::min(name.find('.'), name.size());
    out += static_cast<char>(dot);
    out += name.substr(0, dot);
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  return out + '\0';
}

std::string query_of(const std::string& encoded_name, DnsType type, int id = 0x1234, bool edns = false) {
  using std::string_literals::operator""s;
  std::string out = u16(static_cast<std::size_t>(id)) + u16(0x0100) + u16(1) + u16(0) + u16(0) +
                    u16(edns ? 1 : 0) + encoded_name + u16(std::to_underlying(type)) + u16(1);
  if (edns) out += "\0"s + u16(41) + u16(1232) + u16(0) + u16(0x8000) + u16(0);
  return out;
}

std::string query(std::string_view name, DnsType type = DnsType::a, int id = 0x1234) {
  return query_of(encoded(name), type, id);
}

struct Response {
  int id = -1;
  int code = -1;
  std::string question;
  std::vector<IpAddress> addresses;
  std::uint32_t ttl = 0;
  int soa_records = 0;
  int opt_records = 0;
  std::size_t size = 0;
};

Response read_response(const std::string& bytes) {
  Response response;
  if (bytes.empty()) {
    ADD_FAILURE() << "no answer";
    return response;
  }
  wire::ByteReader reader(bytes);
  response.size = bytes.size();
  EXPECT_LE(bytes.size(), 512u);
  response.id = reader.u16();
  const int flags = reader.u16();
  EXPECT_TRUE(flags & 0x8000) << "not a response";
  EXPECT_FALSE(flags & 0x0200) << "truncated";
  response.code = flags & 0xf;
  const int questions = reader.u16();
  const int records = reader.u16();
  const int authorities = reader.u16();
  const int additionals = reader.u16();
  const auto skip_name = [&reader] {
    std::string name;
    for (;;) {
      const std::size_t length = reader.u8();
      name += static_cast<char>(length);
      if (length == 0 || !reader.ok()) return name;
      if (length >= 0xc0) return name + static_cast<char>(reader.u8());
      name += reader.take(length);
    }
  };
  if (questions == 1) {
    response.question = skip_name();
    response.question += reader.take(4);
  }
  for (int i = 0; i < records + authorities + additionals; ++i) {
    skip_name();
    const int type = reader.u16();
    reader.u16();
    const auto ttl = static_cast<std::uint32_t>(reader.u16() << 16 | reader.u16());
    const std::string data(reader.take_with_u16_length());
    if (type != 41) response.ttl = ttl;
    if (type == 41) ++response.opt_records;
    if (type == 6) ++response.soa_records;
    if (type == 1 && data.size() == 4) {
      std::array<std::uint8_t, 4> address{};
      std::memcpy(address.data(), data.data(), 4);
      response.addresses.push_back(IpAddress::v4(address));
    }
    if (type == 28 && data.size() == 16) {
      std::array<std::uint8_t, 16> address{};
      std::memcpy(address.data(), data.data(), 16);
      response.addresses.push_back(IpAddress::v6(address));
    }
  }
  EXPECT_TRUE(reader.finished()) << "counts and bytes disagree";
  return response;
}

// The world around a responder

/// Knows a few names; "hangs.*" is answered when the test says so.
class FakeLookup final : public io::NameLookup {
 public:
  ~FakeLookup() override { let_go(); }

  io::Task<Result<std::vector<IpAddress>>> addresses_of(std::string name) override {
    asked.push_back(name);
    if (name.starts_with("hangs")) {
      io::Event& event = hanging_.emplace_back();
      co_await event.wait();
    }
    if (name.starts_with("missing")) co_return fail(Reason::name_not_found, "no such name", Side::origin);
    if (name.starts_with("broken")) co_return fail(Reason::resolve_failed, "no answer", Side::origin);
    co_return std::vector{*IpAddress::parse("93.184.216.34"), *IpAddress::parse("2606:2800:220:1::1")};
  }

  void let_go() {
    std::list<io::Event> events;
    events.swap(hanging_);
    for (io::Event& event : events) event.set();
  }

  std::vector<std::string> asked;

 private:
  std::list<io::Event> hanging_;
};

Fd bound_socket(int family, int type, std::uint16_t& port) {
  Fd socket(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  const bool four = family == AF_INET;
  ::setsockopt(socket.get(), four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_PKTINFO : IPV6_RECVPKTINFO, &on,
               sizeof on);
  sockaddr_storage address{};
  const IpAddress any = *IpAddress::parse(four ? "0.0.0.0" : "::");
  const socklen_t size = Endpoint{any, 0}.to_sockaddr(address);
  if (!four) ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0) << std::strerror(errno);
  if (type == SOCK_STREAM) {
    // Small, so that a client that does not read is noticed soon; connections inherit it.
    const int bytes = 4096;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    EXPECT_EQ(::listen(socket.get(), 256), 0);
  }
  socklen_t length = sizeof address;
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length);
  port = Endpoint::from_sockaddr(reinterpret_cast<sockaddr&>(address))->port;
  return socket;
}

struct DnsResponder : testing::Test {
  void TearDown() override {
    responder.reset();
    lookup.let_go();
    clock.advance(1s);
    turns();
    EXPECT_EQ(loop.active(), 0u) << "something outlives the responder";
  }

  /// One that starts with a fresh table of names.
  void start(NameTableLimits limits = {.allowed_max = 1000, .denied_max = 1000}) {
    names = std::make_unique<NameTable>(limits, first_index);
    Sockets sockets;
    sockets.udp4 = bound_socket(AF_INET, SOCK_DGRAM, udp_port);
    sockets.udp6 = bound_socket(AF_INET6, SOCK_DGRAM, udp6_port);
    sockets.tcp4 = bound_socket(AF_INET, SOCK_STREAM, tcp_port);
    sockets.tcp6 = bound_socket(AF_INET6, SOCK_STREAM, tcp6_port);
    responder = std::make_unique<Responder>(
        loop, std::move(sockets), *names, lookup,
        [this](const Host& name) {
          judged.push_back(name.name);
          return denied_names.contains(name.name) || name.name.starts_with("denied")
                     ? Reason::not_in_allow_list
                     : Reason::allowed;
        },
        [this](std::string_view name, Reason reason) { told.emplace_back(name, reason); });
  }
  void SetUp() override { start(); }

  void turns(int count = 8) {
    for (int i = 0; i < count; ++i) loop.run_once(0ms);
  }

  /// Turns the loop until the client's socket has something to say; empty when it stays silent.
  std::string receive(const Fd& client) {
    std::array<char, 2048> buffer;
    for (int i = 0; i < 200; ++i) {
      const ssize_t got = ::recv(client.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got > 0) return {buffer.data(), static_cast<std::size_t>(got)};
      loop.run_once(1ms);
    }
    return {};
  }

  static Fd client_of(int type, const char* address, std::uint16_t port) {
    const IpAddress ip = *IpAddress::parse(address);
    Fd client(::socket(ip.is_v4() ? AF_INET : AF_INET6, type | SOCK_CLOEXEC, 0));
    sockaddr_storage to{};
    const socklen_t size = Endpoint{ip, port}.to_sockaddr(to);
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), size), 0) << std::strerror(errno);
    return client;
  }
  Fd udp_client() const { return client_of(SOCK_DGRAM, "127.0.0.1", udp_port); }

  static void send(const Fd& client, const std::string& bytes) {
    EXPECT_EQ(::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  Response ask(const std::string& message) {
    const Fd client = udp_client();
    send(client, message);
    return read_response(receive(client));
  }
  Response ask(std::string_view name, DnsType type) { return ask(query(name, type)); }

  // TCP
  struct TcpClient {
    Fd socket;
    std::string buffered;
  };
  TcpClient tcp_client() { return {client_of(SOCK_STREAM, "127.0.0.1", tcp_port), {}}; }
  static std::string framed(const std::string& message) { return u16(message.size()) + message; }

  /// The next message; empty when there is none (closed, or silent).
  std::string next_message(TcpClient& client) {
    for (;;) {
      if (client.buffered.size() >= 2) {
        const auto size = static_cast<std::size_t>(static_cast<unsigned char>(client.buffered[0]) << 8 |
                                                   static_cast<unsigned char>(client.buffered[1]));
        if (client.buffered.size() >= 2 + size) {
          std::string message = client.buffered.substr(2, size);
          client.buffered.erase(0, 2 + size);
          return message;
        }
      }
      const std::string more = receive(client.socket);
      if (more.empty()) return {};
      client.buffered += more;
    }
  }

  /// Asks and never reads, until even the sandbox's own socket takes no more.
  void ask_until_stuck(const TcpClient& client) {
    const int small = 2048;
    ::setsockopt(client.socket.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    const std::string message = framed(query("denied.example.com", DnsType::aaaa));
    const auto is_full = [&] {
      return ::send(client.socket.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0;
    };
    for (int i = 0; i < 200'000; ++i) {
      if (!is_full()) continue;
      clock.advance(io::Loop::tick);  // Perhaps only until the loop has turned.
      turns();
      if (is_full()) return;
    }
    FAIL() << "a client that never reads was read for ever";
  }

  bool is_closed(const TcpClient& client) {
    turns();
    char byte = 0;
    const ssize_t got = ::recv(client.socket.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    return got == 0 || (got < 0 && errno != EAGAIN);
  }

  static constexpr std::uint32_t first_index = 4096;
  static IpAddress allowed_address(std::uint32_t index) {
    return IpAddress::v4(0x64400000 + first_index + index);
  }
  static IpAddress denied_address(std::uint32_t index) { return allowed_address(1000 + index); }

  ManualClock clock;
  io::Loop loop{clock};
  FakeLookup lookup;
  std::unique_ptr<NameTable> names;
  std::set<std::string> denied_names;
  std::vector<std::string> judged;
  std::vector<std::pair<std::string, Reason>> told;
  std::uint16_t udp_port = 0, udp6_port = 0, tcp_port = 0, tcp6_port = 0;
  std::unique_ptr<Responder> responder;
};

using Told = std::vector<std::pair<std::string, Reason>>;

// Names that are allowed

TEST_F(DnsResponder, AnAllowedNameGetsASyntheticAddressThatNamesIt) {
  const Response response = ask("api.example.com", DnsType::a);
  EXPECT_EQ(response.code, no_error);
  EXPECT_EQ(response.addresses, std::vector{allowed_address(0)});
  EXPECT_EQ(response.ttl, 60u);
  EXPECT_EQ(names->name_of(allowed_address(0)), "api.example.com");
  EXPECT_EQ(lookup.asked, std::vector<std::string>{"api.example.com"});
  EXPECT_TRUE(told.empty());
}

TEST_F(DnsResponder, ANameKeepsItsAddress) {
  ask("api.example.com", DnsType::a);
  ask("www.example.com", DnsType::a);
  EXPECT_EQ(ask("API.example.com", DnsType::a).addresses, std::vector{allowed_address(0)});
}

TEST_F(DnsResponder, AnAllowedNameHasNoIPv6ButExists) {
  const Response response = ask("api.example.com", DnsType::aaaa);
  EXPECT_EQ(response.code, no_error);
  EXPECT_TRUE(response.addresses.empty());
  EXPECT_EQ(response.soa_records, 1);
  EXPECT_EQ(lookup.asked.size(), 1u);
}

TEST_F(DnsResponder, ANameThatDoesNotExistIsSaidNotToExist) {
  for (DnsType type : {DnsType::a, DnsType::aaaa}) {
    const Response response = ask("missing.example.com", type);
    EXPECT_EQ(response.code, no_such_name);
    EXPECT_TRUE(response.addresses.empty());
    EXPECT_EQ(response.ttl, Responder::passing_ttl_seconds);
  }
  EXPECT_EQ(names->name_of(allowed_address(0)), std::nullopt);
}

TEST_F(DnsResponder, AFailedLookupIsAServerFailure) {
  for (DnsType type : {DnsType::a, DnsType::aaaa}) {
    const Response response = ask("broken.example.com", type);
    EXPECT_EQ(response.code, server_failure);
    EXPECT_TRUE(response.addresses.empty());
  }
}

TEST_F(DnsResponder, OtherTypesAreEmptyAndNeverLookedUp) {
  for (DnsType type :
       {DnsType::https, DnsType::svcb, DnsType::txt, DnsType::srv, DnsType::mx, DnsType::ns, DnsType::soa,
        DnsType::ptr, DnsType::any, DnsType::cname, DnsType{10}, DnsType{252}, DnsType{65535}}) {
    const Response response = ask("c2VjcmV0.missing.example.com", type);
    EXPECT_EQ(response.code, no_error) << std::to_underlying(type);
    EXPECT_EQ(response.soa_records, 1) << std::to_underlying(type);
    EXPECT_TRUE(response.addresses.empty());
  }
  EXPECT_TRUE(lookup.asked.empty());
}

TEST_F(DnsResponder, SingleLabelsAndLocalNamesAreJudgedLikeOthers) {
  denied_names = {"intranet"};
  EXPECT_EQ(ask("Intranet", DnsType::a).addresses, std::vector{denied_address(0)});
  EXPECT_EQ(ask("printer.local", DnsType::a).addresses, std::vector{allowed_address(0)});
  EXPECT_EQ(judged, (std::vector<std::string>{"intranet", "printer.local"}));
  EXPECT_EQ(lookup.asked, std::vector<std::string>{"printer.local"});
}

TEST_F(DnsResponder, ANameIsJudgedCanonicallyAndEchoedAsAsked) {
  const Response response = ask("aPi.eXAMPLE.cOm", DnsType::a);
  EXPECT_EQ(judged, std::vector<std::string>{"api.example.com"});
  EXPECT_EQ(response.question, encoded("aPi.eXAMPLE.cOm") + u16(1) + u16(1));
}

TEST_F(DnsResponder, AFullTableOfNamesIsAServerFailure) {
  responder.reset();
  start({.allowed_max = 2, .denied_max = 2});
  EXPECT_EQ(ask("a.example.com", DnsType::a).code, no_error);
  EXPECT_EQ(ask("b.example.com", DnsType::a).code, no_error);
  EXPECT_EQ(ask("c.example.com", DnsType::a).code, server_failure);
  EXPECT_EQ(ask("a.example.com", DnsType::a).code, no_error);
  EXPECT_EQ(responder->counters().overloaded, 1u);
}

// Names that are denied

TEST_F(DnsResponder, ADeniedNameGetsAnAddressAndNobodyIsAsked) {
  const Response response = ask("denied.example.com", DnsType::a);
  EXPECT_EQ(response.code, no_error);
  EXPECT_EQ(response.addresses, std::vector{denied_address(0)});
  EXPECT_EQ(response.ttl, Responder::passing_ttl_seconds);
  EXPECT_EQ(names->name_of(denied_address(0)), "denied.example.com");
  EXPECT_TRUE(lookup.asked.empty());
  EXPECT_EQ(told, (Told{{"denied.example.com", Reason::not_in_allow_list}}));
}

TEST_F(DnsResponder, ADeniedNameHasNothingElse) {
  for (DnsType type : {DnsType::aaaa, DnsType::https, DnsType::txt, DnsType::any, DnsType{10}}) {
    const Response response = ask("c2VjcmV0.denied.example.com", type);
    EXPECT_EQ(response.code, no_error) << std::to_underlying(type);
    EXPECT_TRUE(response.addresses.empty()) << std::to_underlying(type);
  }
  denied_names = {"c2vjcmv0.denied.example.com"};
  for (DnsType type : {DnsType::aaaa, DnsType::https, DnsType::txt, DnsType::any, DnsType{10}}) {
    const Response response = ask("c2VjcmV0.denied.example.com", type);
    EXPECT_EQ(response.code, no_error) << std::to_underlying(type);
    EXPECT_TRUE(response.addresses.empty()) << std::to_underlying(type);
    EXPECT_EQ(response.soa_records, 1) << std::to_underlying(type);
  }
  EXPECT_EQ(lookup.asked.size(), 1u) << "only the AAAA while it was allowed";
  EXPECT_EQ(told, (Told{{"c2vjcmv0.denied.example.com", Reason::not_in_allow_list}}));
}

TEST_F(DnsResponder, AChangeOfPolicyHoldsForTheNextQuestion) {
  denied_names = {"api.example.com"};
  EXPECT_EQ(ask("api.example.com", DnsType::a).addresses, std::vector{denied_address(0)});
  denied_names = {};
  EXPECT_EQ(ask("api.example.com", DnsType::a).addresses, std::vector{allowed_address(0)});
  EXPECT_EQ(lookup.asked.size(), 1u);
}

TEST_F(DnsResponder, ADeniedNameIsToldOncePerMinute) {
  ask("denied.example.com", DnsType::a);
  ask("Denied.example.com", DnsType::aaaa);
  ask("denied.example.net", DnsType::txt);
  EXPECT_EQ(told.size(), 2u);
  clock.advance(59s);
  ask("denied.example.com", DnsType::a);
  EXPECT_EQ(told.size(), 2u);
  clock.advance(1s);
  ask("denied.example.com", DnsType::a);
  EXPECT_EQ(told.size(), 3u);
}

TEST_F(DnsResponder, AFloodOfDeniedNamesIsToldUpToALimitAndThenCounted) {
  for (std::size_t i = 0; i < Responder::denied_names_max + 5; ++i) {
    const Response response = ask("denied" + std::to_string(i) + ".example.com", DnsType::a);
    EXPECT_EQ(response.addresses.size(), 1u);
  }
  EXPECT_EQ(told.size(), Responder::denied_names_max);
  EXPECT_EQ(responder->counters().denied_untold, 5u);
  clock.advance(Responder::denied_window);
  ask("denied-afterwards.example.com", DnsType::a);
  EXPECT_EQ(told.size(), Responder::denied_names_max + 1);
}

// Names that are nobody's

TEST_F(DnsResponder, LocalhostIsTheSandboxItself) {
  for (const char* name : {"localhost", "LocalHost", "app.localhost"}) {
    EXPECT_EQ(ask(name, DnsType::a).addresses, std::vector{*IpAddress::parse("127.0.0.1")}) << name;
    EXPECT_EQ(ask(name, DnsType::aaaa).addresses, std::vector{*IpAddress::parse("::1")}) << name;
    EXPECT_EQ(ask(name, DnsType::txt).code, no_error) << name;
  }
  EXPECT_TRUE(judged.empty());
  EXPECT_TRUE(lookup.asked.empty());
}

TEST_F(DnsResponder, OnlyTheLastLabelMakesANameLocalhost) {
  ask("notlocalhost", DnsType::a);
  ask("localhost.example.com", DnsType::a);
  EXPECT_EQ(judged, (std::vector<std::string>{"notlocalhost", "localhost.example.com"}));
}

TEST_F(DnsResponder, WhatIsNoHostDoesNotExist) {
  using std::string_literals::operator""s;
  for (const std::string& name :
       {"\3a b\0"s, "\3a.b\3com\0"s, "\4\xc3\xbc\x01z\3com\0"s, "\2a\0\3com\0"s, "\1*\3com\0"s}) {
    EXPECT_EQ(ask(query_of(name, DnsType::a)).code, no_such_name);
    EXPECT_EQ(ask(query_of(name, DnsType::txt)).code, no_such_name);
  }
  EXPECT_TRUE(judged.empty());
  EXPECT_TRUE(lookup.asked.empty());
  EXPECT_EQ(told, (Told{{"a\\032b", Reason::malformed_host},
                        {"a\\.b.com", Reason::malformed_host},
                        {"\\195\\188\\001z.com", Reason::malformed_host},
                        {"a\\000.com", Reason::malformed_host},
                        {"*.com", Reason::malformed_host}}));
}

TEST_F(DnsResponder, AnAddressIsNoName) {
  for (const char* name : {"10.0.0.1", "0x7f.1", "127.1", "2130706433"}) {
    EXPECT_EQ(ask(name, DnsType::a).code, no_such_name) << name;
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told.back(), std::pair(std::string(name), Reason::literal_address));
  }
  EXPECT_EQ(ask("example.123", DnsType::a).code, no_such_name);
  EXPECT_EQ(told.back().second, Reason::malformed_host);
  EXPECT_TRUE(judged.empty());
  EXPECT_TRUE(lookup.asked.empty());
}

TEST_F(DnsResponder, UnderscoresAreHosts) {
  EXPECT_EQ(ask("_acme-challenge.example.com", DnsType::a).addresses.size(), 1u);
}

TEST_F(DnsResponder, TheRootExistsAndIsEmpty) {
  EXPECT_EQ(ask("", DnsType::ns).code, no_error);
  EXPECT_TRUE(judged.empty());
  EXPECT_TRUE(told.empty());
}

TEST_F(DnsResponder, ReverseNamesAreEmptyAndNoAttempt) {
  denied_names = {"1.0.64.100.in-addr.arpa"};
  EXPECT_EQ(ask("1.0.64.100.in-addr.arpa", DnsType::ptr).code, no_error);
  EXPECT_TRUE(told.empty());
  ask("1.0.64.100.in-addr.arpa", DnsType::a);
  EXPECT_EQ(told.size(), 1u);
  EXPECT_TRUE(lookup.asked.empty());
}

// UDP

TEST_F(DnsResponder, TheAnswerComesFromTheAddressThatWasAsked) {
  for (const char* resolver : {"127.0.0.1", "127.8.8.8"}) {
    const Fd client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage to{};
    const socklen_t size = Endpoint{*IpAddress::parse(resolver), udp_port}.to_sockaddr(to);
    const std::string message = query("denied.example.com");
    ::sendto(client.get(), message.data(), message.size(), 0, reinterpret_cast<sockaddr*>(&to), size);
    turns();
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    std::array<char, 512> buffer;
    const ssize_t got = ::recvfrom(client.get(), buffer.data(), buffer.size(), MSG_DONTWAIT,
                                   reinterpret_cast<sockaddr*>(&from), &length);
    ASSERT_GT(got, 0) << resolver;
    EXPECT_EQ(Endpoint::from_sockaddr(reinterpret_cast<sockaddr&>(from)),
              (Endpoint{*IpAddress::parse(resolver), udp_port}));
  }
}

TEST_F(DnsResponder, ALateAnswerComesFromTheAddressThatWasAskedToo) {
  const Fd client =
      client_of(SOCK_DGRAM, "127.9.9.9", udp_port);  // Connected: others' datagrams are dropped.
  send(client, query("hangs.example.com"));
  turns();
  lookup.let_go();
  EXPECT_EQ(read_response(receive(client)).addresses.size(), 1u);
}

TEST_F(DnsResponder, AnIPv6ResolverAnswersToo) {
  const Fd udp = client_of(SOCK_DGRAM, "::1", udp6_port);
  send(udp, query("api.example.com"));
  EXPECT_EQ(read_response(receive(udp)).addresses, std::vector{allowed_address(0)});
  TcpClient tcp{client_of(SOCK_STREAM, "::1", tcp6_port), {}};
  send(tcp.socket, framed(query("api.example.com")));
  EXPECT_EQ(read_response(next_message(tcp)).addresses, std::vector{allowed_address(0)});
}

TEST_F(DnsResponder, WhatCannotBeReadIsAFormatError) {
  std::string two_questions = query("a.example.com");
  two_questions[5] = 2;
  EXPECT_EQ(ask(two_questions).code, format_error);
  EXPECT_EQ(ask(query("a.example.com") + "x").code, format_error);
  EXPECT_EQ(ask(query("a.example.com").substr(0, 20)).code, format_error);
  EXPECT_EQ(ask(query("a.example.com") + std::string(1400, 'x')).code, format_error);
  std::string status = query("a.example.com");
  status[2] = 0x10;
  const Response response = ask(status);
  EXPECT_EQ(response.code, not_implemented);
  EXPECT_EQ(response.id, 0x1234);
  EXPECT_EQ(responder->counters().malformed, 5u);
  EXPECT_TRUE(judged.empty());
}

TEST_F(DnsResponder, WhatMayNotBeAnsweredIsNot) {
  std::string a_response = query("a.example.com", DnsType::a, 1);
  a_response[2] = static_cast<char>(0x81);
  const Fd client = udp_client();
  send(client, a_response);
  send(client, query("a.example.com", DnsType::a, 2).substr(0, 11));
  send(client, "");
  send(client, query("a.example.com", DnsType::a, 3));
  EXPECT_EQ(read_response(receive(client)).id, 3);
}

TEST_F(DnsResponder, TheLongestNameIsAnsweredWithinTheSmallestMessage) {
  std::string name;
  for (int i = 0; i < 3; ++i) name += std::string(63, 'a') + ".";
  name += std::string(61, 'a');
  ASSERT_EQ(name.size(), 253u);
  for (DnsType type : {DnsType::a, DnsType::aaaa, DnsType::txt}) {
    const Response response = ask(query_of(encoded(name), type, 7, true));
    EXPECT_EQ(response.code, no_error);
    EXPECT_EQ(response.opt_records, 1);
    EXPECT_LE(response.size, 512u);
    EXPECT_EQ(response.addresses.size(), type == DnsType::a ? 1u : 0u);
  }
}

TEST_F(DnsResponder, EdnsIsEchoedOnlyWhenAsked) {
  EXPECT_EQ(ask(query_of(encoded("api.example.com"), DnsType::a, 7, true)).opt_records, 1);
  EXPECT_EQ(ask(query_of(encoded("api.example.com"), DnsType::a, 7, false)).opt_records, 0);
}

TEST_F(DnsResponder, OneTurnServesABoundedNumberOfDatagrams) {
  const Fd client = udp_client();
  constexpr std::size_t sent = 2 * Responder::datagrams_per_turn + 10;
  for (std::size_t i = 0; i < sent; ++i) send(client, query("denied.example.com"));
  loop.run_once(0ms);
  EXPECT_EQ(responder->counters().queries, Responder::datagrams_per_turn);
  loop.run_once(0ms);
  EXPECT_EQ(responder->counters().queries, 2 * Responder::datagrams_per_turn);
  loop.run_once(0ms);
  EXPECT_EQ(responder->counters().queries, sent);
}

// Lookups under way

TEST_F(DnsResponder, ALookupThatHangsBlocksNobody) {
  const Fd client = udp_client();
  send(client, query("hangs.example.com", DnsType::a, 1));
  send(client, query("api.example.com", DnsType::a, 2));
  EXPECT_EQ(read_response(receive(client)).id, 2);
  EXPECT_EQ(responder->lookups_in_flight(), 1u);
  lookup.let_go();
  const Response late = read_response(receive(client));
  EXPECT_EQ(late.id, 1);
  EXPECT_EQ(late.question, encoded("hangs.example.com") + u16(1) + u16(1));
  EXPECT_EQ(names->name_of(late.addresses.at(0)), "hangs.example.com");
  EXPECT_EQ(responder->lookups_in_flight(), 0u);
}

TEST_F(DnsResponder, LookupsInFlightAreBounded) {
  const Fd client = udp_client();
  TcpClient tcp = tcp_client();
  for (std::size_t i = 0; i < Responder::lookups_max; ++i) {
    if (i % 2 == 0) {
      send(client, query("hangs.example.com"));
    } else {
      send(tcp.socket, framed(query("hangs.example.com")));
    }
    clock.advance(1ms);
    turns(2);
  }
  turns();
  EXPECT_EQ(responder->lookups_in_flight(), Responder::lookups_max);
  EXPECT_EQ(ask("api.example.com", DnsType::a).code, server_failure);
  send(tcp.socket, framed(query("api.example.com")));
  EXPECT_EQ(read_response(next_message(tcp)).code, server_failure);
  EXPECT_EQ(responder->counters().overloaded, 2u);
  EXPECT_EQ(ask("denied.example.com", DnsType::a).code, no_error) << "what needs no lookup is answered";
  lookup.let_go();
  EXPECT_EQ(ask("api.example.com", DnsType::a).code, no_error);
}

TEST_F(DnsResponder, AResponderMayGoWhileLookupsAndConnectionsAreOpen) {
  const Fd client = udp_client();
  TcpClient waiting = tcp_client();
  TcpClient idle = tcp_client();
  send(client, query("hangs.example.com"));
  send(waiting.socket, framed(query("hangs.example.com")));
  turns();
  ASSERT_EQ(responder->lookups_in_flight(), 2u);
  ASSERT_EQ(responder->connections(), 2u);
  responder.reset();
  names.reset();
  EXPECT_TRUE(is_closed(idle));
  lookup.let_go();
  EXPECT_EQ(receive(client), "");
  EXPECT_TRUE(is_closed(waiting));
}

// TCP

TEST_F(DnsResponder, TcpAnswersQuestionAfterQuestion) {
  TcpClient client = tcp_client();
  for (int id = 1; id <= 3; ++id) {
    send(client.socket, framed(query("api.example.com", DnsType::a, id)));
    const Response response = read_response(next_message(client));
    EXPECT_EQ(response.id, id);
    EXPECT_EQ(response.addresses, std::vector{allowed_address(0)});
  }
  EXPECT_EQ(responder->connections(), 1u);
}

TEST_F(DnsResponder, ATcpMessageMayComeInPieces) {
  TcpClient client = tcp_client();
  for (char c : framed(query("api.example.com", DnsType::a, 9)) +
                    framed(query("denied.example.com", DnsType::a, 10))) {
    send(client.socket, std::string(1, c));
    clock.advance(1ms);
    turns(2);
  }
  EXPECT_EQ(read_response(next_message(client)).id, 9);
  EXPECT_EQ(read_response(next_message(client)).id, 10);
}

TEST_F(DnsResponder, TwoTcpMessagesMayShareASegment) {
  TcpClient client = tcp_client();
  const std::string second = framed(query("denied.example.com", DnsType::a, 2));
  send(client.socket, framed(query("api.example.com", DnsType::a, 1)) + second + second.substr(0, 7));
  EXPECT_EQ(read_response(next_message(client)).id, 1);
  EXPECT_EQ(read_response(next_message(client)).id, 2);
  send(client.socket, second.substr(7));
  EXPECT_EQ(read_response(next_message(client)).id, 2);
}

TEST_F(DnsResponder, APipelinedQuestionOvertakesOneThatHangs) {
  TcpClient client = tcp_client();
  send(client.socket,
       framed(query("hangs.example.com", DnsType::a, 1)) + framed(query("api.example.com", DnsType::a, 2)));
  EXPECT_EQ(read_response(next_message(client)).id, 2);
  lookup.let_go();
  EXPECT_EQ(read_response(next_message(client)).id, 1);
}

TEST_F(DnsResponder, AMalformedTcpMessageIsAnsweredLikeADatagram) {
  TcpClient client = tcp_client();
  send(client.socket, framed(query("api.example.com", DnsType::a, 1) + "x") +
                          framed(query("api.example.com", DnsType::a, 2)));
  const Response response = read_response(next_message(client));
  EXPECT_EQ(response.id, 1);
  EXPECT_EQ(response.code, format_error);
  EXPECT_EQ(read_response(next_message(client)).id, 2);
}

TEST_F(DnsResponder, ALengthThatNoQueryHasEndsTheConnection) {
  for (std::size_t length :
       {std::size_t{0}, std::size_t{11}, wire::dns_query_bytes_max + 1, std::size_t{65535}}) {
    TcpClient client = tcp_client();
    send(client.socket, framed(query("api.example.com", DnsType::a, 1)) + u16(length));
    EXPECT_EQ(read_response(next_message(client)).id, 1) << "what was asked before is answered";
    EXPECT_TRUE(is_closed(client)) << length;
  }
  EXPECT_EQ(responder->connections(), 0u);
}

TEST_F(DnsResponder, TheLongestTcpMessageIsRead) {
  TcpClient client = tcp_client();
  std::string message = query_of(encoded("api.example.com"), DnsType::a, 5, true);
  const std::size_t padding = wire::dns_query_bytes_max - message.size();
  message.replace(message.size() - 2, 2, u16(padding));
  message += u16(12) + u16(padding - 4) + std::string(padding - 4, '\0');  // RFC 7830
  ASSERT_EQ(message.size(), wire::dns_query_bytes_max);
  for (int i = 0; i < 2; ++i) {
    send(client.socket, framed(message));
    EXPECT_EQ(read_response(next_message(client)).code, no_error);
  }
}

TEST_F(DnsResponder, AClientThatHasSentItsEndIsStillAnswered) {
  TcpClient client = tcp_client();
  send(client.socket, framed(query("hangs.example.com", DnsType::a, 1)));
  ::shutdown(client.socket.get(), SHUT_WR);
  turns();
  lookup.let_go();
  EXPECT_EQ(read_response(next_message(client)).id, 1);
  EXPECT_TRUE(is_closed(client));
  EXPECT_EQ(responder->connections(), 0u);
}

TEST_F(DnsResponder, AnIdleConnectionIsClosedAtItsDeadline) {
  TcpClient client = tcp_client();
  turns();
  clock.advance(5s);
  send(client.socket, framed(query("api.example.com")));
  EXPECT_EQ(read_response(next_message(client)).code, no_error);
  clock.advance(Responder::idle_timeout - 1ms);
  EXPECT_FALSE(is_closed(client)) << "a question starts the time anew";
  clock.advance(2 * io::Loop::tick);
  EXPECT_TRUE(is_closed(client));
  EXPECT_EQ(responder->connections(), 0u);
}

TEST_F(DnsResponder, ASlowMessageBuysNoTimeByteByByte) {
  TcpClient client = tcp_client();
  const std::string message = framed(query("api.example.com"));
  turns();
  for (int i = 0; i < 9; ++i) {
    send(client.socket, message.substr(static_cast<std::size_t>(i), 1));
    clock.advance(1s);
    EXPECT_FALSE(is_closed(client));
  }
  clock.advance(1s + io::Loop::tick);
  EXPECT_TRUE(is_closed(client));
}

TEST_F(DnsResponder, AConnectionThatWaitsForAnAnswerIsNotIdle) {
  TcpClient client = tcp_client();
  send(client.socket, framed(query("hangs.example.com", DnsType::a, 1)));
  turns();
  clock.advance(Responder::idle_timeout + 5s);
  EXPECT_FALSE(is_closed(client));
  lookup.let_go();
  EXPECT_EQ(read_response(next_message(client)).id, 1);
  clock.advance(Responder::idle_timeout - 1ms);
  EXPECT_FALSE(is_closed(client)) << "the answer starts the time anew";
  clock.advance(2 * io::Loop::tick);
  EXPECT_TRUE(is_closed(client));
}

TEST_F(DnsResponder, ConnectionsAreBounded) {
  std::vector<TcpClient> clients;
  for (std::size_t i = 0; i < Responder::connections_max; ++i) clients.push_back(tcp_client());
  turns();
  EXPECT_EQ(responder->connections(), Responder::connections_max);
  TcpClient late = tcp_client();
  EXPECT_TRUE(is_closed(late));
  EXPECT_EQ(responder->counters().connections_refused, 1u);
  clients.pop_back();
  turns();
  TcpClient next = tcp_client();
  send(next.socket, framed(query("api.example.com")));
  EXPECT_EQ(read_response(next_message(next)).code, no_error);
}

TEST_F(DnsResponder, AnAnswerStartsTheIdleTimeAnew) {
  TcpClient client = tcp_client();
  send(client.socket, framed(query("hangs.example.com", DnsType::a, 1)));
  turns();
  clock.advance(5s);
  turns();
  lookup.let_go();
  EXPECT_EQ(read_response(next_message(client)).id, 1);
  clock.advance(Responder::idle_timeout - 1ms);
  EXPECT_FALSE(is_closed(client));
  clock.advance(2 * io::Loop::tick);
  EXPECT_TRUE(is_closed(client));
}

TEST_F(DnsResponder, AMessageThatStaysUnfinishedIsNotExcusedByALookup) {
  TcpClient client = tcp_client();
  send(client.socket, framed(query("hangs.example.com", DnsType::a, 1)) + "x");
  turns();
  clock.advance(Responder::idle_timeout + io::Loop::tick);
  turns();
  lookup.let_go();
  EXPECT_EQ(next_message(client), "") << "its answer comes too late";
  EXPECT_TRUE(is_closed(client));
}

TEST_F(DnsResponder, AClientThatDoesNotReadIsNotReadAndIsClosedAtItsDeadline) {
  TcpClient client = tcp_client();
  ask_until_stuck(client);
  const std::uint64_t queries = responder->counters().queries;
  clock.advance(1s);
  turns();
  EXPECT_EQ(responder->counters().queries, queries);
  EXPECT_EQ(responder->connections(), 1u);
  clock.advance(Responder::idle_timeout);
  turns();
  EXPECT_EQ(responder->connections(), 0u);
}

TEST_F(DnsResponder, AResponderMayGoWhileAClientDoesNotRead) {
  TcpClient client = tcp_client();
  ask_until_stuck(client);
  responder.reset();
  clock.advance(io::Loop::tick);
  turns();
  EXPECT_EQ(loop.active(), 0u) << "at once, not at the deadline";
}

TEST_F(DnsResponder, AClientThatNeverPausesLeavesTheLoopToOthers) {
  TcpClient client = tcp_client();
  turns();
  const std::string message = framed(query("denied.example.com"));
  std::string flood;
  while (flood.size() < 60'000) flood += message;
  send(client.socket, flood);
  // Read as the answers come, so that only the turn's own limit can stop the connection.
  std::array<char, 65536> answers;
  std::uint64_t before = 0;
  int turns_needed = 0;
  while (responder->counters().queries < flood.size() / message.size() && turns_needed < 1000) {
    loop.run_once(0ms);
    ::recv(client.socket.get(), answers.data(), answers.size(), MSG_DONTWAIT);
    EXPECT_LE(responder->counters().queries - before, 16 * 1234 / message.size() + 1);
    before = responder->counters().queries;
    clock.advance(io::Loop::tick);
    ++turns_needed;
  }
  EXPECT_EQ(responder->counters().queries, flood.size() / message.size());
  EXPECT_GT(turns_needed, 2);
}

}  // namespace
}  // namespace postern::dns
