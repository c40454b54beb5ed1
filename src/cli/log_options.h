#pragma once
// What `postern run` and `postern serve` have in common about their logs: options, and what is opened for
// them.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "audit/log_file.h"

namespace postern::cli {

struct LogSettings {
  std::string log;                 ///< FILE or -
  bool chain = false;              ///< --log-chain
  bool strict = false;             ///< --log-strict
  std::uint64_t rotate_bytes = 0;  ///< --log-rotate-bytes; 0: never.
  std::uint64_t rotate_keep = 5;   ///< --log-rotate-keep
};

inline constexpr std::uint64_t log_rotate_bytes_min = 4096;
inline constexpr std::uint64_t log_rotate_keep_max = 1000;

enum class TurnsOver : bool { at_start_only, while_running };

/// nullptr without --log. `directory`: where the key of chains is kept, and how far they were signed; made
/// when it is needed. Stops with a complaint.
std::unique_ptr<audit::LogFile> open_log_file(const LogSettings& settings, const std::string& directory,
                                              TurnsOver turns_over);

/// The files that open_log_file() may have made: FILE, FILE.1 and so on.
std::vector<std::string> log_files(const LogSettings& settings);

}  // namespace postern::cli
