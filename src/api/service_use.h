#pragma once
// Who uses services of boxes right now: a bound for each box, and a way to end what a revoked grant had let
// in. Thread-safe.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "api/service_head.h"

namespace postern::api {

class ServiceUse : public std::enable_shared_from_this<ServiceUse> {
 public:
  /// Connections to one box at once. Its agent has 256 places for them and for commands.
  static constexpr std::size_t seats_max = 64;

  /// Taken before a grant is looked up: a grant that goes afterwards finds who came by it.
  class Seat {
   public:
    Seat(std::shared_ptr<ServiceUse> use, ServicePlace place)
        : use_(std::move(use)), place_(std::move(place)) {}
    ~Seat();
    Seat(const Seat&) = delete;
    /// `then` is called once, on any thread, also at once; not after the seat has gone, except when both
    /// happen at the same time.
    void when_cut(std::function<void()> then);

   private:
    friend class ServiceUse;
    const std::shared_ptr<ServiceUse> use_;
    const ServicePlace place_;
    bool cut_ = false;
    std::function<void()> then_;
  };

  /// nullptr: the box has seats_max already.
  std::shared_ptr<Seat> take(const ServicePlace& place);
  /// Ends what goes on at this port, or at all of them.
  void cut(const std::string& box, std::optional<std::uint16_t> port);

 private:
  std::mutex mutex_;
  std::map<std::string, std::set<Seat*>> seats_;
};

}  // namespace postern::api
