#include "origin/pool.h"

#include <algorithm>
#include <fmt/format.h>
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
      sweep_(std::make_unique<Sweep>(loop, *this)) {}

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

io::Task<Result<std::unique_ptr<Connection>>> Pool::reach(const Host& host, std::uint16_t port, bool use_tls,
                                                          Freshness freshness, bool must_be_alive,
                                                          ReachTimings& timings) {
  std::string key = fmt::format("{}:{}:{}", use_tls ? "https" : "http", host.name, port);
  if (freshness == Freshness::pooled_or_new)
    if (auto pooled = take(key, must_be_alive)) co_return pooled;

  Dialled dialled = co_await co_await dialler_.dial(host, port, loop_.now() + dial_timeout, timings.dial);
  auto connection = std::make_unique<Connection>(buffers_);
  connection->address = dialled.endpoint.to_string();
  connection->tls = use_tls;
  if (use_tls) {
    const TimePoint started = loop_.now();
    auto stream = std::make_unique<tls::TlsStream>(
        std::move(dialled.stream), tls_.new_connection(host.name, host.literal.has_value(), key));
    auto verified = co_await stream->handshake(loop_.now() + handshake_timeout);
    timings.tls = std::chrono::duration_cast<std::chrono::microseconds>(loop_.now() - started);
    if (!verified) co_return std::unexpected(std::move(verified.error()));
    connection->stream = std::move(stream);
  } else {
    connection->stream = std::move(dialled.stream);
  }
  connection->key = std::move(key);
  co_return connection;
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
