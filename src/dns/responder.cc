#include "dns/responder.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/listener.h"
#include "io/stream.h"
#include "wire/dns.h"
#include "wire/host.h"

namespace postern::dns {
namespace {

using wire::DnsAnswer;
using wire::DnsCode;
using wire::DnsQuery;
using wire::DnsType;

constexpr std::size_t dns_header_bytes = 12;
constexpr std::size_t length_bytes = 2;  // RFC 1035 §4.2.2

bool is(const DnsQuery& query, DnsType type) { return query.type == std::to_underlying(type); }

bool ends_in(std::string_view name, std::string_view domain) {
  return name.ends_with(domain) &&
         (name.size() == domain.size() || name[name.size() - domain.size() - 1] == '.');
}

DnsAnswer has_none() { return {.ttl_seconds = Responder::lasting_ttl_seconds}; }
DnsAnswer no_such_name() {
  return {.code = DnsCode::no_such_name, .ttl_seconds = Responder::passing_ttl_seconds};
}
DnsAnswer server_failure() { return {.code = DnsCode::server_failure}; }

/// RFC 6761 §6.3: never asked of anybody.
DnsAnswer localhost() {
  constexpr std::array<std::uint8_t, 16> loopback6{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return {.addresses = {IpAddress::v4(INADDR_LOOPBACK), IpAddress::v6(loopback6)},
          .ttl_seconds = Responder::lasting_ttl_seconds};
}

/// The refused names of the last minute. When the window ends all are forgotten at once, so that a flood of
/// names costs neither a walk nor more than a bounded table.
class DeniedNames {
 public:
  enum class Told : unsigned char { already, now, table_full };

  Told tell(std::string_view name, TimePoint now) {
    if (now - window_start_ >= Responder::denied_window) {
      names_.clear();
      window_start_ = now;
    }
    std::string key(name);
    if (names_.contains(key)) return Told::already;
    if (names_.size() >= Responder::denied_names_max) return Told::table_full;
    names_.insert(std::move(key));
    return Told::now;
  }

 private:
  std::unordered_set<std::string> names_;
  TimePoint window_start_{};
};

/// What to answer, or the name that has to be looked up before.
struct Plan {
  DnsAnswer answer;
  std::string look_up;
};

class UdpSocket;
class Connection;

}  // namespace

class ResponderCore final : public std::enable_shared_from_this<ResponderCore> {
 public:
  ResponderCore(io::Loop& loop_in, NameTable& names_in, io::NameLookup& lookup_in, Responder::Judge judge_in,
                Responder::OnDenied on_denied_in);
  ~ResponderCore();
  ResponderCore(const ResponderCore&) = delete;

  void open(Sockets sockets);
  void listen(const Fd& socket);
  void close();

  /// Answers `message` through `reply`, now or after a lookup.
  template <class Reply>
  void answer(std::string_view message, Reply reply);
  template <class Reply>
  static io::Task<void> look_up(std::shared_ptr<ResponderCore> core, DnsQuery query, std::string name,
                                Reply reply);

  Plan plan(const DnsQuery& query);
  DnsAnswer denied(const DnsQuery& query, std::string_view name, Reason reason);
  DnsAnswer synthetic(std::string_view name, NameUse use, std::uint32_t ttl_seconds);
  DnsAnswer found(const DnsQuery& query, std::string_view name,
                  const Result<std::vector<IpAddress>>& addresses);
  void tell_denied(std::string_view name, Reason reason);

  io::Loop& loop;
  NameTable& names;
  io::NameLookup& lookup;
  Responder::Judge judge;
  Responder::OnDenied on_denied;
  Responder::Counters counters;
  DeniedNames denied_names;
  std::size_t lookups_in_flight = 0;
  bool closed = false;  ///< Then `names` and the callbacks may be gone.

  Sockets sockets;
  std::vector<std::unique_ptr<UdpSocket>> udp;
  std::vector<std::unique_ptr<io::Listener>> listeners;
  std::vector<Connection*> connections;
};

namespace {

// UDP

/// Where a datagram came from, and which address it asked.
struct Route {
  union {
    sockaddr plain;
    sockaddr_in v4;
    sockaddr_in6 v6;
  } peer;
  socklen_t peer_size = 0;
  std::optional<IpAddress> asked;
  unsigned interface = 0;  ///< Only where the asked address has no meaning without it.
};

union PacketInfoSpace {
  cmsghdr aligned;
  std::array<char, CMSG_SPACE(sizeof(in6_pktinfo))> bytes;
};

void read_packet_info(msghdr& message, Route& route) {
  for (cmsghdr* item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
    if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO) {
      in_pktinfo info;
      std::memcpy(&info, CMSG_DATA(item), sizeof info);
      route.asked = IpAddress::v4(ntohl(info.ipi_addr.s_addr));
    } else if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_PKTINFO) {
      in6_pktinfo info;
      std::memcpy(&info, CMSG_DATA(item), sizeof info);
      std::array<std::uint8_t, 16> bytes;
      std::memcpy(bytes.data(), &info.ipi6_addr, bytes.size());
      route.asked = IpAddress::v6(bytes);
      if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) route.interface = info.ipi6_ifindex;
    }
  }
}

template <class Info>
void put_packet_info(msghdr& message, PacketInfoSpace& space, int level, int type, const Info& info) {
  message.msg_control = space.bytes.data();
  message.msg_controllen = CMSG_SPACE(sizeof info);
  cmsghdr* item = CMSG_FIRSTHDR(&message);
  item->cmsg_level = level;
  item->cmsg_type = type;
  item->cmsg_len = CMSG_LEN(sizeof info);
  std::memcpy(CMSG_DATA(item), &info, sizeof info);
}

/// A resolver drops an answer that comes from another address than it asked.
void put_source(msghdr& message, PacketInfoSpace& space, const Route& route) {
  space.bytes.fill(0);
  if (route.asked->is_v4()) {
    in_pktinfo info{};
    info.ipi_spec_dst.s_addr = htonl(route.asked->v4_host_order());
    put_packet_info(message, space, IPPROTO_IP, IP_PKTINFO, info);
  } else {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, route.asked->bytes().data(), sizeof info.ipi6_addr);
    info.ipi6_ifindex = route.interface;
    put_packet_info(message, space, IPPROTO_IPV6, IPV6_PKTINFO, info);
  }
}

class UdpSocket final : public io::Pollable {
 public:
  UdpSocket(ResponderCore& core, int socket) : core_(core), socket_(socket) {
    // Level-triggered: what one turn leaves behind is reported in the next.
    core_.loop.add(socket_, *this, EPOLLIN, core_.sockets.party);
  }
  ~UdpSocket() { core_.loop.remove(socket_, *this); }
  UdpSocket(const UdpSocket&) = delete;

  /// Best effort, as UDP is: an answer that the kernel does not take is asked for again.
  void send(std::string_view response, Route& route) {
    iovec part{const_cast<char*>(response.data()), response.size()};
    msghdr message{};
    message.msg_name = &route.peer;
    message.msg_namelen = route.peer_size;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    PacketInfoSpace space;
    if (route.asked) put_source(message, space, route);
    while (::sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
  }

 private:
  static constexpr std::size_t batch_max = 16;
  static_assert(Responder::datagrams_per_turn % batch_max == 0);
  // One byte more than may be asked shows that a datagram was longer.
  using Datagram = std::array<char, wire::dns_query_bytes_max + 1>;

  void on_ready(std::uint32_t) override {
    for (std::size_t taken = 0; taken < Responder::datagrams_per_turn; taken += batch_max)
      if (take_batch() < batch_max) return;
  }

  std::size_t take_batch();

  ResponderCore& core_;
  int socket_;
};

struct UdpReply {
  UdpSocket* socket;  ///< Lives until the core is closed.
  Route route;

  void send(std::string_view response) {
    if (!response.empty()) socket->send(response, route);
  }
  void lookup_begins() {}
  void lookup_ends() {}
};

std::size_t UdpSocket::take_batch() {
  std::array<mmsghdr, batch_max> messages{};
  std::array<iovec, batch_max> parts;
  std::array<Datagram, batch_max> datagrams;  // not initialised: the kernel fills them
  std::array<PacketInfoSpace, batch_max> infos;
  std::array<Route, batch_max> routes;
  for (std::size_t i = 0; i < batch_max; ++i) {
    parts[i] = {datagrams[i].data(), datagrams[i].size()};
    msghdr& header = messages[i].msg_hdr;
    header.msg_name = &routes[i].peer;
    header.msg_namelen = sizeof routes[i].peer;
    header.msg_iov = &parts[i];
    header.msg_iovlen = 1;
    header.msg_control = infos[i].bytes.data();
    header.msg_controllen = infos[i].bytes.size();
  }
  const int count = ::recvmmsg(socket_, messages.data(), batch_max, MSG_DONTWAIT, nullptr);
  if (count <= 0) return 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    routes[i].peer_size = messages[i].msg_hdr.msg_namelen;
    read_packet_info(messages[i].msg_hdr, routes[i]);
    core_.answer({datagrams[i].data(), messages[i].msg_len}, UdpReply{this, routes[i]});
  }
  return static_cast<std::size_t>(count);
}

// TCP

/// One TCP connection. Its questions are answered as their answers come, out of order if need be (RFC 7766
/// §6.2.1.1). Kept by whatever works on it: the reader, the writer, a lookup.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ResponderCore> core, Fd socket)
      : core_(std::move(core)),
        loop_(core_->loop),
        stream_(loop_, std::move(socket), Side::sandbox, core_->sockets.party) {
    core_->connections.push_back(this);
  }
  ~Connection() { std::erase(core_->connections, this); }
  Connection(const Connection&) = delete;

  static io::Task<void> serve(std::shared_ptr<Connection> self);
  /// Ends it at once; what was not yet sent is lost.
  void abandon();

  void send(std::string_view response);
  void lookup_begins() { ++lookups_; }
  void lookup_ends() { --lookups_; }

 private:
  static constexpr int reads_per_turn = 16;

  static io::Task<void> flush(std::shared_ptr<Connection> self);
  bool take_messages();
  bool may_go_on(const Error& error);
  bool must_yield();
  void start_flush();
  TimePoint deadline() const { return quiet_since_ + Responder::idle_timeout; }
  std::uint16_t length_at(std::size_t at) const {
    return static_cast<std::uint16_t>(static_cast<std::uint8_t>(incoming_[at]) << 8 |
                                      static_cast<std::uint8_t>(incoming_[at + 1]));
  }

  std::shared_ptr<ResponderCore> core_;
  io::Loop& loop_;
  io::TcpStream stream_;
  std::array<char, length_bytes + wire::dns_query_bytes_max> incoming_;
  std::size_t filled_ = 0;
  std::string outgoing_;
  io::Event written_;
  bool writing_ = false;
  bool corked_ = false;  ///< Answers to what one read brought leave together.
  bool abandoned_ = false;
  std::size_t lookups_ = 0;
  TimePoint quiet_since_ = loop_.now();  ///< The last whole message, either way; single bytes buy no time.
  TimePoint turn_{};
  int reads_this_turn_ = 0;
};

struct TcpReply {
  std::shared_ptr<Connection> connection;

  void send(std::string_view response) { connection->send(response); }
  void lookup_begins() { connection->lookup_begins(); }
  void lookup_ends() { connection->lookup_ends(); }
};

io::Task<void> Connection::serve(std::shared_ptr<Connection> self) {
  Connection& our = *self;
  while (!our.abandoned_) {
    // A client that asks and does not read its answers is not read either.
    if (our.writing_) {
      our.written_.reset();
      co_await our.written_.wait();
      continue;
    }
    if (our.must_yield()) {
      co_await our.loop_.sleep_until(our.loop_.now() + io::Loop::tick);
      continue;
    }
    const std::span<char> room = std::span(our.incoming_).subspan(our.filled_);
    const Result<std::size_t> got = co_await our.stream_.read(room, our.deadline());
    if (!got) {
      if (our.may_go_on(got.error())) continue;
      our.abandon();
      co_return;
    }
    // At the end, and after a message that cannot be one, what was asked before is still answered.
    if (*got == 0) co_return;
    our.filled_ += *got;
    if (!our.take_messages()) co_return;
  }
}

/// RFC 7766 §6.2.3: a connection is idle when nothing is outstanding.
bool Connection::may_go_on(const Error& error) {
  if (error.reason != Reason::sandbox_timeout || abandoned_) return false;
  if (loop_.now() < deadline()) return true;
  if (lookups_ == 0 || filled_ > 0) return false;
  quiet_since_ = loop_.now();
  return true;
}

/// A client that sends without a pause never makes a read wait; the loop has others to serve.
bool Connection::must_yield() {
  if (turn_ != loop_.now()) {
    turn_ = loop_.now();
    reads_this_turn_ = 0;
  }
  if (++reads_this_turn_ <= reads_per_turn) return false;
  reads_this_turn_ = 0;
  return true;
}

/// False when the bytes are no sequence of messages.
bool Connection::take_messages() {
  const std::shared_ptr<Connection> self = shared_from_this();
  bool sound = true;
  std::size_t at = 0;
  corked_ = true;
  while (sound && filled_ - at >= length_bytes) {
    const std::size_t size = length_at(at);
    sound = size >= dns_header_bytes && size <= wire::dns_query_bytes_max;
    if (!sound || filled_ - at - length_bytes < size) break;
    core_->answer({incoming_.data() + at + length_bytes, size}, TcpReply{self});
    at += length_bytes + size;
    quiet_since_ = loop_.now();
  }
  corked_ = false;
  std::memmove(incoming_.data(), incoming_.data() + at, filled_ - at);
  filled_ -= at;
  start_flush();
  return sound;
}

void Connection::send(std::string_view response) {
  if (abandoned_ || response.empty()) return;
  outgoing_ += static_cast<char>(response.size() >> 8);
  outgoing_ += static_cast<char>(response.size() & 0xff);
  outgoing_ += response;
  start_flush();
}

void Connection::start_flush() {
  if (corked_ || writing_ || outgoing_.empty()) return;
  writing_ = true;
  loop_.spawn(flush(shared_from_this()));
}

io::Task<void> Connection::flush(std::shared_ptr<Connection> self) {
  Connection& our = *self;
  while (!our.outgoing_.empty()) {
    const std::string bytes = std::exchange(our.outgoing_, {});
    const Result<void> wrote =
        co_await our.stream_.write_all(bytes, our.loop_.now() + Responder::idle_timeout);
    if (!wrote) {
      our.abandon();
      break;
    }
    our.quiet_since_ = our.loop_.now();
  }
  our.writing_ = false;
  our.written_.set();
}

void Connection::abandon() {
  const std::shared_ptr<Connection> self =
      shared_from_this();  // what is woken here may be the last to hold us
  abandoned_ = true;
  outgoing_.clear();
  if (writing_) stream_.reset_on_close();  // The client must not take what it got for the whole.
  stream_.cancel_write();
  stream_.cancel_read();
  written_.set();
}

}  // namespace

// What every question goes through

ResponderCore::ResponderCore(io::Loop& loop_in, NameTable& names_in, io::NameLookup& lookup_in,
                             Responder::Judge judge_in, Responder::OnDenied on_denied_in)
    : loop(loop_in),
      names(names_in),
      lookup(lookup_in),
      judge(std::move(judge_in)),
      on_denied(std::move(on_denied_in)) {}

ResponderCore::~ResponderCore() = default;

template <class Reply>
void ResponderCore::answer(std::string_view message, Reply reply) {
  ++counters.queries;
  Result<DnsQuery> query = wire::parse_dns_query(message);
  if (!query) {
    ++counters.malformed;
    return reply.send(wire::build_dns_error(message));
  }
  Plan next = plan(*query);
  if (next.look_up.empty()) return reply.send(wire::build_dns_response(*query, next.answer));
  if (lookups_in_flight >= Responder::lookups_max) {
    ++counters.overloaded;
    return reply.send(wire::build_dns_response(*query, server_failure()));
  }
  loop.spawn(look_up(shared_from_this(), std::move(*query), std::move(next.look_up), std::move(reply)));
}

template <class Reply>
io::Task<void> ResponderCore::look_up(std::shared_ptr<ResponderCore> core, DnsQuery query, std::string name,
                                      Reply reply) {
  ++core->counters.lookups;
  ++core->lookups_in_flight;
  reply.lookup_begins();
  const Result<std::vector<IpAddress>> addresses = co_await core->lookup.addresses_of(name);
  reply.lookup_ends();
  --core->lookups_in_flight;
  if (core->closed) co_return;
  reply.send(wire::build_dns_response(query, core->found(query, name, addresses)));
}

Plan ResponderCore::plan(const DnsQuery& query) {
  if (query.name.empty())
    return {has_none(), {}};  // The root exists; NXDOMAIN would deny everything (RFC 8020).
  Result<Host> host =
      query.name_is_host ? wire::canonical_host(query.name) : fail(Reason::malformed_host, {});
  if (!host || host->literal) {
    tell_denied(query.name, host ? Reason::literal_address : host.error().reason);
    return {no_such_name(), {}};
  }
  if (ends_in(host->name, "localhost")) return {localhost(), {}};
  // What name does this address have? Programs ask it of every peer; it means nothing to us and is no attempt
  // at anything.
  if (is(query, DnsType::ptr) && ends_in(host->name, "arpa")) return {has_none(), {}};

  if (const Reason reason = judge(*host); reason != Reason::allowed)
    return {denied(query, host->name, reason), {}};
  if (is(query, DnsType::a) || is(query, DnsType::aaaa)) return {{}, std::move(host->name)};
  return {has_none(), {}};
}

DnsAnswer ResponderCore::denied(const DnsQuery& query, std::string_view name, Reason reason) {
  tell_denied(name, reason);
  if (is(query, DnsType::a)) return synthetic(name, NameUse::denied, Responder::passing_ttl_seconds);
  return {.ttl_seconds = Responder::passing_ttl_seconds};
}

DnsAnswer ResponderCore::synthetic(std::string_view name, NameUse use, std::uint32_t ttl_seconds) {
  const Result<IpAddress> address = names.address_for(name, use);
  if (!address) {
    ++counters.overloaded;
    return server_failure();
  }
  return {.addresses = {*address}, .ttl_seconds = ttl_seconds};
}

DnsAnswer ResponderCore::found(const DnsQuery& query, std::string_view name,
                               const Result<std::vector<IpAddress>>& addresses) {
  if (!addresses && addresses.error().reason == Reason::name_not_found) return no_such_name();
  if (!addresses) return server_failure();
  // IPv4 stands for every address that the origin has. NXDOMAIN for AAAA would make musl give up the name.
  return is(query, DnsType::a) ? synthetic(name, NameUse::allowed, Responder::lasting_ttl_seconds)
                               : has_none();
}

void ResponderCore::tell_denied(std::string_view name, Reason reason) {
  switch (denied_names.tell(name, loop.now())) {
    case DeniedNames::Told::already: return;
    case DeniedNames::Told::now: return on_denied(name, reason);
    case DeniedNames::Told::table_full: ++counters.denied_untold; return;
  }
}

void ResponderCore::open(Sockets given) {
  sockets = std::move(given);
  for (const Fd* socket : {&sockets.udp4, &sockets.udp6})
    if (*socket) udp.push_back(std::make_unique<UdpSocket>(*this, socket->get()));
  for (const Fd* socket : {&sockets.tcp4, &sockets.tcp6})
    if (*socket) listen(*socket);
}

void ResponderCore::listen(const Fd& socket) {
  const auto serve = [this](Fd accepted) {
    if (connections.size() >= Responder::connections_max) {
      ++counters.connections_refused;
      return;
    }
    loop.spawn(Connection::serve(std::make_shared<Connection>(shared_from_this(), std::move(accepted))));
  };
  listeners.push_back(std::make_unique<io::Listener>(loop, socket.get(), serve, sockets.party));
}

void ResponderCore::close() {
  closed = true;
  listeners.clear();
  udp.clear();
  sockets = {};
  std::vector<std::shared_ptr<Connection>> open_ones;
  open_ones.reserve(connections.size());
  for (Connection* connection : connections) open_ones.push_back(connection->shared_from_this());
  for (const auto& connection : open_ones) connection->abandon();
}

Responder::Responder(io::Loop& loop, Sockets sockets, NameTable& names, io::NameLookup& lookup, Judge judge,
                     OnDenied on_denied)
    : core_(std::make_shared<ResponderCore>(loop, names, lookup, std::move(judge), std::move(on_denied))) {
  core_->open(std::move(sockets));
}

Responder::~Responder() { core_->close(); }

const Responder::Counters& Responder::counters() const { return core_->counters; }
std::size_t Responder::lookups_in_flight() const { return core_->lookups_in_flight; }
std::size_t Responder::connections() const { return core_->connections.size(); }

}  // namespace postern::dns
