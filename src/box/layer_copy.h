#pragma once
// Copies of trees: what a box wrote, or a root file system that an operator has as a directory. What is
// copied is hostile, and may change meanwhile; no link is followed.

#include "base/fd.h"
#include "base/result.h"
#include "box/layer_tree.h"

namespace postern::box {

enum class Overlay : std::uint8_t {
  is_none,   ///< An ordinary tree, of which device nodes are left out.
  is_upper,  ///< The upper layer of an overlay that was mounted with `userxattr`: what it removes (character
             ///< devices 0/0) and hides (user.overlay.opaque) is removed and hidden by the copy.
};

/// Copies what is in `from` into `to`, an empty directory of box_owner()'s: files with their holes, hard
/// links among them, links, pipes, modes and times; `user.` attributes of an overlay's. Sockets are left out.
/// Needs to be user 0 of a namespace of box_owner(). Errors name what could not be read.
Result<void> copy_tree(const Fd& from, const Fd& to, LayerBudget& budget, Overlay overlay);

}  // namespace postern::box
