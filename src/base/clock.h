#pragma once
// Time comes in as an argument. Loops read the monotonic clock once per turn; tests advance it by hand.

#include <chrono>

namespace postern {

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;
using WallTime = std::chrono::system_clock::time_point;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  /// The date, which somebody may set while we run. For what is told to others, and to notice that they took
  /// something for expired; never for waiting.
  virtual WallTime wall() const = 0;
};

class SystemClock final : public Clock {
 public:
  TimePoint now() const override { return std::chrono::steady_clock::now(); }
  WallTime wall() const override { return std::chrono::system_clock::now(); }
};

/// A clock that stands still until a test moves it.
class ManualClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  WallTime wall() const override { return wall_; }
  void advance(Duration by) {
    now_ += by;
    wall_ += std::chrono::duration_cast<WallTime::duration>(by);
  }
  /// Somebody sets the date.
  void set_wall(WallTime wall) { wall_ = wall; }

 private:
  TimePoint now_{std::chrono::hours(1)};
  WallTime wall_{std::chrono::sys_days{std::chrono::year{2026} / 1 / 2}};
};

}  // namespace postern
