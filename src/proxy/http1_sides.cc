#include "proxy/http1_sides.h"

#include <strings.h>

#include "proxy/limits.h"
#include "proxy/refusal.h"
#include "proxy/websocket.h"
#include "tls/stream.h"
#include "wire/http_writer.h"

namespace postern::proxy {

// ---- toward the sandbox
// ------------------------------------------------------------------------------------

Http1SandboxSide::Http1SandboxSide(io::Stream& stream, io::BufferPool& buffers, HeadRooms& rooms,
                                   HalfClose half_close)
    : stream_(stream),
      input_(buffers),
      rooms_(rooms),
      room_(rooms.take()),
      body_(stream, input_),
      answer_(stream, room_.output),
      half_close_(half_close) {}

void Http1SandboxSide::on_idle_input(io::Stream& stream) {
  if (half_close_ == HalfClose::is_gone ? !stream.hung_up() : !stream.broken()) return;
  stream.watch_idle(nullptr);
  abort_watcher_->on_sandbox_gone();
}

void Http1SandboxSide::release_head() { input_.consume(std::exchange(head_bytes_, 0)); }

bool Http1SandboxSide::next_has_begun() {
  release_head();
  body_.release_piece();
  return !input_.empty();
}

io::Task<Result<bool>> Http1SandboxSide::next_request(TimePoint first_byte_deadline) {
  const bool begun = next_has_begun();
  scanner_.reset();
  answer_started_ = answer_complete_ = close_ = false;
  answer_bytes_ = 0;
  head_ = RequestHead{};
  // While nothing comes no buffer is held, and nothing is asked of the kernel.
  if (!begun) {
    input_.release();
    co_await co_await stream_.wait_readable(first_byte_deadline);
  } else {
    co_await stream_.turn();  // Requests in line behind each other do not all go through in one event.
  }
  TimePoint deadline = first_byte_deadline;
  while (true) {
    if (!input_.empty()) {
      head_bytes_ = co_await scanner_.scan(input_.bytes());
      if (head_bytes_ > 0) break;
      deadline = std::min(deadline, stream_.loop().now() + limits::head_time);
    }
    const std::size_t count =
        co_await co_await stream_.read(input_.room(wire::head_bytes_max + KiB), deadline);
    if (count == 0 && input_.empty()) co_return false;
    if (count == 0)
      co_return fail(Reason::sandbox_closed, "the connection ended within a request head", Side::sandbox);
    input_.filled(count);
  }
  co_await wire::parse_request_head(input_.bytes().substr(0, head_bytes_), room_.fields, head_);
  // The body starts behind the head, which stays in front of it until the body is read.
  body_.start(head_.framing, head_.content_length);
  co_return true;
}

bool Http1SandboxSide::body_ready() const { return !body_.complete() && input_.size() > head_bytes_; }

io::Task<Result<BodyPiece>> Http1SandboxSide::read_body(TimePoint deadline) {
  release_head();
  return body_.next(deadline);
}

Result<void> Http1SandboxSide::write_head(const OutgoingAnswer& answer, bool informational) {
  const std::size_t before = room_.output.size();
  wire::HeadWriter writer(room_.output);
  // HTTP/2 has no reason phrase; some clients of HTTP/1.1 insist on one.
  writer.status_line(answer.status,
                     answer.reason_phrase.empty() ? reason_phrase(answer.status) : answer.reason_phrase);
  for (const HeaderField& field : answer.fields) writer.field(field.name, field.value);
  if (!informational) {
    if (answer.framing == BodyFraming::length) writer.content_length(answer.content_length);
    if (answer.framing == BodyFraming::chunked) writer.chunked();
    if (!answer.upgrade.empty()) {
      writer.field("Connection", "Upgrade");
      writer.field("Upgrade", answer.upgrade);
    } else if (close_) {
      writer.field("Connection", "close");
    } else if (head_.minor_version == 0) {
      writer.field("Connection", "keep-alive");
    }
  }
  if (!writer.end())
    return fail(Reason::origin_malformed_response,
                "the origin's answer has a header that cannot be forwarded", Side::origin);
  answer_bytes_ += room_.output.size() - before;
  return {};
}

io::Task<Result<void>> Http1SandboxSide::send_informational(const OutgoingAnswer& answer) {
  if (head_.minor_version == 0) co_return Result<void>{};  // RFC 9110 §15.2: not to an HTTP/1.0 client.
  co_await write_head(answer, true);
  co_return co_await answer_.flush(stream_.loop().now() + limits::body_idle_time);
}

Result<void> Http1SandboxSide::start_answer(const OutgoingAnswer& answer) {
  OutgoingAnswer sent = answer;
  // A client of HTTP/1.0 knows no chunks: its answer ends with the connection.
  if (sent.framing == BodyFraming::chunked && head_.minor_version == 0)
    sent.framing = BodyFraming::until_close;
  close_ = answer.close || sent.framing == BodyFraming::until_close || !head_.keep_alive;
  answer_.start(sent.framing);
  if (auto written = write_head(sent, false); !written) return written;
  answer_started_ = true;
  return {};
}

io::Task<Result<void>> Http1SandboxSide::send_body(BodyPiece piece, std::span<const HeaderField> trailers) {
  auto sent = co_await answer_.send(piece, trailers, stream_.loop().now() + limits::body_idle_time);
  answer_bytes_ += piece.data.size();
  answer_complete_ = sent && piece.last;
  if (tunnel_ && piece.last && sent) stream_.shutdown_write();
  co_return sent;
}

bool Http1SandboxSide::ready_for_next() const {
  return answer_complete_ && !close_ && !aborted_ && body_.complete();
}

io::Task<void> Http1SandboxSide::drain() {
  if (aborted_ || tunnel_ || body_.complete()) co_return;
  // RFC 9112 §9.6: our end first, then what still comes is read off. Closing over unread bytes is a reset,
  // which can overtake the answer; and many clients look for an answer only after they have sent everything.
  if (close_) stream_.shutdown_write();
  const TimePoint end = stream_.loop().now() + limits::linger_time;
  while (!body_.complete() && stream_.loop().now() < end) {
    auto piece = co_await read_body(std::min(end, stream_.loop().now() + limits::linger_idle_time));
    if (!piece) co_return;
  }
}

io::Task<void> Http1SandboxSide::discard() {
  if (aborted_) co_return;
  stream_.shutdown_write();
  const TimePoint deadline = stream_.loop().now() + limits::drain_time;
  release_head();
  for (std::size_t discarded = 0; discarded < limits::drain_bytes_max;) {
    input_.consume(input_.size());
    auto count = co_await stream_.read(input_.room(wire::head_bytes_max), deadline);
    if (!count || *count == 0) co_return;
    input_.filled(*count);
    discarded += *count;
  }
}

void Http1SandboxSide::abort(std::optional<std::uint32_t>) {
  aborted_ = true;
  stream_.reset_on_close();
}

void Http1SandboxSide::start_tunnel() {
  release_head();
  body_.release_piece();
  body_.start(BodyFraming::until_close, 0);
  answer_.start(BodyFraming::until_close);
  tunnel_ = true;
}

// ---- toward the origin
// -------------------------------------------------------------------------------------

Http1OriginSide::Http1OriginSide(origin::Pool& pool, HeadRooms& rooms,
                                 std::unique_ptr<origin::Connection> connection)
    : pool_(pool),
      connection_(std::move(connection)),
      rooms_(rooms),
      room_(rooms.take()),
      body_(*connection_->stream, connection_->input),
      request_(*connection_->stream, room_.output) {}

Http1OriginSide::~Http1OriginSide() {
  wipe_output();
  rooms_.give_back(std::move(room_));
}

void Http1OriginSide::wipe_output() {
  room_.output.resize(room_.output.capacity());
  explicit_bzero(room_.output.data(), room_.output.size());
  room_.output.clear();
}

void Http1OriginSide::release_head() { connection_->input.consume(std::exchange(head_bytes_, 0)); }

bool Http1OriginSide::start_request(const OutgoingRequest& request) {
  // Room for all of it at once: a buffer that grows would leave credentials behind in freed memory.
  std::size_t bytes =
      256 + request.method.size() + request.target.size() + request.authority.size() + request.upgrade.size();
  for (const HeaderField& field : request.fields) bytes += field.name.size() + field.value.size() + 4;
  for (const auto& header : request.credentials) bytes += credential::line_size(header);
  room_.output.reserve(std::max<std::size_t>(bytes + 1 * KiB, 2 * KiB));  // and for a short body

  wire::HeadWriter writer(room_.output);
  writer.request_line(request.method, request.target);
  writer.field("Host", request.authority);
  for (const HeaderField& field : request.fields) writer.field(field.name, field.value);
  if (request.framing == BodyFraming::length) writer.content_length(request.content_length);
  if (request.framing == BodyFraming::chunked) writer.chunked();
  if (!request.upgrade.empty()) {
    writer.field("Connection", "Upgrade");
    writer.field("Upgrade", request.upgrade);
    if (request.extended_connect) writer.field("Sec-WebSocket-Key", websocket_key_ = websocket_key());
  }
  // Last, and outside of everything that the sandbox could say about hop-by-hop fields (threat 40).
  for (const auto& header : request.credentials) credential::append_header_line(header, room_.output);
  if (!writer.end()) return false;
  request_.start(request.framing);
  request_bytes_ += room_.output.size();
  return true;
}

io::Task<Result<void>> Http1OriginSide::send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                                  TimePoint deadline) {
  request_bytes_ += piece.data.size();
  // A buffer that grew around the head would leave the credentials in it behind.
  if (!room_.output.empty() && room_.output.capacity() - room_.output.size() < piece.data.size() + 64)
    co_await co_await request_.flush(deadline);
  auto sent = co_await request_.send(piece, trailers, deadline);
  if (tunnel_ && piece.last && sent) connection_->stream->shutdown_write();
  co_return sent;
}

io::Task<Result<void>> Http1OriginSide::flush(TimePoint deadline) { return request_.flush(deadline); }

io::Task<Result<const ResponseHead*>> Http1OriginSide::read_head(std::string_view method,
                                                                 TimePoint deadline) {
  release_head();
  io::Buffer& input = connection_->input;
  wire::HeadScanner scanner;
  while (true) {
    if (!input.empty()) {
      anything_received_ = true;
      auto scanned = scanner.scan(input.bytes());
      if (!scanned)
        co_return fail(Reason::origin_malformed_response, std::move(scanned.error().detail), Side::origin);
      head_bytes_ = *scanned;
      if (head_bytes_ > 0) break;
    } else {
      input.release();
      co_await co_await connection_->stream->wait_readable(deadline);
    }
    const std::size_t count =
        co_await co_await connection_->stream->read(input.room(wire::head_bytes_max + KiB), deadline);
    if (count == 0)
      co_return fail(Reason::origin_closed, "the origin closed the connection without an answer",
                     Side::origin);
    input.filled(count);
  }
  co_await wire::parse_response_head(input.bytes().substr(0, head_bytes_), method, room_.fields, head_);
  if (head_.status >= 200) body_.start(head_.framing, head_.content_length);
  if (head_.status == 101 && !websocket_key_.empty()) co_await check_accept();
  if (room_.output.empty()) wipe_output();  // Sent: the credentials in it are not needed again.
  co_return &head_;
}

io::Task<Result<BodyPiece>> Http1OriginSide::read_body(TimePoint deadline) {
  release_head();
  return body_.next(deadline);
}

bool Http1OriginSide::truncated() const {
  const auto* secure = dynamic_cast<const tls::TlsStream*>(connection_->stream.get());
  return head_.framing == BodyFraming::until_close && secure && secure->truncated();
}

// RFC 6455 §4.1: the origin has understood what it agrees to. The sandbox asked without a key.
Result<void> Http1OriginSide::check_accept() {
  const std::string expected = websocket_accept(websocket_key_);
  std::size_t accepted = 0;
  std::erase_if(room_.fields, [&](const HeaderField& field) {
    if (!wire::same_name(field.name, "sec-websocket-accept")) return false;
    accepted += field.value == expected ? 1 : 2;
    return true;
  });
  head_.fields = room_.fields;
  if (accepted == 1) return {};
  return fail(Reason::origin_malformed_response, "the Sec-WebSocket-Accept is not the key's", Side::origin);
}

void Http1OriginSide::start_tunnel() {
  release_head();
  body_.start(BodyFraming::until_close, 0);
  request_.start(BodyFraming::until_close);
  tunnel_ = true;
}

void Http1OriginSide::settle(bool clean) {
  if (!clean || tunnel_ || !body_.complete() || !head_.keep_alive ||
      head_.framing == BodyFraming::until_close)
    return;
  release_head();
  body_.release_piece();
  pool_.give_back(std::move(connection_));
}

}  // namespace postern::proxy
