#include "api/service_use.h"

#include <utility>
#include <vector>

namespace postern::api {

ServiceUse::Seat::~Seat() {
  const std::lock_guard lock(use_->mutex_);
  const auto found = use_->seats_.find(place_.box);
  if (found == use_->seats_.end()) return;
  found->second.erase(this);
  if (found->second.empty()) use_->seats_.erase(found);
}

void ServiceUse::Seat::when_cut(std::function<void()> then) {
  {
    const std::lock_guard lock(use_->mutex_);
    if (!cut_) {
      then_ = std::move(then);
      return;
    }
  }
  then();
}

std::shared_ptr<ServiceUse::Seat> ServiceUse::take(const ServicePlace& place) {
  const std::lock_guard lock(mutex_);
  auto& seats = seats_[place.box];
  if (seats.size() >= seats_max) return nullptr;
  auto seat = std::make_shared<Seat>(shared_from_this(), place);
  seats.insert(seat.get());
  return seat;
}

void ServiceUse::cut(const std::string& box, std::optional<std::uint16_t> port) {
  std::vector<std::function<void()>> told;
  {
    const std::lock_guard lock(mutex_);
    const auto found = seats_.find(box);
    if (found == seats_.end()) return;
    for (Seat* const seat : found->second) {
      if (port && seat->place_.port != *port) continue;
      seat->cut_ = true;
      if (seat->then_) told.push_back(std::exchange(seat->then_, nullptr));
    }
  }
  for (const auto& then : told) then();
}

}  // namespace postern::api
