#pragma once
// From the loops to the log. A loop collects the records of a turn and hands them over at its end; one thread
// formats and writes. The queue is bounded: while it is full no new exchange is accepted (audit_unavailable),
// so nothing happens that is not recorded.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "audit/log_file.h"
#include "audit/record.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "io/task.h"
#include "io/wait.h"

namespace postern::audit {

/// What `postern run` prints at the end.
struct Summary {
  struct PerHost {
    std::uint64_t allowed = 0, denied = 0, failed = 0;
    std::uint64_t request_bytes = 0, response_bytes = 0;
    std::uint64_t with_credentials = 0;
  };
  std::map<std::string, PerHost> hosts;  ///< "host:port"
  std::uint64_t records = 0;
  std::uint64_t lost = 0;  ///< Records that the sink refused.
};

/// How many there were of what, since the start. Written by the journal's writer, read by anybody.
struct Counts {
  static constexpr std::size_t reasons = static_cast<std::size_t>(Reason::internal) + 1;
  std::array<std::atomic<std::uint64_t>, reasons> by_reason{};
  std::atomic<std::uint64_t> request_bytes = 0, response_bytes = 0;
  std::atomic<std::uint64_t> lost = 0;  ///< As Summary::lost.
};

/// Where lines are kept to be asked for, besides the sink.
class LineKeeper {
 public:
  virtual ~LineKeeper() = default;
  /// Whole lines. False: none of them is kept, errno says why, and it will be tried again. On the writer's
  /// thread.
  virtual bool append(std::string_view lines) = 0;
  /// What was appended is on disk. False as above.
  virtual bool sync() { return true; }
};

/// Who is told of lines, and may drop them: it never waits for anybody. On the writer's thread.
class LineListener {
 public:
  virtual ~LineListener() = default;
  virtual void hear(std::string_view lines) = 0;
};

/// Where lines go.
struct Sinks {
  std::unique_ptr<LogFile> file;  ///< May be nullptr, as all of them.
  LineKeeper* keeper = nullptr;   ///< These outlive the journal.
  LineListener* listener = nullptr;
  /// No credential leaves before a record that says so is in the file and with the keeper, and on disk.
  bool strict = false;
};

/// One who waits until its record is on disk. On its loop's thread.
struct Announcement {
  enum class State : std::uint8_t { waiting, accepted, refused };
  io::Wait* wait = nullptr;  ///< nullptr when nobody waits any more.
  State state = State::waiting;
};

/// The way back to a loop, which may be gone.
struct LoopMailbox {
  std::mutex mutex;
  io::Loop* loop = nullptr;
};

struct Announced {
  std::shared_ptr<LoopMailbox> mailbox;
  std::shared_ptr<Announcement> announcement;
};

class Journal {
 public:
  static constexpr std::size_t queued_records_max =
      16384;  // about 40 MB when every path is as long as records take
  static constexpr std::size_t summary_hosts_max = 4096;

  explicit Journal(Sinks sinks);
  /// `sink` receives JSON lines; an invalid Fd means that nothing is written, only summed up.
  explicit Journal(Fd sink, LineKeeper* keeper = nullptr);
  ~Journal();
  Journal(const Journal&) = delete;

  /// False while the writer is so far behind, or the sink so broken, that nothing new may start. Any thread.
  bool accepting() const {
    return queued_.load(std::memory_order_relaxed) < queued_records_max &&
           !failing_.load(std::memory_order_relaxed);
  }

  using Batch = std::vector<std::unique_ptr<Record>>;
  /// Takes the records out of `batch` and leaves used-up ones for reuse in `recycled`. Any thread.
  void submit(Batch& batch, Batch& recycled);

  bool strict() const { return strict_; }
  /// Writes this record at once, and tells whoever announced it when it is on disk, or that it may never be.
  /// Any thread. False: it was not even taken.
  bool announce(std::unique_ptr<Record> record, Announced announced);
  /// A name for an exchange that has two records.
  std::string next_exchange();

  /// Somebody moved the file away: it is opened again with the next lines. Any thread.
  void reopen() {
    if (file_) file_->reopen();
  }

  std::size_t queued() const { return queued_.load(std::memory_order_relaxed); }
  const Counts& counts() const { return counts_; }

  /// Writes what is queued and ends the writer. Idempotent.
  Summary close();

 private:
  /// Where there is no core to spare the writer takes one from a loop, whose requests wait meanwhile: it
  /// takes it for some 40 µs at a time.
  static constexpr std::size_t bite_records = 16;
  static constexpr std::chrono::microseconds pause{50};

  void write_all();
  void write_in_bites(std::span<const std::unique_ptr<Record>> batch, std::unique_lock<std::mutex>& lock);
  void tend(std::unique_lock<std::mutex>& lock);
  bool sync();
  static void answer(std::vector<Announced>& waiting, bool accepted);
  void refuse_waiting();
  void write_batch(std::span<const std::unique_ptr<Record>> batch);
  void count(const Record& record);
  void write_lines();
  std::size_t write_to_sink(std::string_view text);
  std::size_t keep();
  bool wait_for_sink(int error_number);
  Summary::PerHost* summary_of(const std::string& host, std::uint16_t port);

  const std::unique_ptr<LogFile> file_;
  LineKeeper* const keeper_;
  LineListener* const listener_;
  const bool strict_;
  const std::string process_;  ///< Names this process among all that write.
  std::atomic<std::uint64_t> exchanges_ = 0;
  Counts counts_;
  std::atomic<std::size_t> queued_ = 0;
  std::atomic<bool> failing_ = false;  ///< The sink takes nothing at the moment.
  std::mutex mutex_;
  std::condition_variable wake_;
  Batch incoming_;
  Batch used_;
  std::vector<Announced> announced_;   ///< Whose records are in incoming_.
  std::atomic<bool> closing_ = false;  ///< Set under the mutex.
  bool asleep_ = false;
  std::vector<Announced> in_hand_;  ///< Whose records are being written: the writer's.
  bool complete_ = true;            ///< Nothing of what is in hand was lost.
  Summary summary_;                 ///< Writer's until close().
  std::string last_host_;
  std::uint16_t last_port_ = 0;
  Summary::PerHost* last_summary_ = nullptr;
  std::string line_buffer_;
  std::thread writer_;
};

class Recording;

/// A loop's side of the journal.
class LoopJournal {
 public:
  /// `loop`: where announcements wait, in strict mode.
  explicit LoopJournal(Journal& journal, io::Loop* loop = nullptr);
  LoopJournal(const LoopJournal&) = delete;
  ~LoopJournal();

  bool accepting() const { return journal_.accepting(); }
  std::unique_ptr<Record> take();
  bool strict() const { return journal_.strict(); }
  /// Waits until a record that says what is about to happen is on disk; `end` will be the record of what
  /// became of it, and both get the same name. False: it is not there by `deadline`, or cannot be.
  io::Task<bool> announce(std::unique_ptr<Record> begin, Record& end, TimePoint deadline);
  void put(std::unique_ptr<Record> record) { turn_.push_back(std::move(record)); }
  /// At the end of a turn.
  void flush() {
    if (!turn_.empty()) journal_.submit(turn_, recycled_);
  }
  /// When the loop has ended for good: what is still open is recorded as cut off, for whoever it belongs to
  /// will not run again.
  void finish_open(Reason reason);
  /// What is open of this sandbox (by the address of its name) will say `reason` at its end.
  void end_open(const std::string* sandbox, Reason reason);

 private:
  friend class Recording;
  Journal& journal_;
  const std::shared_ptr<LoopMailbox> mailbox_;
  Recording* open_ = nullptr;
  Journal::Batch turn_;
  Journal::Batch recycled_;
};

/// Owns the record of one exchange. Whatever path the code takes, exactly one record is put: an unfinished
/// one says `abandoned`.
class Recording {
 public:
  Recording(LoopJournal& journal, const Clock& clock)
      : journal_(journal), clock_(clock), started_(clock.now()), record_(journal.take()) {
    record_->time = std::chrono::system_clock::now();
    next_ = journal_.open_;
    if (next_) next_->previous_ = this;
    journal_.open_ = this;
  }
  Recording(const Recording&) = delete;
  ~Recording() {
    if (record_) finish(Reason::abandoned);
  }

  Record* operator->() { return record_.get(); }
  Record& operator*() { return *record_; }
  TimePoint started() const { return started_; }
  bool open() const { return record_ != nullptr; }

  /// Why it is being ended from outside: what its owner sees of that, a closed connection, is not the reason.
  void end_as(Reason reason) { imposed_ = reason; }

  void finish(Reason reason, std::string_view detail = {}) {
    std::unique_ptr<Record> record = std::move(record_);
    record->reason = imposed_.value_or(reason);
    record->detail = imposed_ ? std::string_view() : detail;
    record->duration = std::chrono::duration_cast<std::chrono::microseconds>(clock_.now() - started_);
    journal_.put(std::move(record));
    (previous_ ? previous_->next_ : journal_.open_) = next_;
    if (next_) next_->previous_ = previous_;
  }

 private:
  friend class LoopJournal;
  LoopJournal& journal_;
  const Clock& clock_;
  Recording* previous_ = nullptr;  ///< In the loop's list of open recordings.
  Recording* next_ = nullptr;
  TimePoint started_;
  std::unique_ptr<Record> record_;
  std::optional<Reason> imposed_;
};

}  // namespace postern::audit
