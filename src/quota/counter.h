#pragma once
// What one rule of a sandbox, or the sandbox as a whole, has used. All loops count in it at once: each number
// is one atomic word, and nobody waits for anybody.

#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace postern::quota {

/// Of UTC.
using Day = std::chrono::sys_days;
inline Day day_of(WallTime time) { return std::chrono::floor<std::chrono::days>(time); }

inline constexpr std::uint64_t unlimited = ~std::uint64_t{0};

/// How much of something there was on one day. Day and count share a word, so that no thread adds to the one
/// what belongs to the other. A clock that is set back by less than a day begins no new one.
class DayCount {
 public:
  static constexpr int count_bits = 50;  // More than any limit (policy/treatment_reader.cc); stays there.

  std::uint64_t count(Day today) const;
  /// False, and nothing is added, when that would make more than `most`.
  bool take(Day today, std::uint64_t amount, std::uint64_t most = unlimited);
  /// What was taken on a day that is over is gone with it.
  void give_back(Day taken, std::uint64_t amount);
  /// At most once, and before anything else is done with it.
  void restore(Day day, std::uint64_t count);

 private:
  std::atomic<std::uint64_t> word_ = 0;
};

/// A token bucket as one number, the generic cell rate algorithm (ITU-T I.371): when everything that was let
/// through would have come to its end, had it come evenly. As much as one second's worth may come at once.
class Rate {
 public:
  /// Until one more may come; zero: now.
  Duration wait(TimePoint now, std::uint64_t per_second) const;
  bool take(TimePoint now, std::uint64_t per_second);
  void give_back(std::uint64_t per_second);

 private:
  std::atomic<std::int64_t> even_end_ = 0;  ///< Nanoseconds of the monotonic clock.
};

/// How many there are at the same time.
class Places {
 public:
  bool full(std::uint64_t most) const { return taken_.load(std::memory_order_relaxed) >= most; }
  bool take(std::uint64_t most = unlimited);
  void give_back() { taken_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> taken_ = 0;
};

struct Counter {
  Rate rate;
  Places places;
  DayCount requests;
  DayCount request_bytes;  ///< Of bodies.
  DayCount tokens;         ///< Of language models.
};

}  // namespace postern::quota
