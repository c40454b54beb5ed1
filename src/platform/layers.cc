#include "platform/layers.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/checks.h"

namespace postern::platform {

namespace {

constexpr std::uint64_t bytes_max = std::uint64_t{64} << 30;  // the largest images are some 30 GiB
constexpr std::uint64_t entries_max = 2'000'000;              // an image with all of TeX has some 300,000

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

/// "The kernel keeps the path in the directory, whatever links there are."
Fd open_beneath(const Fd& directory, const std::string& path) {
  open_how how{};
  how.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, directory.get(), path.c_str(), &how, sizeof how)));
}

}  // namespace

Result<std::unique_ptr<KeptLayers>> KeptLayers::open(box::Keeper& keeper, box::Trash& trash,
                                                     Settings settings) {
  std::unique_ptr<KeptLayers> layers(new KeptLayers(keeper, trash, std::move(settings)));
  const std::string& own = layers->settings_.snapshots_directory;
  if (::mkdir(own.c_str(), 0711) != 0 && errno != EEXIST)
    return refuse(fmt::format("'{}' cannot be made: {}", own, std::strerror(errno)));
  for (const std::string& path : layers->settings_.image_directories) {
    Fd directory(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory)
      return refuse(fmt::format("--images '{}' cannot be opened: {}", path, std::strerror(errno)));
    layers->images_.push_back(std::move(directory));
  }
  return layers;
}

Result<Fd> KeptLayers::open_image(const std::string& path) {
  if (images_.empty())
    return refuse(
        "this server reads no images: its operator opens directories of them with `postern serve "
        "--images DIR`");
  if (path.empty() || path.starts_with('/') || path.find('\0') != path.npos)
    return refuse(
        "the path of an image is relative to a directory that was given by `postern serve --images DIR`");
  for (const Fd& directory : images_) {
    Fd found = open_beneath(directory, path);
    struct stat status{};
    if (!found) continue;
    if (::fstat(found.get(), &status) == 0 && (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)))
      return found;
  }
  return refuse(fmt::format(
      "there is no image '{:.200}' that can be read in the directories of `postern serve --images DIR`",
      path));
}

Result<Fd> KeptLayers::open_box(const std::string& id) {
  if (!store::looks_like_uuid(id)) return fail(Reason::internal, "there is no such box");
  Fd directory(::open(fmt::format("{}/{}", settings_.boxes_directory, id).c_str(),
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory)
    return fail(Reason::internal,
                fmt::format("the files of the sandbox {} cannot be opened: {}", id, std::strerror(errno)));
  return directory;
}

Result<box::MadeLayer> KeptLayers::make(const Job& job, const std::stop_token& stop) {
  if (!store::looks_like_uuid(job.id)) return fail(Reason::internal, "there is no such snapshot");
  box::LayerJob layer;
  layer.source = job.source;
  layer.directory = fmt::format("{}/{}", settings_.snapshots_directory, job.id);
  layer.tag = job.tag;
  layer.bytes_max = job.bytes_max == 0 ? bytes_max : std::min(job.bytes_max, bytes_max);
  layer.entries_max = entries_max;
  return keeper_.make_layer(layer, job.from, stop);
}

Result<void> KeptLayers::erase(const std::string& id) {
  if (!store::looks_like_uuid(id)) return fail(Reason::internal, "there is no such snapshot");
  return trash_.take(fmt::format("{}/{}", settings_.snapshots_directory, id));
}

}  // namespace postern::platform
