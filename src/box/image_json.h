#pragma once
// The JSON of container images: which blobs an image is made of, and how its programs want to be run. Values
// only; nothing here opens a file. All of it is hostile.
//
// Sources: OCI image specification 1.1 (image-layout.md, image-index.md, manifest.md, config.md), and the
// manifest.json of what `docker save` writes.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace postern::box {

inline constexpr std::size_t image_json_bytes_max = 4U << 20;  // An index of some thousand images.
inline constexpr std::size_t image_layers_max = 512;           // overlayfs, and so Docker, has 128.
inline constexpr std::size_t image_environment_bytes_max = 32U << 10;

/// A blob: a file of a layout.
struct ImageBlob {
  std::string path;        ///< "blobs/sha256/…"; of `docker save` as it says, which may be anything.
  std::string digest;      ///< 64 hexadecimal digits; empty where none is known (`docker save`).
  std::uint64_t size = 0;  ///< Where a digest is known.
};

struct ImageManifest {
  ImageBlob config;
  std::vector<ImageBlob> layers;  ///< The lowest first.
};

/// What index.json leads to: a manifest, or another index.
struct ImageReference {
  ImageBlob blob;
  bool is_index = false;
};

struct ImageConfig {
  std::vector<std::string> environment;  ///< NAME=VALUE
  std::string work_directory;            ///< Absolute, or empty.
  std::string user;                      ///< As it stands there.
};

/// Of an index: the image of that tag (org.opencontainers.image.ref.name; what follows the last ':' of it
/// counts, too) for this machine's architecture. Without a tag: the only one, or "latest". Errors are
/// sentences that name what there is.
Result<ImageReference> read_image_index(std::string_view json, std::string_view tag);
Result<ImageManifest> read_image_manifest(std::string_view json);
Result<ImageConfig> read_image_config(std::string_view json);
/// Of `docker save`. A tag may be "NAME:TAG", too.
Result<ImageManifest> read_docker_manifest(std::string_view json, std::string_view tag);

}  // namespace postern::box
