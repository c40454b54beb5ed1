#include "proxy/http2_sides.h"

#include <charconv>
#include <cstring>

#include "proxy/limits.h"
#include "proxy/websocket.h"
#include "wire/http1.h"
#include "wire/http2_head.h"

namespace postern::proxy {

namespace {

/// Fields of the head that is being made; the stream copies them at once.
std::vector<http2::Field>& field_scratch() {
  thread_local std::vector<http2::Field> fields;
  fields.clear();
  return fields;
}

/// Digits of a length, where the field that points at them can be kept beside them.
struct Decimal {
  char digits[20];
  std::string_view text;
  explicit Decimal(std::uint64_t value)
      : text(digits,
             static_cast<std::size_t>(std::to_chars(digits, digits + sizeof digits, value).ptr - digits)) {}
  Decimal(const Decimal&) = delete;
};

}  // namespace

// ---- toward the sandbox
// ------------------------------------------------------------------------------------

Http2SandboxSide::Http2SandboxSide(std::shared_ptr<http2::Stream> stream, io::Loop& loop)
    : stream_(std::move(stream)), loop_(loop) {}

Http2SandboxSide::~Http2SandboxSide() {
  stream_->watch_gone(nullptr);
  if (!answer_complete_)
    stream_->reset(http2::ErrorCode::internal_error);
  else if (!stream_->body_complete())
    stream_->reset(http2::ErrorCode::no_error);
}

io::Task<void> Http2SandboxSide::drain() {
  if (!answer_complete_ || !head_.protocol.empty()) co_return;
  const TimePoint end = loop_.now() + limits::linger_time;
  while (!stream_->body_complete() && loop_.now() < end) {
    const TimePoint soon = std::min(end, loop_.now() + limits::linger_idle_time);
    auto piece = co_await stream_->read_body(soon);
    if (!piece) co_return;
  }
}

Result<void> Http2SandboxSide::take_request(bool tls) {
  const http2::Head& head = stream_->request();
  const wire::PseudoFields pseudo{head.method, head.scheme,   head.authority,
                                  head.path,   head.protocol, head.has_authority};
  // The fields are the stream's; their span is only read.
  const std::span<HeaderField> fields(const_cast<HeaderField*>(head.fields.data()), head.fields.size());
  auto taken = wire::http2_request_head(pseudo, fields, tls, head.end_of_stream, head_);
  no_body_ = !head_.protocol.empty();
  if (head.too_large) return fail(Reason::head_too_large, "more than 64 KiB or 256 fields", Side::sandbox);
  return taken;
}

io::Task<Result<BodyPiece>> Http2SandboxSide::read_body(TimePoint deadline) {
  return stream_->read_body(deadline);
}

void Http2SandboxSide::fill(const OutgoingAnswer& answer, std::vector<http2::Field>& fields,
                            char (&status)[3]) const {
  // RFC 8441 §5: what is 101 in HTTP/1.1 is 200 here.
  const int code = answer.upgrade.empty() ? answer.status : 200;
  std::to_chars(status, status + sizeof status, code);
  fields.reserve(answer.fields.size() + 2);
  fields.push_back({":status", {status, sizeof status}});
  for (const HeaderField& field : answer.fields) fields.push_back({field.name, field.value});
}

io::Task<Result<void>> Http2SandboxSide::send_informational(const OutgoingAnswer& answer) {
  std::vector<http2::Field> fields;
  char status[3];
  fill(answer, fields, status);
  if (!stream_->send_informational(fields))
    co_return fail(Reason::sandbox_closed, "the stream has ended", Side::sandbox);
  co_return Result<void>{};
}

Result<void> Http2SandboxSide::start_answer(const OutgoingAnswer& answer) {
  auto& fields = field_scratch();
  char status[3];
  fill(answer, fields, status);
  const Decimal length(answer.content_length);
  const bool empty = answer.framing == BodyFraming::length && answer.content_length == 0;
  if (answer.framing == BodyFraming::length) fields.push_back({"content-length", length.text});
  const bool ends = answer.upgrade.empty() && (answer.framing == BodyFraming::none || empty);
  if (stream_->closed()) return fail(Reason::sandbox_closed, "the sandbox reset the stream", Side::sandbox);
  if (!stream_->send_head(fields, ends))
    return fail(Reason::origin_malformed_response,
                "the origin's answer has a header that cannot be forwarded", Side::origin);
  answer_started_ = true;
  answer_complete_ = ends;
  return {};
}

io::Task<Result<void>> Http2SandboxSide::send_body(BodyPiece piece, std::span<const HeaderField> trailers) {
  if (answer_complete_) co_return Result<void>{};
  auto sent = co_await stream_->send_body(piece, trailers, loop_.now() + limits::body_idle_time);
  answer_complete_ = sent && piece.last;
  co_return sent;
}

void Http2SandboxSide::watch_abort(AbortWatcher* watcher) {
  abort_watcher_ = watcher;
  stream_->watch_gone(watcher ? this : nullptr);
}

void Http2SandboxSide::abort(std::optional<std::uint32_t> code) {
  // "No error" would be taken for the end of a complete answer.
  if (code && *code != 0)
    stream_->reset(*code);
  else
    stream_->reset(http2::ErrorCode::internal_error);
}

// ---- toward the origin
// -------------------------------------------------------------------------------------

Http2OriginSide::~Http2OriginSide() { stream_->reset(http2::ErrorCode::cancel); }

bool Http2OriginSide::start_request(const OutgoingRequest& request) {
  extended_connect_ = !request.upgrade.empty();
  const Decimal length(request.content_length);
  auto& fields = field_scratch();
  fields.reserve(request.fields.size() + request.credentials.size() + 8);
  fields.push_back({":method", extended_connect_ ? std::string_view("CONNECT") : request.method});
  fields.push_back({":scheme", "https"});
  fields.push_back({":authority", request.authority});
  fields.push_back({":path", request.target, request.target_is_credential});
  if (extended_connect_) fields.push_back({":protocol", request.upgrade});
  for (const HeaderField& field : request.fields) {
    if (extended_connect_ && wire::same_name(field.name, "sec-websocket-key")) {
      websocket_accept_ = websocket_accept(field.value);
      continue;
    }
    fields.push_back({field.name, field.value});
  }
  if (request.accepts_trailers) fields.push_back({"te", "trailers"});
  if (request.framing == BodyFraming::length) fields.push_back({"content-length", length.text});

  // Last, as in HTTP/1.1. One buffer for all values, with room enough: growing would leave some behind.
  std::size_t bytes = 1;
  for (const auto& header : request.credentials) bytes += credential::line_size(header);
  thread_local std::string values;  // Wiped below.
  values.clear();
  values.reserve(bytes);
  for (const auto& header : request.credentials) {
    const std::size_t before = values.size();
    credential::append_header_value(header, values);
    fields.push_back({header.name, std::string_view(values).substr(before), true});
  }
  const bool empty = request.framing == BodyFraming::none ||
                     (request.framing == BodyFraming::length && request.content_length == 0);
  const bool sent = stream_->send_head(fields, empty && !extended_connect_);
  explicit_bzero(values.data(), values.size());
  return sent;
}

io::Task<Result<void>> Http2OriginSide::send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                                  TimePoint deadline) {
  return stream_->send_body(piece, trailers, deadline);
}

// The head leaves at the end of the loop's turn by itself.
io::Task<Result<void>> Http2OriginSide::flush(TimePoint) { co_return Result<void>{}; }

io::Task<Result<const ResponseHead*>> Http2OriginSide::read_head(std::string_view method,
                                                                 TimePoint deadline) {
  const http2::Head* head = co_await co_await stream_->next_head(deadline);
  if (head->too_large)
    co_return fail(Reason::origin_malformed_response, "the head has more than 64 KiB or 256 fields",
                   Side::origin);
  storage_.assign(head->fields.begin(), head->fields.end());
  co_await wire::http2_response_head(head->status, storage_, method, head->end_of_stream, head_);
  if (answers_upgrade(head_.status)) {
    // To whom this goes it is the 101 of HTTP/1.1, or becomes a 200 again.
    head_.status = 101;
    head_.framing = BodyFraming::none;
    head_.upgrade = "websocket";
    if (!websocket_accept_.empty()) storage_.push_back({"Sec-WebSocket-Accept", websocket_accept_});
    head_.fields = storage_;
  }
  co_return &head_;
}

}  // namespace postern::proxy
