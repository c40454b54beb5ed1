#pragma once
// One loop per core: epoll, edge-triggered, each descriptor registered once; coarse timers on a wheel; work
// handed in from other threads. Everything a loop owns is touched by its thread only, except post() and
// stop(). While it works for several sandboxes it serves them by turns (io/turns.h).

#include <array>
#include <atomic>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/units.h"
#include "io/task.h"
#include "io/turns.h"

struct epoll_event;

namespace postern::io {

class Loop;

/// Something that epoll reports on. Unregisters itself when it goes, also from the events already fetched.
class Pollable {
 public:
  /// `events` is an EPOLL* mask; nothing is new when it is 0 (Loop::again()).
  virtual void on_ready(std::uint32_t events) = 0;

 protected:
  ~Pollable() = default;
};

/// Fires once at or after its deadline, at most one tick late. Moving the deadline is cheap: the node stays
/// where it is on the wheel when the new deadline is later.
class Timer {
 public:
  explicit Timer(Loop& loop) : loop_(loop) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void set(TimePoint deadline);
  void clear();
  TimePoint deadline() const { return deadline_; }

 protected:
  ~Timer() { clear(); }
  virtual void on_timer() = 0;

 private:
  friend class Loop;
  Loop& loop_;
  Timer* next_ = nullptr;
  Timer** link_ = nullptr;  ///< The pointer that points at us while on the wheel.
  TimePoint deadline_{};
  std::uint64_t tick_ = 0;  ///< Where on the wheel we are.
};

/// Work for the end of the turn in which it was asked for, e.g. writing at once what a connection gathered.
/// A node of the loop's list: nothing is allocated, and whoever goes leaves the list.
class Deferred {
 public:
  Deferred(const Deferred&) = delete;
  Deferred& operator=(const Deferred&) = delete;
  bool deferred() const { return next_ != this; }

 protected:
  Deferred() = default;
  ~Deferred() { unlink(); }
  /// No longer in the list when called, so it may be deferred again. May destroy the object.
  virtual void on_turn_end() = 0;

 private:
  friend class Loop;
  void unlink() {
    previous_->next_ = next_;
    next_->previous_ = previous_;
    previous_ = next_ = this;
  }
  void link_before(Deferred& other) {
    next_ = &other;
    previous_ = other.previous_;
    previous_->next_ = other.previous_ = this;
  }
  Deferred* previous_ = this;
  Deferred* next_ = this;
};

class Loop {
 public:
  static constexpr Duration tick = std::chrono::milliseconds(16);

  explicit Loop(const Clock& clock);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Read once per turn.
  TimePoint now() const { return now_; }

  /// Turns until stop().
  void run();
  /// One turn: waits at most `longest` for events, then runs timers and posted work.
  void run_once(Duration longest);
  /// Thread-safe.
  void stop();
  /// Thread-safe: `work` runs on the loop's thread in its next turn.
  void post(std::move_only_function<void()> work);

  /// Starts a task that lives on this loop. `active()` counts those that have not finished.
  void spawn(Task<void> task);
  std::size_t active() const { return active_; }
  /// Destroys the tasks that have not finished. After run(), while everything that they refer to still lives.
  void abandon();
  /// What ends now is cut off in the middle: an orderly end would make it look complete.
  bool abandoning() const { return abandoning_; }

  /// Registers edge-triggered for input, output and hang-up, or for `events`. False with errno on failure.
  bool add(int fd, Pollable& pollable);
  bool add(int fd, Pollable& pollable, std::uint32_t events, Party party = nobody);
  bool modify(int fd, Pollable& pollable, std::uint32_t events);
  void remove(int fd, Pollable& pollable);
  /// As remove(), for a descriptor that is closed next: the kernel then drops it by itself. Should a forked
  /// child still hold it, what the kernel goes on reporting finds nobody.
  void forget(int fd, Pollable& pollable);
  /// From now on `to` is told what `from` was. Events that `from` has seen are not reported again.
  void hand_over(int fd, Pollable& from, Pollable& to);
  /// Whose events they are from now on.
  void set_party(int fd, Party party);

  /// Calls on_ready() once more for this descriptor, after others had their turn.
  void again(int fd);
  /// What one event may do, in bytes or in work that takes as long as they would. Whoever finds it spent goes
  /// on after again(): neither one fast transfer nor one connection's requests hold the loop.
  bool slice_spent() const { return slice_used_ >= slice_; }
  void count_slice(std::size_t bytes) { slice_used_ += bytes; }
  /// Given up for a moment where descriptors have run out. One for all listeners; empty if there is none.
  Fd& spare_descriptor();
  /// It has worked for more than one party.
  bool shared() const { return shared_; }

  /// Runs `work` at the end of this turn: after events, timers and posted work, before the hook of
  /// at_turn_end() and before anything is waited for. Once, however often it is asked for. What is deferred
  /// meanwhile runs in the same turn, within bounds; the rest in the next, which then does not wait.
  void defer(Deferred& work) {
    if (!work.deferred()) work.link_before(deferred_);
  }
  /// The same, but where the loop is shared not before the party of this descriptor has its turn: what a
  /// connection gathered is its work as any other. Not when the descriptor has been forgotten by then.
  void defer(Deferred& work, int fd);

  /// Called at the end of each turn (e.g. hand the turn's records to the journal).
  void at_turn_end(std::move_only_function<void()> hook) { turn_end_ = std::move(hook); }

  auto sleep_until(TimePoint deadline) {
    struct Sleep final : Timer {
      std::coroutine_handle<> waiting;
      explicit Sleep(Loop& loop) : Timer(loop) {}
      ~Sleep() = default;
      void on_timer() override { waiting.resume(); }
    };
    struct Awaiter {
      Loop& loop;
      TimePoint deadline;
      Sleep timer;
      Awaiter(Loop& l, TimePoint until) : loop(l), deadline(until), timer(l) {}
      Awaiter(const Awaiter&) = delete;
      bool await_ready() const { return deadline <= loop.now(); }
      void await_suspend(std::coroutine_handle<> handle) {
        timer.waiting = handle;
        timer.set(deadline);
      }
      void await_resume() {}
    };
    return Awaiter(*this, deadline);
  }

 private:
  friend class Timer;
  static constexpr std::size_t wheel_slots = 1024;
  static constexpr int batch_max = 256;
  static constexpr int deferred_passes_max = 4;  // so that work that defers itself does not starve epoll
  static constexpr std::uint64_t wake_token = ~std::uint64_t{0};
  static constexpr std::size_t slice_alone = 512 * KiB;  // some 700 µs: below what anybody notices
  static constexpr std::size_t slice_shared = 64 * KiB;  // others' requests wait for it, twice each
  /// While busy parties are served, how often it is asked who else has something: a system call costs 2 % of
  /// it.
  static constexpr Duration look_time = std::chrono::microseconds(50);
  // In the place of EPOLLET and EPOLLONESHOT, which are never reported.
  static constexpr std::uint32_t waits = 1u << 31;
  static constexpr std::uint32_t asked_again = 1u << 30;

  /// Whom a descriptor's events are for. The kernel carries descriptor and generation, never a pointer: an
  /// event that outlived its registration, in the fetched batch or in the kernel, has an old generation.
  struct Registration {
    Pollable* pollable = nullptr;
    std::uint32_t generation = 0;
    std::uint32_t waiting = 0;  ///< Its events that wait for their turn, with `waits`.
    Party party = nobody;
    Deferred* work = nullptr;  ///< Waits with them.
  };

  struct DeferredList final : Deferred {
    DeferredList() = default;
    ~DeferredList() = default;
    void on_turn_end() override {}
  };

  struct Spawned {
    struct promise_type;
  };
  Spawned run_spawned(Task<void> task);
  std::uint64_t tick_of(TimePoint t) const;
  void link(Timer& timer);
  void unlink(Timer& timer);
  bool control(int operation, int fd, std::uint32_t events);
  std::uint64_t token_of(int fd) const;
  void share_with(Party party);
  void dispatch(Pollable& pollable, std::uint32_t events);
  void enqueue(std::uint64_t token, Registration& registration, std::uint32_t events);
  void serve_turns();
  void serve(std::uint64_t token);
  bool stale(std::uint64_t token) const;
  int wait_milliseconds(Duration longest) const;
  void run_timers();
  void run_posted();
  void run_deferred();

  const Clock& clock_;
  TimePoint start_;
  TimePoint now_;
  Fd epoll_;
  Fd wake_;
  std::atomic<bool> stopping_ = false;
  bool abandoning_ = false;
  std::size_t active_ = 0;
  Spawned::promise_type* spawned_ = nullptr;  ///< Those that have not finished, as a list.

  std::array<Timer*, wheel_slots> wheel_{};
  std::array<std::uint64_t, wheel_slots / 64> occupied_{};
  std::uint64_t current_tick_ = 0;
  DeferredList deferred_;
  Timer* due_ = nullptr;  ///< The slot being run, so that timers may unlink each other.

  std::array<std::uint64_t, 3 * batch_max> batch_storage_{};  // epoll_event[batch_max], packed
  std::vector<Registration> registrations_;                   // by descriptor
  Fd spare_;
  Turns turns_;
  std::size_t slice_ = slice_alone;
  std::size_t slice_used_ = 0;
  Party first_party_ = nobody;
  bool shared_ = false;

  std::mutex posted_mutex_;
  std::vector<std::move_only_function<void()>> posted_;
  std::move_only_function<void()> turn_end_;
};

}  // namespace postern::io
