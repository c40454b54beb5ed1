#include "box/box_loop.h"

#include <cstdlib>
#include <future>
#include <pthread.h>
#include <sys/epoll.h>
#include <utility>

namespace postern::box {

OpenBox::OpenBox(io::Loop& on, Fd agent, BoxDefaults defaults, io::Party party)
    : loop(on),
      link(on, std::move(agent), party),
      commands(on, link),
      environment(std::move(defaults.environment)),
      home(std::move(defaults.home)),
      last_used(on.now()) {}

void Guest::enter(OpenBox& box) {
  if (box_ != nullptr) std::abort();  // It is somewhere already.
  box_ = &box;
  box.guests_.emplace(this, shared_from_this());
}

void Guest::leave() {
  OpenBox* const box = std::exchange(box_, nullptr);
  if (box == nullptr) return;
  box->last_used = box->loop.now();
  auto self = box->guests_.extract(this);
  if (self.empty()) return;  // The box ends, and whoever tells us so holds us.
  box->loop.post([self = std::move(self.mapped())] {});
}

/// A box with what ends it.
class BoxLoop::Place final : io::Pollable, io::Timer, io::Deferred {
 public:
  Place(BoxLoop& owner, std::string id, Fd agent, Fd exit, BoxDefaults defaults,
        std::move_only_function<void()> on_end)
      : Timer(owner.loop_),
        owner_(owner),
        id_(std::move(id)),
        exit_(std::move(exit)),
        idle_ttl_(defaults.idle_ttl),
        on_idle_(std::move(defaults.on_idle)),
        on_end_(std::move(on_end)),
        box_(owner.loop_, std::move(agent), std::move(defaults), ++owner.last_party_) {
    box_.link.when_lost([this] { ended(); });
    const bool watched = !exit_ || owner.loop_.add(exit_.get(), *this, EPOLLIN);
    if (!watched || !box_.link.alive()) ended();
    set_idle_ttl(idle_ttl_);
  }
  ~Place() {
    if (exit_) owner_.loop_.remove(exit_.get(), *this);
  }

  OpenBox& box() { return box_; }
  std::move_only_function<void()> take_on_end() { return std::move(on_end_); }
  void set_idle_ttl(Duration idle_ttl) {
    idle_ttl_ = idle_ttl;
    clear();
    if (idle_ttl_ > Duration::zero()) set(box_.last_used + idle_ttl_);
  }

 private:
  void on_ready(std::uint32_t) override { ended(); }
  /// Not at once: the link, or a guest, may be in the middle of something.
  void ended() { owner_.loop_.defer(*this); }
  void on_turn_end() override { owner_.end(id_, *this); }

  void on_timer() override {
    const TimePoint now = owner_.loop_.now();
    if (box_.users > 0 || !box_.guests_.empty()) box_.last_used = now;
    const bool idle = box_.last_used + idle_ttl_ <= now;
    if (idle) box_.last_used = now;
    set_idle_ttl(idle_ttl_);
    if (idle && on_idle_) on_idle_();
  }

  BoxLoop& owner_;
  const std::string id_;
  Fd exit_;
  Duration idle_ttl_;
  std::move_only_function<void()> on_idle_;
  std::move_only_function<void()> on_end_;
  OpenBox box_;
};

BoxLoop::BoxLoop(const Clock& clock) : loop_(clock) {
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "boxes");
    loop_.run();
  });
}

BoxLoop::~BoxLoop() {
  loop_.post([this] {
    while (!places_.empty()) clear(*places_.extract(places_.begin()).mapped());
    loop_.stop();
  });
  thread_.join();
}

/// Everybody hears of it while the box still stands. Not from within its link.
void BoxLoop::clear(Place& place) {
  OpenBox& box = place.box();
  box.link.when_lost(nullptr);
  box.link.close();
  while (!box.guests_.empty()) {
    const auto guest = box.guests_.extract(box.guests_.begin()).mapped();
    guest->on_box_end();
    guest->box_ = nullptr;
  }
}

void BoxLoop::end(const std::string& id, const Place& place) {
  const auto found = places_.find(id);
  if (found == places_.end() || found->second.get() != &place) return;
  auto gone = places_.extract(found);
  auto on_end = gone.mapped()->take_on_end();
  clear(*gone.mapped());
  gone = {};
  if (on_end) on_end();
}

void BoxLoop::open(const std::string& id, Fd agent, Fd exit, BoxDefaults defaults,
                   std::move_only_function<void()> on_end) {
  loop_.post([this, id, agent = std::move(agent), exit = std::move(exit), defaults = std::move(defaults),
              on_end = std::move(on_end)]() mutable {
    if (auto old = places_.extract(id)) clear(*old.mapped());
    places_[id] = std::make_unique<Place>(*this, id, std::move(agent), std::move(exit), std::move(defaults),
                                          std::move(on_end));
  });
}

void BoxLoop::close(const std::string& id) {
  std::promise<void> gone;
  const std::future<void> done = gone.get_future();
  loop_.post([this, id, gone = std::move(gone)]() mutable {
    if (auto old = places_.extract(id)) {
      clear(*old.mapped());
      old = {};
    }
    gone.set_value();
  });
  done.wait();
}

void BoxLoop::with(const std::string& id, std::move_only_function<void(OpenBox*)> then) {
  loop_.post([this, id, then = std::move(then)]() mutable {
    const auto found = places_.find(id);
    if (found == places_.end()) return then(nullptr);
    OpenBox& box = found->second->box();
    box.last_used = loop_.now();
    then(&box);
  });
}

void BoxLoop::set_idle_ttl(const std::string& id, Duration idle_ttl) {
  loop_.post([this, id, idle_ttl] {
    if (const auto found = places_.find(id); found != places_.end()) found->second->set_idle_ttl(idle_ttl);
  });
}

}  // namespace postern::box
