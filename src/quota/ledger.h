#pragma once
// The counters of one sandbox by the names of its rules. It lives as long as the sandbox: a policy that takes
// another's place goes on counting where that one stopped.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quota/counter.h"

namespace postern::quota {

/// What was used on one day.
struct DayUse {
  std::string rule;  ///< Its name; empty: of the sandbox, whatever the rule.
  std::uint64_t requests = 0;
  std::uint64_t request_bytes = 0;
  std::uint64_t tokens = 0;

  bool operator==(const DayUse&) const = default;
};

/// Thread-safe. The lock is for those who make policies; requests have their counters already.
class Ledger {
 public:
  /// Names that no policy in force has are forgotten beyond so many, whatever they used: more than a policy
  /// has.
  static constexpr std::size_t names_max = 200'000;

  Ledger() = default;
  Ledger(const Ledger&) = delete;

  /// The same one for the same name, as long as somebody has it or it has counted something `today`.
  std::shared_ptr<Counter> counter(std::string_view rule);
  /// What an earlier process counted; before anything is counted here.
  void restore(Day day, std::span<const DayUse> uses);
  /// By name; who used nothing is not in it.
  std::vector<DayUse> used(Day today) const;
  /// What nobody has and what has counted nothing `today` goes.
  void tidy(Day today);

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Counter>, std::less<>> counters_;
};

}  // namespace postern::quota
