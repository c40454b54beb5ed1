#pragma once
// A closer look at what a hint points to: is it an e-mail address, a card number, a key? One function for
// each hint, exact about lengths, check digits and what may stand beside.
//
// Each looks at most `look_behind` bytes before where a match begins, and calls no match done before it has
// seen the byte behind it (or knows that there is none). So what is found does not depend on how a stream was
// cut.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "transform/digit_scan.h"

namespace postern::transform {

inline constexpr std::size_t look_behind = 128;

/// What is at hand of a stream. text[..begin) has gone on already and is there to be looked at.
struct Window {
  std::string_view text;
  std::size_t begin = 0;
  bool last = false;  ///< Nothing follows.
};

/// What goes on behind the end that was found, as long as it may: see Remainder.
enum class Rest : std::uint8_t { none, pem, pgp, jwt };

struct Found {
  enum class State : std::uint8_t { no, yes, undecided } state = State::no;
  std::size_t begin = 0;  ///< When undecided: no match of this hint begins before.
  std::size_t end = 0;
  Rest rest = Rest::none;
};

Found look_closer(const Window& window, Hinted hinted);

/// Where the earliest match could begin whose hint has not come yet.
std::size_t earliest_beginning(std::string_view text, Hint hint);

/// The rest of a match that may be long: the body of a key up to its END line, the second half of a token. It
/// is taken as it comes, so that nothing of it is held back.
class Remainder {
 public:
  Remainder() = default;
  Remainder(Rest rest, std::size_t at) : rest_(rest), at_(at) {}

  bool open() const { return rest_ != Rest::none; }
  /// How far it reaches, so far.
  std::size_t end() const { return at_; }
  void advance(std::string_view text, std::size_t limit);
  /// The bytes before `by` are gone.
  void shift(std::size_t by) { at_ = at_ > by ? at_ - by : 0; }

 private:
  bool take(std::string_view text);
  bool take_key(std::string_view text);

  Rest rest_ = Rest::none;
  std::size_t at_ = 0, taken_ = 0;
  unsigned marker_ = 0;   // how much of "-----END " was just seen
  unsigned closing_ = 0;  // dashes behind the label
  bool in_end_line_ = false;
  unsigned dots_ = 0;
};

/// RFC 7515's compact form leaves this to the reader: base64url without padding.
bool is_base64url(char c);

}  // namespace postern::transform
