#include "box/image_json.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <optional>

namespace postern::box {
namespace {

using Json = nlohmann::json;

constexpr int depth_max = 32;
constexpr std::size_t named_max = 20;  // tags in a sentence
#if defined(__aarch64__)
constexpr std::string_view own_architecture = "arm64";
#elif defined(__x86_64__)
constexpr std::string_view own_architecture = "amd64";
#else
constexpr std::string_view own_architecture = "";
#endif
constexpr std::string_view reference_name = "org.opencontainers.image.ref.name";

std::unexpected<Error> wrong(std::string detail) {
  return fail(Reason::invalid_configuration, "the image: " + std::move(detail));
}

/// What is too deep or no JSON is null.
Json parse(std::string_view text) {
  if (text.size() > image_json_bytes_max) return {};
  bool too_deep = false;
  Json read = Json::parse(
      text,
      [&](int depth, Json::parse_event_t, Json&) {
        too_deep |= depth > depth_max;
        return !too_deep;
      },
      false);
  return too_deep || read.is_discarded() ? Json() : read;
}

const Json& member(const Json& of, std::string_view name) {
  static const Json none;
  if (!of.is_object()) return none;
  const auto found = of.find(name);
  return found == of.end() ? none : *found;
}

std::string text(const Json& of, std::string_view name) {
  const Json& found = member(of, name);
  return found.is_string() ? found.get<std::string>() : std::string();
}

Result<ImageBlob> descriptor(const Json& from) {
  constexpr std::string_view algorithm = "sha256:";
  const std::string digest = text(from, "digest");
  const std::string_view digits = std::string_view(digest).substr(std::min(digest.size(), algorithm.size()));
  if (!digest.starts_with(algorithm) || digits.size() != 64 ||
      digits.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return wrong(fmt::format("'{:.100}' is no sha256 digest", digest));
  const Json& size = member(from, "size");
  if (!size.is_number_unsigned()) return wrong("a blob has no size");
  ImageBlob blob;
  blob.digest = digits;
  blob.path = fmt::format("blobs/sha256/{}", digits);
  blob.size = size.get<std::uint64_t>();
  return blob;
}

/// Not other machines', nor what stands beside images, such as attestations.
bool is_for_us(const Json& entry) {
  const Json& platform = member(entry, "platform");
  if (!platform.is_object()) return true;
  const std::string architecture = text(platform, "architecture");
  return text(platform, "os") != "unknown" &&
         (architecture.empty() || own_architecture.empty() || architecture == own_architecture);
}

bool is_tagged(std::string_view name, std::string_view tag) {
  return name == tag ||
         (name.size() > tag.size() && name.ends_with(tag) && name[name.size() - tag.size() - 1] == ':');
}

Result<const Json*> choose(std::vector<std::pair<std::string, const Json*>> images, std::string_view tag) {
  if (images.empty()) return wrong("there is none for this machine");
  const auto find = [&](std::string_view wanted) -> const Json* {
    for (const auto& [name, image] : images)
      if (is_tagged(name, wanted)) return image;
    return nullptr;
  };
  if (!tag.empty()) {
    if (const Json* found = find(tag)) return found;
  } else {
    if (images.size() == 1) return images.front().second;
    if (const Json* found = find("latest")) return found;
  }
  std::vector<std::string> names;
  for (const auto& [name, image] : images)
    if (names.size() < named_max) names.push_back(name.substr(0, 100));
  return wrong(tag.empty() ? fmt::format("say which of these tags: {}", fmt::join(names, ", "))
                           : fmt::format("there is no tag '{:.100}', but: {}", tag, fmt::join(names, ", ")));
}

}  // namespace

Result<ImageReference> read_image_index(std::string_view json, std::string_view tag) {
  const Json index = parse(json);
  const Json& manifests = member(index, "manifests");
  if (!manifests.is_array()) return wrong("index.json has no list of manifests");
  std::vector<std::pair<std::string, const Json*>> images;
  for (const Json& entry : manifests)
    if (is_for_us(entry)) images.emplace_back(text(member(entry, "annotations"), reference_name), &entry);
  auto chosen = choose(std::move(images), tag);
  if (!chosen) return std::unexpected(std::move(chosen.error()));
  auto blob = descriptor(**chosen);
  if (!blob) return std::unexpected(std::move(blob.error()));
  const std::string type = text(**chosen, "mediaType");
  return ImageReference{std::move(*blob),
                        type.find("image.index") != type.npos || type.find("manifest.list") != type.npos};
}

Result<ImageManifest> read_image_manifest(std::string_view json) {
  const Json from = parse(json);
  const Json& layers = member(from, "layers");
  if (!layers.is_array()) return wrong("its manifest has no list of layers");
  if (layers.size() > image_layers_max) return wrong(fmt::format("more than {} layers", image_layers_max));
  ImageManifest manifest;
  auto config = descriptor(member(from, "config"));
  if (!config) return std::unexpected(std::move(config.error()));
  manifest.config = std::move(*config);
  for (const Json& layer : layers) {
    if (text(layer, "mediaType").find("encrypted") != std::string::npos)
      return wrong("its layers are encrypted");
    auto blob = descriptor(layer);
    if (!blob) return std::unexpected(std::move(blob.error()));
    manifest.layers.push_back(std::move(*blob));
  }
  return manifest;
}

Result<ImageConfig> read_image_config(std::string_view json) {
  const Json from = parse(json);
  if (!from.is_object()) return wrong("its configuration is no JSON object");
  const Json& run = member(from, "config");
  ImageConfig config;
  if (const Json& variables = member(run, "Env"); variables.is_array()) {
    std::size_t bytes = 0;
    for (const Json& variable : variables) {
      if (!variable.is_string()) return wrong("a variable is no string");
      const auto line = variable.get<std::string>();
      const auto equals = line.find('=');
      if (equals == 0 || equals == line.npos || line.find('\0') != line.npos) continue;
      bytes += line.size();
      if (bytes > image_environment_bytes_max) return wrong("its environment is too large");
      config.environment.push_back(line);
    }
  }
  config.user = text(run, "User").substr(0, 64);
  if (std::string place = text(run, "WorkingDir");
      place.starts_with('/') && place.size() < 4096 && place.find('\0') == place.npos)
    config.work_directory = std::move(place);
  return config;
}

Result<ImageManifest> read_docker_manifest(std::string_view json, std::string_view tag) {
  const Json from = parse(json);
  if (!from.is_array()) return wrong("manifest.json is no list of images");
  std::vector<std::pair<std::string, const Json*>> images;
  for (const Json& image : from) {
    const Json& names = member(image, "RepoTags");
    bool named = false;
    for (const Json& name : names.is_array() ? names : Json::array())
      if (name.is_string()) {
        images.emplace_back(name.get<std::string>(), &image);
        named = true;
      }
    if (!named) images.emplace_back("", &image);
  }
  // One image of several names is one.
  const bool one =
      std::ranges::all_of(images, [&](const auto& each) { return each.second == images[0].second; });
  if (one && tag.empty() && !images.empty()) images.resize(1);
  auto chosen = choose(std::move(images), tag);
  if (!chosen) return std::unexpected(std::move(chosen.error()));
  ImageManifest manifest;
  manifest.config.path = text(**chosen, "Config");
  const Json& layers = member(**chosen, "Layers");
  if (!layers.is_array() || layers.size() > image_layers_max || manifest.config.path.empty())
    return wrong("manifest.json does not say what the image is made of");
  for (const Json& layer : layers) {
    if (!layer.is_string()) return wrong("manifest.json names a layer that is none");
    manifest.layers.push_back({layer.get<std::string>(), {}, 0});
  }
  return manifest;
}

}  // namespace postern::box
