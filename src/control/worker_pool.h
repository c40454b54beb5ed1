#pragma once
// A fixed number of threads on which handlers run. They may read a disk or a database there, but never wait
// for a caller: so that as many as there are suffice however many callers are slow.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace postern::control {

/// Something to be done once, on one thread or another.
using Job = std::move_only_function<void()>;

class WorkerPool {
 public:
  explicit WorkerPool(unsigned threads);
  /// Waits for the jobs that run; those that still stand in line are destroyed.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;

  /// In the order in which they come, each on the first thread that is free. The queue has no limit of its
  /// own: a connection has at most two jobs in it, and connections are limited. After stop() the job is
  /// destroyed. A std::exception that a job lets out ends that job only: what it held is released, so that a
  /// Call without an answer gets its 500.
  void post(Job job);

  /// Waits for what runs and for what stands in line, also where a job adds more; then takes nothing any
  /// more.
  void finish();

 private:
  void run();
  void stop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable idle_;
  std::deque<Job> waiting_;
  unsigned running_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace postern::control
