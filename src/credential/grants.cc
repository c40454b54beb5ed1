#include "credential/grants.h"

#include <algorithm>
#include <atomic>
#include <fmt/format.h>
#include <openssl/rand.h>

#include "credential/caller.h"
#include "credential/grant_counts.h"

namespace postern::credential {

namespace {

std::uint64_t next_number() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

/// Of one in 256.
Duration random_part(Duration whole) {
  unsigned char byte = 0;
  RAND_bytes(&byte, 1);
  return whole / 256 * byte;
}

}  // namespace

void Grant::expire_after(std::chrono::seconds lifetime, TimePoint asked, const Clock& clock) {
  expires = asked + lifetime;
  expires_by_date =
      clock.wall() + lifetime - std::chrono::duration_cast<WallTime::duration>(clock.now() - asked);
  refresh_after = asked + lifetime * 3 / 4 + random_part(lifetime / 8);
}

/// A coroutine of some loop that waits for what another loop may do. Touched on its own loop only.
struct Grants::Waiter {
  io::Loop& loop;
  io::Wait* wait = nullptr;  ///< nullptr when nobody waits any more.
  bool done = false;

  /// From any thread.
  static void wake(const std::shared_ptr<Waiter>& waiter, std::move_only_function<void()> if_gone = {}) {
    waiter->loop.post([waiter, if_gone = std::move(if_gone)]() mutable {
      waiter->done = true;
      if (waiter->wait)
        waiter->wait->notify();
      else if (if_gone)
        if_gone();
    });
  }
};

struct Grants::Flight {
  std::vector<std::shared_ptr<Waiter>> waiting;
  std::optional<Result<GrantRef>> outcome;
};

struct Grants::Entry {
  GrantRef grant;
  std::shared_ptr<Flight> flight;
  TimePoint refresh_not_before{};
};

struct Grants::Queue {
  std::size_t asking = 0;
  std::deque<std::shared_ptr<Waiter>> waiting;
};

namespace {

/// Ties a Wait of this frame to what other loops hold of it, for as long as the frame lives.
template <class Waiter>
class Tie {
 public:
  explicit Tie(io::Loop& loop) : wait_(loop), waiter_(std::make_shared<Waiter>(loop)) {
    waiter_->wait = &wait_;
  }
  ~Tie() { waiter_->wait = nullptr; }
  Tie(const Tie&) = delete;
  const std::shared_ptr<Waiter>& waiter() const { return waiter_; }
  bool done() const { return waiter_->done; }
  auto until(TimePoint deadline) { return wait_.until(deadline); }

 private:
  io::Wait wait_;
  std::shared_ptr<Waiter> waiter_;
};

}  // namespace

Grants::Grants(Sources callbacks, Sources rules)
    : number_(next_number()), callbacks_(std::move(callbacks)), rules_(std::move(rules)) {}

Grants::~Grants() = default;

std::string Grants::key_of(const Source& source, const Subject& subject) const {
  if (!source.per_destination()) return fmt::format("{}", static_cast<const void*>(&source));
  return fmt::format("{} {}:{}", static_cast<const void*>(&source), source.family_of(subject.host.name),
                     subject.port);
}

GrantRef Grants::current(Caller& caller, const Source& source, const Subject& subject) {
  if (!source.cached()) return nullptr;
  const std::string key = key_of(source, subject);
  const std::lock_guard lock(mutex_);
  const auto at = entries_.find(key);
  if (at == entries_.end() || !at->second.grant || !at->second.grant->usable(caller.clock())) return nullptr;
  Entry& entry = at->second;
  const TimePoint now = caller.clock().now();
  if (now >= entry.grant->refresh_after && now >= entry.refresh_not_before && !entry.flight)
    take_off(caller, source, subject, key, entry);
  return entry.grant;
}

io::Task<Result<GrantRef>> Grants::obtain(Caller& caller, const Source& source, const Subject& subject,
                                          const ShownRequest* request) {
  const TimePoint deadline = caller.clock().now() + answer_time;
  if (!source.cached()) co_return co_await ask(caller, source, subject, request, deadline);
  const std::string key = key_of(source, subject);
  Tie<Waiter> tie(caller.loop());
  std::shared_ptr<Flight> flight;
  {
    const std::lock_guard lock(mutex_);
    if (!entries_.contains(key) && !make_room(caller.clock()))
      co_return fail(Reason::overloaded, "too many credentials at once");
    Entry& entry = entries_[key];
    if (entry.grant && entry.grant->usable(caller.clock())) co_return entry.grant;
    if (!entry.flight) take_off(caller, source, subject, key, entry);
    flight = entry.flight;
    flight->waiting.push_back(tie.waiter());
  }
  while (!tie.done()) {
    const io::Wait::Outcome how = co_await tie.until(deadline);
    if (how == io::Wait::Outcome::expired)
      co_return fail(source.reason(), "there was no answer in time", Side::origin);
  }
  const std::lock_guard lock(mutex_);
  co_return *flight->outcome;
}

// With the mutex held.
void Grants::take_off(Caller& caller, const Source& source, const Subject& subject, const std::string& key,
                      Entry& entry) {
  entry.flight = std::make_shared<Flight>();
  // Not started here: it might end at once, and wants the mutex.
  caller.loop().post([self = shared_from_this(), &caller, &source, subject, key, flight = entry.flight] {
    caller.loop().spawn(fly(self, caller, source, subject, key, flight));
  });
}

io::Task<void> Grants::fly(std::shared_ptr<Grants> self, Caller& caller, const Source& source,
                           Subject subject, std::string key, std::shared_ptr<Flight> flight) {
  // Whatever happens to this task, those who wait are told.
  struct Landing {
    Grants& grants;
    const std::string& key;
    Flight& flight;
    const Clock& clock;
    ~Landing() {
      if (!flight.outcome)
        grants.land(key, flight, fail(Reason::shutting_down, "nobody is left to ask"), clock);
    }
  };
  const Landing landing{*self, key, *flight, caller.clock()};
  const TimePoint deadline = caller.clock().now() + answer_time;
  auto outcome = co_await self->ask(caller, source, subject, nullptr, deadline);
  self->land(key, *flight, std::move(outcome), caller.clock());
}

void Grants::land(const std::string& key, Flight& flight, Result<GrantRef> outcome, const Clock& clock) {
  std::vector<std::shared_ptr<Waiter>> waiting;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[key];
    entry.flight.reset();
    if (outcome)
      entry.grant = *outcome;
    else
      entry.refresh_not_before = clock.now() + retry_time;
    flight.outcome = std::move(outcome);
    waiting = std::exchange(flight.waiting, {});
    if (!entry.grant) entries_.erase(key);
  }
  for (const auto& waiter : waiting) Waiter::wake(waiter);
}

// With the mutex held. Those that are good for nobody go first; then any that nobody is asking for.
bool Grants::make_room(const Clock& clock) {
  if (entries_.size() < entries_max) return true;
  std::erase_if(entries_,
                [&](const auto& item) { return !item.second.flight && !item.second.grant->usable(clock); });
  for (auto at = entries_.begin(); entries_.size() >= entries_max && at != entries_.end();)
    at = at->second.flight ? std::next(at) : entries_.erase(at);
  return entries_.size() < entries_max;
}

io::Task<Result<GrantRef>> Grants::ask(Caller& caller, const Source& source, const Subject& subject,
                                       const ShownRequest* request, TimePoint deadline) {
  co_await co_await enter(caller, source, deadline);
  struct Leave {
    Grants& grants;
    const Source& source;
    ~Leave() { grants.leave(source); }
  };
  const Leave at_end{*this, source};
  GrantCounts& counts = grant_counts_of(source.reason());
  ++counts.asked;
  auto grant = co_await source.ask(caller, subject, request, deadline);
  if (!grant) {
    ++counts.failed;
    co_return std::unexpected(std::move(grant.error()));
  }
  std::vector<const InjectedHeader*> headers;
  for (const InjectedHeader& header : grant->headers) headers.push_back(&header);
  grant->scrubber = Scrubber::make(headers);
  co_return std::make_shared<const Grant>(std::move(*grant));
}

io::Task<Result<void>> Grants::enter(Caller& caller, const Source& source, TimePoint deadline) {
  Tie<Waiter> tie(caller.loop());
  {
    const std::lock_guard lock(mutex_);
    Queue& queue = queues_[&source];
    if (queue.asking < asking_max) {
      ++queue.asking;
      co_return Result<void>{};
    }
    if (queue.waiting.size() >= queued_max)
      co_return fail(Reason::overloaded, "too many questions wait for the same callback");
    queue.waiting.push_back(tie.waiter());
  }
  while (!tie.done()) {
    const io::Wait::Outcome how = co_await tie.until(deadline);
    // The place may be on its way already: whoever wakes us then finds us gone, and passes it on.
    if (how == io::Wait::Outcome::expired)
      co_return fail(source.reason(), "earlier questions are still not answered", Side::origin);
  }
  co_return Result<void>{};
}

void Grants::leave(const Source& source) {
  std::shared_ptr<Waiter> next;
  {
    const std::lock_guard lock(mutex_);
    Queue& queue = queues_[&source];
    if (queue.waiting.empty()) {
      --queue.asking;
      return;
    }
    next = std::move(queue.waiting.front());  // has our place
    queue.waiting.pop_front();
  }
  Waiter::wake(next, [self = shared_from_this(), &source] { self->leave(source); });
}

void LoopGrants::set_key(const Source& source, const Host& host, std::uint16_t port) {
  const auto number = reinterpret_cast<std::uintptr_t>(&source);
  key_.assign(reinterpret_cast<const char*>(&number), sizeof number);
  if (!source.per_destination()) return;
  key_.append(reinterpret_cast<const char*>(&port), sizeof port).append(source.family_of(host.name));
}

GrantRef LoopGrants::find(const Grants& grants, const Source& source, const Host& host, std::uint16_t port,
                          const Clock& clock) {
  if (version_ != grants.number()) return nullptr;
  set_key(source, host, port);
  const auto at = kept_.find(key_);
  if (at == kept_.end() || !at->second.grant->usable(clock)) return nullptr;
  return at->second.grant;
}

std::shared_ptr<const Scrubber> LoopGrants::earlier(const Grants& grants, const Source& source,
                                                    const Host& host, std::uint16_t port) {
  if (version_ != grants.number()) return nullptr;
  set_key(source, host, port);
  const auto at = kept_.find(key_);
  return at == kept_.end() ? nullptr : at->second.earlier;
}

void LoopGrants::keep(const Grants& grants, const Source& source, const Host& host, std::uint16_t port,
                      GrantRef grant) {
  if (version_ != grants.number()) kept_.clear();
  version_ = grants.number();
  if (kept_.size() >= kept_max) kept_.clear();
  set_key(source, host, port);
  Kept& kept = kept_[key_];
  if (kept.grant == grant) return;
  if (kept.grant) kept.earlier = kept.grant->scrubber;
  kept.grant = std::move(grant);
}

}  // namespace postern::credential
