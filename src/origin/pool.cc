#include "origin/pool.h"

#include <algorithm>
#include <charconv>
#include <sys/socket.h>

#include "tls/stream.h"

namespace postern::origin {

struct Pool::Sweep final : io::Timer {
  Pool& pool;
  Sweep(io::Loop& loop, Pool& owner) : Timer(loop), pool(owner) {}
  ~Sweep() = default;
  void on_timer() override { pool.sweep(); }
};

Pool::Pool(io::Loop& loop, io::BufferPool& buffers, Dialler& dialler, tls::OriginContext& tls)
    : loop_(loop),
      buffers_(buffers),
      dialler_(dialler),
      tls_(tls),
      sweep_(std::make_unique<Sweep>(loop, *this)),
      http2_(loop, buffers) {}

Pool::~Pool() = default;

std::unique_ptr<Connection> Pool::take(const std::string& key, bool must_be_alive) {
  const auto at = idle_.find(key);
  if (at == idle_.end()) return nullptr;
  auto& connections = at->second;
  while (!connections.empty()) {
    // The most recently used: the others may grow old and be swept.
    std::unique_ptr<Connection> connection = std::move(connections.back());
    connections.pop_back();
    --idle_count_;
    by_stream_.erase(connection->stream.get());
    connection->stream->watch_idle(nullptr);
    if (!connection->stream->looks_idle()) continue;
    char byte;
    if (must_be_alive && ::recv(connection->stream->fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) continue;
    connection->reused = true;
    return connection;
  }
  return nullptr;
}

std::optional<Reached> Pool::open_stream(const std::string& link_key) {
  Http2Links::Link* link = http2_.find(link_key);
  if (!link) return std::nullopt;
  Reached reached;
  reached.stream = link->connection.open();
  reached.address = link->address;
  reached.reused = std::exchange(link->used, true);
  return reached;
}

namespace {

void append_key(const Wanted& wanted, std::string& out) {
  out.append(wanted.tls ? "https:" : "http:").append(wanted.host.name).append(":");
  char digits[8];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, wanted.port).ptr);
}

void append_link_key(const Wanted& wanted, std::string& out) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, wanted.sandbox).ptr).append("@");
  append_key(wanted, out);
}

bool may_multiplex(const Wanted& wanted) {
  return wanted.tls && (wanted.protocol == Protocol::any || wanted.protocol == Protocol::http2);
}

}  // namespace

std::optional<Reached> Pool::reuse(const Wanted& wanted) {
  if (wanted.freshness == Freshness::new_only) return std::nullopt;
  if (may_multiplex(wanted) && http2_.size() > 0) {
    link_key_scratch_.clear();
    append_link_key(wanted, link_key_scratch_);
    if (auto opened = open_stream(link_key_scratch_)) return opened;
  }
  if (idle_count_ == 0 || wanted.protocol == Protocol::http2) return std::nullopt;
  key_scratch_.clear();
  append_key(wanted, key_scratch_);
  auto pooled = take(key_scratch_, wanted.must_be_alive);
  if (!pooled) return std::nullopt;
  Reached reached;
  reached.address = pooled->address;
  reached.reused = true;
  reached.connection = std::move(pooled);
  return reached;
}

io::Task<Result<Reached>> Pool::reach(Wanted wanted, ReachTimings& timings) {
  std::string key;
  append_key(wanted, key);
  const Protocol protocol = wanted.tls ? wanted.protocol : Protocol::http1;
  if (!wanted.tls && wanted.protocol == Protocol::http2)
    co_return fail(Reason::protocol_not_allowed, "HTTP/2 without TLS is not carried", Side::sandbox);

  std::string link_key;
  if (may_multiplex(wanted)) {
    append_link_key(wanted, link_key);
    // While one shakes hands with an origin that is known to speak HTTP/2, the others wait for the outcome. A
    // connection that has failed takes no streams, so this is right for a second try too.
    while (true) {
      if (auto stream = open_stream(link_key)) co_return std::move(*stream);
      const auto under_way = dialling_.find(link_key);
      if (under_way == dialling_.end()) break;
      const std::shared_ptr<Dialling> other = under_way->second;
      io::Event done;
      other->waiting.push_back(&done);
      co_await done.wait();
      if (other->failure) co_return std::unexpected(*other->failure);
    }
    if (http2_.full(link_key)) co_return fail(Reason::overloaded, "too many requests to this origin at once");
  }
  if (!known_http2_.contains(link_key)) co_return co_await dial(wanted, key, link_key, protocol, timings);

  const auto mine = std::make_shared<Dialling>();
  dialling_[link_key] = mine;
  auto reached = co_await dial(wanted, key, link_key, protocol, timings);
  dialling_.erase(link_key);
  if (!reached) mine->failure = reached.error();
  for (io::Event* waiting : mine->waiting) waiting->set();
  co_return reached;
}

io::Task<Result<Reached>> Pool::dial(const Wanted& wanted, const std::string& key,
                                     const std::string& link_key, Protocol protocol, ReachTimings& timings) {
  bool refused = false;
  tls::Alpn alpn = tls::Alpn::any;
  if (protocol == Protocol::http1 || protocol == Protocol::websocket) alpn = tls::Alpn::http1;
  if (protocol == Protocol::http2) alpn = tls::Alpn::http2;
  auto reached = co_await shake_hands(wanted, key, link_key, protocol, alpn, refused, timings);
  if (reached || !refused || protocol != Protocol::websocket) co_return reached;
  std::string websocket_key;
  append_link_key(wanted, websocket_key);
  co_return co_await shake_hands(wanted, key, websocket_key, protocol, tls::Alpn::http2, refused, timings);
}

io::Task<Result<Reached>> Pool::shake_hands(const Wanted& wanted, const std::string& key,
                                            const std::string& link_key, Protocol protocol, tls::Alpn alpn,
                                            bool& refused, ReachTimings& timings) {
  const TimePoint dial_end = std::min(wanted.deadline, loop_.now() + dial_timeout);
  Dialled dialled = co_await co_await dialler_.dial(wanted.host, wanted.port, dial_end, timings.dial);
  Reached reached;
  reached.address = dialled.endpoint.to_string();
  std::unique_ptr<io::Stream> verified;
  if (!wanted.tls) {
    verified = std::move(dialled.stream);
  } else {
    const TimePoint started = loop_.now();
    auto stream = std::make_unique<tls::TlsStream>(
        std::move(dialled.stream),
        tls_.new_connection(wanted.host.name, wanted.host.literal.has_value(), key, alpn));
    auto shaken = co_await stream->handshake(std::min(wanted.deadline, loop_.now() + handshake_timeout));
    timings.tls = std::chrono::duration_cast<std::chrono::microseconds>(loop_.now() - started);
    refused = stream->protocol_refused();
    if (!shaken) co_return std::unexpected(std::move(shaken.error()));
    const bool http2 = stream->chose_http2();
    verified = std::move(stream);
    if (http2) {
      if (known_http2_.size() >= known_http2_max) known_http2_.clear();
      known_http2_.insert(link_key);
      Http2Links::Link& link = http2_.add(link_key, std::move(verified), std::move(reached.address));
      if (protocol == Protocol::websocket) {
        const bool greeted = co_await link.connection.greeting(loop_.now() + handshake_timeout);
        if (!greeted || !link.connection.takes_extended_connect())
          co_return fail(Reason::origin_tls_failed, "the origin speaks only HTTP/2, and no WebSocket over it",
                         Side::origin);
      }
      if (auto opened = open_stream(link_key)) co_return std::move(*opened);
      co_return fail(Reason::origin_closed, "the origin takes no request on a new connection", Side::origin);
    }
    if (protocol == Protocol::http2)
      co_return fail(Reason::origin_tls_failed, "the origin does not speak HTTP/2, which gRPC needs",
                     Side::origin);
  }
  auto connection = std::make_unique<Connection>(buffers_);
  connection->address = reached.address;
  connection->tls = wanted.tls;
  connection->stream = std::move(verified);
  connection->key = key;
  reached.connection = std::move(connection);
  co_return reached;
}

void Pool::give_back(std::unique_ptr<Connection> connection) {
  // Bytes after the answer were not asked for: response splitting by a hostile origin (RFC 9112 §9.3).
  if (!connection->input.empty() || !connection->stream->looks_idle()) return;
  if (idle_count_ >= idle_most_) return;
  auto& connections = idle_[connection->key];
  if (connections.size() >= idle_per_origin_max) return;
  connection->input.release();
  connection->idle_since = loop_.now();
  connection->stream->watch_idle(this);
  by_stream_[connection->stream.get()] = connection.get();
  ++idle_count_;
  connections.push_back(std::move(connection));
  if (idle_count_ == 1) sweep_->set(loop_.now() + idle_max);
}

void Pool::on_idle_input(io::Stream& stream) {
  const auto at = by_stream_.find(&stream);
  if (at == by_stream_.end()) return;
  Connection* gone = at->second;
  by_stream_.erase(at);
  auto& connections = idle_[gone->key];
  const auto where = std::ranges::find_if(connections, [&](const auto& c) { return c.get() == gone; });
  if (where == connections.end()) return;
  const std::unique_ptr<Connection> closing = std::move(*where);
  connections.erase(where);
  --idle_count_;
  if (connections.empty()) idle_.erase(closing->key);
}

void Pool::keep_idle(std::size_t most) {
  idle_most_ = most;
  while (idle_count_ > idle_most_) {
    // One of each origin in turn, the oldest.
    for (auto at = idle_.begin(); at != idle_.end() && idle_count_ > idle_most_;) {
      auto& connections = at->second;
      if (!connections.empty()) {
        by_stream_.erase(connections.front()->stream.get());
        connections.front()->stream->shutdown_write();
        connections.pop_front();
        --idle_count_;
      }
      at = connections.empty() ? idle_.erase(at) : std::next(at);
    }
  }
}

void Pool::sweep() {
  const TimePoint oldest = loop_.now() - idle_max;
  for (auto at = idle_.begin(); at != idle_.end();) {
    auto& connections = at->second;
    while (!connections.empty() && connections.front()->idle_since <= oldest) {
      by_stream_.erase(connections.front()->stream.get());
      connections.front()->stream->shutdown_write();
      connections.pop_front();
      --idle_count_;
    }
    at = connections.empty() ? idle_.erase(at) : std::next(at);
  }
  if (idle_count_ > 0) sweep_->set(loop_.now() + idle_max / 4);
}

}  // namespace postern::origin
