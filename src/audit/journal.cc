#include "audit/journal.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

namespace postern::audit {

namespace {

std::string random_name() {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits) std::abort();
  return fmt::format("{:016x}", bits);
}

}  // namespace

Journal::Journal(Sinks sinks)
    : file_(std::move(sinks.file)),
      keeper_(sinks.keeper),
      listener_(sinks.listener),
      strict_(sinks.strict),
      process_(random_name()),
      writer_([this] { write_all(); }) {}

Journal::Journal(Fd sink, LineKeeper* keeper)
    : Journal(Sinks{.file = sink ? std::make_unique<LogFile>(std::move(sink)) : nullptr, .keeper = keeper}) {}

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

bool Journal::announce(std::unique_ptr<Record> record, Announced announced) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_ || !accepting()) return false;
    queued_.fetch_add(1, std::memory_order_relaxed);
    incoming_.push_back(std::move(record));
    announced_.push_back(std::move(announced));
  }
  wake_.notify_one();
  return true;
}

std::string Journal::next_exchange() {
  return fmt::format("{}-{}", process_, exchanges_.fetch_add(1, std::memory_order_relaxed) + 1);
}

void Journal::answer(std::vector<Announced>& waiting, bool accepted) {
  for (Announced& one : waiting) {
    const std::lock_guard lock(one.mailbox->mutex);
    if (!one.mailbox->loop) continue;
    one.mailbox->loop->post([announcement = std::move(one.announcement), accepted] {
      announcement->state = accepted ? Announcement::State::accepted : Announcement::State::refused;
      if (announcement->wait) announcement->wait->notify();
    });
  }
  waiting.clear();
}

/// They will not be kept waiting for a disk that is full. Their records are written all the same, when they
/// can be, and those of their ends say that nothing was sent.
void Journal::refuse_waiting() {
  std::vector<Announced> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(announced_);
  }
  answer(waiting, false);
  answer(in_hand_, false);
}

// While records come, the writer looks every few milliseconds instead of being woken for each: a wake-up is a
// system call on the loop's thread.
void Journal::write_all() {
  using namespace std::chrono_literals;
  Batch batch;
  int idle_rounds = 0;
  std::unique_lock lock(mutex_);
  const auto awaited = [&] { return closing_ || !incoming_.empty(); };
  while (true) {
    if (incoming_.empty()) {
      if (closing_) break;
      if (idle_rounds > 100) {
        asleep_ = true;
        const bool tends = file_ && file_->wants_tending();
        if (!tends)
          wake_.wait(lock, awaited);
        else if (!wake_.wait_for(lock, Chain::unsigned_time, awaited))
          tend(lock);
        asleep_ = false;
      } else {
        ++idle_rounds;
        wake_.wait_for(lock, 5ms, [&] { return closing_ || !announced_.empty(); });
      }
      continue;
    }
    idle_rounds = 0;
    batch.swap(incoming_);
    in_hand_.swap(announced_);
    complete_ = true;
    write_in_bites(batch, lock);
    if (!in_hand_.empty()) {
      lock.unlock();
      const bool accepted = sync() && complete_;
      answer(in_hand_, accepted);
      lock.lock();
    }
    if (used_.size() < 1024) {
      for (auto& record : batch) used_.push_back(std::move(record));
    }
    batch.clear();
  }
  lock.unlock();
  if (file_ && write_to_sink(file_->finish()) == 0) file_->written();
}

void Journal::write_in_bites(std::span<const std::unique_ptr<Record>> batch,
                             std::unique_lock<std::mutex>& lock) {
  while (!batch.empty()) {
    const auto bite = batch.first(std::min(batch.size(), bite_records));
    lock.unlock();
    write_batch(bite);
    batch = batch.subspan(bite.size());
    const std::size_t left = queued_.fetch_sub(bite.size(), std::memory_order_relaxed) - bite.size();
    lock.lock();
    if (!batch.empty() && left < queued_records_max / 2 && in_hand_.empty())
      wake_.wait_for(lock, pause, [&] { return closing_.load(); });
  }
}

void Journal::tend(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  if (write_to_sink(file_->prepare({})) == 0) file_->written();
  lock.lock();
}

/// All that was written is on disk. False: Postern is ending, and it still is not.
bool Journal::sync() {
  while (!((!file_ || file_->sync()) && (!keeper_ || keeper_->sync())))
    if (!wait_for_sink(errno == EAGAIN ? EIO : errno)) return false;
  failing_.store(false, std::memory_order_relaxed);
  return true;
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
    if (record->begins) {
      append_json(*record, line_buffer_);
      record->clear();
      continue;
    }
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
    if (file_ || keeper_ || listener_) append_json(*record, line_buffer_);
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
  if (listener_) listener_->hear(line_buffer_);
  const std::size_t not_written = file_ ? write_to_sink(file_->prepare(line_buffer_)) : 0;
  if (file_ && not_written == 0) file_->written();
  const std::size_t not_kept = keeper_ ? keep() : 0;
  complete_ = complete_ && not_written == 0 && not_kept == 0;
  summary_.lost += std::max(not_written, not_kept);
  counts_.lost.store(summary_.lost, std::memory_order_relaxed);
}

/// How many lines it did not take.
std::size_t Journal::write_to_sink(std::string_view rest) {
  while (!rest.empty()) {
    const ssize_t written = file_->write(rest);
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
    pollfd sink{file_->descriptor(), POLLOUT, 0};
    const bool writable = ::poll(&sink, 1, static_cast<int>(patience.count())) > 0;
    // Who waits for it learns that it takes nothing; the others go on until too much waits.
    if (!writable && strict_) refuse_waiting();
    return writable || !closing_;
  }
  if (!failing_.exchange(true, std::memory_order_relaxed))
    std::fprintf(stderr, "postern: the log cannot be written (%s); nothing is passed on until it can\n",
                 std::strerror(error_number));
  refuse_waiting();
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

LoopJournal::LoopJournal(Journal& journal, io::Loop* loop)
    : journal_(journal), mailbox_(std::make_shared<LoopMailbox>()) {
  mailbox_->loop = loop;
}

LoopJournal::~LoopJournal() {
  flush();
  const std::lock_guard lock(mailbox_->mutex);
  mailbox_->loop = nullptr;
}

io::Task<bool> LoopJournal::announce(std::unique_ptr<Record> begin, Record& end, TimePoint deadline) {
  /// Ties a wait of this frame to what the writer holds of it, for as long as the frame lives.
  struct Tie {
    io::Wait wait;
    std::shared_ptr<Announcement> announcement = std::make_shared<Announcement>();
    explicit Tie(io::Loop& loop) : wait(loop) { announcement->wait = &wait; }
    ~Tie() { announcement->wait = nullptr; }
  };
  Tie tie(*mailbox_->loop);
  end.exchange = journal_.next_exchange();
  begin->exchange = end.exchange;
  begin->begins = true;
  begin->reason = Reason::allowed;
  Announced announced{mailbox_, tie.announcement};
  if (!journal_.announce(std::move(begin), std::move(announced))) co_return false;
  while (tie.announcement->state == Announcement::State::waiting) {
    const io::Wait::Outcome how = co_await tie.wait.until(deadline);
    if (how == io::Wait::Outcome::expired) break;
  }
  co_return tie.announcement->state == Announcement::State::accepted;
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
