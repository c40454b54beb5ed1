#include "box/trash.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "box/box_directory.h"

namespace postern::box {
namespace {

// Until what could not be deleted is tried again: a file system that was full or read-only.
constexpr std::chrono::seconds patience{30};

std::unexpected<Error> fail_errno(std::string_view doing, std::string_view path) {
  return fail(Reason::internal, fmt::format("cannot {} '{}': {}", doing, path, std::strerror(errno)));
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })> listing(
      ::opendir(directory.c_str()));
  while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
  return names;
}

}  // namespace

Result<std::unique_ptr<Trash>> Trash::open(std::string directory) {
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno("make the directory", directory);
  return std::unique_ptr<Trash>(new Trash(std::move(directory)));
}

Trash::Trash(std::string directory)
    : directory_(std::move(directory)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

Trash::~Trash() = default;  // The thread is asked to stop, and joined.

Result<void> Trash::take(const std::string& box_directory) {
  if (auto idle = check_box_directory_is_idle(box_directory); !idle) return idle;
  const std::lock_guard lock(mutex_);
  // The names of earlier processes may be there still.
  for (std::string to; true;) {
    to = fmt::format("{}/{}.{}", directory_, ::getpid(), ++taken_);
    if (::renameat2(AT_FDCWD, box_directory.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) break;
    if (errno == ENOENT) return {};
    if (errno != EEXIST) return fail_errno("move away", box_directory);
  }
  more_ = true;
  changed_.notify_one();
  return {};
}

bool Trash::empty(const std::stop_token& stop) {
  bool all = true;
  for (const std::string& name : names_in(directory_))
    all = remove_box_directory(fmt::format("{}/{}", directory_, name), stop).has_value() && all;
  return all;
}

void Trash::run(const std::stop_token& stop) {
  ::pthread_setname_np(::pthread_self(), "trash");
  std::unique_lock lock(mutex_);
  bool left = false;
  while (!stop.stop_requested()) {
    if (left)
      changed_.wait_for(lock, stop, patience, [this] { return more_; });
    else
      changed_.wait(lock, stop, [this] { return more_; });
    if (stop.stop_requested()) return;
    more_ = false;
    lock.unlock();
    left = !empty(stop);
    lock.lock();
  }
}

}  // namespace postern::box
