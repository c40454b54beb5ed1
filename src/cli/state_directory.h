#pragma once
#include <string>

#include "base/result.h"

namespace postern::cli {

/// Where Postern keeps what outlives a run: $POSTERN_STATE_DIR, else $XDG_STATE_HOME/postern, else
/// ~/.local/state/postern. Made with mode 0700 if it is absent. Errors say which directory and why.
Result<std::string> state_directory();

}  // namespace postern::cli
