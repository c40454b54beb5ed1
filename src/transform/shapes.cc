#include "transform/shapes.h"

#include <algorithm>
#include <array>
#include <span>

namespace postern::transform {
namespace {

using State = Found::State;

constexpr std::size_t email_local_max = 64;    // RFC 5321 §4.5.3.1.1
constexpr std::size_t email_domain_max = 253;  // RFC 1035 §2.3.4, as text
constexpr std::size_t phone_bytes_max = 24;
constexpr std::size_t phone_digits_min = 8, phone_digits_max = 15;  // E.164 has no more
constexpr std::size_t digits_held_max = 40;
constexpr std::size_t jwt_header_max = 2048;
constexpr std::size_t github_token_max = 255;
// From "-----BEGIN " to "PRIVATE KEY-----"
constexpr std::size_t key_label_max = 40;
// A body without an END line does not go on for ever.
constexpr std::size_t key_bytes_max = 64 << 10;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_alpha(char c) { return is_upper(c) || (c >= 'a' && c <= 'z'); }
bool is_alnum(char c) { return is_digit(c) || is_alpha(c); }
bool is_word(char c) { return is_alnum(c) || c == '_'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_local(char c) { return is_word(c) || c == '.' || c == '%' || c == '+' || c == '-'; }
bool is_domain(char c) { return is_alnum(c) || c == '.' || c == '-'; }

constexpr Found nothing{};
Found undecided(std::size_t begin) { return {State::undecided, begin, 0}; }
Found match(std::size_t begin, std::size_t end, Rest rest = Rest::none) {
  return {State::yes, begin, end, rest};
}

/// Reading forward in what is there.
class Ahead {
 public:
  explicit Ahead(const Window& window) : text_(window.text), last_(window.last) {}

  /// Whether it can be known what is at this place.
  bool knows(std::size_t at) const { return at < text_.size() || last_; }
  /// The byte there, or 0 behind the end.
  char operator[](std::size_t at) const { return at < text_.size() ? text_[at] : '\0'; }

  template <class Class>
  std::size_t run(std::size_t at, Class of_class, std::size_t most) const {
    std::size_t end = at;
    while (end < text_.size() && end - at < most && of_class(text_[end])) ++end;
    return end;
  }

 private:
  std::string_view text_;
  bool last_;
};

/// Whether the byte at `at` is escaped by a backslash before it. Texts lie in JSON strings more often than
/// not.
bool is_escaped(std::string_view text, std::size_t at) {
  std::size_t backslashes = 0;
  while (backslashes < at && backslashes < 32 && text[at - backslashes - 1] == '\\') ++backslashes;
  return backslashes % 2 == 1;
}

/// Whether text[at - 1] is the end of an escape and thus no letter: \n, \u00e9, %3D.
bool escape_ends(std::string_view text, std::size_t at) {
  if (at >= 2 && std::string_view("nrtbf").contains(text[at - 1]) && is_escaped(text, at - 1)) return true;
  if (at >= 3 && text[at - 3] == '%' && is_hex(text[at - 2]) && is_hex(text[at - 1])) return true;
  return at >= 6 && text[at - 5] == 'u' && is_escaped(text, at - 5) &&
         std::all_of(text.begin() + static_cast<std::ptrdiff_t>(at - 4),
                     text.begin() + static_cast<std::ptrdiff_t>(at), is_hex);
}

bool begins_word(std::string_view text, std::size_t at) {
  return at == 0 || !is_word(text[at - 1]) || escape_ends(text, at);
}

/// Past an escape that `at` lies in the middle of: the n of \n belongs to no address.
std::size_t past_escape(std::string_view text, std::size_t at) {
  if (at >= text.size() || !is_escaped(text, at)) return at;
  return std::min(text.size(), at + (text[at] == 'u' ? 5 : 1));
}

bool passes_luhn(std::string_view digits) {
  unsigned sum = 0;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    unsigned value = static_cast<unsigned>(digits[digits.size() - 1 - i] - '0');
    if (i % 2 == 1) value = value * 2 > 9 ? value * 2 - 9 : value * 2;
    sum += value;
  }
  return sum % 10 == 0;
}

unsigned number(std::string_view digits) {
  unsigned value = 0;
  for (char c : digits) value = value * 10 + static_cast<unsigned>(c - '0');
  return value;
}

/// ISO/IEC 7812: the ranges that the networks publish. Without them every tenth order number would be a card.
bool is_card(std::string_view digits) {
  struct Network {
    unsigned from, to;  // the first six digits
    std::uint8_t shortest, longest;
  };
  static constexpr auto networks = std::to_array<Network>({
      {400000, 499999, 16, 16},
      {400000, 499999, 19, 19},  // Visa
      {510000, 559999, 16, 16},
      {222100, 272099, 16, 16},  // Mastercard
      {340000, 349999, 15, 15},
      {370000, 379999, 15, 15},  // American Express
      {601100, 601199, 16, 19},
      {644000, 659999, 16, 19},  // Discover
      {352800, 358999, 16, 19},  // JCB
      {300000, 305999, 14, 16},
      {360000, 369999, 14, 14},
      {380000, 399999, 14, 16},  // Diners Club
      {620000, 629999, 16, 19},  // UnionPay
  });
  const unsigned prefix = number(digits.substr(0, 6));
  const bool known = std::any_of(networks.begin(), networks.end(), [&](const Network& network) {
    return prefix >= network.from && prefix <= network.to && digits.size() >= network.shortest &&
           digits.size() <= network.longest;
  });
  return known && passes_luhn(digits);
}

/// Behind digits: no more of the word, no decimals.
enum class Edge : std::uint8_t { good, bad, unknown };
Edge edge_after(const Ahead& ahead, std::size_t end) {
  if (!ahead.knows(end)) return Edge::unknown;
  if (is_word(ahead[end])) return Edge::bad;
  if (ahead[end] != '.') return Edge::good;
  if (!ahead.knows(end + 1)) return Edge::unknown;
  return is_digit(ahead[end + 1]) ? Edge::bad : Edge::good;
}

Found decided(const Ahead& ahead, std::size_t begin, std::size_t end, bool good) {
  switch (edge_after(ahead, end)) {
    case Edge::unknown: return undecided(begin);
    case Edge::bad: return nothing;
    case Edge::good: break;
  }
  return good ? match(begin, end) : nothing;
}

// --- e-mail ---

/// The end of the longest domain in text[begin, end), or begin. Its last label is letters, as those of all
/// top-level domains are, or an A-label.
std::size_t domain_end(std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t good = begin, label = begin;
  for (unsigned labels = 1; label < end; ++labels) {
    const std::size_t dot = std::min(text.substr(0, end).find('.', label), end);
    const std::string_view name = text.substr(label, dot - label);
    if (name.empty() || name.size() > 63 || name.front() == '-') break;
    const auto letters =
        static_cast<std::size_t>(std::find_if_not(name.begin(), name.end(), is_alpha) - name.begin());
    const bool ends_here = letters == name.size() || name[letters] == '-';
    if (labels > 1 && ends_here && letters >= 2 && letters <= 24 && !name.starts_with("xn--"))
      good = label + letters;
    if (labels > 1 && name.starts_with("xn--") && name.back() != '-' && name.size() > 4) good = dot;
    if (name.back() == '-') break;
    label = dot + 1;
  }
  return good;
}

/// "icon@2x.png" and "git@host:path" have the form of an address and are none.
bool is_lookalike(std::string_view text, std::size_t begin, std::size_t at, std::size_t end, char next) {
  if (is_digit(text[at + 1]) && text.substr(at + 2).starts_with("x.")) return true;
  return text.substr(begin, at - begin) == "git" && end < text.size() && next == ':';
}

Found email(const Window& window, std::size_t end_of_at) {
  const std::string_view text = window.text;
  const Ahead ahead(window);
  const std::size_t at = end_of_at - 1;
  std::size_t begin = at;
  while (begin > 0 && at - begin < email_local_max && is_local(text[begin - 1])) --begin;
  begin = past_escape(text, begin);
  while (begin < at && !is_word(text[begin])) ++begin;
  if (begin >= at) return nothing;
  const std::size_t end = ahead.run(at + 1, is_domain, email_domain_max);
  if (end - at - 1 < email_domain_max && !ahead.knows(end)) return undecided(begin);
  const std::size_t good = domain_end(text, at + 1, end);
  if (good == at + 1 || is_lookalike(text, begin, at, good, ahead[good])) return nothing;
  return match(begin, good);
}

// --- phone ---

bool is_phone_separator(char c) { return c == ' ' || c == '-' || c == '.' || c == '(' || c == ')'; }

/// "+49 (0)30 1234567": an international number says so itself.
Found international_phone(const Window& window, std::size_t end_of_first_digit) {
  const Ahead ahead(window);
  const std::size_t begin = end_of_first_digit - 2;
  if (ahead[begin + 1] == '0' || !begins_word(window.text, begin)) return nothing;
  if (begin > 0 && window.text[begin - 1] == '+') return nothing;
  std::size_t digits = 0, separators = 0, good = 0, at = begin + 1;
  for (; at - begin < phone_bytes_max; ++at) {
    if (!ahead.knows(at)) return undecided(begin);
    const char c = ahead[at];
    if (is_digit(c)) {
      if (++digits > phone_digits_max) break;
      separators = 0;
      continue;
    }
    if (separators == 0 && digits >= phone_digits_min && !is_word(c)) good = at;
    if (!is_phone_separator(c) || ++separators > 2) break;
  }
  return good ? match(begin, good) : nothing;
}

/// "(212) 555-0187", "212-555-0187", "1-212-555-0187", "212.555.0187". With spaces alone it is any table of
/// numbers.
Found american_phone(const Window& window, std::size_t end) {
  const std::string_view text = window.text;
  if (end < 12) return nothing;
  const std::size_t exchange = end - 8;
  const char separator = text[end - 5];
  if (text[exchange] < '2') return nothing;
  std::size_t area = 0, begin = 0;
  const std::size_t bracket = text[exchange - 1] == ' ' ? exchange - 2 : exchange - 1;
  if (text[bracket] == ')' && bracket >= 4 && text[bracket - 4] == '(') {
    area = bracket - 3;
    begin = area - 1;
  } else if (separator != ' ' && text[exchange - 1] == separator) {
    area = begin = exchange - 4;
  } else {
    return nothing;
  }
  if (text[area] < '2' || !std::all_of(text.data() + area, text.data() + area + 3, is_digit)) return nothing;
  if (begin >= 2 && text[begin - 2] == '1' && (text[begin - 1] == separator || text[begin - 1] == ' ') &&
      begins_word(text, begin - 2))
    begin -= 2;
  if (begin > 0 && text[begin - 1] == '+') --begin;
  if (!begins_word(text, begin)) return nothing;
  if (begin >= 2 && (text[begin - 1] == '-' || text[begin - 1] == '.') && is_word(text[begin - 2]))
    return nothing;
  const Ahead ahead(window);
  if (ahead.knows(end) && ahead[end] == '-') {
    if (!ahead.knows(end + 1)) return undecided(begin);
    if (is_word(ahead[end + 1])) return nothing;
  }
  return decided(ahead, begin, end, true);
}

// --- cards ---

bool may_begin_card(std::string_view text, std::size_t begin) {
  return begins_word(text, begin) && (begin == 0 || (text[begin - 1] != '.' && text[begin - 1] != '-'));
}

Found card_in_a_row(const Window& window, std::size_t end_of_thirteen) {
  const std::size_t begin = end_of_thirteen - 13;
  if (!may_begin_card(window.text, begin)) return nothing;
  const Ahead ahead(window);
  const std::size_t end = ahead.run(end_of_thirteen, is_digit, 7);
  if (end - begin > 19) return nothing;
  return decided(ahead, begin, end, ahead.knows(end) && is_card(window.text.substr(begin, end - begin)));
}

Found card_in_groups(const Window& window, std::size_t end_of_eight) {
  const std::size_t begin = end_of_eight - 9;
  const char separator = window.text[end_of_eight - 5];
  if (!may_begin_card(window.text, begin)) return nothing;
  static constexpr auto forms = std::to_array<std::array<std::uint8_t, 5>>(
      {{4, 4, 4, 4, 3}, {4, 4, 4, 4, 0}, {4, 6, 5, 0, 0}, {4, 6, 4, 0, 0}});
  const Ahead ahead(window);
  for (const auto& form : forms) {
    std::array<char, 19> digits;
    std::size_t count = 0, at = begin;
    bool fits = true;
    for (std::size_t i = 0; fits && i < form.size() && form[i] > 0; ++i) {
      if (i > 0) {
        if (!ahead.knows(at)) return undecided(begin);
        fits = ahead[at++] == separator;
      }
      for (unsigned k = 0; fits && k < form[i]; ++k) {
        if (!ahead.knows(at)) return undecided(begin);
        digits[count++] = ahead[at];
        fits = is_digit(ahead[at++]);
      }
    }
    if (!fits || !is_card({digits.data(), count})) continue;
    if (const Found found = decided(ahead, begin, at, true); found.state != State::no) return found;
  }
  return nothing;
}

// --- numbers with check rules of their own ---

Found ssn(const Window& window, std::size_t end) {
  const std::size_t begin = end - 11;
  const std::string_view text = window.text.substr(begin, 11);
  if (!begins_word(window.text, begin)) return nothing;
  if (begin > 0 && (window.text[begin - 1] == '-' || window.text[begin - 1] == '.')) return nothing;
  const unsigned area = number(text.substr(0, 3));
  const bool issued =
      area != 0 && area != 666 && area < 900 && text.substr(4, 2) != "00" && text.substr(7) != "0000";
  const Ahead ahead(window);
  if (ahead.knows(end) && ahead[end] == '-') return nothing;
  return decided(ahead, begin, end, issued);
}

struct IbanCountry {
  std::array<char, 2> code;
  std::uint8_t length;
};
// SWIFT's IBAN registry, release 99.
constexpr auto iban_countries = std::to_array<IbanCountry>({
    {{'A', 'D'}, 24}, {{'A', 'E'}, 23}, {{'A', 'L'}, 28}, {{'A', 'T'}, 20}, {{'A', 'Z'}, 28},
    {{'B', 'A'}, 20}, {{'B', 'E'}, 16}, {{'B', 'G'}, 22}, {{'B', 'H'}, 22}, {{'B', 'I'}, 27},
    {{'B', 'R'}, 29}, {{'B', 'Y'}, 28}, {{'C', 'H'}, 21}, {{'C', 'R'}, 22}, {{'C', 'Y'}, 28},
    {{'C', 'Z'}, 24}, {{'D', 'E'}, 22}, {{'D', 'J'}, 27}, {{'D', 'K'}, 18}, {{'D', 'O'}, 28},
    {{'E', 'E'}, 20}, {{'E', 'G'}, 29}, {{'E', 'S'}, 24}, {{'F', 'I'}, 18}, {{'F', 'K'}, 18},
    {{'F', 'O'}, 18}, {{'F', 'R'}, 27}, {{'G', 'B'}, 22}, {{'G', 'E'}, 22}, {{'G', 'I'}, 23},
    {{'G', 'L'}, 18}, {{'G', 'R'}, 27}, {{'G', 'T'}, 28}, {{'H', 'N'}, 28}, {{'H', 'R'}, 21},
    {{'H', 'U'}, 28}, {{'I', 'E'}, 22}, {{'I', 'L'}, 23}, {{'I', 'Q'}, 23}, {{'I', 'S'}, 26},
    {{'I', 'T'}, 27}, {{'J', 'O'}, 30}, {{'K', 'W'}, 30}, {{'K', 'Z'}, 20}, {{'L', 'B'}, 28},
    {{'L', 'C'}, 32}, {{'L', 'I'}, 21}, {{'L', 'T'}, 20}, {{'L', 'U'}, 20}, {{'L', 'V'}, 21},
    {{'L', 'Y'}, 25}, {{'M', 'C'}, 27}, {{'M', 'D'}, 24}, {{'M', 'E'}, 22}, {{'M', 'K'}, 19},
    {{'M', 'N'}, 20}, {{'M', 'R'}, 27}, {{'M', 'T'}, 31}, {{'M', 'U'}, 30}, {{'N', 'I'}, 28},
    {{'N', 'L'}, 18}, {{'N', 'O'}, 15}, {{'O', 'M'}, 23}, {{'P', 'K'}, 24}, {{'P', 'L'}, 28},
    {{'P', 'S'}, 29}, {{'P', 'T'}, 25}, {{'Q', 'A'}, 29}, {{'R', 'O'}, 24}, {{'R', 'S'}, 22},
    {{'R', 'U'}, 33}, {{'S', 'A'}, 24}, {{'S', 'C'}, 31}, {{'S', 'D'}, 18}, {{'S', 'E'}, 24},
    {{'S', 'I'}, 19}, {{'S', 'K'}, 24}, {{'S', 'M'}, 27}, {{'S', 'O'}, 23}, {{'S', 'T'}, 25},
    {{'S', 'V'}, 28}, {{'T', 'L'}, 23}, {{'T', 'N'}, 24}, {{'T', 'R'}, 26}, {{'U', 'A'}, 29},
    {{'V', 'A'}, 22}, {{'V', 'G'}, 24}, {{'X', 'K'}, 20}, {{'Y', 'E'}, 30},
});

/// ISO 13616-1 §6: the first four characters at the end, letters as numbers from 10, modulo 97.
bool passes_mod97(std::string_view iban) {
  unsigned rest = 0;
  for (std::size_t i = 0; i < iban.size(); ++i) {
    const char c = iban[(i + 4) % iban.size()];
    const unsigned value = is_digit(c) ? static_cast<unsigned>(c - '0') : static_cast<unsigned>(c - 'A' + 10);
    rest = (rest * (value > 9 ? 100 : 10) + value) % 97;
  }
  return rest == 1;
}

Found iban(const Window& window, std::size_t end_of_four) {
  const std::size_t begin = end_of_four - 4;
  const std::string_view text = window.text;
  if (!begins_word(text, begin)) return nothing;
  const auto country =
      std::find_if(iban_countries.begin(), iban_countries.end(), [&](const IbanCountry& known) {
        return known.code[0] == text[begin] && known.code[1] == text[begin + 1];
      });
  if (country == iban_countries.end()) return nothing;
  const Ahead ahead(window);
  std::array<char, 34> letters;
  std::size_t count = 0, at = begin;
  if (!ahead.knows(end_of_four)) return undecided(begin);
  const bool spaced = ahead[end_of_four] == ' ';
  for (; count < country->length; ++at) {
    if (!ahead.knows(at)) return undecided(begin);
    if (spaced && count > 0 && count % 4 == 0 && ahead[at] == ' ' && ahead[at - 1] != ' ') continue;
    if (!is_digit(ahead[at]) && !is_upper(ahead[at])) return nothing;
    letters[count++] = ahead[at];
  }
  return decided(ahead, begin, at, passes_mod97({letters.data(), count}));
}

/// "Version 1.2.3.4", "pkg==1.2.3.4", "tool/1.2.3.4": four numbers, and no address.
bool names_version(std::string_view text, std::size_t begin) {
  if (begin == 0) return false;
  const std::string_view before =
      text.substr(begin - std::min<std::size_t>(begin, 16), std::min<std::size_t>(begin, 16));
  if (before.ends_with("==") || before.ends_with(">=") || before.ends_with("~=") || before.ends_with("^") ||
      before.ends_with("~"))
    return true;
  if (before.back() == '/' && before.size() > 1 && is_word(before[before.size() - 2])) return true;
  static constexpr auto words =
      std::to_array<std::string_view>({"ersion", "ERSION", "elease", "evision", "uild", "chema", "ection"});
  for (std::string_view word : words)
    if (before.contains(word)) return true;
  return false;
}

Found ipv4(const Window& window, std::size_t end_of_hint) {
  const std::string_view text = window.text;
  const auto is_part = [](char c) { return is_digit(c) || c == '.'; };
  std::size_t begin = end_of_hint;
  while (begin > 0 && end_of_hint - begin < 16 && is_part(text[begin - 1])) --begin;
  if (end_of_hint - begin >= 16) return nothing;
  while (text[begin] == '.') ++begin;
  const Ahead ahead(window);
  std::size_t end = ahead.run(end_of_hint, is_part, 16);
  if (end - begin > 16) return nothing;
  if (!ahead.knows(end)) return undecided(begin);
  const char next = ahead[end];
  if (next == '-' && !ahead.knows(end + 1)) return undecided(begin);
  if (next == '-' && is_alpha(ahead[end + 1])) return nothing;  // "1.2.3.4-rc1"
  while (text[end - 1] == '.') --end;
  if (end - begin > 15 || is_word(next) || !begins_word(text, begin)) return nothing;
  if (begin > 0 && (text[begin - 1] == '-' || text[begin - 1] == '.')) return nothing;
  std::size_t parts = 0;
  for (std::size_t at = begin; at <= end; ++parts) {
    const std::size_t dot = std::min(text.substr(0, end).find('.', at), end);
    const std::string_view part = text.substr(at, dot - at);
    if (part.empty() || part.size() > 3 || (part.size() > 1 && part[0] == '0') || number(part) > 255)
      return nothing;
    if (parts == 0 && number(part) == 0) return nothing;  // RFC 1122: "this network" is nobody's
    at = dot + 1;
  }
  if (parts != 4 || names_version(text, begin)) return nothing;
  return match(begin, end);
}

// --- keys and tokens ---

Found aws_access_key(const Window& window, std::size_t end_of_prefix) {
  const std::size_t begin = end_of_prefix - 4;
  if (!begins_word(window.text, begin)) return nothing;
  const Ahead ahead(window);
  const std::size_t end = ahead.run(end_of_prefix, [](char c) { return is_digit(c) || is_upper(c); }, 17);
  if (end - begin < 20 && ahead.knows(end)) return nothing;
  if (!ahead.knows(end)) return undecided(begin);
  return end - begin == 20 && !is_word(ahead[end]) ? match(begin, end) : nothing;
}

Found github_token(const Window& window, std::size_t end_of_prefix, std::size_t prefix, std::size_t least) {
  const std::size_t begin = end_of_prefix - prefix;
  const Ahead ahead(window);
  const std::size_t end = ahead.run(end_of_prefix, is_word, github_token_max);
  if (end - end_of_prefix < github_token_max && !ahead.knows(end)) return undecided(begin);
  return end - end_of_prefix >= least ? match(begin, end) : nothing;
}

/// A header, a dot, and enough behind it: what follows is taken as it comes.
Found jwt(const Window& window, std::size_t end_of_start) {
  const std::size_t begin = end_of_start - 3;
  const std::string_view text = window.text;
  if (begin > 0 && is_base64url(text[begin - 1]) && !escape_ends(text, begin)) return nothing;
  const Ahead ahead(window);
  const std::size_t dot = ahead.run(end_of_start, is_base64url, jwt_header_max);
  if (dot - end_of_start >= jwt_header_max) return nothing;
  if (!ahead.knows(dot)) return undecided(begin);
  if (ahead[dot] != '.' || dot - begin < 12) return nothing;
  const std::size_t end = ahead.run(dot + 1, is_base64url, 8);
  if (end - dot - 1 < 8) return ahead.knows(end) ? nothing : undecided(begin);
  return match(begin, end, Rest::jwt);
}

/// Where "-----BEGIN RSA " of a line that ends here begins, or npos.
std::size_t begin_of_key_line(std::string_view text, std::size_t end) {
  constexpr std::string_view opening = "-----BEGIN ";
  const std::size_t floor = end - std::min(end, key_label_max + opening.size() + 5);
  const std::size_t found = text.substr(floor, end - floor).rfind(opening);
  if (found == std::string_view::npos) return std::string_view::npos;
  const std::size_t begin = floor + found;
  const std::string_view label = text.substr(begin + opening.size(), end - begin - opening.size() - 5);
  const bool good = label.size() <= key_label_max && std::all_of(label.begin(), label.end(), [](char c) {
                      return is_upper(c) || is_digit(c) || c == ' ';
                    });
  return good ? begin : std::string_view::npos;
}

/// Only what has something of a body is a key: documentation speaks of the line alone.
Found private_key(const Window& window, std::size_t end_of_line) {
  const std::size_t begin = begin_of_key_line(window.text, end_of_line);
  if (begin == std::string_view::npos) return nothing;
  const Ahead ahead(window);
  std::size_t at = end_of_line;
  while (at - end_of_line < 32) {
    if (!ahead.knows(at)) return undecided(begin);
    if (ahead[at] == '\\') {  // as in JSON, perhaps in JSON within JSON
      if (!ahead.knows(at + 1)) return undecided(begin);
      if (!std::string_view("nrt\\").contains(ahead[at + 1])) return nothing;
      at += ahead[at + 1] == '\\' ? 1 : 2;
    } else if (ahead[at] == ' ' || ahead[at] == '\t' || ahead[at] == '\r' || ahead[at] == '\n') {
      ++at;
    } else {
      break;
    }
  }
  const auto of_body = [](char c) {
    return is_alnum(c) || c == '+' || c == '/' || c == '=' || c == ':' || c == '-';
  };
  const std::size_t end = ahead.run(at, of_body, 8);
  if (end - at < 8) return ahead.knows(end) ? nothing : undecided(begin);
  const bool pgp = window.text.substr(begin, end_of_line - begin).contains("PGP");
  return match(begin, end_of_line, pgp ? Rest::pgp : Rest::pem);
}

// --- what is held back ---

/// How much of the end of `text` is the beginning of `literal`; not all of it, which has its hint.
std::size_t beginning_of(std::string_view text, std::string_view literal) {
  for (std::size_t size = std::min(text.size(), literal.size() - 1); size > 0; --size)
    if (text.ends_with(literal.substr(0, size))) return size;
  return 0;
}

std::size_t trailing_digits(std::string_view text) {
  const auto may_be_inside = [](char c) { return is_digit(c) || is_phone_separator(c) || c == '+'; };
  std::size_t begin = text.size();
  while (begin > 0 && text.size() - begin < digits_held_max && may_be_inside(text[begin - 1])) --begin;
  while (begin < text.size() && !is_digit(text[begin]) && text[begin] != '+' && text[begin] != '(') ++begin;
  return begin;
}

std::size_t trailing_key_line(std::string_view text) {
  constexpr std::string_view opening = "-----BEGIN ";
  constexpr std::string_view closing = "-----";
  const std::size_t floor =
      text.size() - std::min(text.size(), key_label_max + opening.size() + closing.size());
  for (std::size_t at = text.find('-', floor); at != std::string_view::npos; at = text.find('-', at + 1)) {
    std::string_view line = text.substr(at);
    if (line.size() <= opening.size() ? opening.starts_with(line) : line.starts_with(opening)) {
      line.remove_prefix(std::min(line.size(), opening.size()));
      const auto is_label = [](char c) { return is_upper(c) || is_digit(c) || c == ' '; };
      line.remove_prefix(
          static_cast<std::size_t>(std::find_if_not(line.begin(), line.end(), is_label) - line.begin()));
      if (closing.starts_with(line)) return at;
    }
  }
  return text.size();
}

}  // namespace

bool is_base64url(char c) { return is_word(c) || c == '-'; }

Found look_closer(const Window& window, Hinted hinted) {
  switch (hinted.hint) {
    case Hint::at_sign: return email(window, hinted.end);
    case Hint::plus_digit: return international_phone(window, hinted.end);
    case Hint::phone_digits: return american_phone(window, hinted.end);
    case Hint::card_run: return card_in_a_row(window, hinted.end);
    case Hint::card_groups: return card_in_groups(window, hinted.end);
    case Hint::ssn_digits: return ssn(window, hinted.end);
    case Hint::iban_start: return iban(window, hinted.end);
    case Hint::dotted: return ipv4(window, hinted.end);
    case Hint::aws_prefix: return aws_access_key(window, hinted.end);
    case Hint::github_prefix: return github_token(window, hinted.end, 4, 36);
    case Hint::github_pat_prefix: return github_token(window, hinted.end, 11, 40);
    case Hint::key_line: return private_key(window, hinted.end);
    case Hint::jwt_start: return jwt(window, hinted.end);
  }
  return nothing;
}

std::size_t earliest_beginning(std::string_view text, Hint hint) {
  std::size_t held = 0;
  switch (hint) {
    case Hint::at_sign:
      while (held < text.size() && held < email_local_max && is_local(text[text.size() - 1 - held])) ++held;
      break;
    case Hint::plus_digit:
    case Hint::phone_digits:
    case Hint::card_run:
    case Hint::card_groups:
    case Hint::ssn_digits:
    case Hint::dotted: return trailing_digits(text);
    case Hint::iban_start:
      for (std::size_t size : {3, 2, 1}) {
        if (text.size() < size) continue;
        const std::string_view end = text.substr(text.size() - size);
        if (is_upper(end[0]) && (size < 2 || is_upper(end[1])) && (size < 3 || is_digit(end[2])))
          return text.size() - size;
      }
      break;
    case Hint::aws_prefix:
      for (std::string_view literal : {"AKIA", "ASIA", "ABIA", "ACCA"})
        held = std::max(held, beginning_of(text, literal));
      break;
    case Hint::github_prefix:
      for (std::string_view literal : {"ghp_", "gho_", "ghu_", "ghs_", "ghr_"})
        held = std::max(held, beginning_of(text, literal));
      break;
    case Hint::github_pat_prefix: held = beginning_of(text, "github_pat_"); break;
    case Hint::key_line: return trailing_key_line(text);
    case Hint::jwt_start: held = beginning_of(text, "eyJ"); break;
  }
  return text.size() - held;
}

void Remainder::advance(std::string_view text, std::size_t limit) {
  while (open() && at_ < limit) {
    const bool more = rest_ == Rest::jwt ? take(text) : take_key(text);
    if (!more) rest_ = Rest::none;
  }
}

bool Remainder::take(std::string_view text) {
  const char c = text[at_];
  if (c == '.' ? dots_++ > 0 : !is_base64url(c)) return false;
  ++at_;
  return true;
}

bool Remainder::take_key(std::string_view text) {
  constexpr std::string_view marker = "-----END ";
  const char c = text[at_];
  if (++taken_ > key_bytes_max) return false;
  if (in_end_line_) {
    if (c != '-' && (closing_ > 0 || (!is_upper(c) && !is_digit(c) && c != ' '))) return false;
    ++at_;
    return c != '-' || ++closing_ < 5;
  }
  if (c == '"' || c == '\0' || (c == '\\' && at_ + 1 < text.size() && text[at_ + 1] == '"')) return false;
  const bool of_body = is_alnum(c) || std::string_view("+/=:,- \t\r\n\\").contains(c);
  if (rest_ == Rest::pem && !of_body) return false;
  if (c == marker[marker_])
    ++marker_;
  else
    marker_ = c != '-' ? 0 : marker_ == 5 ? 5 : 1;
  if (marker_ == marker.size()) in_end_line_ = true;
  ++at_;
  return true;
}

}  // namespace postern::transform
