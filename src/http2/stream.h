#pragma once
// One stream: a request and its answer (RFC 9113 §8). Made by a Session, shared by the session, while the
// stream is open, and by whoever carries the exchange. After the connection has gone it still says what came
// before. Lives on its loop.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/frame_pool.h"
#include "io/task.h"
#include "io/wait.h"
#include "model/http.h"

namespace postern::http2 {

class Session;

/// RFC 9113 §7; those that we say.
enum class ErrorCode : std::uint32_t {
  no_error = 0,
  protocol_error = 1,
  internal_error = 2,
  refused_stream = 7,
  cancel = 8,
  enhance_your_calm = 11,
};

/// A field to be sent.
struct Field {
  std::string_view name;
  std::string_view value;
  bool sensitive = false;  ///< Never indexed (RFC 7541 §7.1.3).
};

/// A head that has arrived. Views are into itself.
struct Head {
  std::string_view method, scheme, authority, path, protocol;  ///< Requests.
  bool has_authority = false;
  int status = 0;  ///< Answers.
  std::vector<HeaderField> fields;
  bool end_of_stream = false;
  bool too_large = false;  ///< More than the limits; what fitted is there.

  Head() = default;
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  /// Gives it back to the loop's used ones.
  struct Release {
    void operator()(Head* head) const;
  };

 private:
  static std::unique_ptr<Head, Release> take();
  void clear();
  friend class Session;
  struct Place {
    std::uint32_t name, name_bytes, value, value_bytes;
  };
  std::string text_;
  std::vector<Place> places_;
  std::size_t list_bytes_ = 0;  ///< As RFC 9113 §6.5.2 counts.
};

using HeadPtr = std::unique_ptr<Head, Head::Release>;

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  Stream(Session& session, io::Loop& loop, bool origin);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // ---- what arrives

  /// Server: the request. Valid while the stream lives.
  const Head& request() const { return *request_; }
  /// Client: the next head, informational ones too. Valid until the next call. Errors: origin_closed (with
  /// Retry::fresh_connection when the origin did not look at the request), origin_timeout,
  /// origin_malformed_response, cancelled.
  io::Task<Result<const Head*>> next_head(TimePoint deadline);
  /// Errors: <side>_closed, <side>_timeout, malformed_request or origin_malformed_response, cancelled.
  io::Task<Result<BodyPiece>> read_body(TimePoint deadline);
  bool body_complete() const { return body_given_; }
  bool body_ready() const { return !body_given_ && (!incoming_.empty() || ended_); }
  /// After the last piece.
  std::span<const HeaderField> trailers() const;
  bool anything_received() const { return anything_received_; }
  void cancel_read() { arrived_.cancel(); }

  // ---- what is sent

  /// False when a field may not be written or the stream has gone. `ends`: nothing follows the head.
  bool send_head(std::span<const Field> fields, bool ends);
  /// Server: 1xx.
  bool send_informational(std::span<const Field> fields);
  /// Returns when the piece is on its way, so that its memory may be used again. After an error the stream is
  /// reset. Errors as read_body().
  io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                   TimePoint deadline);
  void cancel_send() { sent_.cancel(); }
  /// RST_STREAM, unless the stream has ended already. With no_error after what we had to send: behind it.
  void reset(ErrorCode code);
  void reset(std::uint32_t code) { reset(static_cast<ErrorCode>(code)); }

  // ---- how it ends

  /// Both directions have ended, or it was reset, or its connection has gone.
  bool closed() const { return closed_; }
  /// What the peer reset it with; nothing when it did not.
  std::optional<std::uint32_t> peer_reset() const { return peer_reset_; }

  class GoneWatcher {
   public:
    virtual void on_gone() = 0;

   protected:
    ~GoneWatcher() = default;
  };
  /// Told once when the stream was reset or its connection broke; nullptr ends that.
  void watch_gone(GoneWatcher* watcher) { gone_watcher_ = watcher; }

  std::uint64_t bytes_sent() const { return bytes_sent_; }  ///< Heads as they were before compression.

 private:
  friend class Session;
  friend struct Callbacks;

  Error closed_error() const;
  Error wait_error(io::Wait::Outcome outcome) const;
  void hand_over();
  void abandon_piece();
  template <class List>
  bool fill(List& list, std::span<const Field> fields);

  Session* session_;   ///< nullptr once the connection has gone.
  const bool origin_;  ///< The peer is an origin.
  std::int32_t id_ = -1;
  Stream* previous_ = nullptr;  ///< In the session's list.
  Stream* next_ = nullptr;
  std::shared_ptr<Stream> self_;  ///< While nghttp2 knows the stream.

  HeadPtr arriving_;  ///< A header block that is being received.
  HeadPtr request_;
  io::PooledVector<HeadPtr> heads_;
  HeadPtr head_given_;
  HeadPtr trailers_;
  io::PooledString incoming_;
  io::PooledString given_;
  std::int32_t window_;
  std::size_t awaited_bytes_ = 0;  ///< Arrived while the reader waited: it keeps up.
  TimePoint awaited_since_{};      ///< The first of them.
  bool final_head_ = false;
  bool anything_received_ = false;
  bool ended_ = false;  ///< END_STREAM was received.
  bool body_given_ = false;
  bool delivered_ = false;  ///< Server: the request was handed to whoever carries it.
  bool ready_ = false;      ///< In the session's list of streams to be woken.

  std::string_view piece_;
  std::span<const HeaderField> piece_trailers_;
  bool piece_last_ = false;
  bool sending_ = false;
  bool deferred_ = false;  ///< nghttp2 waits for resume_data.
  bool head_sent_ = false;
  bool last_framed_ = false;
  bool end_sent_ = false;
  bool reset_after_end_ = false;

  bool closed_ = false;
  bool told_gone_ = false;
  bool reset_by_us_ = false;
  std::optional<std::uint32_t> peer_reset_;
  std::uint32_t close_code_ = 0;
  std::optional<Error> connection_error_;
  GoneWatcher* gone_watcher_ = nullptr;
  std::uint64_t bytes_sent_ = 0;

  io::Wait arrived_;
  io::Wait sent_;
};

}  // namespace postern::http2
