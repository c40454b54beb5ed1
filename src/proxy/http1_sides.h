#pragma once
// HTTP/1.1 toward the sandbox and toward the origin (RFC 9112).

#include <memory>

#include "origin/pool.h"
#include "proxy/head_rooms.h"
#include "proxy/http1_body.h"
#include "proxy/sides.h"
#include "wire/http1.h"

namespace postern::proxy {

/// Lives from the first byte of a request until nothing of a next one is there; carries one after the other.
class Http1SandboxSide final : public SandboxSide, io::Stream::IdleWatcher {
 public:
  /// A TLS client that has closed is gone; over plain TCP a half-close is a legitimate end of a request.
  enum class HalfClose : std::uint8_t { is_gone, is_an_end };

  Http1SandboxSide(io::Stream& stream, io::BufferPool& buffers, HeadRooms& rooms, HalfClose half_close);
  ~Http1SandboxSide() override { rooms_.give_back(std::move(room_)); }

  /// Waits for the next request. False: the sandbox ended between two requests.
  /// Errors: malformed_request, head_too_large, sandbox_timeout, sandbox_closed …; the answer to them closes.
  io::Task<Result<bool>> next_request(TimePoint first_byte_deadline);
  /// The exchange is over: true when another request may follow on this connection.
  bool ready_for_next() const;
  bool aborted() const { return aborted_; }
  /// Lets go of the last request. True when something of the next one came with it.
  bool next_has_begun();
  /// Reads off a body that nobody wants, within bounds, so that the answer is not lost to a reset.
  io::Task<void> drain();
  /// The same where no body can be told from what follows: after a malformed head.
  io::Task<void> discard();

  const RequestHead& request() const override { return head_; }
  std::string_view protocol() const override { return head_.minor_version == 0 ? "HTTP/1.0" : "HTTP/1.1"; }
  io::Task<Result<BodyPiece>> read_body(TimePoint deadline) override;
  bool body_complete() const override { return body_.complete(); }
  bool body_ready() const override;
  std::span<const HeaderField> trailers() const override { return body_.trailers(); }
  void cancel_body() override { stream_.cancel_read(); }
  io::Task<Result<void>> send_informational(const OutgoingAnswer& answer) override;
  Result<void> start_answer(const OutgoingAnswer& answer) override;
  io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers) override;
  bool answer_started() const override { return answer_started_; }
  std::uint64_t answer_bytes() const override { return answer_bytes_; }
  void watch_abort(AbortWatcher* watcher) override {
    abort_watcher_ = watcher;
    stream_.watch_idle(watcher ? this : nullptr);
  }
  void abort(std::optional<std::uint32_t> code = std::nullopt) override;
  void start_tunnel() override;
  io::Stream* tunnel_stream() override { return &stream_; }
  io::Buffer* tunnel_input() override { return &input_; }

 private:
  void on_idle_input(io::Stream& stream) override;
  void release_head();
  Result<void> write_head(const OutgoingAnswer& answer, bool informational);

  io::Stream& stream_;
  io::Buffer input_;
  HeadRooms& rooms_;
  HeadRoom room_;
  wire::HeadScanner scanner_;
  RequestHead head_;
  std::size_t head_bytes_ = 0;  ///< Still at the front of input_.
  BodyReader body_;
  BodyWriter answer_;
  std::uint64_t answer_bytes_ = 0;
  bool answer_started_ = false;
  bool answer_complete_ = false;
  bool close_ = false;
  bool aborted_ = false;
  bool tunnel_ = false;
  const HalfClose half_close_;
  AbortWatcher* abort_watcher_ = nullptr;
};

/// One request on one connection to an origin.
class Http1OriginSide final : public OriginSide {
 public:
  Http1OriginSide(origin::Pool& pool, HeadRooms& rooms, std::unique_ptr<origin::Connection> connection);
  ~Http1OriginSide() override;

  bool start_request(const OutgoingRequest& request) override;
  io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                   TimePoint deadline) override;
  io::Task<Result<void>> flush(TimePoint deadline) override;
  void cancel_send() override { connection_->stream->cancel_write(); }
  std::uint64_t request_bytes() const override { return request_bytes_; }
  io::Task<Result<const ResponseHead*>> read_head(std::string_view method, TimePoint deadline) override;
  bool anything_received() const override { return anything_received_; }
  io::Task<Result<BodyPiece>> read_body(TimePoint deadline) override;
  std::span<const HeaderField> trailers() const override { return body_.trailers(); }
  void cancel_read() override { connection_->stream->cancel_read(); }
  bool truncated() const override;
  void abort() override { connection_->stream->reset_on_close(); }
  void settle(bool clean) override;
  void start_tunnel() override;
  io::Stream* tunnel_stream() override { return connection_->stream.get(); }
  io::Buffer* tunnel_input() override { return &connection_->input; }

 private:
  void wipe_output();
  void release_head();

  Result<void> check_accept();

  origin::Pool& pool_;
  std::unique_ptr<origin::Connection> connection_;
  std::string websocket_key_;  ///< Ours, where the sandbox's side of the handshake has none.
  HeadRooms& rooms_;
  HeadRoom room_;  ///< What is written holds credentials: wiped as soon as it is on its way.
  ResponseHead head_;
  std::size_t head_bytes_ = 0;
  BodyReader body_;
  BodyWriter request_;
  std::uint64_t request_bytes_ = 0;
  bool anything_received_ = false;
  bool tunnel_ = false;
};

}  // namespace postern::proxy
