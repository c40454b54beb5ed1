#pragma once
// The directory of a box outside: what its commands wrote, which outlives their sandbox.
//
//   root  root.work    what differs from the snapshot (the upper layer of an overlay, and its scratch)
//   usr   usr.work     the same for /usr, where the snapshot is the host's userland
//
// A box never sees this directory, only the overlay; but what is *in* `root` and `usr` is hostile: links,
// trees of any depth, closed directories. Whoever comes from outside follows no link and keeps few things
// open.
//
// It belongs to box_owner(): the only user that a box has, who is root in it.

#include <stop_token>
#include <string>
#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"

namespace postern::box {

struct Owner {
  uid_t user;
  gid_t group;
};

/// Who a box's root is outside. For an ordinary user: that user. For root: a number that belongs to nobody,
/// so that nothing of the host is a box's own, whatever it may get to see of it (/dev/null can be closed to
/// everybody by its owner, /proc/sys be written). Snapshots are unpacked as this owner's.
Owner box_owner();

/// Opens it, made (mode 0700) when it is absent; its parent must be there. It stays taken until the Fd and
/// all its copies are closed: errors say so when the box runs already, and name what is not box_owner()'s.
Result<Fd> take_box_directory(const std::string& path);

/// Deletes it and all that is in it; no error when it is absent. Errors: the box runs; it was asked to stop;
/// I/O. What was deleted until then stays so, and calling again goes on.
Result<void> remove_box_directory(const std::string& path, std::stop_token stop = {});

/// All that is in an open directory, of any depth and with whatever modes. Errors: I/O.
Result<void> empty_directory(const Fd& directory);

/// Errors: the box runs; I/O. None when the directory is absent.
Result<void> check_box_directory_is_idle(const std::string& path);

}  // namespace postern::box
