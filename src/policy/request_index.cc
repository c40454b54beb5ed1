#include "policy/request_index.h"

#include <algorithm>
#include <array>

#include "wire/http1.h"

namespace postern::policy {

namespace {

constexpr std::size_t short_list = 8;  // matched one by one sooner than looked up

/// In the order of the last bytes, then those before them.
bool ends_before(std::string_view a, std::string_view b) {
  const auto less = [](char x, char y) {
    return static_cast<unsigned char>(x) < static_cast<unsigned char>(y);
  };
  return std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend(), less);
}

}  // namespace

bool is_method_override(std::string_view name) {
  constexpr std::array<std::string_view, 3> names = {"x-http-method-override", "x-http-method",
                                                     "x-method-override"};
  return std::ranges::any_of(names, [&](std::string_view known) { return wire::same_name(name, known); });
}

namespace detail {

std::size_t NameHash::operator()(std::string_view name) const {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(wire::lower(c))) * 0x100000001b3;
  return hash;
}

bool NameEqual::operator()(std::string_view a, std::string_view b) const { return wire::same_name(a, b); }

void Bucket::finish(std::span<const Rule> rules, const FieldCounts& counts) {
  if (rules_.size() <= short_list) return;
  finer_ = std::make_unique<Finer>();
  RuleNumbers rest;
  for (const std::uint32_t number : rules_) {
    const Rule& rule = rules[number];
    if (!rule.match_headers.empty()) {
      // By what the fewest want: many rules may share one of their conditions.
      const auto how_many = [&counts](const HeaderCondition& wanted) {
        return counts.at(wanted.name).at(wanted.value);
      };
      const HeaderCondition& rarest = *std::ranges::min_element(rule.match_headers, {}, how_many);
      finer_->fields[rarest.name][rarest.value].push_back(number);
    } else if (!rule.match_methods.empty()) {
      for (const std::string& method : rule.match_methods) {
        RuleNumbers& same = finer_->methods[method];
        if (same.empty() || same.back() != number) same.push_back(number);
      }
    } else {
      rest.push_back(number);
    }
  }
  rest.shrink_to_fit();
  rules_ = std::move(rest);
}

}  // namespace detail

RequestIndex::RequestIndex(std::span<const Rule> rules, const RuleNumbers& numbers) {
  detail::FieldCounts counts;
  for (const std::uint32_t number : numbers) {
    const Rule& rule = rules[number];
    for (const HeaderCondition& wanted : rule.match_headers) ++counts[wanted.name][wanted.value];
    if (rule.match_paths.empty()) every_.add(number);
    for (const Rule::MatchPath& path : rule.match_paths) {
      add(path.pattern.form, path.pattern.text, number);
      // A rule that denies also matches with reserved characters decoded.
      if (!path.pattern.decoded.empty()) add(path.pattern.form, path.pattern.decoded, number);
    }
  }
  every_.finish(rules, counts);
  for (Buckets* buckets : {&exact_, &prefix_, &ending_of_})
    for (auto& [text, bucket] : *buckets) bucket.finish(rules, counts);
  sort_endings();
}

void RequestIndex::add(PathPattern::Form form, std::string_view text, std::uint32_t number) {
  switch (form) {
    case PathPattern::Form::any: return every_.add(number);
    case PathPattern::Form::exact: return exact_[text].add(number);
    case PathPattern::Form::prefix:
      prefix_bytes_max_ = std::max(prefix_bytes_max_, text.size());
      return prefix_[text].add(number);
    case PathPattern::Form::suffix: return ending_of_[text].add(number);
  }
}

/// Compares as the bytes do, the last one first. What is shorter is filled up with what no path holds.
std::array<std::uint64_t, 2> RequestIndex::tail_of(std::string_view text) {
  std::array<std::uint64_t, 2> out{};
  for (std::size_t i = 0; i < 16; ++i)
    out[i / 8] =
        out[i / 8] << 8 | (i < text.size() ? static_cast<unsigned char>(text[text.size() - 1 - i]) : 0);
  return out;
}

void RequestIndex::sort_endings() {
  endings_.reserve(ending_of_.size());
  for (auto& [text, bucket] : ending_of_) endings_.push_back({text, tail_of(text), std::move(bucket)});
  Buckets().swap(ending_of_);
  std::ranges::sort(endings_, ends_before, &Ending::text);
  // What an ending ends in stands before it, with nothing but further ones of that kind in between.
  for (std::size_t i = 1; i < endings_.size(); ++i) {
    std::optional<std::size_t> above = i - 1;
    while (above && !endings_[i].text.ends_with(endings_[*above].text)) above = endings_[*above].above;
    endings_[i].above = above;
  }
}

/// Of the patterns that the path ends in. What stands before the path in their order is that one, or ends in
/// it.
std::optional<std::size_t> RequestIndex::longest_ending(std::string_view path) const {
  if (endings_.empty()) return std::nullopt;
  const std::array<std::uint64_t, 2> tail = tail_of(path);
  const auto behind = std::ranges::partition_point(endings_, [&](const Ending& ending) {
    return ending.tail != tail ? ending.tail < tail : !ends_before(path, ending.text);
  });
  if (behind == endings_.begin()) return std::nullopt;
  std::optional<std::size_t> at = static_cast<std::size_t>(behind - endings_.begin()) - 1;
  while (at && !path.ends_with(endings_[*at].text)) at = endings_[*at].above;
  return at;
}

}  // namespace postern::policy
