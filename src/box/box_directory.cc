#include "box/box_directory.h"

#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <memory>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace postern::box {
namespace {

// In the range that systemd and its like leave to containers, at its end: nobody hands out single ids there.
constexpr uid_t owner_of_root = 1'879'040'000;
constexpr uid_t nobody = 65'534;  // Where a container has only the first 65,536.

std::unexpected<Error> fail_errno(std::string_view doing, std::string_view path) {
  return fail(Reason::internal, fmt::format("cannot {} '{}': {}", doing, path, std::strerror(errno)));
}

/// Whether our user namespace knows this id: a server in a container may have only some.
bool is_mapped(const char* map, uid_t id) {
  std::ifstream lines(map);
  for (std::uint64_t inside = 0, outside = 0, count = 0; lines >> inside >> outside >> count;)
    if (id >= inside && id - inside < count) return true;
  return false;
}

Result<Fd> take(const std::string& path) {
  Fd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return fail_errno("open the box's directory", path);
  if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno("take the box's directory", path);
    return fail(Reason::invalid_configuration, fmt::format("the box in '{}' is running", path));
  }
  return directory;
}

using Listing = std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })>;

Listing list(int directory, const char* name) {
  const int fd = ::openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return nullptr;
  DIR* listing = ::fdopendir(fd);
  if (listing == nullptr) ::close(fd);
  return Listing(listing);
}

/// Opened for us although its owner closed it. No link is followed: the change is made on what was opened.
Listing list_closed(int directory, const char* name) {
  if (Listing listing = list(directory, name)) {
    struct stat status{};
    const bool open_to_us = ::fstat(::dirfd(listing.get()), &status) == 0 && (status.st_mode & 0700) == 0700;
    if (open_to_us || ::fchmod(::dirfd(listing.get()), 0700) == 0) return listing;
    return nullptr;
  }
  const Fd place(::openat(directory, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!place || ::chmod(fmt::format("/proc/self/fd/{}", place.get()).c_str(), 0700) != 0) return nullptr;
  return list(directory, name);
}

bool is_self_or_parent(std::string_view name) { return name == "." || name == ".."; }

/// Trees of any depth with two directories open: what is found deeper is moved up to the top and comes to its
/// turn there.
class Remover {
 public:
  Remover(int top, std::stop_token stop) : top_(top), stop_(std::move(stop)) {}

  /// 0, or errno.
  int run() {
    for (;;) {
      // Listed again until it is empty: moving to the top changes what is listed.
      const Listing listing = list(top_, ".");
      if (!listing) return errno;
      bool any = false;
      while (const dirent* entry = ::readdir(listing.get())) {
        if (is_self_or_parent(entry->d_name)) continue;
        if (stop_.stop_requested()) return ECANCELED;
        any = true;
        if (const int error = remove(entry->d_name); error != 0) return error;
      }
      if (!any) return 0;
    }
  }

 private:
  /// An entry of the top.
  int remove(const char* name) {
    if (::unlinkat(top_, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return errno;
    if (::unlinkat(top_, name, AT_REMOVEDIR) == 0) return 0;
    if (const int error = empty(name); error != 0) return error;
    return ::unlinkat(top_, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
  }

  int empty(const char* name) {
    const Listing listing = list_closed(top_, name);
    if (!listing) return errno;
    const int here = ::dirfd(listing.get());
    while (const dirent* entry = ::readdir(listing.get())) {
      if (stop_.stop_requested()) return ECANCELED;
      if (is_self_or_parent(entry->d_name) || ::unlinkat(here, entry->d_name, 0) == 0) continue;
      if (errno != EISDIR && errno != EPERM) return errno;
      if (::unlinkat(here, entry->d_name, AT_REMOVEDIR) == 0) continue;
      if (!list_closed(here, entry->d_name)) return errno;  // A directory that is closed cannot be moved.
      if (const int error = move_up(here, entry->d_name); error != 0) return error;
    }
    return 0;
  }

  int move_up(int from, const char* name) {
    for (;;) {
      const std::string free = fmt::format("removed-{}", next_++);
      if (::renameat(from, name, top_, free.c_str()) == 0) return 0;
      if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR) return errno;
    }
  }

  int top_;
  std::stop_token stop_;
  std::uint64_t next_ = 0;
};

}  // namespace

Owner box_owner() {
  const Owner own{::geteuid(), ::getegid()};
  if (own.user != 0) return own;
  for (const uid_t id : {owner_of_root, nobody})
    if (is_mapped("/proc/self/uid_map", id) && is_mapped("/proc/self/gid_map", id)) return {id, id};
  return own;  // Root of a namespace with so few ids is not the host's.
}

Result<Fd> take_box_directory(const std::string& path) {
  const Owner owner = box_owner();
  if (!path.starts_with('/'))
    return fail(Reason::invalid_configuration,
                fmt::format("the box's directory '{}' is no absolute path", path));
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno("make the box's directory", path);
  auto directory = take(path);
  if (!directory) return directory;
  struct stat status{};
  if (::fstat(directory->get(), &status) != 0) return fail_errno("look at the box's directory", path);
  // Just made, by us or by the server.
  const bool is_ours = status.st_uid == ::geteuid() && status.st_uid != owner.user;
  if (is_ours && ::fchown(directory->get(), owner.user, owner.group) == 0) status.st_uid = owner.user;
  if (status.st_uid != owner.user)
    return fail(Reason::invalid_configuration,
                fmt::format("the box's directory '{}' is another user's", path));
  if (::fchmod(directory->get(), 0700) != 0) return fail_errno("close the box's directory", path);
  return directory;
}

Result<void> empty_directory(const Fd& directory) {
  errno = Remover(directory.get(), {}).run();
  if (errno != 0) return fail_errno("empty", "a directory");
  return {};
}

Result<void> check_box_directory_is_idle(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0 && errno == ENOENT) return {};
  if (auto directory = take(path); !directory) return std::unexpected(std::move(directory.error()));
  return {};
}

Result<void> remove_box_directory(const std::string& path, std::stop_token stop) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0 && errno == ENOENT) return {};
  auto directory = take(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  errno = Remover(directory->get(), std::move(stop)).run();
  if (errno != 0) return fail_errno("empty the box's directory", path);
  if (::rmdir(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove the box's directory", path);
  return {};
}

}  // namespace postern::box
