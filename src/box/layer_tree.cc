#include "box/layer_tree.h"

#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <memory>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace postern::box {
namespace {

constexpr std::uint64_t entry_bytes = 4096;

std::unexpected<Error> fail_errno(std::string_view doing, std::string_view path) {
  return fail(errno == ENOSPC || errno == EDQUOT ? Reason::overloaded : Reason::invalid_configuration,
              fmt::format("cannot {} '{:.200}': {}", doing, path, std::strerror(errno)));
}

/// The path's components; nullopt-like empty result is the root itself.
Result<std::vector<std::string>> components(std::string_view path) {
  std::vector<std::string> out;
  if (path.find('\0') != path.npos) return fail(Reason::invalid_configuration, "a name holds NUL");
  const std::string_view whole = path;
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    if (name.empty() || name == ".") continue;
    if (name == "..")
      return fail(Reason::invalid_configuration, fmt::format("'{:.200}' leads out of the tree", whole));
    out.emplace_back(name);
  }
  return out;
}

/// What a kernel that has no openat2 cannot do safely is not done.
Fd open_in_root(int root, const char* path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  return Fd(static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how)));
}

}  // namespace

Result<void> LayerBudget::take_entry() {
  if (++entries_ > entries_max_)
    return fail(Reason::invalid_configuration, fmt::format("there are more than {} files", entries_max_));
  return take_bytes(entry_bytes);
}

Result<void> LayerBudget::take_bytes(std::uint64_t bytes) {
  if (bytes > bytes_max_ - bytes_)
    return fail(Reason::invalid_configuration,
                fmt::format("what is in it does not fit into {} bytes (fs_capacity_bytes)", bytes_max_));
  bytes_ += bytes;
  return {};
}

Result<Fd> LayerTree::make_directories(std::string_view path) {
  std::string so_far;
  Fd here = open_in_root(root_, ".", O_RDONLY | O_DIRECTORY);
  while (!path.empty()) {
    const std::string name(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(path.size(), name.size() + 1));
    so_far += so_far.empty() ? name : "/" + name;
    Fd next = open_in_root(root_, so_far.c_str(), O_RDONLY | O_DIRECTORY);
    if (!next && errno == ENOENT) {
      if (auto taken = budget_.take_entry(); !taken) return std::unexpected(std::move(taken.error()));
      // EEXIST: a link that leads nowhere, which opening it again says.
      if (::mkdirat(here.get(), name.c_str(), 0755) != 0 && errno != EEXIST)
        return fail_errno("make the directory", so_far);
      next = open_in_root(root_, so_far.c_str(), O_RDONLY | O_DIRECTORY);
    }
    if (!next) return fail_errno("open the directory", so_far);
    here = std::move(next);
  }
  if (!here) return fail_errno("open the directory", "/");
  return here;
}

Result<LayerTree::Place> LayerTree::place(std::string_view path, Missing missing) {
  auto names = components(path);
  if (!names) return std::unexpected(std::move(names.error()));
  Place out;
  std::string parent;
  if (!names->empty()) {
    out.name = std::move(names->back());
    names->pop_back();
  }
  for (const std::string& name : *names) parent += parent.empty() ? name : "/" + name;
  out.parent = open_in_root(root_, parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY);
  if (out.parent) return out;
  if (missing != Missing::make || errno != ENOENT) return fail_errno("open the directory", parent);
  auto made = make_directories(parent);
  if (!made) return std::unexpected(std::move(made.error()));
  out.parent = std::move(*made);
  return out;
}

Result<void> LayerTree::remove_at(int parent, const std::string& name) {
  const std::string to = std::to_string(++removed_);
  if (::renameat(parent, name.c_str(), scratch_, to.c_str()) != 0 && errno != ENOENT)
    return fail_errno("replace", name);
  return {};
}

Result<void> LayerTree::remove(const Place& place) {
  if (place.name.empty()) return fail(Reason::invalid_configuration, "the root cannot be replaced");
  return remove_at(place.parent.get(), place.name);
}

Result<void> LayerTree::remove_content(const Place& place) {
  const char* name = place.name.empty() ? "." : place.name.c_str();
  const int fd = ::openat(place.parent.get(), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return {};
  const std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })> listing(::fdopendir(fd));
  if (!listing) return fail_errno("list", place.name);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(listing.get()))
    if (const std::string_view each = entry->d_name; each != "." && each != "..") names.emplace_back(each);
  for (const std::string& each : names)
    if (auto removed = remove_at(fd, each); !removed) return removed;
  return {};
}

Result<void> LayerTree::make_directory(const Place& place, mode_t mode) {
  if (auto taken = budget_.take_entry(); !taken) return taken;
  if (place.name.empty()) return {};  // The root is open to whoever has it.
  if (::mkdirat(place.parent.get(), place.name.c_str(), 0700) != 0) {
    struct stat status{};
    if (errno != EEXIST) return fail_errno("make the directory", place.name);
    if (::fstatat(place.parent.get(), place.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      return fail_errno("look at", place.name);
    if (!S_ISDIR(status.st_mode)) {
      if (auto removed = remove(place); !removed) return removed;
      if (::mkdirat(place.parent.get(), place.name.c_str(), 0700) != 0)
        return fail_errno("make the directory", place.name);
    }
  }
  // Nobody else writes here: it is the directory that was just seen.
  if (::fchmodat(place.parent.get(), place.name.c_str(), mode & 07777, 0) != 0)
    return fail_errno("set the mode of", place.name);
  return {};
}

Result<Fd> LayerTree::make_file(const Place& place) {
  if (auto taken = budget_.take_entry(); !taken) return std::unexpected(std::move(taken.error()));
  if (auto removed = remove(place); !removed) return std::unexpected(std::move(removed.error()));
  Fd file(::openat(place.parent.get(), place.name.c_str(),
                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return fail_errno("make", place.name);
  return file;
}

Result<void> LayerTree::finish_file(const Fd& file, mode_t mode, const timespec& modified) {
  const timespec times[] = {{0, UTIME_OMIT}, modified};
  if (::fchmod(file.get(), mode & 07777) != 0) return fail_errno("set the mode of", "a file");
  (void)::futimens(file.get(), times);
  return {};
}

Result<void> LayerTree::make_link(const Place& place, const std::string& target, const timespec& modified) {
  if (auto taken = budget_.take_entry(); !taken) return taken;
  if (auto removed = remove(place); !removed) return removed;
  if (target.empty() || ::symlinkat(target.c_str(), place.parent.get(), place.name.c_str()) != 0)
    return fail_errno("make the link", place.name);
  const timespec times[] = {{0, UTIME_OMIT}, modified};
  (void)::utimensat(place.parent.get(), place.name.c_str(), times, AT_SYMLINK_NOFOLLOW);
  return {};
}

Result<void> LayerTree::make_pipe(const Place& place, mode_t mode) {
  if (auto taken = budget_.take_entry(); !taken) return taken;
  if (auto removed = remove(place); !removed) return removed;
  if (::mkfifoat(place.parent.get(), place.name.c_str(), mode & 0777) != 0)
    return fail_errno("make the pipe", place.name);
  return {};
}

Result<void> LayerTree::make_hard_link(const Place& place, std::string_view target) {
  if (auto taken = budget_.take_entry(); !taken) return taken;
  auto from = this->place(target, Missing::is_an_error);
  if (!from) return std::unexpected(std::move(from.error()));
  struct stat to_status{}, from_status{};
  if (from->name.empty() ||
      ::fstatat(from->parent.get(), from->name.c_str(), &from_status, AT_SYMLINK_NOFOLLOW) != 0)
    return fail_errno("link to", target);
  // To itself.
  if (::fstatat(place.parent.get(), place.name.c_str(), &to_status, AT_SYMLINK_NOFOLLOW) == 0 &&
      to_status.st_dev == from_status.st_dev && to_status.st_ino == from_status.st_ino)
    return {};
  if (auto removed = remove(place); !removed) return removed;
  if (::linkat(from->parent.get(), from->name.c_str(), place.parent.get(), place.name.c_str(), 0) != 0)
    return fail_errno("link to", target);
  return {};
}

}  // namespace postern::box
