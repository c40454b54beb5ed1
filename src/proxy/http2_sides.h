#pragma once
// HTTP/2 toward the sandbox and toward the origin (RFC 9113): one stream each.

#include <memory>

#include "http2/stream.h"
#include "proxy/sides.h"

namespace postern::proxy {

/// One request of a sandbox. Lives as long as its exchange.
class Http2SandboxSide final : public SandboxSide, http2::Stream::GoneWatcher {
 public:
  Http2SandboxSide(std::shared_ptr<http2::Stream> stream, io::Loop& loop);
  /// An answer that is not complete by now never will be: the stream is reset.
  ~Http2SandboxSide() override;

  /// Reads the request's head. Errors: those of wire::http2_request_head(); head_too_large. What could be
  /// read of it is there all the same.
  Result<void> take_request(bool tls);

  /// Reads off a body that nobody wants, within bounds: RFC 9113 §8.1 would have the stream reset once its
  /// answer is complete, but there are clients (curl 7.88) that then throw the answer away.
  io::Task<void> drain();

  const RequestHead& request() const override { return head_; }
  std::string_view protocol() const override { return "HTTP/2"; }
  io::Task<Result<BodyPiece>> read_body(TimePoint deadline) override;
  bool body_complete() const override { return no_body_ || stream_->body_complete(); }
  bool body_ready() const override { return !no_body_ && stream_->body_ready(); }
  std::span<const HeaderField> trailers() const override { return stream_->trailers(); }
  void cancel_body() override { stream_->cancel_read(); }
  io::Task<Result<void>> send_informational(const OutgoingAnswer& answer) override;
  Result<void> start_answer(const OutgoingAnswer& answer) override;
  io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers) override;
  bool answer_started() const override { return answer_started_; }
  std::uint64_t answer_bytes() const override { return stream_->bytes_sent(); }
  void watch_abort(AbortWatcher* watcher) override;
  void abort(std::optional<std::uint32_t> code = std::nullopt) override;
  void start_tunnel() override { no_body_ = false; }

 private:
  void on_gone() override { abort_watcher_->on_sandbox_gone(); }
  void fill(const OutgoingAnswer& answer, std::vector<http2::Field>& fields, char (&status)[3]) const;

  std::shared_ptr<http2::Stream> stream_;
  io::Loop& loop_;
  RequestHead head_;
  AbortWatcher* abort_watcher_ = nullptr;
  bool no_body_ = false;  ///< Nothing but the head counts until there is a tunnel.
  bool answer_started_ = false;
  bool answer_complete_ = false;
};

/// One request to an origin.
class Http2OriginSide final : public OriginSide {
 public:
  explicit Http2OriginSide(std::shared_ptr<http2::Stream> stream) : stream_(std::move(stream)) {}
  /// An answer that nobody waits for is cancelled.
  ~Http2OriginSide() override;

  bool start_request(const OutgoingRequest& request) override;
  io::Task<Result<void>> send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                   TimePoint deadline) override;
  io::Task<Result<void>> flush(TimePoint deadline) override;
  void cancel_send() override { stream_->cancel_send(); }
  std::uint64_t request_bytes() const override { return stream_->bytes_sent(); }
  io::Task<Result<const ResponseHead*>> read_head(std::string_view method, TimePoint deadline) override;
  bool anything_received() const override { return stream_->anything_received(); }
  io::Task<Result<BodyPiece>> read_body(TimePoint deadline) override { return stream_->read_body(deadline); }
  std::span<const HeaderField> trailers() const override { return stream_->trailers(); }
  void cancel_read() override { stream_->cancel_read(); }
  bool truncated() const override { return false; }  // An end is always said.
  void abort() override { stream_->reset(http2::ErrorCode::cancel); }
  void settle(bool) override {}
  std::optional<std::uint32_t> reset_code() const override { return stream_->peer_reset(); }
  void start_tunnel() override {}

 private:
  bool answers_upgrade(int status) const { return extended_connect_ && status >= 200 && status < 300; }

  std::shared_ptr<http2::Stream> stream_;
  io::PooledVector<HeaderField> storage_;
  ResponseHead head_;
  bool extended_connect_ = false;
  std::string websocket_accept_;  ///< For a sandbox that asked with a key.
};

}  // namespace postern::proxy
