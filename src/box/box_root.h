#pragma once
// The file system of a box, made from outside in namespaces of its own before bubblewrap is started in them.
//
//   /          overlay: the layers of the snapshot, and below them the common userland if it is made on that,
//              below what the box wrote
//   /usr       the same of the host's, where the snapshot is made on the host's userland
//   /run       empty at each start; /run/postern has the agent and the launcher, read-only
//   resolv.conf, hosts, BoxSpec::files   ours, whatever the box wrote there
//   /dev, /proc                          by bubblewrap (sandbox/launch.h)
//
// What the box wrote is hostile at its next start: nothing here follows its links but within its own root,
// and what stands where a mount belongs is renamed, so that a box cannot break its own start that way.

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sandbox/environment.h"
#include "sandbox/mounts.h"

namespace postern::box {

/// What lies below all layers.
enum class BoxBase : std::uint8_t {
  nothing,   ///< The lowest layer is a whole system.
  userland,  ///< The host's programs (userland.h).
};

inline constexpr std::size_t box_layers_max = 16;

struct BoxSpec {
  std::string name;       ///< Its host name.
  std::string directory;  ///< Its own (box_directory.h): made when absent.
  BoxBase base = BoxBase::userland;
  std::vector<std::string> layers;  ///< Directories as layer_maker.h makes them, the uppermost first.
  std::vector<sandbox::Variable> environment;  ///< Of the agent. Added to PATH, HOME and the like.
  std::vector<sandbox::MountStep> files;       ///< CA bundles and the like; sources are paths of the host.
  std::string state_directory;                 ///< Has the parts that boxes share.
  std::vector<std::string> cgroups;            ///< Cgroups::make()'s.
};

/// Where the finished root is, for RootSpec::directory. In this process' mount namespace only.
inline constexpr const char* box_root_path = "/tmp/root";

/// Makes the root. Called by process 1 of a user, a mount and a pid namespace that were just made for the
/// box, in the first of which 0 is box_owner(); it is its user 0 afterwards, and was the server's until then,
/// so that it could open what is closed to the box. `userland` is Userland::path(). Errors are sentences that
/// name what is missing.
Result<void> make_box_root(const BoxSpec& spec, const std::string& userland);

}  // namespace postern::box
