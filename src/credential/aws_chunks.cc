#include "credential/aws_chunks.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <optional>
#include <vector>

#include "credential/aws_canonical.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

constexpr std::string_view signature_extension = ";chunk-signature=";
constexpr std::string_view trailer_signature_name = "x-amz-trailer-signature";
constexpr std::size_t signature_digits = 64;

bool is_hex_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool is_signature(std::string_view text) {
  return text.size() == signature_digits && std::ranges::all_of(text, is_hex_digit);
}

std::optional<std::uint64_t> read_size(std::string_view text) {
  std::uint64_t size = 0;
  if (text.empty() || !std::ranges::all_of(text, is_hex_digit)) return std::nullopt;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), size, 16);
  if (read.ec != std::errc() || size > INT64_MAX) return std::nullopt;
  return size;
}

}  // namespace

AwsChunkResigner::AwsChunkResigner(AwsChunkForm form, AwsChunkSeed seed)
    : form_(form), seed_(std::move(seed)), previous_(seed_.signature) {}

std::unexpected<Error> AwsChunkResigner::refuse(std::string detail) {
  state_ = State::failed;
  return fail(Reason::unsignable_request, "the body in AWS chunks " + std::move(detail), Side::sandbox);
}

Result<BodySigner::Step> AwsChunkResigner::step(std::string_view input) {
  if (state_ == State::failed) return refuse("was refused before");
  if (state_ == State::finished) {
    if (!input.empty()) return refuse("goes on behind its end");
    return Step{0, {}, true};
  }
  if (whole_) held_.clear();
  whole_ = false;
  std::string_view rest = input;
  // A signed chunk is given out by itself; unsigned bytes go on as they came, up to the end of the body.
  while (!rest.empty() && !whole_ && state_ != State::finished) {
    if (auto taken = take(rest); !taken) return std::unexpected(std::move(taken.error()));
  }
  Step step;
  step.consumed = input.size() - rest.size();
  step.finished = state_ == State::finished;
  if (!is_signed()) {
    step.output = input.substr(0, step.consumed);
  } else if (whole_) {
    step.output = held_;
  }
  return step;
}

Result<void> AwsChunkResigner::take(std::string_view& rest) {
  switch (state_) {
    case State::size_line: {
      const auto complete = take_line(rest, aws_chunk_line_bytes_max);
      if (!complete) return std::unexpected(complete.error());
      return *complete ? begin_chunk() : Result<void>();
    }
    case State::data: take_data(rest); return {};
    case State::data_return:
    case State::data_line_feed: {
      const bool first = state_ == State::data_return;
      if (rest.front() != (first ? '\r' : '\n')) return refuse("has a chunk that is longer than it says");
      if (is_signed()) held_ += rest.front();
      rest.remove_prefix(1);
      state_ = first ? State::data_line_feed : State::size_line;
      if (!first) end_chunk();
      return {};
    }
    case State::trailer: {
      const auto complete = take_line(rest, aws_chunk_trailer_bytes_max);
      if (!complete) return std::unexpected(complete.error());
      return *complete ? end_trailer_line() : Result<void>();
    }
    case State::finished:
    case State::failed: break;
  }
  return {};
}

/// True when held_ has, from line_at_, a line with its end.
Result<bool> AwsChunkResigner::take_line(std::string_view& rest, std::size_t limit) {
  const std::size_t feed = rest.find('\n');
  const std::string_view piece = rest.substr(0, feed == rest.npos ? feed : feed + 1);
  const std::size_t section = state_ == State::trailer ? trailer_at_ : line_at_;
  if (held_.size() - section + piece.size() > limit)
    return refuse(fmt::format("has a {} of more than {} bytes",
                              state_ == State::trailer ? "trailer section" : "size line", limit));
  held_ += piece;
  rest.remove_prefix(piece.size());
  if (feed == std::string_view::npos) return false;
  const std::string_view line = std::string_view(held_).substr(line_at_);
  if (!line.ends_with("\r\n") || line.find('\r') != line.size() - 2)
    return refuse("has a line that does not end in CR LF");
  return true;
}

/// The size line is complete: SIZE[;chunk-signature=DIGITS].
Result<void> AwsChunkResigner::begin_chunk() {
  std::string_view line = std::string_view(held_).substr(line_at_);
  line.remove_suffix(2);
  const std::size_t size_end = is_signed() ? line.find(';') : line.size();
  const auto size = read_size(line.substr(0, size_end));
  if (!size) return refuse("has a chunk without a size");
  if (is_signed()) {
    const std::string_view extension = line.substr(std::min(size_end, line.size()));
    if (!extension.starts_with(signature_extension) ||
        !is_signature(extension.substr(signature_extension.size())))
      return refuse("has a chunk without a signature of 64 digits");
    if (*size > aws_chunk_bytes_max)
      return refuse(
          fmt::format("has a signed chunk of {} bytes. At most {} can be signed anew: let the client "
                      "send smaller chunks, or UNSIGNED-PAYLOAD",
                      *size, aws_chunk_bytes_max));
    signature_at_ = held_.size() - 2 - signature_digits;
  } else {
    held_.clear();
  }
  // Both are below 2^63.
  total_ += *size;
  if (seed_.decoded_length && (*size > 0 ? total_ > *seed_.decoded_length : total_ < *seed_.decoded_length))
    return refuse(fmt::format("has {} data than its x-amz-decoded-content-length, {}",
                              *size > 0 ? "more" : "less", *seed_.decoded_length));
  remaining_ = *size;
  if (remaining_ > 0) {
    state_ = State::data;
    // Memory that is not written yet costs nothing, so a size that no data follows does not either.
    if (is_signed()) held_.reserve(held_.size() + static_cast<std::size_t>(remaining_) + 2);
    return {};
  }
  if (is_signed()) sign_chunk();
  state_ = State::trailer;
  trailer_at_ = line_at_ = held_.size();
  return {};
}

void AwsChunkResigner::take_data(std::string_view& rest) {
  const std::string_view piece =
      rest.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(remaining_, rest.size())));
  if (is_signed()) {
    hash_.update(piece);
    held_ += piece;
  }
  rest.remove_prefix(piece.size());
  remaining_ -= piece.size();
  if (remaining_ == 0) state_ = State::data_return;
}

void AwsChunkResigner::end_chunk() {
  line_at_ = 0;
  if (!is_signed()) return;
  sign_chunk();
  whole_ = true;
}

Result<void> AwsChunkResigner::end_trailer_line() {
  std::string_view line = std::string_view(held_).substr(line_at_);
  line.remove_suffix(2);
  line_at_ = held_.size();
  if (line.empty()) {
    if (form_ == AwsChunkForm::signed_chunks_with_trailer) {
      if (auto written = sign_trailer(); !written) return written;
    }
    state_ = State::finished;
    whole_ = is_signed();
    return {};
  }
  if (form_ == AwsChunkForm::signed_chunks) return refuse("has a trailer, which its head did not announce");
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos || !wire::is_field_name(line.substr(0, colon)) ||
      !wire::is_field_value(line.substr(colon + 1)))
    return refuse("has a trailer that is no header field");
  return {};
}

void AwsChunkResigner::sign_chunk() {
  message_.assign("AWS4-HMAC-SHA256-PAYLOAD\n").append(seed_.amz_date).append(1, '\n');
  message_.append(seed_.scope).append(1, '\n').append(previous_).append(1, '\n');
  message_.append(sha256_of_nothing).append(1, '\n');
  append_hex(hash_.finish(), message_);
  sign(message_, signature_at_);
}

/// The trailer section is complete, every line of it looked at.
Result<void> AwsChunkResigner::sign_trailer() {
  std::vector<HeaderField> fields;
  std::size_t signature_at = 0;
  std::string_view section = std::string_view(held_).substr(trailer_at_);
  while (!section.starts_with("\r\n")) {
    const std::string_view line = section.substr(0, section.find("\r\n"));
    section.remove_prefix(line.size() + 2);
    const HeaderField field{line.substr(0, line.find(':')), aws_trimmed(line.substr(line.find(':') + 1))};
    if (!wire::same_name(field.name, trailer_signature_name)) {
      fields.push_back(field);
      continue;
    }
    if (signature_at != 0 || !is_signature(field.value))
      return refuse("has no single x-amz-trailer-signature of 64 digits");
    signature_at = static_cast<std::size_t>(field.value.data() - held_.data());
  }
  if (signature_at == 0) return refuse("has no x-amz-trailer-signature");
  std::string canonical;
  append_canonical_fields(fields, canonical);
  message_.assign("AWS4-HMAC-SHA256-TRAILER\n").append(seed_.amz_date).append(1, '\n');
  message_.append(seed_.scope).append(1, '\n').append(previous_).append(1, '\n');
  append_hex(sha256(canonical), message_);
  sign(message_, signature_at);
  return {};
}

void AwsChunkResigner::sign(std::string_view message, std::size_t at) {
  previous_.clear();
  append_hex(seed_.key->sign(message), previous_);
  held_.replace(at, signature_digits, previous_);
}

}  // namespace postern::credential
