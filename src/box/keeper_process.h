#pragma once
// The keeper's own side (keeper.h), in the forked process.

#include <string>
#include <sys/types.h>

#include "base/fd.h"
#include "box/box_root.h"

namespace postern::box {

/// Serves the requests of `socket` until its other end goes, or the thread that forked us. Forgets the
/// environment and closes every other descriptor first. `parent` is who forked.
[[noreturn]] void run_keeper(Fd socket, pid_t parent);

}  // namespace postern::box
