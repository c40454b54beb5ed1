#include "quota/ledger.h"

#include <utility>

namespace postern::quota {

namespace {

DayUse use_of(const std::string& rule, const Counter& counter, Day today) {
  return {.rule = rule,
          .requests = counter.requests.count(today),
          .request_bytes = counter.request_bytes.count(today),
          .tokens = counter.tokens.count(today)};
}

bool is_nothing(const DayUse& use) { return use == DayUse{.rule = use.rule}; }

}  // namespace

std::shared_ptr<Counter> Ledger::counter(std::string_view rule) {
  const std::lock_guard lock(mutex_);
  if (const auto found = counters_.find(rule); found != counters_.end()) return found->second;
  if (counters_.size() >= names_max)
    std::erase_if(counters_, [](const auto& entry) { return entry.second.use_count() == 1; });
  return counters_.emplace(rule, std::make_shared<Counter>()).first->second;
}

void Ledger::restore(Day day, std::span<const DayUse> uses) {
  for (const DayUse& use : uses) {
    const auto of = counter(use.rule);
    of->requests.restore(day, use.requests);
    of->request_bytes.restore(day, use.request_bytes);
    of->tokens.restore(day, use.tokens);
  }
}

std::vector<DayUse> Ledger::used(Day today) const {
  const std::lock_guard lock(mutex_);
  std::vector<DayUse> out;
  for (const auto& [rule, counter] : counters_)
    if (DayUse use = use_of(rule, *counter, today); !is_nothing(use)) out.push_back(std::move(use));
  return out;
}

void Ledger::tidy(Day today) {
  const std::lock_guard lock(mutex_);
  std::erase_if(counters_, [today](const auto& entry) {
    return entry.second.use_count() == 1 && is_nothing(use_of(entry.first, *entry.second, today));
  });
}

}  // namespace postern::quota
