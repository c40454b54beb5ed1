#include "audit/journal.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

namespace postern::audit {

Journal::Journal(Fd sink, LineKeeper* keeper)
    : sink_(std::move(sink)), keeper_(keeper), writer_([this] { write_all(); }) {}

Journal::~Journal() { close(); }

void Journal::submit(Batch& batch, Batch& recycled) {
  queued_.fetch_add(batch.size(), std::memory_order_relaxed);
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (incoming_.empty()) {
      incoming_.swap(batch);
    } else {
      for (auto& record : batch) incoming_.push_back(std::move(record));
    }
    if (recycled.empty()) recycled.swap(used_);
    wake = asleep_;
  }
  batch.clear();
  if (wake) wake_.notify_one();
}

// While records come, the writer looks every few milliseconds instead of being woken for each: a wake-up is a
// system call on the loop's thread.
void Journal::write_all() {
  using namespace std::chrono_literals;
  Batch batch;
  int idle_rounds = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    if (incoming_.empty()) {
      if (closing_) return;
      if (idle_rounds > 100) {
        asleep_ = true;
        wake_.wait(lock, [&] { return closing_ || !incoming_.empty(); });
        asleep_ = false;
      } else {
        ++idle_rounds;
        wake_.wait_for(lock, 5ms, [&] { return closing_.load(); });
      }
      continue;
    }
    idle_rounds = 0;
    batch.swap(incoming_);
    for (std::span<const std::unique_ptr<Record>> rest = batch; !rest.empty();) {
      const auto bite = rest.first(std::min(rest.size(), bite_records));
      lock.unlock();
      write_batch(bite);
      rest = rest.subspan(bite.size());
      const std::size_t left = queued_.fetch_sub(bite.size(), std::memory_order_relaxed) - bite.size();
      lock.lock();
      if (!rest.empty() && left < queued_records_max / 2)
        wake_.wait_for(lock, pause, [&] { return closing_.load(); });
    }
    if (used_.size() < 1024) {
      for (auto& record : batch) used_.push_back(std::move(record));
    }
    batch.clear();
  }
}

/// Null when there are too many hosts already.
Summary::PerHost* Journal::summary_of(const std::string& host, std::uint16_t port) {
  // Mostly one record after the other is of the same host.
  if (last_summary_ && last_port_ == port && last_host_ == host) return last_summary_;
  std::string name = fmt::format("{}:{}", host, port);
  const auto place = summary_.hosts.find(name);
  if (place == summary_.hosts.end() && summary_.hosts.size() >= summary_hosts_max) return nullptr;
  last_host_ = host;
  last_port_ = port;
  last_summary_ = place != summary_.hosts.end() ? &place->second : &summary_.hosts[std::move(name)];
  return last_summary_;
}

void Journal::write_batch(std::span<const std::unique_ptr<Record>> batch) {
  line_buffer_.clear();
  for (const auto& record : batch) {
    ++summary_.records;
    if (Summary::PerHost* found = summary_of(record->host, record->port)) {
      Summary::PerHost& host = *found;
      switch (decision_of(record->reason)) {
        case Decision::allowed: ++host.allowed; break;
        case Decision::denied: ++host.denied; break;
        case Decision::failed: ++host.failed; break;
      }
      host.request_bytes += record->request_bytes;
      host.response_bytes += record->response_bytes;
      host.with_credentials += record->credentials.empty() ? 0 : 1;
    }
    count(*record);
    if (sink_ || keeper_) append_json(*record, line_buffer_);
    record->clear();
  }
  write_lines();
}

void Journal::count(const Record& record) {
  // There is one writer: no two ever add at once.
  const auto add = [](std::atomic<std::uint64_t>& to, std::uint64_t value) {
    to.store(to.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  };
  add(counts_.by_reason[static_cast<std::size_t>(record.reason)], 1);
  add(counts_.request_bytes, record.request_bytes);
  add(counts_.response_bytes, record.response_bytes);
}

// Nothing is dropped while there is hope: what could not be written stays here, the queue behind it fills up,
// and nothing new is accepted meanwhile.
void Journal::write_lines() {
  const std::size_t not_written = sink_ ? write_to_sink() : 0;
  const std::size_t not_kept = keeper_ ? keep() : 0;
  summary_.lost += std::max(not_written, not_kept);
  counts_.lost.store(summary_.lost, std::memory_order_relaxed);
}

/// How many lines it did not take.
std::size_t Journal::write_to_sink() {
  std::string_view rest = line_buffer_;
  while (!rest.empty()) {
    const ssize_t written = ::write(sink_.get(), rest.data(), rest.size());
    if (written >= 0) {
      rest.remove_prefix(static_cast<std::size_t>(written));
      failing_.store(false, std::memory_order_relaxed);
    } else if (errno != EINTR && !wait_for_sink(errno)) {
      break;  // A line that was cut in the middle counts as lost too.
    }
  }
  return static_cast<std::size_t>(std::ranges::count(rest, '\n'));
}

std::size_t Journal::keep() {
  while (!line_buffer_.empty() && !keeper_->append(line_buffer_))
    if (!wait_for_sink(errno)) return static_cast<std::size_t>(std::ranges::count(line_buffer_, '\n'));
  failing_.store(false, std::memory_order_relaxed);
  return 0;
}

/// False when Postern is ending and the sink still takes nothing.
bool Journal::wait_for_sink(int error_number) {
  const auto patience = std::chrono::milliseconds(closing_ ? 5000 : 100);  // at the end: a last chance
  if (error_number == EAGAIN) {
    // Shared with the program (`--log -`), which may have made it nonblocking and full.
    pollfd sink{sink_.get(), POLLOUT, 0};
    const bool writable = ::poll(&sink, 1, static_cast<int>(patience.count())) > 0;
    return writable || !closing_;
  }
  if (!failing_.exchange(true, std::memory_order_relaxed))
    std::fprintf(stderr, "postern: the log cannot be written (%s); nothing is passed on until it can\n",
                 std::strerror(error_number));
  if (closing_) return false;
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, patience, [&] { return closing_.load(); });
  return true;
}

Summary Journal::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  if (writer_.joinable()) writer_.join();
  return summary_;
}

void LoopJournal::finish_open(Reason reason) {
  while (open_) open_->finish(reason);
  flush();
}

void LoopJournal::end_open(const std::string* sandbox, Reason reason) {
  for (Recording* open = open_; open; open = open->next_)
    if (open->record_->sandbox.get() == sandbox) open->end_as(reason);
}

std::unique_ptr<Record> LoopJournal::take() {
  if (recycled_.empty()) return std::make_unique<Record>();
  auto record = std::move(recycled_.back());
  recycled_.pop_back();
  return record;
}

}  // namespace postern::audit
