#include "io/loop.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace postern::io {

void Timer::set(TimePoint deadline) {
  deadline_ = deadline;
  const std::uint64_t wanted = loop_.tick_of(deadline);
  // Later than our slot: the slot's turn will move us on. Earlier: move now.
  if (link_ && wanted >= tick_) return;
  if (link_) loop_.unlink(*this);
  loop_.link(*this);
}

void Timer::clear() {
  if (link_) loop_.unlink(*this);
}

Loop::Loop(const Clock& clock)
    : clock_(clock),
      start_(clock.now()),
      now_(start_),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  static_assert(sizeof(epoll_event) * batch_max <= sizeof batch_storage_);
  if (!epoll_ || !wake_) std::abort();  // No descriptors at start-up: nothing can work.
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = wake_token;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) std::abort();
}

Loop::~Loop() {
  abandon();
  while (deferred_.deferred()) deferred_.next_->unlink();
}

void Loop::run() {
  while (!stopping_.load(std::memory_order_acquire)) run_once(std::chrono::hours(1));
}

void Loop::run_once(Duration longest) {
  auto* batch = reinterpret_cast<epoll_event*>(batch_storage_.data());
  const int found = ::epoll_wait(epoll_.get(), batch, batch_max, wait_milliseconds(longest));
  now_ = clock_.now();
  slice_used_ = 0;
  const bool by_turns = shared_ || !turns_.empty();
  for (int i = 0; i < found; ++i) {
    const std::uint64_t token = batch[i].data.u64;
    if (token == wake_token) {
      std::uint64_t count = 0;
      [[maybe_unused]] const auto cleared = ::read(wake_.get(), &count, sizeof count);
      continue;
    }
    if (stale(token)) continue;
    Registration& registration = registrations_[static_cast<std::uint32_t>(token)];
    if (by_turns)
      enqueue(token, registration, batch[i].events);
    else
      dispatch(*registration.pollable, batch[i].events);
  }
  if (by_turns) serve_turns();
  run_timers();
  run_posted();
  run_deferred();
  if (turn_end_) turn_end_();
}

void Loop::dispatch(Pollable& pollable, std::uint32_t events) {
  slice_used_ = 0;
  pollable.on_ready(events);
}

void Loop::enqueue(std::uint64_t token, Registration& registration, std::uint32_t events) {
  const bool waits_already = registration.waiting != 0;
  registration.waiting |= events | waits;
  if (!waits_already) turns_.add(registration.party, token, now_);
}

// Light parties until none is left; after the busy ones have used `look_time` epoll is asked again, for by
// then somebody may have something light.
void Loop::serve_turns() {
  TimePoint began = clock_.now();
  Duration of_busy{};
  while (!turns_.empty() && of_busy < look_time) {
    const Turns::Next next = turns_.take();
    if (stale(next.token)) continue;
    serve(next.token);
    const TimePoint ended = clock_.now();
    const Duration used = std::max(Turns::event_cost, ended - began);
    turns_.charge(used);
    if (!next.light) of_busy += used;
    began = ended;
  }
}

void Loop::serve(std::uint64_t token) {
  Registration& registration = registrations_[static_cast<std::uint32_t>(token)];
  const std::uint32_t waiting = std::exchange(registration.waiting, 0) & ~waits;
  Deferred* const work = std::exchange(registration.work, nullptr);
  slice_used_ = 0;
  if (waiting) dispatch(*registration.pollable, waiting & ~asked_again);
  if (work && !stale(token)) work->on_turn_end();
}

/// The descriptor was forgotten, and perhaps is another's by now.
bool Loop::stale(std::uint64_t token) const {
  const Registration& registration = registrations_[static_cast<std::uint32_t>(token)];
  return !registration.pollable || registration.generation != token >> 32;
}

void Loop::again(int fd) { enqueue(token_of(fd), registrations_[static_cast<std::size_t>(fd)], asked_again); }

void Loop::defer(Deferred& work, int fd) {
  Registration& registration = registrations_[static_cast<std::size_t>(fd)];
  if (!shared_ || !registration.pollable) return defer(work);
  registration.work = &work;
  enqueue(token_of(fd), registration, 0);
}

void Loop::stop() {
  stopping_.store(true, std::memory_order_release);
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Loop::post(std::move_only_function<void()> work) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(work));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Loop::run_posted() {
  std::vector<std::move_only_function<void()>> work;
  {
    const std::lock_guard lock(posted_mutex_);
    if (posted_.empty()) return;
    work.swap(posted_);
  }
  for (auto& piece : work) piece();
}

void Loop::run_deferred() {
  for (int pass = 0; pass < deferred_passes_max && deferred_.deferred(); ++pass) {
    // Up to here; what is added behind is the next pass.
    DeferredList now;
    now.link_before(deferred_);
    while (deferred_.next_ != &now) {
      Deferred& work = *deferred_.next_;
      work.unlink();
      work.on_turn_end();
    }
  }
}

/// The frame around a spawned task: in the loop's list until it ends, then it frees itself.
struct Loop::Spawned::promise_type {
  Loop& loop;
  promise_type* previous = nullptr;
  promise_type* next = nullptr;

  promise_type(Loop& owner, Task<void>&) : loop(owner), next(owner.spawned_) {
    if (next) next->previous = this;
    loop.spawned_ = this;
    ++loop.active_;
  }
  ~promise_type() {
    (previous ? previous->next : loop.spawned_) = next;
    if (next) next->previous = previous;
    --loop.active_;
  }
  static void* operator new(std::size_t bytes) { return FramePool::allocate(bytes); }
  static void operator delete(void* frame, std::size_t bytes) noexcept { FramePool::release(frame, bytes); }
  Spawned get_return_object() { return {}; }
  std::suspend_never initial_suspend() noexcept { return {}; }
  std::suspend_never final_suspend() noexcept { return {}; }
  void return_void() {}
  [[noreturn]] void unhandled_exception() noexcept { std::abort(); }
};

Loop::Spawned Loop::run_spawned(Task<void> task) { co_await std::move(task); }

void Loop::spawn(Task<void> task) { run_spawned(std::move(task)); }

void Loop::abandon() {
  abandoning_ = true;
  while (spawned_) std::coroutine_handle<Spawned::promise_type>::from_promise(*spawned_).destroy();
  abandoning_ = false;
}

Fd& Loop::spare_descriptor() {
  if (!spare_) spare_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return spare_;
}

bool Loop::add(int fd, Pollable& pollable) {
  return add(fd, pollable, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

std::uint64_t Loop::token_of(int fd) const {
  return std::uint64_t{registrations_[static_cast<std::size_t>(fd)].generation} << 32 |
         static_cast<std::uint32_t>(fd);
}

bool Loop::control(int operation, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = token_of(fd);
  return ::epoll_ctl(epoll_.get(), operation, fd, &event) == 0;
}

bool Loop::add(int fd, Pollable& pollable, std::uint32_t events, Party party) {
  if (fd < 0) {
    errno = EBADF;
    return false;
  }
  const auto place = static_cast<std::size_t>(fd);
  if (place >= registrations_.size()) registrations_.resize(std::max(place + 1, 2 * registrations_.size()));
  Registration& registration = registrations_[place];
  registration = {&pollable, registration.generation + 1, 0, party, nullptr};
  share_with(party);
  if (control(EPOLL_CTL_ADD, fd, events)) return true;
  registration.pollable = nullptr;
  return false;
}

bool Loop::modify(int fd, Pollable& pollable, std::uint32_t events) {
  const auto place = static_cast<std::size_t>(fd);
  if (place >= registrations_.size()) {
    errno = ENOENT;
    return false;
  }
  registrations_[place].pollable = &pollable;
  return control(EPOLL_CTL_MOD, fd, events);
}

void Loop::remove(int fd, Pollable& pollable) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  forget(fd, pollable);
}

void Loop::forget(int fd, Pollable& pollable) {
  const auto place = static_cast<std::size_t>(fd);
  if (place < registrations_.size() && registrations_[place].pollable == &pollable)
    registrations_[place].pollable = nullptr;
}

void Loop::hand_over(int fd, Pollable& from, Pollable& to) {
  const auto place = static_cast<std::size_t>(fd);
  if (place < registrations_.size() && registrations_[place].pollable == &from)
    registrations_[place].pollable = &to;
}

void Loop::set_party(int fd, Party party) {
  registrations_[static_cast<std::size_t>(fd)].party = party;
  share_with(party);
}

void Loop::share_with(Party party) {
  if (party == nobody || party == first_party_) return;
  shared_ = first_party_ != nobody;
  if (shared_)
    slice_ = slice_shared;
  else
    first_party_ = party;
}

std::uint64_t Loop::tick_of(TimePoint t) const {
  if (t <= start_) return 0;
  if (t == TimePoint::max()) t = start_ + std::chrono::hours(24 * 365);
  return static_cast<std::uint64_t>((t - start_ + tick - Duration(1)) / tick);
}

void Loop::link(Timer& timer) {
  timer.tick_ = std::max(tick_of(timer.deadline_), current_tick_ + 1);
  const std::size_t slot = timer.tick_ % wheel_slots;
  timer.next_ = wheel_[slot];
  timer.link_ = &wheel_[slot];
  if (timer.next_) timer.next_->link_ = &timer.next_;
  wheel_[slot] = &timer;
  occupied_[slot / 64] |= std::uint64_t{1} << (slot % 64);
}

void Loop::unlink(Timer& timer) {
  *timer.link_ = timer.next_;
  if (timer.next_) timer.next_->link_ = timer.link_;
  timer.next_ = nullptr;
  timer.link_ = nullptr;
  // The slot's bit stays set when it empties: a spurious look later is cheaper than finding the slot now.
}

int Loop::wait_milliseconds(Duration longest) const {
  if (deferred_.deferred() || !turns_.empty()) return 0;
  Duration wait = longest;
  // The next slot with a timer, at most one turn of the wheel away.
  for (std::size_t ahead = 1; ahead <= wheel_slots;) {
    const std::size_t slot = (current_tick_ + ahead) % wheel_slots;
    const std::uint64_t word = occupied_[slot / 64] >> (slot % 64);
    if (word == 0) {
      ahead += 64 - slot % 64;
      continue;
    }
    ahead += static_cast<std::size_t>(std::countr_zero(word));
    const TimePoint due = start_ + static_cast<Duration::rep>(current_tick_ + ahead) * tick;
    wait = std::min(wait, std::max(due - now_, Duration::zero()));
    break;
  }
  const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  return static_cast<int>(std::min<std::int64_t>(rounded, 60'000));
}

void Loop::run_timers() {
  const auto target = static_cast<std::uint64_t>((now_ - start_) / tick);
  if (target <= current_tick_) return;
  // After a long sleep one turn of the wheel sees every slot.
  if (target - current_tick_ > wheel_slots) current_tick_ = target - wheel_slots;
  while (current_tick_ < target) {
    ++current_tick_;
    const std::size_t slot = current_tick_ % wheel_slots;
    if (!wheel_[slot]) {
      occupied_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
      continue;
    }
    // Take the slot's list aside: timers set from a callback land on the wheel, not in the list being run.
    due_ = wheel_[slot];
    due_->link_ = &due_;
    wheel_[slot] = nullptr;
    occupied_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
    while (due_) {
      Timer& timer = *due_;
      unlink(timer);
      if (timer.deadline_ <= now_)
        timer.on_timer();
      else
        link(timer);
    }
  }
}

}  // namespace postern::io
