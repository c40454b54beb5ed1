#pragma once
// The two halves of an exchange, whatever version of HTTP carries them. An exchange reads a request and
// writes an answer through SandboxSide, and does the opposite through OriginSide; it never sees a byte of
// framing.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "credential/injections.h"
#include "io/buffer.h"
#include "io/frame_pool.h"
#include "io/stream.h"
#include "model/http.h"

namespace postern::proxy {

using FieldList = io::PooledVector<HeaderField>;

/// A request as it goes to the origin: only fields that were parsed and may travel on, and the credentials.
struct OutgoingRequest {
  std::string_view method;
  std::string_view target;
  bool target_is_credential = false;  ///< A signature is in it: compressed with nothing else.
  std::string_view authority;
  std::span<const HeaderField> fields;
  std::span<const credential::InjectedHeader> credentials;
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;
  std::string_view upgrade;
  bool extended_connect = false;  ///< The upgrade was asked for as RFC 8441 has it, without a key.
  bool accepts_trailers = false;
};

/// An answer as it goes to the sandbox.
struct OutgoingAnswer {
  int status = 0;
  std::string_view reason_phrase;
  std::span<const HeaderField> fields;
  BodyFraming framing = BodyFraming::none;
  std::uint64_t content_length = 0;
  std::string_view upgrade;  ///< With 101.
  bool close = false;        ///< No further request is welcome on this connection.
};

class SandboxSide {
 public:
  class AbortWatcher {
   public:
    virtual void on_sandbox_gone() = 0;

   protected:
    ~AbortWatcher() = default;
  };

  virtual ~SandboxSide() = default;

  /// The request. Its views are valid until the body is read for the first time.
  virtual const RequestHead& request() const = 0;
  virtual std::string_view protocol() const = 0;

  virtual io::Task<Result<BodyPiece>> read_body(TimePoint deadline) = 0;
  virtual bool body_complete() const = 0;
  virtual bool body_ready() const = 0;  ///< A piece is there without waiting.
  virtual std::span<const HeaderField> trailers() const = 0;
  virtual void cancel_body() = 0;  ///< Ends a wait in read_body().

  virtual io::Task<Result<void>> send_informational(const OutgoingAnswer& answer) = 0;
  /// Kept until the first piece of the body (or finish) is sent with it.
  virtual Result<void> start_answer(const OutgoingAnswer& answer) = 0;
  virtual io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers) = 0;
  virtual bool answer_started() const = 0;
  virtual std::uint64_t answer_bytes() const = 0;

  /// Tells `watcher` when the sandbox goes away while nothing is read from it; nullptr ends that.
  virtual void watch_abort(AbortWatcher* watcher) = 0;
  /// The sandbox must not take what it got for the whole. `code`: the HTTP/2 error that says why.
  virtual void abort(std::optional<std::uint32_t> code = std::nullopt) = 0;

  /// After a 101 read_body() and send_body() carry the tunnel, and the last piece is an end of a direction.
  virtual void start_tunnel() = 0;
  /// Where the tunnel has a connection of its own: that, and what was already read from it.
  virtual io::Stream* tunnel_stream() { return nullptr; }
  virtual io::Buffer* tunnel_input() { return nullptr; }
};

class OriginSide {
 public:
  virtual ~OriginSide() = default;
  static void* operator new(std::size_t bytes) { return io::FramePool::allocate(bytes); }
  static void operator delete(void* side, std::size_t bytes) { io::FramePool::release(side, bytes); }

  /// Kept until flush() or the first piece of the body. False when a part of it may not be written at all.
  virtual bool start_request(const OutgoingRequest& request) = 0;
  virtual io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                           TimePoint deadline) = 0;
  virtual io::Task<Result<void>> flush(TimePoint deadline) = 0;
  virtual void cancel_send() = 0;
  virtual std::uint64_t request_bytes() const = 0;

  /// The next answer head, informational ones too. Views valid until the body is read or another head is.
  virtual io::Task<Result<const ResponseHead*>> read_head(std::string_view method, TimePoint deadline) = 0;
  virtual bool anything_received() const = 0;
  virtual io::Task<Result<BodyPiece>> read_body(TimePoint deadline) = 0;
  virtual std::span<const HeaderField> trailers() const = 0;
  virtual void cancel_read() = 0;
  virtual bool truncated() const = 0;  ///< The body ended with the connection, and not in an orderly way.

  /// The origin must not take what it got for the whole.
  virtual void abort() = 0;
  /// The exchange is over; `clean`: nothing of it is left on the connection, which may serve another.
  virtual void settle(bool clean) = 0;
  /// What an origin of HTTP/2 ended the stream with.
  virtual std::optional<std::uint32_t> reset_code() const { return std::nullopt; }

  virtual void start_tunnel() = 0;
  virtual io::Stream* tunnel_stream() { return nullptr; }
  virtual io::Buffer* tunnel_input() { return nullptr; }
};

}  // namespace postern::proxy
