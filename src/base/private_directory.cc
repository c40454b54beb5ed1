#include "base/private_directory.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace postern {

namespace {

constexpr const char* lock_name = "lock";

std::unexpected<Error> system_failure(const std::string& doing) {
  return fail(Reason::internal, doing + ": " + std::strerror(errno));
}

std::unexpected<Error> unusable(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

/// Ours, of the expected kind, and closed to everybody else.
Result<void> check_private(const struct stat& status, mode_t kind, const std::string& path) {
  if ((status.st_mode & S_IFMT) != kind)
    return unusable("'" + path + "' is not of the kind of file that it should be");
  if (status.st_uid != geteuid()) return unusable("'" + path + "' belongs to another user");
  if ((status.st_mode & 077) != 0) {
    return unusable("'" + path +
                    "' is open to other users; its key may be known to them, so remove it or, if you are " +
                    "sure of it, take their permissions away (chmod go= )");
  }
  return {};
}

Result<void> check_private(const Fd& fd, mode_t kind, const std::string& path) {
  struct stat status{};
  if (fstat(fd.get(), &status) != 0) return system_failure("reading the status of '" + path + "'");
  return check_private(status, kind, path);
}

}  // namespace

Result<Fd> open_private_directory(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();  // O_NOFOLLOW would follow "link/"
  std::error_code error;
  const auto parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) return fail(Reason::internal, "creating '" + parent.string() + "': " + error.message());
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return system_failure("creating '" + path + "'");
  Fd directory(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) {
    if (errno == ELOOP || errno == ENOTDIR)
      return unusable("'" + path + "' is not a directory, or a symbolic link to one");
    return system_failure("opening '" + path + "'");
  }
  if (auto checked = check_private(directory, S_IFDIR, path); !checked)
    return std::unexpected(checked.error());
  return directory;
}

namespace {

/// Held until the descriptor is closed, by death too.
Result<Fd> lock(const Fd& directory, const std::string& path) {
  Fd file(openat(directory.get(), lock_name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600));
  if (!file) return system_failure("opening the lock file in '" + path + "'");
  while (flock(file.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return system_failure("locking '" + path + "'");
  }
  return file;
}

Result<void> write_all(const Fd& file, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t count = write(file.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_failure("writing '" + path + "'");
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

}  // namespace

Result<bool> has_private_file(const Fd& directory, const std::string& path, const std::string& name) {
  struct stat status{};
  if (fstatat(directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return false;
    return system_failure("reading the status of '" + path + "/" + name + "'");
  }
  if (auto checked = check_private(status, S_IFREG, path + "/" + name); !checked)
    return std::unexpected(checked.error());
  return true;
}

Result<PrivateDirectory> PrivateDirectory::open(const std::string& path) {
  auto directory = open_private_directory(path);
  if (!directory) return std::unexpected(directory.error());
  auto locked = lock(*directory, path);
  if (!locked) return std::unexpected(locked.error());
  return PrivateDirectory(path, std::move(*directory), std::move(*locked));
}

Result<PrivateDirectory> PrivateDirectory::look_into(const std::string& path) {
  auto directory = open_private_directory(path);
  if (!directory) return std::unexpected(directory.error());
  return PrivateDirectory(path, std::move(*directory), Fd());
}

std::string PrivateDirectory::path_of(std::string_view name) const { return path_ + "/" + std::string(name); }

Result<bool> PrivateDirectory::read(const std::string& name, std::string& out) const {
  const std::string path = path_of(name);
  // O_NONBLOCK: opening a FIFO put in its place must not hang.
  Fd file(openat(directory_.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT) return false;
    if (errno == ELOOP) return unusable("'" + path + "' is a symbolic link");
    return system_failure("opening '" + path + "'");
  }
  if (auto checked = check_private(file, S_IFREG, path); !checked) return std::unexpected(checked.error());
  out.resize(file_bytes_max);
  std::size_t size = 0;
  while (size < out.size()) {
    const ssize_t count = ::read(file.get(), out.data() + size, out.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_failure("reading '" + path + "'");
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  if (size == file_bytes_max) return unusable("'" + path + "' is far too long to be what it should be");
  out.resize(size);
  return true;
}

Result<void> PrivateDirectory::write(const std::string& name, std::string_view bytes) const {
  const std::string path = path_of(name);
  const std::string fresh = name + ".new";
  unlinkat(directory_.get(), fresh.c_str(), 0);  // of a process that died here
  Fd file(
      openat(directory_.get(), fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return system_failure("creating '" + path + ".new'");
  if (auto written = write_all(file, bytes, path); !written) return written;
  // Content before name, name before use: what is signed by a key that a power cut took back would help
  // nobody.
  if (fsync(file.get()) != 0) return system_failure("writing '" + path + "'");
  return rename(fresh, name);
}

Result<void> PrivateDirectory::rename(const std::string& from, const std::string& to) const {
  if (renameat(directory_.get(), from.c_str(), directory_.get(), to.c_str()) != 0)
    return system_failure("renaming '" + path_of(from) + "'");
  if (fsync(directory_.get()) != 0) return system_failure("writing the directory of '" + path_of(to) + "'");
  return {};
}

}  // namespace postern
