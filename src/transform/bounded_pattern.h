#pragma once
// A regular expression of a policy, taken apart so that it can be looked for in a stream.
//
// A stream needs to know two things that no library tells: how long a match may be, and whether what has come
// so far could be the beginning of one. So patterns are read here, in the part of RE2's syntax whose meaning
// every engine shares, and written out three times: as a cheap first look, as the exact expression, and as
// the expression of all its beginnings.

#include <cstddef>
#include <expected>
#include <string>
#include <string_view>

namespace postern::transform {

inline constexpr std::size_t pattern_bytes_max = 512;
/// What one match may cover. It bounds what is held back.
inline constexpr std::size_t pattern_match_max = 256;

struct BoundedPattern {
  std::string exact;  ///< RE2, Latin-1, longest match.
  std::string scan;   ///< Vectorscan; matches wherever `exact` does, and perhaps elsewhere.
  std::string
      beginning;  ///< RE2, Latin-1: everything that something could be appended to, and matches themselves.
  std::size_t length_max = 0;
  bool ignore_case = false;  ///< "(?i)" in front. `exact` and `beginning` say so themselves, `scan` does not.
};

/// Literals, escapes (\d \w \s and their opposites, \n \t \r, \xHH), classes of ASCII, ".", groups,
/// alternatives, repeats with an upper bound, \b, and (?i) in front. A class and "." stand for one byte. The
/// complaint is a clause about the pattern: "has no upper bound for '+': write {1,64}".
std::expected<BoundedPattern, std::string> read_pattern(std::string_view pattern);

}  // namespace postern::transform
