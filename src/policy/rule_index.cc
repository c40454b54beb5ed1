#include "policy/rule_index.h"

namespace postern::policy {

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

void RuleIndex::add(const Rule& rule, std::uint32_t number) {
  for (const Rule::MatchHost& host : rule.match_hosts) {
    List& list = host.pattern.subdomains ? hosts_.below(host.pattern.host) : hosts_.exact(host.pattern.host);
    if (list.rules.empty() || list.rules.back() != number) list.rules.push_back(number);
    list.judges_paths = list.judges_paths || rule.judges_paths();
    list.denies = list.denies || rule.action == Action::deny;
  }
}

CoveringRules RuleIndex::covering(const Host& host) const {
  CoveringRules out;
  const auto take = [&out](const List& list) {
    if (out.count_ == out.lists_.size()) return true;
    out.lists_[out.count_++] = {list.rules.data(), list.rules.data() + list.rules.size()};
    out.judges_paths_ = out.judges_paths_ || list.judges_paths;
    out.denies_ = out.denies_ || list.denies;
    return false;
  };
  if (const List* list = hosts_.find_exact(host.name)) take(*list);
  if (!host.literal) hosts_.any_below(host.name, take);
  return out;
}

}  // namespace postern::policy
