#pragma once
// What became of boxes since the server started: for its metrics. Written and read on any thread.

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace postern::platform {

struct BoxCounts {
  static constexpr std::array<double, 9> bounds{0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};  // seconds

  std::atomic<std::uint64_t> created = 0;  ///< Asked for, and running.
  std::atomic<std::uint64_t> started = 0;  ///< Created ones too, and those that were woken.
  std::atomic<std::uint64_t> stopped = 0;  ///< By request, for being idle, or by themselves.
  std::atomic<std::uint64_t> failed = 0;   ///< Could not be started.
  std::atomic<std::uint64_t> removed = 0;
  std::array<std::atomic<std::uint64_t>, bounds.size() + 1> starts{};  ///< By how long they took.
  std::atomic<std::uint64_t> start_microseconds = 0;

  void note_start(Duration took) {
    const double seconds = std::chrono::duration<double>(took).count();
    ++starts[static_cast<std::size_t>(std::ranges::lower_bound(bounds, seconds) - bounds.begin())];
    start_microseconds +=
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count());
    ++started;
  }
};

}  // namespace postern::platform
