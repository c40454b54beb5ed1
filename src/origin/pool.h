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
#include <vector>

#include "io/buffer.h"
#include "io/stream.h"
#include "origin/dialler.h"
#include "origin/http2_links.h"
#include "tls/context.h"

namespace postern::origin {

class Pool;

/// One connection of HTTP/1.1 to an origin, in use or idle.
struct Connection final : io::Stream::IdleWatcher {
  std::unique_ptr<io::Stream> stream;
  io::Buffer input;  ///< Bytes of the answer that were read ahead.
  std::string key;
  std::string address;  ///< "1.2.3.4:443", for the record.
  TimePoint idle_since{};
  bool tls = false;
  bool reused = false;  ///< It has served a request before this one.

  Connection(io::BufferPool& buffers, Pool& pool) : input(buffers), pool_(pool) {}
  ~Connection() = default;

 private:
  void on_idle_input(io::Stream& stream) override;
  Pool& pool_;
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
  /// Its identity's number: HTTP/2 connections are its own, others while it uses them.
  io::Party sandbox = io::nobody;
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

class Pool {
 public:
  static constexpr std::size_t idle_per_origin_max = 512;
  static constexpr std::size_t idle_total_max = 2048;
  static constexpr std::chrono::seconds idle_max{20};  // below the 60–75 s of common servers
  static constexpr std::chrono::seconds dial_timeout{15};
  static constexpr std::chrono::seconds handshake_timeout{15};
  /// How long a request waits for what another's handshake decides, before it dials too. Most handshakes are
  /// done by then; one whose first packet was lost is not.
  static constexpr std::chrono::milliseconds patience{300};

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
  /// A sandbox is gone: its own connections end, at once or with their last stream.
  void forget(io::Party sandbox);

 private:
  struct Sweep;
  /// What one handshake is about, and whether it failed because the origin speaks nothing of what was
  /// offered.
  struct Attempt {
    const Wanted& wanted;
    const std::string& key;
    ReachTimings& timings;
    bool no_common_protocol = false;
  };
  struct Verified {
    std::unique_ptr<io::Stream> stream;
    std::string address;
    bool http2 = false;
  };
  /// Handshakes of one sandbox with one origin that may bring HTTP/2. The first decides for those who come
  /// meanwhile: they share its connection or, when it is of HTTP/1.1, dial all at once.
  struct Waiting;
  struct Dialling {
    std::size_t under_way = 0;
    std::vector<Waiting*> waiting;
  };
  /// Of an origin to which both versions were offered.
  enum class Choice : std::uint8_t { http1, http2 };
  static constexpr std::size_t choices_max = 4096;

  io::Task<Result<Reached>> dial(Attempt& attempt, const std::string& link_key);
  io::Task<Result<Reached>> dial_alone(Attempt& attempt);
  io::Task<Result<Reached>> dial_for_websocket(Attempt& attempt, const std::string& link_key);
  io::Task<Result<Verified>> shake_hands(Attempt& attempt, tls::Alpn alpn);
  io::Task<Result<void>> decision(const std::string& link_key, Protocol protocol, TimePoint deadline);
  void decided(const std::string& link_key, const Result<Reached>& reached, bool no_http2);
  bool chose_http1(const std::string& key) const;
  void remember(const std::string& key, Choice choice);
  Reached serve(const Attempt& attempt, Verified verified);
  Result<std::shared_ptr<Http2Links::Link>> share(const std::string& link_key, Verified verified);
  std::optional<Reached> open_stream(const std::string& link_key);
  std::unique_ptr<Connection> take(const std::string& key, const Wanted& wanted);
  friend struct Connection;
  void drop(const Connection& gone);
  void sweep();

  io::Loop& loop_;
  io::BufferPool& buffers_;
  Dialler& dialler_;
  tls::OriginContext& tls_;
  std::unordered_map<std::string, std::deque<std::unique_ptr<Connection>>> idle_;
  std::size_t idle_count_ = 0;
  std::size_t idle_most_ = idle_total_max;
  std::unique_ptr<Sweep> sweep_;
  Http2Links http2_;
  std::string key_scratch_, link_key_scratch_;
  std::unordered_map<std::string, Choice> choices_;     ///< By key: what one sandbox learns holds for all.
  std::unordered_map<std::string, Dialling> dialling_;  ///< By link key.
};

}  // namespace postern::origin
