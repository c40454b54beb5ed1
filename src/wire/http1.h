#pragma once
// HTTP/1.1 on the wire (RFC 9112): bytes ⇄ heads and chunks, no I/O. Strict: what two parsers could read
// differently is refused, and only what was parsed is ever written again.
//
// The way of a message: HeadScanner says where the head ends (and refuses bad bytes as they arrive),
// parse_*_head() turns it into views, ChunkDecoder takes a chunked body apart, and HeadWriter
// (wire/http_writer.h) writes the next hop's head from values. Nothing here owns the bytes it looks at.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "model/http.h"

namespace postern::wire {

inline constexpr std::size_t head_bytes_max = 64 * KiB;   // 431 above; browsers and SDKs stay below 32 KiB
inline constexpr std::size_t head_fields_max = 256;       // 431 above
inline constexpr std::size_t method_bytes_max = 24;       // the longest registered one has 17
inline constexpr std::size_t chunk_line_bytes_max = 256;  // size and extensions; extensions are dropped
inline constexpr std::size_t trailer_bytes_max = 16 * KiB;

/// Finds where a head ends while its bytes arrive. Notices a bare CR or LF, a NUL, another control character
/// or a folded line as soon as it is there, so that a malformed head is answered at once and not at the
/// deadline.
class HeadScanner {
 public:
  /// `bytes`: everything received so far of this head, from its first byte; each call sees at least what the
  /// last one saw. Returns the head's length including the empty line, 0 when more is needed, or an Error
  /// (malformed_request, head_too_large; for a response the caller says that it was the origin). One empty
  /// line before the start line belongs to the head (RFC 9112 §2.2). Every byte is looked at once, however
  /// the head was split.
  Result<std::size_t> scan(std::string_view bytes);
  /// For a head that is given up; a head that was found resets the scanner by itself.
  void reset() { scanned_ = 0; }

 private:
  std::size_t scanned_ = 0;
};

/// Parses a complete request head. `out.fields` points into `storage`, which is cleared first and reused to
/// spare allocations. Every view is into `head` or into static storage. Errors: malformed_request,
/// malformed_host, method_not_allowed (TRACE, CONNECT), expectation_failed, head_too_large. RFC 9112 §3, §5,
/// §6.3: any doubt about the length is refused.
///
/// An absolute-form target is taken apart: `out.authority` and `out.target` become its authority and its
/// origin-form (RFC 9112 §3.2.2), and the Host field must say the same. In HTTP/1.0 `out.authority` may be
/// empty. One CRLF before the request line is skipped (RFC 9112 §2.2), a second one is refused.
Result<void> parse_request_head(std::string_view head, std::vector<HeaderField>& storage, RequestHead& out);

/// Parses a complete response head. `request_method` decides whether a body follows (RFC 9112 §6.3); it is
/// compared byte for byte. `out.upgrade` is set on 101 only. Errors: origin_malformed_response.
Result<void> parse_response_head(std::string_view head, std::string_view request_method,
                                 std::vector<HeaderField>& storage, ResponseHead& out);

/// Decodes a chunked body (RFC 9112 §7.1) piece by piece, without copying data. Only trailers are kept.
class ChunkDecoder {
 public:
  ChunkDecoder() = default;
  ChunkDecoder(ChunkDecoder&&) = default;
  ChunkDecoder& operator=(ChunkDecoder&&) = default;
  ChunkDecoder(const ChunkDecoder&) = delete;  // trailers_ has views into section_
  ChunkDecoder& operator=(const ChunkDecoder&) = delete;

  struct Step {
    std::size_t consumed = 0;  ///< Bytes of the input that are done with.
    std::string_view data;     ///< Payload inside the input; may be empty.
    bool finished = false;     ///< The last chunk and the trailer section have been read.
  };
  /// One step over `bytes`: at most one piece of data. Call again with the rest until `consumed` is all of it
  /// or `finished` is set. Errors: malformed_request (the caller says whose side it was); after one, only
  /// reset() helps.
  Result<Step> step(std::string_view bytes);
  /// Trailer fields, valid after `finished`, until reset(). Fields that RFC 9110 §6.5.1 forbids in trailers
  /// (framing, routing, authentication, content-*) are left out.
  std::span<const HeaderField> trailers() const { return trailers_; }
  void reset();

 private:
  enum class State : std::uint8_t {
    size,              // hexadecimal digits
    extension_name,    // RFC 9112 §7.1.1, from here to extension_end
    extension_value,   //
    extension_quoted,  // inside "..."
    extension_escape,  // after a backslash
    extension_end,     // after the closing quote
    size_line_feed,    // the CR of the size line was read
    data,
    data_return,  // CR, then LF after the data
    data_line_feed,
    trailers,
    finished,
    failed,
  };
  const char* size_line_byte(unsigned char byte);
  Result<Step> read_trailers(std::string_view bytes, std::size_t consumed);
  std::unexpected<Error> refuse(const char* detail);

  State state_ = State::size;
  std::uint64_t remaining_ = 0;  ///< Of this chunk's data.
  std::size_t line_bytes_ = 0;   ///< Of the size line so far.
  std::size_t part_bytes_ = 0;   ///< Of the size, or of the extension's name or value, so far.
  std::vector<char> section_;    ///< The trailer section; a vector, so that moving keeps the views valid.
  std::size_t section_scanned_ = 0;
  std::vector<HeaderField> trailers_;
};

/// True for fields that end at this hop (RFC 9110 §7.6.1): Connection, Keep-Alive, Proxy-Connection,
/// Transfer-Encoding, TE, Trailer, Upgrade, Proxy-Authorization, Proxy-Authenticate, HTTP2-Settings.
bool is_hop_by_hop(std::string_view field_name);

/// RFC 9110 §6.5.1: fields that frame, route, authenticate or change how the content is read must not come
/// after it; a receiver that merged them into the head would be told something new about a judged message.
bool is_forbidden_trailer(std::string_view name);

/// True when a Connection field among `fields` lists `name` (RFC 9110 §7.6.1): it ends at this hop too.
bool nominated(std::span<const HeaderField> fields, std::string_view name);

/// Names are ASCII: no other letter has a small form.
constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }
std::string lower(std::string_view text);

/// ASCII case-insensitive equality.
bool same_name_of_same_size(std::string_view a, std::string_view b);
inline bool same_name(std::string_view a, std::string_view b) {
  return a.size() == b.size() && same_name_of_same_size(a, b);
}

/// True when `list` (a comma-separated field value) has `token`, ignoring case.
bool has_token(std::string_view list, std::string_view token);

/// RFC 9110 §5.1 token, and a value without CR, LF, NUL or other control characters except HTAB.
bool is_field_name(std::string_view name);
bool is_field_value(std::string_view value);

/// A request target as it may stand in a request line: one or more visible ASCII characters, no '#'.
bool is_request_target(std::string_view target);

}  // namespace postern::wire
