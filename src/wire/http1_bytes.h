#pragma once
// What HTTP/1.1 calls a token, a field value, a line: the byte-level ground under http1_*.cc. Not for callers
// outside of wire/http1*.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "model/http.h"

namespace postern::wire::http1 {

/// Character classes, one bit each.
enum Class : std::uint8_t {
  token_byte = 1,   // RFC 9110 §5.6.2
  target_byte = 2,  // visible ASCII without '#': a fragment never belongs on the wire (RFC 9112 §3.2)
  host_byte = 4,    // RFC 3986 §3.2.2 uri-host and port, no userinfo, no list
};

constexpr std::array<std::uint8_t, 256> make_classes() {
  std::array<std::uint8_t, 256> classes{};
  const auto mark = [&](std::string_view bytes, std::uint8_t bit) {
    for (char c : bytes) classes[static_cast<unsigned char>(c)] |= bit;
  };
  constexpr std::string_view alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  mark(alphanumeric, token_byte | host_byte);
  mark("!#$%&'*+-.^_`|~", token_byte);
  mark("-._~%!$&'()*+;=:[]", host_byte);
  for (int c = 0x21; c <= 0x7e; ++c) {
    if (c != '#') classes[static_cast<std::size_t>(c)] |= target_byte;
  }
  return classes;
}
inline constexpr std::array<std::uint8_t, 256> classes = make_classes();

inline bool is(char c, Class wanted) { return (classes[static_cast<unsigned char>(c)] & wanted) != 0; }

/// The first byte in [from, to) that is not of the class; `to` if there is none.
inline const char* skip(const char* from, const char* to, Class wanted) {
  while (from != to && is(*from, wanted)) ++from;
  return from;
}

inline bool all(std::string_view bytes, Class wanted) {
  return skip(bytes.data(), bytes.data() + bytes.size(), wanted) == bytes.data() + bytes.size();
}

/// True for what may never stand inside a line: C0 controls but HTAB, and DEL.
inline bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && byte != '\t') || byte == 0x7f;
}

/// The first control character (HTAB is none) in [from, to); `to` if there is none. Eight bytes at a time:
/// most of a head is text.
inline const char* find_control(const char* from, const char* to) {
  static_assert(std::endian::native == std::endian::little, "the first hit is the lowest set bit");
  constexpr std::uint64_t ones = 0x0101010101010101;
  while (to - from >= 8) {
    std::uint64_t word;
    std::memcpy(&word, from, sizeof word);
    const std::uint64_t deletes = word ^ (ones * 0x7f);
    // High bit set where the byte is below 0x20, or is DEL. Borrows only make hits above a true one.
    const std::uint64_t hits =
        (((word - ones * 0x20) & ~word) | ((deletes - ones) & ~deletes)) & (ones * 0x80);
    if (hits == 0) {
      from += 8;
      continue;
    }
    from += std::countr_zero(hits) / 8;
    if (*from != '\t') return from;
    ++from;
  }
  while (from != to && !is_control(*from)) ++from;
  return from;
}

/// Without spaces and tabs around it: OWS (RFC 9110 §5.6.3).
inline std::string_view trimmed(const char* from, const char* to) {
  while (from != to && (*from == ' ' || *from == '\t')) ++from;
  while (from != to && (to[-1] == ' ' || to[-1] == '\t')) --to;
  return {from, static_cast<std::size_t>(to - from)};
}

/// What an empty first line means to find_end().
enum class FirstLine : std::uint8_t {
  may_be_empty,  ///< RFC 9112 §2.2: before a start line it is skipped.
  may_end,       ///< A trailer section without fields.
};

struct End {
  std::size_t length = 0;         ///< Including the empty line; 0 when more is needed.
  const char* refused = nullptr;  ///< Why the bytes can never be a section of lines.
};

/// Looks for the empty line that ends a section of CRLF lines. `scanned` carries on between calls over a
/// growing `bytes`.
End find_end(std::string_view bytes, std::size_t& scanned, FirstLine first);

/// Reads one `name ":" OWS value OWS CRLF` at `at` (RFC 9112 §5) and moves it behind the line. Returns why
/// not, or nullptr.
const char* read_field(const char*& at, const char* end, HeaderField& field);

}  // namespace postern::wire::http1
