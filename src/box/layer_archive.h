#pragma once
// Root file systems out of tar archives, plain or compressed by gzip, zstd, xz or bzip2, on libarchive, which
// is loaded where it is needed: by the process that unpacks (layer_maker.h), and before that has left the
// host's files.

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "box/layer_tree.h"

namespace postern::box {

/// Errors: the library is not installed. Once; what follows needs no file of the host any more.
Result<void> load_archive_library();

enum class Whiteouts : std::uint8_t {
  are_files,     ///< The archive is a root file system, and ".wh.a" a file of that name.
  are_removals,  ///< It is a layer of an image: ".wh.a" removes "a" of the layers below it, and
                 ///< ".wh..wh..opq" all that they have in its directory (OCI layer.md).
};

/// Unpacks all of `archive`, from its beginning, into `tree`. Every user becomes the one that boxes have;
/// device nodes, sockets and extended attributes are left out. What was unpacked before an error stays.
Result<void> unpack_archive(const Fd& archive, LayerTree& tree, Whiteouts whiteouts);

}  // namespace postern::box
