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

std::unique_ptr<Connection> Pool::take(const std::string& key, const Wanted& wanted) {
  const auto at = idle_.find(key);
  if (at == idle_.end()) return nullptr;
  auto& connections = at->second;
  while (!connections.empty()) {
    // The most recently used: the others may grow old and be swept.
    std::unique_ptr<Connection> connection = std::move(connections.back());
    connections.pop_back();
    --idle_count_;
    connection->stream->watch_idle(nullptr);
    if (!connection->stream->looks_idle()) continue;
    char byte;
    if (wanted.must_be_alive && ::recv(connection->stream->fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0)
      continue;
    connection->reused = true;
    connection->stream->set_party(wanted.sandbox);
    return connection;
  }
  return nullptr;
}

namespace {

/// The link has room, unless it has gone while it was waited for.
Result<Reached> open_on(Http2Links::Link& link) {
  Reached reached;
  reached.stream = link.connection.open();
  if (!reached.stream)
    return fail(Reason::origin_closed, "the origin takes no request on a new connection", Side::origin);
  reached.address = link.address;
  reached.reused = std::exchange(link.used, true);
  return reached;
}

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

std::optional<Reached> Pool::open_stream(const std::string& link_key) {
  Http2Links::Link* link = http2_.find(link_key);
  if (!link) return std::nullopt;
  return open_on(*link).value();
}

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
  auto pooled = take(key_scratch_, wanted);
  if (!pooled) return std::nullopt;
  Reached reached;
  reached.address = pooled->address;
  reached.reused = true;
  reached.connection = std::move(pooled);
  return reached;
}

// ---- who dials, and who waits

struct Pool::Waiting {
  io::Wait decided;
  const Protocol protocol;
  std::optional<Error> failure;

  Waiting(io::Loop& loop, Protocol wanted) : decided(loop), protocol(wanted) {}
};

io::Task<Result<Reached>> Pool::reach(Wanted wanted, ReachTimings& timings) {
  std::string key, link_key;
  append_key(wanted, key);
  append_link_key(wanted, link_key);
  Attempt attempt{wanted, key, timings};
  if (!wanted.tls && wanted.protocol == Protocol::http2)
    co_return fail(Reason::protocol_not_allowed, "HTTP/2 without TLS is not carried", Side::sandbox);
  if (!wanted.tls || wanted.protocol == Protocol::http1) co_return co_await dial_alone(attempt);
  if (wanted.protocol == Protocol::websocket) co_return co_await dial_for_websocket(attempt, link_key);

  // A connection that has failed takes no streams: what is open here is right for a second try, too.
  const TimePoint patient_until = loop_.now() + patience;
  while (true) {
    if (auto stream = open_stream(link_key)) co_return std::move(*stream);
    const auto others = dialling_.find(link_key);
    const std::size_t under_way = others == dialling_.end() ? 0 : others->second.under_way;
    const bool room = http2_.in_service(link_key) + under_way < Http2Links::links_per_origin_max;
    // With HTTP/1.1 everybody needs a connection of his own, so there is nothing to wait for.
    const bool alone = wanted.protocol == Protocol::any && chose_http1(key);
    if (alone || (room && (under_way == 0 || loop_.now() >= patient_until)))
      co_return co_await dial(attempt, link_key);
    if (under_way == 0) co_return fail(Reason::overloaded, "too many requests to this origin at once");
    const TimePoint longest = room ? patient_until : loop_.now() + dial_timeout + handshake_timeout;
    co_await co_await decision(link_key, wanted.protocol, std::min(wanted.deadline, longest));
    if (loop_.now() >= wanted.deadline)
      co_return fail(Reason::connect_timeout, "no connection to the origin in time", Side::origin);
    if (auto ready = reuse(wanted)) co_return std::move(*ready);
  }
}

/// Returns when something was decided or at the deadline. Errors: the handshake's, if they are everybody's.
io::Task<Result<void>> Pool::decision(const std::string& link_key, Protocol protocol, TimePoint deadline) {
  Waiting waiting(loop_, protocol);
  dialling_[link_key].waiting.push_back(&waiting);
  const io::Wait::Outcome how = co_await waiting.decided.until(deadline);
  if (how == io::Wait::Outcome::expired) std::erase(dialling_[link_key].waiting, &waiting);
  if (waiting.failure) co_return std::unexpected(std::move(*waiting.failure));
  co_return Result<void>{};
}

void Pool::decided(const std::string& link_key, const Result<Reached>& reached, bool no_http2) {
  Dialling& dialling = dialling_[link_key];
  --dialling.under_way;
  // Another handshake may still do better.
  if (!reached && !no_http2 && dialling.under_way > 0) return;
  const std::vector<Waiting*> waiting = std::exchange(dialling.waiting, {});
  if (dialling.under_way == 0) dialling_.erase(link_key);
  for (Waiting* one : waiting) {
    // That an origin has no HTTP/2 for gRPC fails nobody else.
    if (!reached && (!no_http2 || one->protocol == Protocol::http2)) one->failure = reached.error();
    one->decided.notify();
  }
}

bool Pool::chose_http1(const std::string& key) const {
  const auto at = choices_.find(key);
  return at != choices_.end() && at->second == Choice::http1;
}

void Pool::remember(const std::string& key, Choice choice) {
  if (choices_.size() >= choices_max) choices_.clear();
  choices_[key] = choice;
}

io::Task<Result<Reached>> Pool::dial(Attempt& attempt, const std::string& link_key) {
  const bool only_http2 = attempt.wanted.protocol == Protocol::http2;
  const tls::Alpn offer = only_http2 ? tls::Alpn::http2 : tls::Alpn::any;
  ++dialling_[link_key].under_way;
  auto verified = co_await shake_hands(attempt, offer);
  const bool no_http2 = only_http2 && (verified ? !verified->http2 : attempt.no_common_protocol);
  Result<Reached> reached;
  if (!verified) {
    reached = std::unexpected(std::move(verified.error()));
  } else if (verified->http2) {
    remember(attempt.key, Choice::http2);
    auto link = share(link_key, std::move(*verified));
    reached = link ? open_on(**link) : std::unexpected(std::move(link.error()));
  } else if (only_http2) {
    reached =
        fail(Reason::origin_tls_failed, "the origin does not speak HTTP/2, which gRPC needs", Side::origin);
  } else {
    remember(attempt.key, Choice::http1);
    reached = serve(attempt, std::move(*verified));
  }
  if (no_http2) remember(attempt.key, Choice::http1);
  decided(link_key, reached, no_http2);
  co_return reached;
}

io::Task<Result<Reached>> Pool::dial_alone(Attempt& attempt) {
  Verified verified = co_await co_await shake_hands(attempt, tls::Alpn::http1);
  co_return serve(attempt, std::move(verified));
}

io::Task<Result<Reached>> Pool::dial_for_websocket(Attempt& attempt, const std::string& link_key) {
  auto alone = co_await dial_alone(attempt);
  if (alone || !attempt.no_common_protocol) co_return alone;
  // An origin that speaks only HTTP/2.
  if (Http2Links::Link* link = http2_.find_for_extended_connect(link_key)) co_return open_on(*link);
  Verified verified = co_await co_await shake_hands(attempt, tls::Alpn::http2);
  const std::shared_ptr<Http2Links::Link> link = co_await share(link_key, std::move(verified));
  const bool greeted = co_await link->connection.greeting(loop_.now() + handshake_timeout);
  if (!greeted || !link->connection.takes_extended_connect())
    co_return fail(Reason::origin_tls_failed, "the origin speaks only HTTP/2, and no WebSocket over it",
                   Side::origin);
  co_return open_on(*link);
}

io::Task<Result<Pool::Verified>> Pool::shake_hands(Attempt& attempt, tls::Alpn alpn) {
  const Wanted& wanted = attempt.wanted;
  const TimePoint dial_end = std::min(wanted.deadline, loop_.now() + dial_timeout);
  Dialled dialled = co_await co_await dialler_.dial(wanted.host, wanted.port, dial_end, attempt.timings.dial,
                                                    wanted.sandbox);
  Verified verified;
  verified.address = dialled.endpoint.to_string();
  if (!wanted.tls) {
    verified.stream = std::move(dialled.stream);
    co_return verified;
  }
  const TimePoint started = loop_.now();
  auto stream = std::make_unique<tls::TlsStream>(
      std::move(dialled.stream),
      tls_.new_connection(wanted.host.name, wanted.host.literal.has_value(), attempt.key, alpn));
  auto shaken = co_await stream->handshake(std::min(wanted.deadline, loop_.now() + handshake_timeout));
  attempt.timings.tls = std::chrono::duration_cast<std::chrono::microseconds>(loop_.now() - started);
  attempt.no_common_protocol = stream->protocol_refused();
  if (!shaken) co_return std::unexpected(std::move(shaken.error()));
  verified.http2 = stream->chose_http2();
  verified.stream = std::move(stream);
  co_return verified;
}

Reached Pool::serve(const Attempt& attempt, Verified verified) {
  Reached reached;
  reached.address = verified.address;
  reached.connection = std::make_unique<Connection>(buffers_, *this);
  reached.connection->address = std::move(verified.address);
  reached.connection->tls = attempt.wanted.tls;
  reached.connection->stream = std::move(verified.stream);
  reached.connection->key = attempt.key;
  return reached;
}

Result<std::shared_ptr<Http2Links::Link>> Pool::share(const std::string& link_key, Verified verified) {
  // Whoever dialled an origin of HTTP/1.1 was not counted, and it has learnt HTTP/2 meanwhile.
  if (http2_.in_service(link_key) < Http2Links::links_per_origin_max)
    return http2_.add(link_key, std::move(verified.stream), std::move(verified.address));
  if (Http2Links::Link* link = http2_.find(link_key)) return link->shared_from_this();
  return fail(Reason::overloaded, "too many requests to this origin at once");
}

void Pool::give_back(std::unique_ptr<Connection> connection) {
  // Bytes after the answer were not asked for: response splitting by a hostile origin (RFC 9112 §9.3).
  if (!connection->input.empty() || !connection->stream->looks_idle()) return;
  if (idle_count_ >= idle_most_) return;
  auto& connections = idle_[connection->key];
  if (connections.size() >= idle_per_origin_max) return;
  connection->input.release();
  connection->idle_since = loop_.now();
  connection->stream->watch_idle(connection.get());
  ++idle_count_;
  connections.push_back(std::move(connection));
  if (idle_count_ == 1) sweep_->set(loop_.now() + idle_max);
}

void Connection::on_idle_input(io::Stream&) { pool_.drop(*this); }

void Pool::drop(const Connection& gone) {
  const auto at = idle_.find(gone.key);
  if (at == idle_.end()) return;
  auto& connections = at->second;
  const auto where = std::ranges::find_if(connections, [&](const auto& one) { return one.get() == &gone; });
  if (where == connections.end()) return;
  const std::unique_ptr<Connection> closing = std::move(*where);
  connections.erase(where);
  --idle_count_;
  if (connections.empty()) idle_.erase(at);
}

void Pool::keep_idle(std::size_t most) {
  idle_most_ = most;
  while (idle_count_ > idle_most_) {
    // One of each origin in turn, the oldest.
    for (auto at = idle_.begin(); at != idle_.end() && idle_count_ > idle_most_;) {
      auto& connections = at->second;
      if (!connections.empty()) {
        connections.front()->stream->shutdown_write();
        connections.pop_front();
        --idle_count_;
      }
      at = connections.empty() ? idle_.erase(at) : std::next(at);
    }
  }
}

void Pool::forget(io::Party sandbox) { http2_.drain(std::to_string(sandbox) + "@"); }

void Pool::sweep() {
  const TimePoint oldest = loop_.now() - idle_max;
  for (auto at = idle_.begin(); at != idle_.end();) {
    auto& connections = at->second;
    while (!connections.empty() && connections.front()->idle_since <= oldest) {
      connections.front()->stream->shutdown_write();
      connections.pop_front();
      --idle_count_;
    }
    at = connections.empty() ? idle_.erase(at) : std::next(at);
  }
  if (idle_count_ > 0) sweep_->set(loop_.now() + idle_max / 4);
}

}  // namespace postern::origin
