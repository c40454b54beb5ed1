#include "api/selection.h"

#include <charconv>
#include <optional>

namespace postern::api {

namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

enum class Comparison : std::uint8_t { weak, strong };

/// Whether `tag` is in a list such as `"a", W/"b"`, or that is "*". Tags may hold commas.
bool lists(std::string_view list, std::string_view tag, Comparison comparison) {
  if (trim(list) == "*") return true;
  while (true) {
    while (!list.empty() && (list.front() == ' ' || list.front() == '\t' || list.front() == ','))
      list.remove_prefix(1);
    const bool weak = list.starts_with("W/");
    if (weak) list.remove_prefix(2);
    if (!list.starts_with('"')) return false;
    const std::size_t end = list.find('"', 1);
    if (end == std::string_view::npos) return false;
    if (list.substr(0, end + 1) == tag && !(weak && comparison == Comparison::strong)) return true;
    list.remove_prefix(end + 1);
  }
}

/// Digits only. What is larger than a number can be is the largest.
std::optional<std::uint64_t> position(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  std::uint64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc())
    return ~std::uint64_t{0};
  return number;
}

/// nullopt: as if there were none.
std::optional<Selection> range(std::string_view text, std::uint64_t size) {
  text = trim(text);
  constexpr std::string_view unit = "bytes=";
  if (!text.starts_with(unit)) return std::nullopt;
  text = trim(text.substr(unit.size()));
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos || text.find(',') != std::string_view::npos) return std::nullopt;
  const std::string_view from = text.substr(0, dash);
  const std::string_view to = text.substr(dash + 1);
  const auto last = position(to);
  if (from.empty()) {
    if (!last) return std::nullopt;
    const std::uint64_t length = std::min(*last, size);
    if (length == 0) return Selection{416, 0, 0};
    return Selection{206, size - length, length};
  }
  const auto first = position(from);
  if (!first || (!to.empty() && (!last || *last < *first))) return std::nullopt;
  if (*first >= size) return Selection{416, 0, 0};
  const std::uint64_t end = to.empty() ? size : std::min(size - 1, *last) + 1;
  return Selection{206, *first, end - *first};
}

}  // namespace

Selection select(const control::Request& request, std::string_view tag, std::string_view modified,
                 std::uint64_t size) {
  // The order is that of §13.2.2.
  if (const std::string* const match = request.field("If-Match");
      match && !lists(*match, tag, Comparison::strong))
    return {412, 0, 0};
  if (const std::string* const match = request.field("If-None-Match")) {
    if (lists(*match, tag, Comparison::weak)) return {304, 0, 0};
  } else if (const std::string* const since = request.field("If-Modified-Since")) {
    if (*since == modified) return {304, 0, 0};
  }
  const Selection all{200, 0, size};
  const std::string* const wanted = request.field("Range");
  if (request.method != "GET" || wanted == nullptr || control::count_fields(request.fields, "Range") != 1)
    return all;
  // A date is not strong enough where there is a tag (§13.1.5).
  const std::string* const unless = request.field("If-Range");
  if (unless && trim(*unless) != tag) return all;
  return range(*wanted, size).value_or(all);
}

}  // namespace postern::api
