#pragma once
// A process in namespaces of its own that works for a box or a snapshot: user 0 of its user namespace is
// box_owner(), and when the process that started it goes, it goes.

#include <functional>
#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"

namespace postern::box {

/// What the inner process has of the outer one.
struct InnerEnds {
  int exit;   ///< A pidfd of the outer one.
  int outer;  ///< End of file: the outer one is gone.
};

/// Starts `run`, which does not return, as process 1 of a user, a mount and a pid namespace and of those that
/// `more_namespaces` (CLONE_NEW*) names. It has the server's user still, with capabilities over what is
/// box_owner()'s alone. It lives until `keeps_alive` is closed. For single-threaded processes.
Result<pid_t> start_inner(int more_namespaces, Fd& keeps_alive, const std::function<void(InnerEnds)>& run);

/// For the outer process, before it starts the inner one: inside, signals are as anywhere. What comes here
/// meanwhile is ignored like the keeper's, but for SIGTERM.
void let_signals_end();

/// The rest of the outer process: it ends with the inner one, which SIGTERM ends.
[[noreturn]] void stay_with(pid_t inner);

/// To be called once more after the process has become another user, which clears it. The parent's id says
/// nothing here: it is in another pid namespace.
void die_with_outer(int outer);

/// Makes the mounts of this process its own: nothing that is done to them reaches the host.
Result<void> part_from_mounts();

/// User 0 of the namespace, with no other group.
Result<void> become_owner();

}  // namespace postern::box
