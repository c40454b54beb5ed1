#pragma once
// The file that `--log` names: appended to, turned over when it is large, opened again when somebody else
// turned it over, and chained (audit/chain.h) where that was asked for. Used by the journal's writer alone.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <sys/types.h>

#include "audit/chain.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace postern::audit {

/// How a log is chained.
struct ChainSettings {
  SignPayload sign;
  /// Where it is kept how far logs were signed: a file for each. Empty: nowhere.
  std::string heads_directory;
};

struct LogFileOptions {
  std::string path;                ///< "-": standard output.
  std::uint64_t rotate_bytes = 0;  ///< It is turned over when it would be larger; 0: never.
  std::size_t kept = 5;            ///< How many of those are kept: PATH.1, the newest, to PATH.5.
  /// Turned over when it is opened, and not later: whoever must not see them was shown to the files that
  /// there are.
  bool rotate_at_start_only = false;
  std::optional<ChainSettings> chain;
};

class LogFile {
 public:
  /// Errors, with a sentence: it cannot be opened (mode 0600, no symbolic link); with a chain, it has lines
  /// without one, or another process writes to it. `complain` is told what is wrong with a file that is used
  /// all the same, then and later, on the writer's thread.
  static Result<std::unique_ptr<LogFile>> open(LogFileOptions options, const Clock& clock,
                                               void (*complain)(const std::string&));
  /// Lines go there as they are.
  explicit LogFile(Fd file);
  LogFile(const LogFile&) = delete;

  /// What is to be written for `lines` (whole ones, perhaps none), here and now: the next file may be begun.
  /// Valid until the next call.
  std::string_view prepare(std::string_view lines);
  /// The same at the end: nothing is prepared after that.
  std::string_view finish();
  /// What was prepared is written, all of it.
  void written();
  /// There is something to prepare although there are no lines: a signature is due in unsigned_time.
  bool wants_tending() const { return chain_ && chain_->unsigned_lines() != 0; }

  /// As write(2).
  ssize_t write(std::string_view bytes);
  int descriptor() const { return file_.get(); }
  /// What was written is on disk, where there is one. False: errno.
  bool sync();

  /// Somebody moved the file away. Any thread; it happens with the next prepare().
  void reopen() { reopen_.store(true, std::memory_order_relaxed); }

 private:
  LogFile(LogFileOptions options, const Clock& clock, void (*complain)(const std::string&));
  Result<void> begin();
  Result<Fd> open_path() const;
  Result<Fd> open_standard_output() const;
  Result<void> take_up_chain();
  std::uint64_t signed_lines() const;
  void keep_head() const;
  bool turn_over();
  void open_again();
  void use(Fd file);

  const LogFileOptions options_;
  const Clock* const clock_ = nullptr;
  void (*const complain_)(const std::string&) = nullptr;
  Fd file_;
  std::uint64_t size_ = 0;
  std::optional<Chain> chain_;
  bool opened_ = false;        ///< The file has its first line of the chain.
  std::uint64_t missing_ = 0;  ///< Lines that are known to have been cut off.
  ChainEnd signed_;            ///< To be kept when it is written.
  ChainEnd kept_;
  TimePoint signed_at_{};
  TimePoint not_before_{};  ///< After turning over failed.
  std::string text_;
  std::atomic<bool> reopen_ = false;
};

}  // namespace postern::audit
