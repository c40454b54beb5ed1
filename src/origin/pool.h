#pragma once
// Verified connections to origins. Per loop. Those of HTTP/1.1 serve one exchange at a time and are kept
// while they are idle: such a connection is interchangeable for every request to the same scheme, host and
// port, since a credential is on each request and never on the connection. One on which a client
// authenticated itself (NTLM, Negotiate) is never given back. Those of HTTP/2 serve many exchanges of one
// sandbox at once.

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "io/buffer.h"
#include "io/stream.h"
#include "origin/dialler.h"
#include "origin/http2_links.h"
#include "tls/context.h"

namespace postern::origin {

/// One connection of HTTP/1.1 to an origin, in use or idle.
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

/// Which version of HTTP a request can travel by.
enum class Protocol : std::uint8_t {
  any,        ///< Whichever the origin prefers.
  http1,      ///< It belongs to a connection of its own.
  http2,      ///< gRPC.
  websocket,  ///< HTTP/1.1's Upgrade; an origin that knows only HTTP/2 is asked by RFC 8441.
};

struct Wanted {
  const Host& host;
  std::uint16_t port = 0;
  bool tls = false;  ///< Without it, HTTP/1.1 only.
  Protocol protocol = Protocol::any;
  std::uint64_t sandbox = 0;  ///< Its identity's number: HTTP/2 connections are its own.
  Freshness freshness = Freshness::pooled_or_new;
  /// The request cannot be repeated, so a pooled connection is asked once more whether its origin has gone.
  bool must_be_alive = false;
  TimePoint deadline = TimePoint::max();  ///< Earlier than the pool's own limits.
};

/// Either a connection for one exchange, or a stream on a shared one.
struct Reached {
  std::unique_ptr<Connection> connection;
  std::shared_ptr<http2::Stream> stream;
  std::string address;  ///< "1.2.3.4:443", for the record.
  bool reused = false;  ///< The connection has served a request before this one.
};

class Pool final : io::Stream::IdleWatcher {
 public:
  static constexpr std::size_t idle_per_origin_max = 512;
  static constexpr std::size_t idle_total_max = 2048;
  static constexpr std::chrono::seconds idle_max{20};  // below the 60–75 s of common servers
  static constexpr std::chrono::seconds dial_timeout{15};
  static constexpr std::chrono::seconds handshake_timeout{15};

  Pool(io::Loop& loop, io::BufferPool& buffers, Dialler& dialler, tls::OriginContext& tls);
  ~Pool();
  Pool(const Pool&) = delete;

  /// What is there without waiting: an idle connection, or room on a shared one. No allocation but the
  /// stream's.
  std::optional<Reached> reuse(const Wanted& wanted);
  /// A verified connection, or a stream on one, after reuse() had none. Errors as Dialler::dial and
  /// TlsStream::handshake; overloaded.
  io::Task<Result<Reached>> reach(Wanted wanted, ReachTimings& timings);

  /// After a complete exchange that left the connection clean.
  void give_back(std::unique_ptr<Connection> connection);

  std::size_t idle() const { return idle_count_; }
  /// Keeps at most so many from now on, and closes what is beyond.
  void keep_idle(std::size_t most);
  std::size_t http2_connections() const { return http2_.size(); }

 private:
  struct Sweep;
  /// A handshake with an origin of HTTP/2 that others wait for instead of shaking hands too.
  struct Dialling {
    std::vector<io::Event*> waiting;
    std::optional<Error> failure;
  };
  static constexpr std::size_t known_http2_max = 4096;

  io::Task<Result<Reached>> dial(const Wanted& wanted, const std::string& key, const std::string& link_key,
                                 Protocol protocol, ReachTimings& timings);
  io::Task<Result<Reached>> shake_hands(const Wanted& wanted, const std::string& key,
                                        const std::string& link_key, Protocol protocol, tls::Alpn alpn,
                                        bool& refused, ReachTimings& timings);
  std::optional<Reached> open_stream(const std::string& link_key);
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
  Http2Links http2_;
  std::string key_scratch_, link_key_scratch_;
  std::unordered_set<std::string> known_http2_;  ///< Link keys whose origin chose HTTP/2.
  std::unordered_map<std::string, std::shared_ptr<Dialling>> dialling_;
};

}  // namespace postern::origin
