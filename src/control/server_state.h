#pragma once
// What the connections of one HttpServer share. Inside of control/ only.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "control/http_server.h"
#include "control/transport.h"
#include "control/worker_pool.h"

namespace postern::control {

class Connection;

struct ServerState {
  ServerState(const ServerOptions& of, const Clock& at, std::unique_ptr<Transport> by)
      : options(of), clock(at), transport(std::move(by)), open(transport->lanes()), workers(of.workers) {}

  const ServerOptions options;
  const Clock& clock;
  const std::unique_ptr<Transport> transport;
  Handler handler;
  AccessLog log;
  std::atomic<bool> stopping = false;
  std::atomic<std::size_t> requests = 0;

  /// For each lane, and touched on it only. Connections live here until they are over.
  std::vector<std::unordered_set<std::shared_ptr<Connection>>> open;

  void connection_opened() {
    const std::lock_guard lock(mutex_);
    ++connections_;
  }
  void connection_closed() {
    const std::lock_guard lock(mutex_);
    if (--connections_ == 0) none_left_.notify_all();
  }
  std::size_t connections() const {
    const std::lock_guard lock(mutex_);
    return connections_;
  }
  /// False: some were left at `deadline`.
  bool wait_for_connections(TimePoint deadline) {
    std::unique_lock lock(mutex_);
    return none_left_.wait_until(lock, deadline, [&] { return connections_ == 0; });
  }
  void wait_for_connections() {
    std::unique_lock lock(mutex_);
    none_left_.wait(lock, [&] { return connections_ == 0; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable none_left_;
  std::size_t connections_ = 0;

 public:
  WorkerPool workers;  ///< Last: its threads use all of the above.
};

}  // namespace postern::control
