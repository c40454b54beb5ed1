#pragma once
// The first look for what is made of digits: cards, phone numbers, addresses.
//
// No literal announces these, and an automaton over "four digits, perhaps a dash" takes a step for every
// byte. Here 64 bytes at a time become bit masks (one bit for each byte that is a digit, a dash, ...), and a
// whole shape is a few shifts and ands of those.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace postern::transform {

/// Something that starts to look like one of the shapes (shapes.h), for a closer look.
enum class Hint : std::uint8_t {
  at_sign,       ///< "@"
  plus_digit,    ///< "+1"
  phone_digits,  ///< "555-0123", with "-", "." or " "
  card_run,      ///< The first 13 digits in a row.
  card_groups,   ///< "4111 1111" or "4111-1111"
  ssn_digits,    ///< "123-45-6789"
  iban_start,    ///< "DE89"
  dotted,        ///< "1.23.4.5": three dots among digits
  aws_prefix,    ///< "AKIA" and its like
  github_prefix,
  github_pat_prefix,
  key_line,   ///< "PRIVATE KEY-----"
  jwt_start,  ///< "eyJ"
};

struct Hinted {
  Hint hint;
  std::size_t end;  ///< Behind its last byte.
};

constexpr unsigned bit(Hint hint) { return 1U << static_cast<unsigned>(hint); }
inline constexpr unsigned digit_hints = bit(Hint::plus_digit) | bit(Hint::phone_digits) |
                                        bit(Hint::card_run) | bit(Hint::card_groups) | bit(Hint::ssn_digits) |
                                        bit(Hint::iban_start) | bit(Hint::dotted);

/// Appends what ends within text[begin..]. Whoever looks closer looks at what is before.
void scan_digits(std::string_view text, std::size_t begin, unsigned wanted, std::vector<Hinted>& found);

}  // namespace postern::transform
