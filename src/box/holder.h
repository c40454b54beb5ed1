#pragma once
// The holder of one box: two processes below the keeper (keeper.h). The outer one makes a user, a mount and a
// pid namespace, whose process 1 is the inner one; that makes the box's root and starts bubblewrap. When the
// inner one goes the kernel kills all that are below it, whatever they were doing: bubblewrap's own processes
// die with each other only once they have said so to the kernel. Once the box runs, both have nothing to do
// but to wait, and become postern-rest (rest/main.cc) for it.

#include <initializer_list>
#include <sys/types.h>

#include "base/result.h"
#include "box/box_root.h"
#include "box/userland.h"

namespace postern::box {

/// Makes the box, says so on `answer` (keeper_protocol.h), and stays until it ends or SIGTERM comes; when
/// this process has ended, all of the box has. `keeper` is who forked. Closes every other descriptor.
[[noreturn]] void run_holder(int answer, const BoxSpec& spec, const Userland& userland, pid_t keeper);

/// The answer of a box that there is not.
void send_failure(int answer, const Error& error);

/// SIGKILL for this process when `parent`, or its thread that forked, ends; at once if it has.
void die_with(pid_t parent);

/// `kept` become descriptors 3, 4 and so on; 0, 1 and 2 stay, and there is no other.
void keep_only(std::initializer_list<int> kept);

}  // namespace postern::box
