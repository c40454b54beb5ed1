#pragma once
// The file system that the sandboxed program sees, as a list of steps in the order in which they are mounted.
//
// The host's root is there, read-only; the working directory is writable; /dev, /proc, /tmp, /var/tmp and
// /run are the sandbox's own. A later mount covers an earlier one, so order is everything:
//   1. the root
//   2. the working directory (or last of the host's, where it lies inside one of the sandbox's own places)
//   3. the sandbox's own places
//   4. hidden places, so that no working directory (the home, even /) uncovers them
//   5. the user's --bind, --ro-bind and --hide in their order; a bind of an ancestor is followed by the
//   hidden
//      places below it again, only a bind of the hidden place itself (or below it) opens it
//   6. Postern's state directory: hidden, whatever was asked
//   7. Postern's own files: resolv.conf, hosts, CA files, the launcher
// Pure: it looks at nothing; launch.cc gathers the facts and turns the steps into bubblewrap's arguments.

#include <string>
#include <vector>

#include "sandbox/hidden.h"

namespace postern::sandbox {

/// A --bind, --ro-bind or --hide of the user.
struct PathRule {
  enum class Kind : unsigned char { bind, ro_bind, hide };
  Kind kind = Kind::bind;
  std::string source;       ///< On the host. Unused by `hide`.
  std::string destination;  ///< In the sandbox. Empty: as `source`.
};

struct MountStep {
  enum class Kind : unsigned char {
    bind,          ///< source -> destination, writable
    ro_bind,       ///< source -> destination
    devices,       ///< a minimal /dev
    processes,     ///< a /proc of the sandbox's own
    temporary,     ///< an empty tmpfs that everybody may write
    private_tree,  ///< an empty tmpfs
    hide_tree,     ///< an empty tmpfs: what the program writes there (~/.ssh/known_hosts) is gone afterwards
    hide_file,     ///< an empty, read-only file
    data,          ///< a read-only file that holds `content`
    program,       ///< the same, executable
    copy,          ///< a writable copy of the host's file `source`; the place must be an empty tree
    directory,     ///< make a directory
  };
  Kind kind;
  std::string source;
  std::string destination;
  std::string content;
  bool operator==(const MountStep&) const = default;
};

struct MountFacts {
  std::string working_directory;        ///< Absolute, without symbolic links.
  std::vector<std::string> homes;       ///< Likewise; kept visible where they lie below a private place.
  std::vector<HiddenPlace> hidden;      ///< Credential places and sockets.
  std::vector<PathRule> rules;          ///< Of the user; both paths absolute, without symbolic links.
  std::vector<HiddenPlace> rule_hides;  ///< What the `hide` rules name, in the rules' order.
  std::string state_directory;          ///< Empty: none.
  std::vector<std::string> temporary_places;  ///< Which of /tmp and /var/tmp there are.
  std::vector<std::string> run_trees;         ///< What of the host's /run stays visible (NixOS' programs).
  std::string runtime_directory;              ///< XDG_RUNTIME_DIR, made empty.
  std::vector<MountStep> files;               ///< Last: CA bundles.
  std::vector<MountStep> data;                ///< Postern's own files.
};

std::vector<MountStep> plan_mounts(const MountFacts& facts);

}  // namespace postern::sandbox
