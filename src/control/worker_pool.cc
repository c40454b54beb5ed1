#include "control/worker_pool.h"

#include <algorithm>
#include <exception>
#include <pthread.h>
#include <utility>

namespace postern::control {

WorkerPool::WorkerPool(unsigned threads) {
  for (unsigned i = 0; i < std::max(threads, 1U); ++i) threads_.emplace_back([this] { run(); });
}

WorkerPool::~WorkerPool() { stop(); }

void WorkerPool::post(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;  // The job is destroyed behind the lock: what it holds may post, too.
    waiting_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void WorkerPool::finish() {
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return stopped_ || (waiting_.empty() && running_ == 0); });
  }
  stop();
}

void WorkerPool::stop() {
  std::deque<Job> left;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    left.swap(waiting_);
  }
  changed_.notify_all();
  idle_.notify_all();
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

void WorkerPool::run() {
  ::pthread_setname_np(::pthread_self(), "api worker");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopped_ || !waiting_.empty(); });
    if (stopped_) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    ++running_;
    lock.unlock();
    try {
      job();
    } catch (const std::exception&) {
      job = nullptr;  // What it held says so: a Call answers 500.
    }
    job = nullptr;
    lock.lock();
    --running_;
    if (waiting_.empty() && running_ == 0) idle_.notify_all();
  }
}

}  // namespace postern::control
