#include "policy/rule_index.h"

#include <algorithm>
#include <utility>

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

bool CoveringRules::add(const RuleNumbers& rules) {
  for (std::size_t i = 0; i < count_; ++i) {
    if (lists_[i].last == rules.data() + rules.size())
      return true;  // A request may say the same thing twice.
  }
  if (count_ == lists_max) return false;
  lists_[count_++] = {rules.data(), rules.data() + rules.size()};
  return true;
}

void CoveringRules::keep_for(const Asked& asked) {
  const std::size_t hosts = count_;
  for (std::size_t i = 0; i < hosts; ++i) {
    if (!requests_[i]) continue;
    const Rest whole = std::exchange(lists_[i], {});
    const std::size_t before = count_;
    const bool all = requests_[i]->visit(asked, [this](const RuleNumbers& rules) { return add(rules); });
    if (all) continue;
    lists_[i] = whole;
    count_ = before;
  }
}

void RuleIndex::add(const Rule& rule, std::uint32_t number) {
  for (const Rule::MatchHost& host : rule.match_hosts) {
    List& list = host.pattern.subdomains ? hosts_.below(host.pattern.host) : hosts_.exact(host.pattern.host);
    if (list.rules.empty() || list.rules.back() != number) {
      list.rules.push_back(number);
    }
    list.judges_paths = list.judges_paths || rule.judges_paths();
    list.denies = list.denies || rule.action == Action::deny;
  }
}

void RuleIndex::finish(std::span<const Rule> rules) {
  hosts_.each([rules](List& list) {
    list.rules.shrink_to_fit();
    if (list.rules.size() > short_list) list.requests = std::make_unique<RequestIndex>(rules, list.rules);
  });
}

CoveringRules RuleIndex::covering(const Host& host) const {
  CoveringRules out;
  const auto take = [&out](const List& list) {
    if (out.count_ == out.requests_.size()) return true;
    out.requests_[out.count_] = list.requests.get();
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
