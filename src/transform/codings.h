#pragma once
// Content codings (RFC 9110 §8.4) undone and done again while a body streams: gzip, deflate, br, zstd.
//
// What Postern looks for in a body it has to see uncompressed. Both directions work in steps: feed() takes a
// piece, and pull() is asked until it has nothing more. No step yields more than `coding_step_bytes_max`, so
// that a bomb is never unpacked further than somebody wants it, and every coder's memory has a limit
// (coder_memory_max()). Bodies that expand beyond all reason are refused as they go (DecodeLimits).
//
// A coder belongs to one body and knows no thread. Nothing here throws.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "model/http.h"

namespace postern::transform {

enum class Coding : std::uint8_t { identity, gzip, deflate, br, zstd };

/// What one pull() yields at most.
inline constexpr std::size_t coding_step_bytes_max = 16 * KiB;

/// How the field names it, e.g. "gzip". Static storage.
std::string_view token(Coding coding);

/// Whether one name out of a list is a coding that we decode; "x-gzip" and "identity" are. In any case.
bool is_supported(std::string_view coding);

/// The one coding that a Content-Encoding field (all its lines, joined by commas) names; identity for an
/// empty one. nullopt: one that we do not know, or more than one, which only a body made to hide something
/// has.
std::optional<Coding> read_content_encoding(std::string_view value);

/// Of a message's fields: every Content-Encoding line, as one list.
std::optional<Coding> read_content_encoding(std::span<const HeaderField> fields);

/// An Accept-Encoding value (RFC 9110 §12.5.3) with only the elements in it that we decode, weights and all,
/// as they were written. "*" stays only where it forbids. Never empty: "identity" when nothing is left.
std::string filter_accept_encoding(std::string_view value);

/// When a body expands so far that it must have been made for it. gzip reaches 1,032:1 at most, on zeros; br
/// and zstd know no bound. Text of the sort that APIs send stays below 100:1, so beyond `free_bytes` of
/// output `ratio` is what a body may cost more than its transfer. Memory does not depend on either.
struct DecodeLimits {
  std::uint64_t free_bytes = 4 * MiB;
  std::uint64_t ratio = 250;
};

/// Bytes that a decoder or an encoder of this coding holds at most, its step included.
std::size_t decoder_memory_max(Coding coding);
std::size_t encoder_memory_max(Coding coding);

namespace detail {
class CodingEngine;
}

/// From the coding to the bytes. Accepted: several members of gzip and frames of zstd one after the other
/// (RFC 1952 §2.2, RFC 8878 §3), deflate with and without its zlib wrapper, and a body of no bytes at all.
/// Refused: bytes behind the end, an end that does not come, windows above 8 MiB for zstd (RFC 9659).
class Decoder {
 public:
  /// `sender` is whom errors blame: the sandbox (malformed_request, body_too_large for a bomb) or the origin
  /// (origin_malformed_response).
  Decoder(Coding coding, Side sender, DecodeLimits limits = {});
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  /// The piece must stay where it is until pull() said that there is no more of it. `last`: nothing follows.
  void feed(std::string_view piece, bool last);
  /// What is next, valid until the next call; empty: the piece is used up, and after the last one the body is
  /// whole. After an error there are only errors.
  Result<std::string_view> pull();

 private:
  std::unexpected<Error> refuse(std::string_view what, bool too_large = false);

  std::unique_ptr<detail::CodingEngine> engine_;  // none for identity
  std::unique_ptr<char[]> room_;
  std::string_view piece_;
  Coding coding_;
  Side sender_;
  DecodeLimits limits_;
  std::uint64_t taken_ = 0, given_ = 0;
  bool last_ = false, failed_ = false;
};

/// From bytes to the coding, fast rather than small. Every piece that is fed comes out whole, so that whoever
/// waits for an event of a stream has it at once.
class Encoder {
 public:
  explicit Encoder(Coding coding);
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  /// As for Decoder.
  void feed(std::string_view piece, bool last);
  /// As for Decoder. Errors: overloaded (there is no memory).
  Result<std::string_view> pull();

 private:
  std::unique_ptr<detail::CodingEngine> engine_;
  std::unique_ptr<char[]> room_;
  std::string_view piece_;
  bool last_ = false, busy_ = false, failed_ = false;
};

}  // namespace postern::transform
