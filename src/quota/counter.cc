#include "quota/counter.h"

#include <algorithm>

namespace postern::quota {

namespace {

constexpr std::uint64_t count_max = (std::uint64_t{1} << DayCount::count_bits) - 1;
constexpr std::uint64_t day_mask = ~std::uint64_t{0} >> DayCount::count_bits;  // 44 years of days

std::uint64_t number_of(Day day) {
  return static_cast<std::uint64_t>(day.time_since_epoch().count()) & day_mask;
}

constexpr std::uint64_t pack(std::uint64_t day, std::uint64_t count) {
  return day << DayCount::count_bits | count;
}
constexpr std::uint64_t day_in(std::uint64_t word) { return word >> DayCount::count_bits; }
constexpr std::uint64_t count_in(std::uint64_t word) { return word & count_max; }

/// The word as it counts on this day: with nothing in it, if it was another's.
std::uint64_t on(std::uint64_t word, Day today) {
  const std::uint64_t day = number_of(today);
  const std::uint64_t ahead = (day_in(word) - day) & day_mask;
  return ahead <= 1 ? word : pack(day, 0);
}

std::int64_t nanoseconds(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

constexpr std::int64_t second = 1'000'000'000;

std::int64_t interval(std::uint64_t per_second) {
  return std::max<std::int64_t>(
      1, second / static_cast<std::int64_t>(std::min<std::uint64_t>(per_second, second)));
}

}  // namespace

std::uint64_t DayCount::count(Day today) const {
  return count_in(on(word_.load(std::memory_order_relaxed), today));
}

bool DayCount::take(Day today, std::uint64_t amount, std::uint64_t most) {
  std::uint64_t seen = word_.load(std::memory_order_relaxed);
  while (true) {
    const std::uint64_t word = on(seen, today);
    const std::uint64_t count = count_in(word);
    if (count > most || amount > most - count) return false;
    const std::uint64_t next = pack(day_in(word), count + std::min(amount, count_max - count));
    if (word_.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return true;
  }
}

void DayCount::give_back(Day taken, std::uint64_t amount) {
  std::uint64_t seen = word_.load(std::memory_order_relaxed);
  while (true) {
    if (day_in(seen) != number_of(taken)) return;
    const std::uint64_t count = count_in(seen);
    const std::uint64_t next = pack(day_in(seen), count - std::min(amount, count));
    if (word_.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return;
  }
}

void DayCount::restore(Day day, std::uint64_t count) {
  word_.store(pack(number_of(day), std::min(count, count_max)), std::memory_order_relaxed);
}

Duration Rate::wait(TimePoint now, std::uint64_t per_second) const {
  const std::int64_t from = std::max(even_end_.load(std::memory_order_relaxed), nanoseconds(now));
  const std::int64_t early = from + interval(per_second) - nanoseconds(now) - second;
  return std::chrono::nanoseconds(std::max<std::int64_t>(0, early));
}

bool Rate::take(TimePoint now, std::uint64_t per_second) {
  std::int64_t seen = even_end_.load(std::memory_order_relaxed);
  while (true) {
    const std::int64_t next = std::max(seen, nanoseconds(now)) + interval(per_second);
    if (next - nanoseconds(now) > second) return false;
    if (even_end_.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return true;
  }
}

void Rate::give_back(std::uint64_t per_second) {
  even_end_.fetch_sub(interval(per_second), std::memory_order_relaxed);
}

bool Places::take(std::uint64_t most) {
  std::uint64_t seen = taken_.load(std::memory_order_relaxed);
  while (seen < most)
    if (taken_.compare_exchange_weak(seen, seen + 1, std::memory_order_relaxed)) return true;
  return false;
}

}  // namespace postern::quota
