#include "proxy/answer_scrubbing.h"

#include <algorithm>
#include <array>
#include <utility>

#include "wire/http1.h"

namespace postern::proxy {

namespace {

std::unexpected<Error> uninspectable(std::string detail) {
  return fail(Reason::uninspectable_answer, std::move(detail), Side::origin);
}

}  // namespace

namespace {

/// Without grpc-accept-encoding and extensions their messages come uncompressed; ranges and deltas are always
/// an offer that an origin need not be made. Told apart by their length first: every request is asked.
bool offers_uninspectable(std::string_view name, bool accepts_parts) {
  switch (name.size()) {
    case 4: return wire::same_name(name, "a-im");
    case 5: return !accepts_parts && wire::same_name(name, "range");
    case 8: return !accepts_parts && wire::same_name(name, "if-range");
    case 10: return !accepts_parts && wire::same_name(name, "x-ms-range");
    case 20: return wire::same_name(name, "grpc-accept-encoding");
    case 24: return wire::same_name(name, "sec-websocket-extensions");
    default: return false;
  }
}

}  // namespace

void AnswerScrubbing::ask_for_inspectable(FieldList& fields) {
  std::erase_if(
      fields, [this](const HeaderField& field) { return offers_uninspectable(field.name, accepts_parts_); });
  for (HeaderField& field : fields)
    if (field.name.size() == 15 && wire::same_name(field.name, "accept-encoding"))
      field.value = kept_.emplace_front(transform::filter_accept_encoding(field.value));
}

void AnswerScrubbing::scrub_fields(FieldList& fields) {
  std::erase_if(fields, [this](const HeaderField& field) {
    return fields_.concerns(field.name) && fields_.pass(field.name, true).data() != field.name.data();
  });
  for (HeaderField& field : fields) {
    if (!fields_.concerns(field.value)) continue;
    const std::string_view out = fields_.pass(field.value, true);
    if (out.data() != field.value.data()) field.value = kept_.emplace_front(out);
  }
}

std::string_view AnswerScrubbing::scrub_phrase(std::string_view phrase) {
  if (!fields_.concerns(phrase) || fields_.pass(phrase, true).data() == phrase.data()) return phrase;
  return {};
}

Result<void> AnswerScrubbing::begin_body(const ResponseHead& head) {
  for (const HeaderField& field : head.fields) {
    if (wire::same_name(field.name, "grpc-encoding") && !wire::same_name(field.value, "identity")) {
      return uninspectable("the origin compressed gRPC messages although it was not asked to");
    } else if (wire::same_name(field.name, "sec-websocket-extensions")) {
      return uninspectable("the origin chose a WebSocket extension that nobody offered");
    }
  }
  if (head.framing == BodyFraming::none) return {};
  if ((head.status == 206 && !accepts_parts_) || head.status == 226)
    return uninspectable("the origin sent a part that nobody asked for");
  const auto coding = transform::read_content_encoding(head.fields);
  if (!coding) return uninspectable("the answer's content coding cannot be looked into");
  if (*coding == transform::Coding::identity) return {};
  decoder_.emplace(*coding, Side::origin);
  encoder_.emplace(*coding);
  return {};
}

void AnswerScrubbing::feed(std::string_view piece, bool last) {
  if (decoder_) {
    decoder_->feed(piece, last);
  } else {
    piece_ = body_.pass(piece, last);
    fed_ = true;
  }
  last_ = last;
}

Result<BodyPiece> AnswerScrubbing::pull() {
  if (!decoder_) {
    const bool is_new = std::exchange(fed_, false);
    return BodyPiece{is_new ? std::exchange(piece_, {}) : std::string_view(), is_new && last_, false};
  }
  while (true) {
    auto coded = encoder_->pull();
    if (!coded) return std::unexpected(std::move(coded.error()));
    if (!coded->empty()) return BodyPiece{*coded, false, false};
    if (flushed_) return BodyPiece{{}, true, false};
    auto plain = decoder_->pull();
    if (!plain) return std::unexpected(std::move(plain.error()));
    flushed_ = plain->empty() && last_;
    if (plain->empty() && !flushed_) return BodyPiece{};
    encoder_->feed(body_.pass(*plain, flushed_), flushed_);
  }
}

void AnswerScrubbing::begin_tunnel(bool websocket) {
  if (websocket) websocket_ = std::make_unique<WebSocketScrubbing>(std::span(scrubbers_).first(count_));
}

Result<std::string_view> AnswerScrubbing::pass_tunnel(std::string_view bytes, bool last) {
  if (websocket_) return websocket_->pass(bytes, last);
  return body_.pass(bytes, last);
}

/// True when the head is whole; then the frame's payload begins.
Result<void> WebSocketScrubbing::take_head() {
  const auto byte = [this](std::size_t at) { return static_cast<unsigned char>(head_[at]); };
  const unsigned opcode = byte(0) & 0x0f;
  if (byte(0) & 0x70) return uninspectable("a WebSocket frame is compressed although nobody agreed to that");
  if (byte(1) & 0x80) return uninspectable("a WebSocket frame of the origin is masked");
  const unsigned length = byte(1) & 0x7f;
  const std::size_t extended = length == 126 ? 2 : length == 127 ? 8 : 0;
  if (head_.size() < 2 + extended) return {};
  payload_left_ = length;
  if (extended) payload_left_ = 0;
  for (std::size_t i = 0; i < extended; ++i) payload_left_ = payload_left_ << 8 | byte(2 + i);
  control_frame_ = opcode >= 8;
  final_frame_ = (byte(0) & 0x80) != 0;
  if (control_frame_ && (payload_left_ > 125 || !final_frame_))
    return uninspectable("a control frame of the origin is too long");
  if (payload_left_ >> 63) return uninspectable("a WebSocket frame of the origin has no length");
  in_payload_ = true;
  waiting_.push_back({false, 0, std::exchange(head_, {})});
  if (payload_left_ == 0) take_payload({}, true);
  return {};
}

void WebSocketScrubbing::take_payload(std::string_view bytes, bool last) {
  if (control_frame_) {
    control_ += bytes;
    if (last && !control_.empty()) {
      waiting_.push_back({false, 0, std::string(controls_.pass(control_, true))});
      control_.clear();
    }
  } else {
    if (!bytes.empty()) waiting_.push_back({true, bytes.size(), {}});
    released_ += messages_.pass(bytes, last && final_frame_);
  }
  payload_left_ -= bytes.size();
  if (last) in_payload_ = false;
}

void WebSocketScrubbing::release() {
  std::size_t used = 0;
  while (!waiting_.empty()) {
    Segment& segment = waiting_.front();
    if (segment.payload) {
      const std::size_t size = std::min(segment.size, released_.size() - used);
      out_.append(released_, used, size);
      used += size;
      segment.size -= size;
      if (segment.size != 0) break;
    } else {
      out_ += segment.fixed;
    }
    waiting_.pop_front();
  }
  released_.erase(0, used);
}

Result<std::string_view> WebSocketScrubbing::pass(std::string_view bytes, bool last) {
  out_.clear();
  while (!bytes.empty()) {
    if (in_payload_) {
      const std::size_t size = std::min<std::uint64_t>(payload_left_, bytes.size());
      take_payload(bytes.substr(0, size), size == payload_left_);
      bytes.remove_prefix(size);
    } else {
      head_ += bytes.front();
      bytes.remove_prefix(1);
      if (head_.size() < 2) continue;
      if (auto taken = take_head(); !taken) return std::unexpected(std::move(taken.error()));
    }
  }
  if (last) released_ += messages_.pass({}, true);  // The connection ends within a message.
  release();
  // What waits for the end of a possible secret is short, unless somebody makes it long.
  constexpr std::size_t waiting_max = 4096;
  if (waiting_.size() > waiting_max) return uninspectable("a WebSocket message comes in too many frames");
  return std::string_view(out_);
}

}  // namespace postern::proxy
