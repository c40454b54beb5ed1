#include "http2/stream.h"

#include <fmt/format.h>

#include "http2/session.h"

namespace postern::http2 {

namespace {

constexpr std::size_t kept_bytes_max = 16 * KiB;  // of a body buffer, between two pieces

}  // namespace

// A loop's heads that are used again, with the memory that they have.
struct UsedHeads {
  static constexpr std::size_t kept_max = 256;
  static constexpr std::size_t kept_bytes_max = 4 * KiB;  // each: larger ones are rare
  std::vector<std::unique_ptr<Head>> heads;
  static UsedHeads& local() {
    thread_local UsedHeads used;
    return used;
  }
};

HeadPtr Head::take() {
  auto& used = UsedHeads::local().heads;
  if (used.empty()) return HeadPtr(new Head);
  HeadPtr head(used.back().release());
  used.pop_back();
  return head;
}

void Head::Release::operator()(Head* head) const {
  std::unique_ptr<Head> owned(head);
  auto& used = UsedHeads::local().heads;
  if (used.size() >= UsedHeads::kept_max || head->text_.capacity() > UsedHeads::kept_bytes_max) return;
  head->clear();
  used.push_back(std::move(owned));
}

void Head::clear() {
  method = scheme = authority = path = protocol = {};
  has_authority = end_of_stream = too_large = false;
  status = 0;
  list_bytes_ = 0;
  fields.clear();
  text_.clear();
  places_.clear();
}

std::span<const HeaderField> Stream::trailers() const {
  if (!trailers_) return {};
  return trailers_->fields;
}

Error Stream::closed_error() const {
  if (connection_error_) return *connection_error_;
  const Side side = origin_ ? Side::origin : Side::sandbox;
  const Reason closed = origin_ ? Reason::origin_closed : Reason::sandbox_closed;
  if (reset_by_us_) return {Reason::cancelled, Side::self, Retry::never, "no longer needed"};
  if (peer_reset_ || close_code_ == static_cast<std::uint32_t>(ErrorCode::refused_stream)) {
    const std::uint32_t code = peer_reset_.value_or(close_code_);
    const bool unseen = code == static_cast<std::uint32_t>(ErrorCode::refused_stream);
    // RFC 9113 §8.7: refused means that nothing was done with it.
    return {closed, side, unseen ? Retry::fresh_connection : Retry::never,
            fmt::format("the stream was reset (HTTP/2 error {})", code)};
  }
  return {origin_ ? Reason::origin_malformed_response : Reason::malformed_request, side, Retry::never,
          fmt::format("the stream broke the rules of HTTP/2 (error {})", close_code_)};
}

io::Task<Result<const Head*>> Stream::next_head(TimePoint deadline) {
  while (heads_.empty()) {
    if (closed_ || ended_) co_return std::unexpected(closed_error());
    const io::Wait::Outcome outcome = co_await arrived_.until(deadline);
    if (outcome != io::Wait::Outcome::changed) co_return std::unexpected(wait_error(outcome));
  }
  head_given_ = std::move(heads_.front());
  heads_.erase(heads_.begin());
  co_return head_given_.get();
}

Error Stream::wait_error(io::Wait::Outcome outcome) const {
  if (outcome == io::Wait::Outcome::cancelled)
    return {Reason::cancelled, Side::self, Retry::never, "no longer needed"};
  return {origin_ ? Reason::origin_timeout : Reason::sandbox_timeout, origin_ ? Side::origin : Side::sandbox,
          Retry::never, "nothing happened within the time limit"};
}

io::Task<Result<BodyPiece>> Stream::read_body(TimePoint deadline) {
  if (!given_.empty()) {
    const std::size_t done = given_.size();
    given_.clear();
    if (session_) session_->consumed(*this, done);
  }
  while (incoming_.empty() && !ended_) {
    if (closed_) co_return std::unexpected(closed_error());
    if (given_.capacity() > kept_bytes_max) io::PooledString().swap(given_);
    if (incoming_.capacity() > kept_bytes_max) io::PooledString().swap(incoming_);
    const io::Wait::Outcome outcome = co_await arrived_.until(deadline);
    if (outcome != io::Wait::Outcome::changed) co_return std::unexpected(wait_error(outcome));
  }
  std::swap(incoming_, given_);
  body_given_ = ended_;
  co_return BodyPiece{given_, ended_, false};
}

void Stream::abandon_piece() {
  sending_ = false;
  piece_ = {};
  piece_trailers_ = {};
}

io::Task<Result<void>> Stream::send_body(BodyPiece piece, std::span<const HeaderField> trailers,
                                         TimePoint deadline) {
  if (closed_) co_return std::unexpected(closed_error());
  if (last_framed_ || (piece.data.empty() && !piece.last)) co_return Result<void>{};
  piece_ = piece.data;
  piece_last_ = piece.last;
  piece_trailers_ = trailers;
  sending_ = true;
  bytes_sent_ += piece.data.size();
  session_->resume(*this);
  while (sending_ && !closed_) {
    const io::Wait::Outcome outcome = co_await sent_.until(deadline);
    if (outcome == io::Wait::Outcome::changed) continue;
    abandon_piece();
    reset(ErrorCode::cancel);
    co_return std::unexpected(wait_error(outcome));
  }
  if (sending_) {
    abandon_piece();
    co_return std::unexpected(closed_error());
  }
  co_return Result<void>{};
}

void Stream::hand_over() {
  const bool something = !heads_.empty() || !incoming_.empty() || ended_ || closed_;
  if (something) arrived_.notify();
  if (!sending_ || closed_) sent_.notify();
  // An answer that is complete says more than the reset that may follow it.
  const bool gone = closed_ && (peer_reset_ || connection_error_ || (close_code_ != 0 && !reset_by_us_));
  if (gone && !told_gone_ && gone_watcher_) {
    told_gone_ = true;
    gone_watcher_->on_gone();
  }
}

}  // namespace postern::http2
