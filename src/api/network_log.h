#pragma once
// The network log as callers ask for it: of one box or of their whole workspace, the newest first, or as it
// grows. Nobody sees another workspace's records, whatever they ask.

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/door.h"
#include "audit/network_log.h"
#include "control/router.h"
#include "io/loop.h"
#include "platform/boxes.h"

namespace postern::api {

/// Those who follow the log. The log's writer knows nothing of them: a timer looks whether it has grown.
class LogFollowers {
 public:
  static constexpr Duration look_time = std::chrono::milliseconds(200);
  static constexpr Duration heartbeat = std::chrono::seconds(15);  // clients and proxies wait for a minute
  static constexpr std::size_t followers_max = 256;                // each reads everything that is written
  static constexpr std::size_t followers_of_workspace_max = 32;

  /// Both outlive it, and `loop` runs on another thread.
  LogFollowers(const audit::NetworkLog& log, io::Loop& loop);
  ~LogFollowers();
  LogFollowers(const LogFollowers&) = delete;

  /// Answers the call with events of what lies behind `from`, or says that there are too many.
  void follow(const std::shared_ptr<control::Call>& call, const std::string& workspace,
              const audit::LogFilter& filter, audit::LogPlace from);
  /// All answers end, also those to come. Before the server stops. Idempotent.
  void stop();

 private:
  struct Follower;
  class Source;
  class Look;

  bool add(const std::shared_ptr<Follower>& follower);
  void look();

  const audit::NetworkLog& log_;
  io::Loop& loop_;
  std::atomic<bool> stopping_ = false;
  std::unique_ptr<Look> look_;  ///< Of the loop's thread.
  audit::LogPlace seen_ = 0;    ///< Likewise.
  std::mutex mutex_;
  std::vector<std::weak_ptr<Follower>> followers_;
};

/// Below "/v2/sandboxes" and "/api/v2/sandboxes". All outlive them.
std::vector<control::Route> network_log_routes(const audit::NetworkLog& log, LogFollowers& followers,
                                               platform::Boxes& boxes, Identify identify);

/// "2026-11-29T13:00:00.5Z", "2026-11-29T15:00:00+02:00" (RFC 3339). nullopt: it is no such time, or one
/// before 1970 or behind 2199.
std::optional<WallTime> parse_time(std::string_view text);

}  // namespace postern::api
