// The chunked coding, RFC 9112 §7.1. One byte decides at a time, so that where the input was split can never
// change what it says.

#include <algorithm>
#include <limits>

#include "wire/http1.h"
#include "wire/http1_bytes.h"

namespace postern::wire {

namespace {

constexpr std::size_t size_digits_max = 16;

int hexadecimal(unsigned char byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  const unsigned char letter = byte | 0x20;
  if (letter >= 'a' && letter <= 'f') return letter - 'a' + 10;
  return -1;
}

}  // namespace

bool is_forbidden_trailer(std::string_view name) {
  static constexpr std::string_view forbidden[] = {
      "host",
      "content-length",
      "authorization",
      "www-authenticate",
      "authentication-info",
      "cookie",
      "set-cookie",
      "cache-control",
      "expect",
      "max-forwards",
      "pragma",
      "range",
      "age",
      "expires",
      "date",
      "location",
      "retry-after",
      "vary",
      "warning",
      "if-match",
      "if-none-match",
      "if-modified-since",
      "if-unmodified-since",
      "if-range",
      "proxy-authentication-info",
  };
  if (is_hop_by_hop(name)) return true;
  for (std::string_view one : forbidden) {
    if (same_name(name, one)) return true;
  }
  // Content-Digest is computed from the content and made for trailers (RFC 9530 §2).
  return name.size() > 8 && same_name(name.substr(0, 8), "content-") && !same_name(name, "content-digest");
}

std::unexpected<Error> ChunkDecoder::refuse(const char* detail) {
  state_ = State::failed;
  return fail(Reason::malformed_request, detail);
}

void ChunkDecoder::reset() {
  state_ = State::size;
  remaining_ = 0;
  line_bytes_ = 0;
  part_bytes_ = 0;
  section_.clear();
  section_scanned_ = 0;
  trailers_.clear();
}

/// One byte of `chunk-size [ chunk-ext ] CRLF`. No white space anywhere but in quotes ("bad" white space by
/// its own name, and what desynchronised others). Returns why not, or nullptr.
const char* ChunkDecoder::size_line_byte(unsigned char byte) {
  const char c = static_cast<char>(byte);
  const auto begin = [this](State state) {
    state_ = state;
    part_bytes_ = 0;
  };
  const auto end_of_part = [&]() -> const char* {
    if (part_bytes_ == 0) return "empty chunk size or extension";
    if (c == ';') {
      begin(State::extension_name);
    } else if (c == '\r') {
      begin(State::size_line_feed);
    } else {
      return "malformed chunk size or extension";
    }
    return nullptr;
  };

  switch (state_) {
    case State::size:
      if (const int digit = hexadecimal(byte); digit >= 0) {
        if (++part_bytes_ > size_digits_max) return "too many digits in a chunk size";
        remaining_ = remaining_ << 4 | static_cast<unsigned>(digit);
        return nullptr;
      }
      if (remaining_ > std::numeric_limits<std::int64_t>::max()) return "chunk size too large";
      return end_of_part();
    case State::extension_name:
      if (c == '=' && part_bytes_ > 0) {
        begin(State::extension_value);
        return nullptr;
      }
      [[fallthrough]];
    case State::extension_value:
      if (http1::is(c, http1::token_byte)) {
        ++part_bytes_;
        return nullptr;
      }
      if (c == '"' && state_ == State::extension_value && part_bytes_ == 0) {
        begin(State::extension_quoted);
        return nullptr;
      }
      return end_of_part();
    case State::extension_quoted:
      part_bytes_ = 1;  // "" is a value too
      if (http1::is_control(c)) return "control character in a chunk extension";
      if (c == '"') state_ = State::extension_end;
      if (c == '\\') state_ = State::extension_escape;
      return nullptr;
    case State::extension_escape:
      if (http1::is_control(c)) return "control character in a chunk extension";
      state_ = State::extension_quoted;
      return nullptr;
    case State::extension_end: return end_of_part();
    case State::size_line_feed:
      if (c != '\n') return "bare CR in a chunk size";
      state_ = remaining_ > 0 ? State::data : State::trailers;
      line_bytes_ = 0;
      return nullptr;
    default: return "not a chunk size";
  }
}

Result<ChunkDecoder::Step> ChunkDecoder::step(std::string_view bytes) {
  std::size_t at = 0;
  while (at != bytes.size()) {
    switch (state_) {
      case State::data: {
        const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(remaining_, bytes.size() - at));
        remaining_ -= length;
        if (remaining_ == 0) state_ = State::data_return;
        return Step{at + length, bytes.substr(at, length), false};
      }
      case State::data_return:
        if (bytes[at++] != '\r') return refuse("no CR after chunk data");
        state_ = State::data_line_feed;
        break;
      case State::data_line_feed:
        if (bytes[at++] != '\n') return refuse("no LF after chunk data");
        state_ = State::size;
        part_bytes_ = 0;
        break;
      case State::trailers: return read_trailers(bytes, at);
      case State::finished: return Step{at, {}, true};
      case State::failed: return refuse("the body was refused before");
      default:
        if (++line_bytes_ > chunk_line_bytes_max) return refuse("chunk extensions too long");
        if (const char* why = size_line_byte(static_cast<unsigned char>(bytes[at++]))) return refuse(why);
        break;
    }
  }
  return Step{at, {}, state_ == State::finished};
}

/// The trailer section, RFC 9112 §7.1.2. Kept whole, because its fields are handed out as views.
Result<ChunkDecoder::Step> ChunkDecoder::read_trailers(std::string_view bytes, std::size_t consumed) {
  const std::size_t before = section_.size();
  const std::string_view more = bytes.substr(consumed, trailer_bytes_max - before);
  section_.insert(section_.end(), more.begin(), more.end());
  const http1::End found =
      http1::find_end({section_.data(), section_.size()}, section_scanned_, http1::FirstLine::may_end);
  if (found.refused != nullptr) return refuse(found.refused);
  if (found.length == 0) {
    if (section_.size() == trailer_bytes_max) return refuse("trailers too long");
    return Step{bytes.size(), {}, false};
  }
  section_.resize(found.length);
  const char* at = section_.data();
  const char* const end = at + found.length - 2;
  for (std::size_t fields = 0; at != end; ++fields) {
    HeaderField field;
    if (fields == head_fields_max) return refuse("too many trailers");
    if (const char* why = http1::read_field(at, end, field)) return refuse(why);
    if (!is_forbidden_trailer(field.name)) trailers_.push_back(field);
  }
  state_ = State::finished;
  return Step{consumed + found.length - before, {}, true};
}

}  // namespace postern::wire
