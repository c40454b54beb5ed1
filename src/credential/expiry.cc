#include "credential/expiry.h"

#include <array>
#include <charconv>

namespace postern::credential {

namespace {

/// Takes `digits` digits and what has to follow them. -1: it is something else.
int take_number(std::string_view& text, std::size_t digits, char after) {
  int number = -1;
  if (text.size() <= digits || text[digits] != after || text[0] < '0' || text[0] > '9') return -1;
  const std::string_view said = text.substr(0, digits);
  const auto read = std::from_chars(said.data(), said.data() + said.size(), number);
  if (read.ptr != said.data() + said.size()) return -1;
  text.remove_prefix(digits + 1);
  return number;
}

}  // namespace

std::optional<std::chrono::sys_seconds> parse_utc(std::string_view text) {
  if (text.empty() || text.back() != 'Z') return std::nullopt;
  if (const std::size_t dot = text.find('.'); dot != std::string_view::npos) {
    const std::string_view fraction = text.substr(dot + 1, text.size() - dot - 2);
    if (fraction.empty() || fraction.find_first_not_of("0123456789") != std::string_view::npos)
      return std::nullopt;
  }
  const bool fractions = text.find('.') != std::string_view::npos;
  std::array<int, 6> part{};
  constexpr std::array<std::size_t, 6> digits = {4, 2, 2, 2, 2, 2};
  const std::array<char, 6> after = {'-', '-', 'T', ':', ':', fractions ? '.' : 'Z'};
  for (std::size_t i = 0; i < part.size(); ++i) {
    part[i] = take_number(text, digits[i], after[i]);
    if (part[i] < 0) return std::nullopt;
  }
  if (!fractions && !text.empty()) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(part[0]),
                                         std::chrono::month(static_cast<unsigned>(part[1])),
                                         std::chrono::day(static_cast<unsigned>(part[2]))};
  if (!date.ok() || part[3] > 23 || part[4] > 59 || part[5] > 60) return std::nullopt;
  return std::chrono::sys_days(date) + std::chrono::hours(part[3]) + std::chrono::minutes(part[4]) +
         std::chrono::seconds(part[5]);
}

}  // namespace postern::credential
