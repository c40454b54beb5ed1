#include "box/layer_copy.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <string>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <vector>

namespace postern::box {
namespace {

// Each has two directories open. The deepest that people have is some forty: node_modules in node_modules.
constexpr int depth_max = 200;
constexpr std::size_t attributes_bytes_max = 64 << 10;  // The kernel's own limit for one value.

std::unexpected<Error> fail_errno(std::string_view doing, std::string_view path) {
  return fail(errno == ENOSPC || errno == EDQUOT ? Reason::overloaded : Reason::invalid_configuration,
              fmt::format("cannot {} '{:.200}': {}", doing, path, std::strerror(errno)));
}

using Listing = std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })>;

Listing list(int directory) {
  const int fd = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  DIR* listing = ::fdopendir(fd);
  if (listing == nullptr) ::close(fd);
  return Listing(listing);
}

bool is_whiteout(const struct stat& status) { return S_ISCHR(status.st_mode) && status.st_rdev == 0; }

/// Whether it was taken away between two looks, as a box that runs does.
bool is_gone() { return errno == ENOENT || errno == ELOOP || errno == ENOTDIR; }

class Copier {
 public:
  Copier(int top, LayerBudget& budget, Overlay overlay) : top_(top), budget_(budget), overlay_(overlay) {}

  Result<void> directory(int from, int to, const std::string& path, int depth) {
    if (depth > depth_max)
      return fail(Reason::invalid_configuration,
                  fmt::format("'{:.200}' lies more than {} directories deep", path, depth_max));
    const Listing listing = list(from);
    if (!listing) return fail_errno("read the directory", path);
    while (const dirent* entry = ::readdir(listing.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (auto copied = copy(from, to, name, path.empty() ? name : path + "/" + name, depth); !copied)
        return copied;
    }
    return {};
  }

  void attributes(int from, int to) const {
    if (overlay_ != Overlay::is_upper || ::flistxattr(from, nullptr, 0) <= 0) return;
    std::string names(attributes_bytes_max, '\0');
    const ssize_t size = ::flistxattr(from, names.data(), names.size());
    for (std::string_view left(names.data(), size > 0 ? static_cast<std::size_t>(size) : 0); !left.empty();) {
      const std::string name(left.substr(0, left.find('\0')));
      left.remove_prefix(std::min(left.size(), name.size() + 1));
      // What else the overlay notes is about the files that it had below it.
      const bool kept =
          name.starts_with("user.") && (!name.starts_with("user.overlay.") || name == "user.overlay.opaque");
      std::string value(attributes_bytes_max, '\0');
      const ssize_t bytes = kept ? ::fgetxattr(from, name.c_str(), value.data(), value.size()) : -1;
      if (bytes >= 0) (void)::fsetxattr(to, name.c_str(), value.data(), static_cast<std::size_t>(bytes), 0);
    }
  }

 private:
  Result<void> copy(int from, int to, const std::string& name, const std::string& path, int depth) {
    struct stat status{};
    if (::fstatat(from, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      return is_gone() ? Result<void>() : fail_errno("look at", path);
    if (auto taken = budget_.take_entry(); !taken) return taken;
    if (S_ISDIR(status.st_mode)) return copy_directory(from, to, name, path, depth);
    if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)) return copy_special(to, name, path, status);
    const std::pair key{status.st_dev, status.st_ino};
    if (status.st_nlink > 1) {
      const auto before = copied_.find(key);
      if (before != copied_.end() && ::linkat(top_, before->second.c_str(), to, name.c_str(), 0) == 0)
        return {};
    }
    auto copied =
        S_ISLNK(status.st_mode) ? copy_link(from, to, name, path, status) : copy_file(from, to, name, path);
    if (copied && status.st_nlink > 1) copied_.insert_or_assign(key, path);
    return copied;
  }

  Result<void> copy_directory(int from, int to, const std::string& name, const std::string& path, int depth) {
    const Fd source(::openat(from, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!source) return is_gone() ? Result<void>() : fail_errno("read the directory", path);
    if (::mkdirat(to, name.c_str(), 0700) != 0) return fail_errno("make the directory", path);
    const Fd target(::openat(to, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!target) return fail_errno("make the directory", path);
    if (auto copied = directory(source.get(), target.get(), path, depth + 1); !copied) return copied;
    return finish(source.get(), target.get(), path);
  }

  /// When all that changes its times is done.
  Result<void> finish(int source, int target, const std::string& path) const {
    struct stat status{};
    if (::fstat(source, &status) != 0) return fail_errno("look at", path);
    attributes(source, target);
    const timespec times[] = {{0, UTIME_OMIT}, status.st_mtim};
    if (::fchmod(target, status.st_mode & 07777) != 0) return fail_errno("set the mode of", path);
    (void)::futimens(target, times);
    return {};
  }

  Result<void> copy_special(int to, const std::string& name, const std::string& path,
                            const struct stat& status) const {
    if (S_ISFIFO(status.st_mode)) {
      if (::mkfifoat(to, name.c_str(), status.st_mode & 0777) != 0) return fail_errno("make", path);
    } else if (overlay_ == Overlay::is_upper && is_whiteout(status)) {
      // Everybody may make this one device, which is none (Linux 5.8).
      if (::mknodat(to, name.c_str(), S_IFCHR, ::makedev(0, 0)) != 0) return fail_errno("remove", path);
    }
    return {};
  }

  Result<void> copy_link(int from, int to, const std::string& name, const std::string& path,
                         const struct stat& status) const {
    std::array<char, 4096> target{};
    const ssize_t size = ::readlinkat(from, name.c_str(), target.data(), target.size() - 1);
    if (size < 0) return is_gone() || errno == EINVAL ? Result<void>() : fail_errno("read the link", path);
    if (::symlinkat(target.data(), to, name.c_str()) != 0) return fail_errno("make the link", path);
    const timespec times[] = {{0, UTIME_OMIT}, status.st_mtim};
    (void)::utimensat(to, name.c_str(), times, AT_SYMLINK_NOFOLLOW);
    return {};
  }

  Result<void> copy_file(int from, int to, const std::string& name, const std::string& path) {
    // A pipe in its place by now does not hold us up.
    const Fd source(::openat(from, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!source) return is_gone() || errno == ENXIO ? Result<void>() : fail_errno("read", path);
    struct stat status{};
    if (::fstat(source.get(), &status) != 0) return fail_errno("look at", path);
    if (!S_ISREG(status.st_mode)) return {};
    const Fd target(::openat(to, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!target) return fail_errno("make", path);
    if (auto copied = copy_data(source.get(), target.get(), path, status.st_size); !copied) return copied;
    return finish(source.get(), target.get(), path);
  }

  /// As far as the file was long: one that grows is no reason to go on for ever.
  Result<void> copy_data(int source, int target, const std::string& path, off_t length) {
    for (off_t at = 0; at < length;) {
      const off_t data = ::lseek(source, at, SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;  // A hole up to the end.
      if (data < 0 && errno != EINVAL) return fail_errno("read", path);
      at = data < 0 ? at : data;
      off_t end = data < 0 ? length : ::lseek(source, at, SEEK_HOLE);
      end = end < 0 ? length : std::min(end, length);
      if (at >= length) break;
      if (auto taken = budget_.take_bytes(static_cast<std::uint64_t>(end - at)); !taken) return taken;
      if (auto copied = copy_range(source, target, path, at, end); !copied) return copied;
      at = end;
    }
    if (::ftruncate(target, length) != 0) return fail_errno("write", path);
    return {};
  }

  Result<void> copy_range(int source, int target, const std::string& path, off_t at, off_t end) {
    while (at < end) {
      off_t in = at, out = at;
      const ssize_t size =
          ::copy_file_range(source, &in, target, &out, static_cast<std::size_t>(end - at), 0);
      if (size == 0) return {};  // It has become shorter.
      if (size > 0) {
        at += size;
        continue;
      }
      if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_errno("copy", path);
      return copy_by_hand(source, target, path, at, end);
    }
    return {};
  }

  /// Between file systems.
  Result<void> copy_by_hand(int source, int target, const std::string& path, off_t at, off_t end) {
    while (at < end) {
      const auto wanted = std::min<std::size_t>(buffer_.size(), static_cast<std::size_t>(end - at));
      const ssize_t size = ::pread(source, buffer_.data(), wanted, at);
      if (size == 0) return {};
      if (size < 0) return fail_errno("read", path);
      for (ssize_t done = 0; done < size;) {
        const ssize_t wrote =
            ::pwrite(target, buffer_.data() + done, static_cast<std::size_t>(size - done), at + done);
        if (wrote <= 0) return fail_errno("write", path);
        done += wrote;
      }
      at += size;
    }
    return {};
  }

  int top_;
  LayerBudget& budget_;
  Overlay overlay_;
  std::map<std::pair<dev_t, ino_t>, std::string> copied_;  ///< As many as the budget has entries.
  std::vector<char> buffer_ = std::vector<char>(256 << 10);
};

}  // namespace

Result<void> copy_tree(const Fd& from, const Fd& to, LayerBudget& budget, Overlay overlay) {
  Copier copier(to.get(), budget, overlay);
  copier.attributes(from.get(), to.get());  // The root itself can be opaque.
  return copier.directory(from.get(), to.get(), "", 0);
}

}  // namespace postern::box
