#pragma once
// Whose event is served next, while a loop works for several sandboxes. Deficit round robin with a lane for
// those who ask for little, as RFC 8290 ("FQ-CoDel") does with packets:
//
//   Each party has credit, in time of the loop. It is charged for what its events took, and earns a part of
//   the time that passes. Who has credit is light: its events go before those of all who are busy. The busy
//   alternate, each until it has used a quantum.
//
// So however much of one party waits, it delays another's by the one event that is being served, and who
// uses less than an eighth of the loop does not notice how busy the others are. The busy together get a part
// of their own, so that many light ones do not stop them. No clock and no descriptors in here: times come in,
// tokens go through.

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/clock.h"

namespace postern::io {

/// Whose work something is: a sandbox's number, or nobody's in particular. Nobody is a party as any other.
using Party = std::uint64_t;
inline constexpr Party nobody = 0;

class Turns {
 public:
  /// The least that an event counts.
  static constexpr Duration event_cost = std::chrono::microseconds(10);
  /// What a busy party uses before the next one takes its turn, and the most that a light one saves.
  static constexpr Duration quantum = 5 * event_cost;
  /// Of the time that passes a party earns one part in so many.
  static constexpr int earned_share = 8;
  /// After so many events of light parties comes one of a busy one.
  static constexpr int light_in_a_row_max = 64;

  Turns() = default;
  Turns(const Turns&) = delete;

  bool empty() const { return waiting_ == 0; }
  /// An event waits. `now`: for what its party has earned.
  void add(Party party, std::uint64_t token, TimePoint now);

  struct Next {
    std::uint64_t token;
    bool light;
  };
  /// The next one to be served. Only when there is one.
  Next take();
  /// What serving it took.
  void charge(Duration used) { served_->credit -= std::max(event_cost, used); }

  /// That are remembered: those with events, and those whose credit is not full again.
  std::size_t parties() const { return queues_.size(); }

 private:
  struct Queue {
    std::vector<std::uint64_t> tokens;
    std::size_t first = 0;  ///< Those before it were taken.
    Duration credit = quantum;
    TimePoint counted{};  ///< Up to here it has earned.
    Queue* next = nullptr;
    bool queued = false;

    bool empty() const { return first == tokens.size(); }
    std::uint64_t pop();
    Duration credit_at(TimePoint now) const {
      return std::min(quantum, credit + (now - counted) / earned_share);
    }
  };
  struct Lane {
    Queue* first = nullptr;
    Queue* last = nullptr;
    void push(Queue& queue);
    Queue& pop();
  };
  void forget_idle(TimePoint now);

  static constexpr std::size_t remembered_min = 64;

  std::unordered_map<Party, Queue> queues_;
  std::size_t forget_above_ = remembered_min;
  std::size_t waiting_ = 0;  ///< Events.
  Lane light_, busy_;
  int light_in_a_row_ = 0;
  Queue* served_ = nullptr;
};

}  // namespace postern::io
