#include "platform/ledgers.h"

#include <algorithm>
#include <utility>

namespace postern::platform {

namespace {

using store::LimitCount;

std::vector<LimitCount> counts_of(const quota::Ledger& ledger, quota::Day day) {
  std::vector<LimitCount> out;
  for (quota::DayUse& use : ledger.used(day))
    out.push_back({std::move(use.rule), use.requests, use.request_bytes, use.tokens});
  return out;
}

}  // namespace

store::Outcome<std::shared_ptr<quota::Ledger>> Ledgers::of(const store::WorkspaceId& workspace,
                                                           const std::string& sandbox) {
  const std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(sandbox); found != entries_.end()) return found->second.ledger;
  const quota::Day today = quota::day_of(clock_.wall());
  auto kept = store_.limit_counts().read(workspace, sandbox, today);
  if (!kept) return store::failed(kept);
  std::vector<quota::DayUse> uses;
  for (const LimitCount& count : *kept)
    uses.push_back({count.rule, count.requests, count.request_bytes, count.tokens});
  auto ledger = std::make_shared<quota::Ledger>();
  ledger->restore(today, uses);
  entries_.insert_or_assign(sandbox, Entry{workspace, ledger, today, std::move(*kept)});
  return ledger;
}

void Ledgers::adopt(const store::WorkspaceId& workspace, const std::string& sandbox,
                    std::shared_ptr<quota::Ledger> ledger) {
  const std::lock_guard lock(mutex_);
  entries_.insert_or_assign(sandbox, Entry{workspace, std::move(ledger), {}, {}});
}

void Ledgers::forget(const std::string& sandbox) {
  const std::lock_guard lock(mutex_);
  entries_.erase(sandbox);
}

store::Outcome<void> Ledgers::flush() {
  const quota::Day today = quota::day_of(clock_.wall());
  std::vector<store::SandboxCounts> changed;
  {
    const std::lock_guard lock(mutex_);
    for (auto entry = entries_.begin(); entry != entries_.end();) {
      Entry& one = entry->second;
      one.ledger->tidy(today);
      auto counts = counts_of(*one.ledger, today);
      if (!counts.empty() && (one.day != today || one.written != counts)) {
        changed.push_back({one.workspace, entry->first, std::move(counts)});
      } else if (one.ledger.use_count() == 1) {  // It does not run, and the store has all of it.
        entry = entries_.erase(entry);
        continue;
      }
      ++entry;
    }
  }
  if (changed.empty()) return {};
  if (auto kept = store_.limit_counts().keep(today, changed); !kept) return kept;
  const std::lock_guard lock(mutex_);
  for (store::SandboxCounts& one : changed)
    if (const auto found = entries_.find(one.sandbox); found != entries_.end()) {
      found->second.day = today;
      found->second.written = std::move(one.counts);
    }
  return {};
}

}  // namespace postern::platform
