#pragma once
// One coroutine waits until something that somebody else changes is as it wants it, with a deadline:
//
//   while (!ready) {
//     if (const Wait::Outcome how = co_await changed.until(deadline); how != Wait::Outcome::changed) ...
//   }
//
// Nothing is remembered: whoever changes the state calls notify(), whoever waits looks at the state first.

#include <coroutine>
#include <cstdint>
#include <utility>

#include "io/loop.h"

namespace postern::io {

class Wait final : Timer {
 public:
  enum class Outcome : std::uint8_t { changed, expired, cancelled };

  explicit Wait(Loop& loop) : Timer(loop) {}
  ~Wait() = default;

  /// Resumes who waits, before it returns. It may destroy this very object.
  void notify() { end(Outcome::changed); }
  void cancel() { end(Outcome::cancelled); }
  bool waiting() const { return static_cast<bool>(waiting_); }

  auto until(TimePoint deadline) {
    struct Awaiter {
      Wait& wait;
      TimePoint deadline;
      Awaiter(Wait& w, TimePoint until) : wait(w), deadline(until) {}
      Awaiter(const Awaiter&) = delete;
      ~Awaiter() { wait.waiting_ = {}; }
      bool await_ready() const { return false; }
      void await_suspend(std::coroutine_handle<> handle) {
        wait.waiting_ = handle;
        wait.set(deadline);
      }
      Outcome await_resume() const { return wait.outcome_; }
    };
    return Awaiter(*this, deadline);
  }

 private:
  void on_timer() override { end(Outcome::expired); }
  void end(Outcome outcome) {
    if (!waiting_) return;
    outcome_ = outcome;
    std::exchange(waiting_, {}).resume();
  }

  std::coroutine_handle<> waiting_;
  Outcome outcome_ = Outcome::changed;
};

}  // namespace postern::io
