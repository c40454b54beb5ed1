// The JSON of container images: what is accepted names blobs by their digests alone, and stays within limits.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "box/image_json.h"

using namespace postern::box;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto is_blob = [](const ImageBlob& blob) {
    return blob.digest.size() == 64 && blob.path == "blobs/sha256/" + blob.digest &&
           blob.digest.find_first_not_of("0123456789abcdef") == std::string::npos;
  };
  for (const char* tag : {"", "latest"}) {
    if (const auto read = read_image_index(text, tag); read && !is_blob(read->blob)) std::abort();
    if (const auto read = read_docker_manifest(text, tag); read && read->layers.size() > image_layers_max)
      std::abort();
  }
  if (const auto read = read_image_manifest(text)) {
    if (!is_blob(read->config) || read->layers.size() > image_layers_max) std::abort();
    for (const ImageBlob& layer : read->layers)
      if (!is_blob(layer)) std::abort();
  }
  if (const auto read = read_image_config(text)) {
    std::size_t bytes = 0;
    for (const std::string& line : read->environment) bytes += line.size();
    if (bytes > image_environment_bytes_max) std::abort();
  }
  return 0;
}
