#pragma once
// The state of one HTTP/2 connection (RFC 9113), no I/O: bytes in, bytes out, streams in between. nghttp2
// does framing, HPACK, flow control and the rules of §5 to §8; this adds limits, what floods cost, and
// streams that coroutines can wait for. Lives on its loop; http2/connection.h puts it on a socket.
//
// Nothing is resumed from inside nghttp2: what happened is noted, and wake() tells those who wait.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "http2/limits.h"
#include "http2/stream.h"
#include "io/buffer.h"

struct nghttp2_session;

namespace postern::http2 {

enum class Role : std::uint8_t {
  server,  ///< Toward the sandbox.
  client,  ///< Toward an origin.
};

class Session {
 public:
  /// Who owns the session. Called from wake() only, except wants_write().
  class Owner {
   public:
    /// Server: a request is complete up to its body.
    virtual void on_request(std::shared_ptr<Stream> stream) = 0;
    /// Server: a stream was refused before it became a request.
    virtual void on_refused_request(Error why) = 0;
    /// There is something to be sent; may be called at any time.
    virtual void wants_write() = 0;

   protected:
    ~Owner() = default;
  };

  Session(io::Loop& loop, Role role, Owner& owner);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// How much of what arrived is few frames, and fewer requests.
  std::size_t length_of_few(std::string_view bytes) const { return frames_.length_of_few(bytes); }
  /// What arrived, in order, in any pieces. After an error the connection is to be closed once what produce()
  /// still gives (GOAWAY) is sent. Errors: malformed_request or origin_malformed_response, overloaded for a
  /// flood.
  Result<void> receive(std::string_view bytes);
  /// What the peer did wrong, once that was answered with GOAWAY. Errors as receive().
  Result<void> verdict() const;
  /// Appends frames to `out` until it holds about limits::write_bytes or nothing is left.
  void produce(io::Buffer& out);
  /// Resumes whoever waits for what receive() and produce() changed. False when there was nobody. When what
  /// one event may do is spent, requests are left for a further call.
  bool wake();
  bool requests_wait() const { return !requests_.empty(); }
  /// The connection has gone: every stream ends with this error. Follow with wake().
  void fail(const Error& error);

  /// Client: a stream for a request; nullptr when the connection takes no more.
  std::shared_ptr<Stream> open();
  /// Client: streams that can be opened now.
  std::size_t capacity() const;
  /// Client: no stream can be opened any more.
  bool leaving() const;
  /// Client: the peer takes extended CONNECT (RFC 8441 §3).
  bool takes_extended_connect() const;
  std::size_t open_streams() const { return open_streams_; }
  /// A header block has begun and not ended.
  bool within_head() const { return frames_.within_head(); }
  std::uint64_t frames_received() const { return frames_.received(); }  ///< Whole ones.
  /// Since when there is no open stream.
  TimePoint idle_since() const { return idle_since_; }

  /// No new streams from the peer: GOAWAY now, and the connection ends with its last stream.
  void drain();
  /// As drain(), but streams that the peer opens until it reads this are still carried.
  void announce_drain();
  void ping();
  bool ping_answered() const { return ping_answered_; }
  /// Nothing will be received or sent any more.
  bool over() const;

 private:
  friend class Stream;
  friend struct Callbacks;

  Side side() const { return role_ == Role::server ? Side::sandbox : Side::origin; }
  Reason malformed() const {
    return role_ == Role::server ? Reason::malformed_request : Reason::origin_malformed_response;
  }
  bool begin_requests();
  void mark_ready(Stream& stream);
  void link(Stream& stream);
  void unlink(Stream& stream);
  void begin_head(Stream& stream);
  bool add_field(Stream& stream, std::string_view name, std::string_view value);
  bool finish_head(Stream& stream, bool ends);
  static bool take_pseudo(Head& head, std::string_view name, std::string_view value);
  static void join_cookies(Head& head);
  void widen(Stream& stream);
  void consumed(Stream& stream, std::size_t bytes);
  void close(Stream& stream, std::uint32_t code);
  void resume(Stream& stream);
  bool pay(std::int64_t tokens);
  void give_up(std::int32_t id);
  bool was_given_up(std::int32_t id) const;
  void say_calm();

  /// Where frames begin and end. nghttp2 says nothing about those that it passes over.
  class Frames {
   public:
    explicit Frames(Role role);
    /// Returns how many frames began that have a type of no meaning.
    std::int64_t follow(std::string_view bytes);
    std::uint64_t received() const { return received_; }
    std::size_t length_of_few(std::string_view bytes) const;
    bool within_head() const { return block_open_ || (head_frame_ && payload_left_ > 0); }

   private:
    std::size_t payload_left_;  ///< Of this frame; first of all, of the client's preface.
    std::size_t header_bytes_ = 0;
    std::uint64_t received_ = 0;  ///< Frames, to their end.
    bool preface_;
    unsigned char header_[9];
    bool head_frame_ = false;  ///< HEADERS or CONTINUATION.
    bool block_open_ = false;  ///< Without END_HEADERS so far.
  };

  io::Loop& loop_;
  Role role_;
  Owner& owner_;
  nghttp2_session* session_ = nullptr;
  io::Buffer* out_ = nullptr;  ///< During produce().
  Stream* streams_ = nullptr;
  std::size_t open_streams_ = 0;
  std::size_t extra_window_ = 0;
  std::int32_t last_opened_ = 0;        ///< Server: the highest stream that the peer opened.
  std::vector<std::int32_t> given_up_;  ///< Server: streams that we closed before their end, the last ones.
  std::size_t given_up_next_ = 0;
  std::vector<std::shared_ptr<Stream>> ready_;
  std::vector<std::shared_ptr<Stream>> waking_;
  std::vector<std::shared_ptr<Stream>> requests_;
  std::vector<std::shared_ptr<Stream>> starting_;
  std::vector<Error> refused_;
  std::int64_t tokens_ = limits::tokens_max;
  TimePoint earned_at_;
  TimePoint idle_since_;
  Frames frames_;
  bool calmed_ = false;      ///< ENHANCE_YOUR_CALM was said.
  bool broken_ = false;      ///< GOAWAY with another error was said.
  bool going_away_ = false;  ///< Either side said GOAWAY.
  bool draining_ = false;
  bool failed_ = false;
  bool waking_now_ = false;
  bool ping_answered_ = true;
};

}  // namespace postern::http2
