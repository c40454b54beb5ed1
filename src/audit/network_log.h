#pragma once
// The records of all sandboxes, kept on disk to be asked for: segments of JSON lines in one directory,
// appended to by the journal's writer, read by anybody at the same time, removed when they are too many or
// too old.
//
// A place in the log is the number of bytes ever written before it. It is a line's name for good: cursors and
// event ids are places, and stay good until the segment that they lie in has been removed. A segment's file
// is called by the place of its first line and the time at which it was begun:
// "00000000000000012345-1767312000.jsonl".

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/journal.h"
#include "audit/record_line.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/units.h"

namespace postern::audit {

using LogPlace = std::uint64_t;

struct LogLimits {
  std::uint64_t bytes = std::uint64_t{1} << 30;      ///< One segment more may be there for a moment.
  std::chrono::seconds age = std::chrono::days(30);  ///< Since a segment's last line, and a thirtieth more.
  std::uint64_t segment_bytes = std::uint64_t{16} << 20;
};

struct KeptLine {
  std::string text;  ///< A JSON object, without the line's end.
  LogPlace end = 0;  ///< Behind it.
};

class NetworkLog final : public LineKeeper {
 public:
  // What one question may cost, whoever asks; then it is answered with what was found, and where to go on.
  static constexpr std::uint64_t scanned_bytes_max = 32 * MiB;  // some 50 ms of a worker
  static constexpr std::size_t answer_bytes_max = 4 * MiB;
  static constexpr std::size_t window_bytes = 256 * KiB;  // read at once
  static constexpr std::size_t line_bytes_max = 4 * MiB;  // above any line that record.h writes

  /// `directory` is made when it is absent, and used by one process at a time. The end of a line that a crash
  /// tore off is cut away. Errors: with a sentence.
  static Result<std::unique_ptr<NetworkLog>> open(const std::string& directory, const LogLimits& limits,
                                                  const Clock& clock);
  NetworkLog(const NetworkLog&) = delete;

  bool append(std::string_view lines) override;
  bool sync() override;
  /// Once in a while: removes what is too old. Any thread.
  void tend();

  /// Where the next line will begin. Any thread, without waiting.
  LogPlace end() const { return end_.load(std::memory_order_acquire); }
  std::uint64_t kept_bytes() const;

  struct Page {
    std::vector<KeptLine> lines;   ///< The newest first: in the order in which calls were over.
    std::optional<LogPlace> next;  ///< `before` of the next page; nullopt: there is no more.
  };
  /// At most `limit` of the lines before `before`, which is a line's beginning (is_place()).
  Page newest(const LineMatcher& wanted, std::optional<LogPlace> before, std::size_t limit) const;

  struct Ahead {
    std::vector<KeptLine> lines;  ///< In the order of the log.
    LogPlace next = 0;            ///< Where to go on.
    bool lost = false;            ///< What came next had been removed.
    bool at_end = false;
  };
  /// What follows `from`: a window of it, so ask again until it says at_end.
  Ahead ahead(const LineMatcher& wanted, LogPlace from) const;

  /// No line of a call that began at or after `when` lies before this.
  LogPlace first_since(WallTime when) const;
  /// A line begins there, or has, or will: what somebody may have been told by us.
  bool is_place(LogPlace place) const;

 private:
  struct Segment {
    LogPlace begin = 0;
    std::uint64_t size = 0;  ///< Of whole lines.
    WallTime begun;
    WallTime written;  ///< The last time.
    LogPlace end() const { return begin + size; }
  };

  NetworkLog(Fd directory, const LogLimits& limits, const Clock& clock)
      : directory_(std::move(directory)), limits_(limits), clock_(clock) {}
  Result<void> load(const std::string& path);
  Result<void> cut_torn_line(const std::string& path);
  bool begin_segment();
  bool write_at_end(std::string_view lines);
  void remove_old();
  static std::string name_of(const Segment& segment);
  Fd open_to_read(const Segment& segment) const;
  std::vector<Segment> segments() const;

  const Fd directory_;
  const LogLimits limits_;
  const Clock& clock_;
  std::atomic<LogPlace> end_ = 0;

  mutable std::mutex mutex_;       ///< Of the following; held for a write at most.
  std::vector<Segment> segments_;  ///< By place; the last one is written to. Never empty.
  Fd current_;
};

}  // namespace postern::audit
