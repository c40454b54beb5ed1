#pragma once
// `postern run`: a program whose whole network is Postern.

#include "cli/run_options.h"

namespace postern::cli {

/// Postern itself failed; the command's own statuses are passed on as they are.
inline constexpr int exit_postern_failed = 125;

/// Runs the command and returns the exit status of this process. Complaints go to stderr, each naming its
/// culprit; after one nothing was started.
int run(const RunOptions& options);

}  // namespace postern::cli
