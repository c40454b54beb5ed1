#pragma once
// `postern doctor`: does this machine have what a sandbox needs, and if not, which one command mends it.
//
// Every check looks at the thing itself where it can: the capture is really made in a throw-away sandbox, and
// a connection is really caught in it. preflight() is the cheap part, for `postern run` to say the same
// sentence before (or instead of) bubblewrap's own, less helpful message.

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace postern::cli {

struct Finding {
  std::string subject;  ///< "bubblewrap"
  bool ok = true;
  std::string text;  ///< What was found.
  std::string mend;  ///< One shell command; empty when ok.
};

/// Looks at everything; makes and ends one sandbox (about 20 ms). Call it before threads start.
std::vector<Finding> examine(const std::string& state_directory);

/// Prints a line per finding, and the mending command below each problem. Returns the exit status: 0, or 1
/// when there is a problem.
int doctor(std::FILE* out, const std::string& state_directory);

/// What can be known without starting anything (well below a millisecond): bubblewrap is there, and the
/// kernel's settings let this user make namespaces. The error's detail holds the finding and the command that
/// mends it.
Result<void> preflight();

}  // namespace postern::cli
