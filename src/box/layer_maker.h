#pragma once
// A layer of a snapshot, made in a process that has nothing to lose: below the keeper, as box_owner() in
// namespaces of its own, without network, files of the host, secrets, or capabilities that reach further than
// the layer. It holds two things: what it reads and the directory that it makes.
//
//   root   the layer of "/"
//   usr    of a box on the host's userland: the layer of "/usr"
//   work   what it needed meanwhile; gone when it has succeeded

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace postern::box {

enum class LayerSource : std::uint8_t {
  tar = 1,        ///< A root file system: an open archive.
  image = 2,      ///< An OCI layout, as an open directory or archive, or an archive of `docker save`.
  directory = 3,  ///< A root file system: an open directory.
  box = 4,        ///< A box's directory (box_directory.h), whose layers are copied.
};

struct LayerJob {
  LayerSource source{};
  std::string directory;  ///< Taken as a box's is; with its parent there.
  std::string tag;        ///< Of an image; empty: the only one, or "latest".
  std::uint64_t bytes_max = 0;
  std::uint64_t entries_max = 0;
};

struct MadeLayer {
  std::uint64_t bytes = 0;               ///< As LayerBudget counts.
  std::string digest;                    ///< Of an image's manifest: "sha256:…".
  std::vector<std::string> environment;  ///< Of an image: NAME=VALUE.
  std::string work_directory;
  std::string user;
};

inline constexpr std::size_t made_layer_bytes_max = 64 << 10;  // image_environment_bytes_max, and some more

std::string encode(const MadeLayer& made);
bool decode(std::string_view bytes, MadeLayer& made);

/// What the process does once it is where it can do no harm: `source` into `directory`. Public for tests.
Result<MadeLayer> make_layer(const LayerJob& job, const Fd& source, const Fd& directory);

/// The process, forked by `keeper`. Answers on `answer` (keeper_protocol.h), and ends. SIGTERM ends it
/// before.
[[noreturn]] void run_layer_maker(int answer, Fd source, const LayerJob& job, pid_t keeper);

}  // namespace postern::box
