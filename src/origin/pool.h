#pragma once
// Verified connections to origins, kept while they are idle. Per loop. A connection is interchangeable for
// every request to the same scheme, host and port: it carries no credential of its own, since a credential is
// on each request and never on the connection. A connection on which a client authenticated itself at
// connection level (NTLM, Negotiate) is never given back.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>

#include "io/buffer.h"
#include "io/stream.h"
#include "origin/dialler.h"
#include "tls/context.h"

namespace postern::origin {

/// One connection to an origin, in use or idle.
struct Connection {
  std::unique_ptr<io::Stream> stream;
  io::Buffer input;  ///< Bytes of the answer that were read ahead.
  std::string key;
  std::string address;  ///< "1.2.3.4:443", for the record.
  TimePoint idle_since{};
  bool tls = false;
  bool reused = false;  ///< It has served a request before this one.

  explicit Connection(io::BufferPool& buffers) : input(buffers) {}
};

struct ReachTimings {
  DialTimings dial;
  std::chrono::microseconds tls{0};
};

enum class Freshness : std::uint8_t { pooled_or_new, new_only };

class Pool final : io::Stream::IdleWatcher {
 public:
  static constexpr std::size_t idle_per_origin_max = 64;
  static constexpr std::size_t idle_total_max = 512;
  static constexpr std::chrono::seconds idle_max{20};  // below the 60–75 s of common servers
  static constexpr std::chrono::seconds dial_timeout{15};
  static constexpr std::chrono::seconds handshake_timeout{15};

  Pool(io::Loop& loop, io::BufferPool& buffers, Dialler& dialler, tls::OriginContext& tls);
  ~Pool();
  Pool(const Pool&) = delete;

  /// A connection to `host`, verified when `use_tls`. `must_be_alive`: the request cannot be repeated, so a
  /// pooled connection is asked once more whether its origin has gone. Errors as Dialler::dial and
  /// TlsStream::handshake.
  io::Task<Result<std::unique_ptr<Connection>>> reach(const Host& host, std::uint16_t port, bool use_tls,
                                                      Freshness freshness, bool must_be_alive,
                                                      ReachTimings& timings);

  /// After a complete exchange that left the connection clean.
  void give_back(std::unique_ptr<Connection> connection);

  std::size_t idle() const { return idle_count_; }
  /// Keeps at most so many from now on, and closes what is beyond.
  void keep_idle(std::size_t most);

 private:
  struct Sweep;
  std::unique_ptr<Connection> take(const std::string& key, bool must_be_alive);
  void on_idle_input(io::Stream& stream) override;
  void sweep();

  io::Loop& loop_;
  io::BufferPool& buffers_;
  Dialler& dialler_;
  tls::OriginContext& tls_;
  std::unordered_map<std::string, std::deque<std::unique_ptr<Connection>>> idle_;
  std::unordered_map<io::Stream*, Connection*> by_stream_;
  std::size_t idle_count_ = 0;
  std::size_t idle_most_ = idle_total_max;
  std::unique_ptr<Sweep> sweep_;
};

}  // namespace postern::origin
