#include "policy/rule_index.h"

#include <algorithm>

namespace postern::policy {

namespace {

// Each size is one more look-up for every request; patterns beyond are matched one by one.
constexpr std::size_t suffix_sizes_max = 16;

}  // namespace

std::uint32_t CoveringRules::next() {
  std::uint32_t lowest = no_rule;
  for (std::size_t i = 0; i < count_; ++i) {
    if (lists_[i].first != lists_[i].last) lowest = std::min(lowest, *lists_[i].first);
  }
  for (std::size_t i = 0; i < count_; ++i) {
    // A rule may cover a host twice (api.github.com and *.github.com).
    if (lists_[i].first != lists_[i].last && *lists_[i].first == lowest) ++lists_[i].first;
  }
  return lowest;
}

void PathIndex::add(PathPattern::Form form, std::string_view text, std::uint32_t number) {
  switch (form) {
    case PathPattern::Form::any: return append(every_, number);
    case PathPattern::Form::exact: return append(exact_[std::string(text)], number);
    case PathPattern::Form::prefix:
      prefix_bytes_max_ = std::max(prefix_bytes_max_, text.size());
      return append(prefix_[std::string(text)], number);
    case PathPattern::Form::suffix:
      if (std::ranges::find(suffix_sizes_, text.size()) == suffix_sizes_.end()) {
        if (suffix_sizes_.size() == suffix_sizes_max) return append(every_, number);
        suffix_sizes_.push_back(text.size());
      }
      return append(suffix_[std::string(text)], number);
  }
}

void PathIndex::add(const Rule& rule, std::uint32_t number) {
  if (rule.match_paths.empty()) append(every_, number);
  for (const Rule::MatchPath& path : rule.match_paths) {
    add(path.pattern.form, path.pattern.text, number);
    // A rule that denies also matches with reserved characters decoded.
    if (!path.pattern.decoded.empty()) add(path.pattern.form, path.pattern.decoded, number);
  }
}

template <class Visit>
bool PathIndex::visit(std::span<const std::string_view> readings, Visit visit) const {
  const auto look = [&visit](const Map& map, std::string_view text) {
    const auto found = map.find(text);
    return found == map.end() || visit(found->second);
  };
  if (!every_.empty() && !visit(every_)) return false;
  for (const std::string_view path : readings) {
    if (!look(exact_, path)) return false;
    for (std::size_t slash = path.find('/'); slash < std::min(path.size(), prefix_bytes_max_);
         slash = path.find('/', slash + 1)) {
      if (!look(prefix_, path.substr(0, slash + 1))) return false;
    }
    for (const std::size_t size : suffix_sizes_) {
      if (size <= path.size() && !look(suffix_, path.substr(path.size() - size))) return false;
    }
  }
  return true;
}

void CoveringRules::keep_for(std::span<const std::string_view> readings) {
  const std::size_t hosts = count_;
  for (std::size_t i = 0; i < hosts; ++i) {
    if (!paths_[i]) continue;
    const std::size_t before = count_;
    const bool all = paths_[i]->visit(readings, [this](const std::vector<std::uint32_t>& rules) {
      if (count_ == lists_max) return false;
      add(rules);
      return true;
    });
    if (all)
      lists_[i].first = lists_[i].last;
    else
      count_ = before;
  }
}

void RuleIndex::add(const Rule& rule, std::uint32_t number) {
  for (const Rule::MatchHost& host : rule.match_hosts) {
    List& list = host.pattern.subdomains ? hosts_.below(host.pattern.host) : hosts_.exact(host.pattern.host);
    if (list.rules.empty() || list.rules.back() != number) {
      list.rules.push_back(number);
      list.paths.add(rule, number);
    }
    list.judges_paths = list.judges_paths || rule.judges_paths();
    list.denies = list.denies || rule.action == Action::deny;
  }
}

CoveringRules RuleIndex::covering(const Host& host) const {
  CoveringRules out;
  const auto take = [&out](const List& list) {
    if (out.count_ == out.paths_.size()) return true;
    out.paths_[out.count_] = list.rules.size() > short_list ? &list.paths : nullptr;
    out.add(list.rules);
    out.judges_paths_ = out.judges_paths_ || list.judges_paths;
    out.denies_ = out.denies_ || list.denies;
    return false;
  };
  if (const List* list = hosts_.find_exact(host.name)) take(*list);
  if (!host.literal) hosts_.any_below(host.name, take);
  return out;
}

}  // namespace postern::policy
