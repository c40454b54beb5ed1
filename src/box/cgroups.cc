#include "box/cgroups.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <map>
#include <optional>
#include <ranges>
#include <sstream>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "base/fd.h"

namespace postern::box {

namespace {

constexpr std::uint64_t period_us = 100'000;     // of the scheduler's bandwidth control: its own default
constexpr std::uint64_t quota_us_least = 1'000;  // the kernel takes no less

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

bool write_file(const std::string& path, std::string_view text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

std::vector<std::string> words_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::ranges::find(words, word) != words.end();
}

// ---------------------------------------------------------------------------------------------------------------
// Where the hierarchies are

/// Where this process is in a hierarchy, by controller ("memory"), or "" for version 2: /proc/self/cgroup.
std::map<std::string, std::string> own_places() {
  std::map<std::string, std::string> places;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::istringstream controllers(line.substr(first + 1, second - first - 1));
    const std::string place = line.substr(second + 1);
    if (first + 1 == second) places[""] = place;
    for (std::string name; std::getline(controllers, name, ',');) places[name] = place;
  }
  return places;
}

struct Hierarchy {
  std::string root;   ///< What of it is mounted here.
  std::string place;  ///< Where it is mounted.
};

/// By controller, or "": /proc/self/mountinfo (proc(5)).
std::map<std::string, Hierarchy> mounted_hierarchies() {
  std::map<std::string, Hierarchy> found;
  std::ifstream file("/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string skipped, type, source, options;
    Hierarchy hierarchy;
    fields >> skipped >> skipped >> skipped >> hierarchy.root >> hierarchy.place;
    while (fields >> skipped && skipped != "-") {
    }
    fields >> type >> source >> options;
    if (type == "cgroup2") found.emplace("", hierarchy);
    if (type != "cgroup") continue;
    std::istringstream names(options);
    for (std::string name; std::getline(names, name, ',');) found.emplace(name, hierarchy);
  }
  return found;
}

/// The directory of this process' own group; nullopt when it cannot be seen from here.
std::optional<std::string> own_directory(const Hierarchy& hierarchy, std::string place) {
  if (hierarchy.root != "/") {
    if (!place.starts_with(hierarchy.root)) return std::nullopt;
    place.erase(0, hierarchy.root.size());
  }
  std::string directory = hierarchy.place + (place == "/" ? "" : place);
  struct stat status{};
  if (::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return std::nullopt;
  return directory;
}

// ---------------------------------------------------------------------------------------------------------------
// Making and removing groups

/// With the groups in it. What has processes stays; the kernel removes the files.
void remove_group(const std::string& directory) {
  if (DIR* entries = ::opendir(directory.c_str())) {
    while (const dirent* entry = ::readdir(entries))
      if (entry->d_type == DT_DIR && std::string_view(entry->d_name).starts_with("box-"))
        (void)::rmdir((directory + "/" + entry->d_name).c_str());
    ::closedir(entries);
  }
  (void)::rmdir(directory.c_str());
}

bool make_group(const std::string& directory) {
  remove_group(directory);
  return ::mkdir(directory.c_str(), 0755) == 0 || errno == EEXIST;
}

std::string name_of(const std::string& data_directory) {
  struct stat status{};
  if (::stat(data_directory.c_str(), &status) != 0) return "";
  return fmt::format("postern-{:x}-{:x}", status.st_dev, status.st_ino);
}

/// Its children get the controller.
bool hand_down(const std::string& directory, const std::string& controller) {
  const std::string control = directory + "/cgroup.subtree_control";
  return contains(words_of(control), controller) || write_file(control, "+" + controller);
}

/// A group of version 2 that is divided has no processes of its own. Only if this is the only one.
void move_to_leaf(const std::string& directory) {
  if (words_of(directory + "/cgroup.procs") != std::vector{std::to_string(::getpid())}) return;
  const std::string leaf = directory + "/postern-server";
  if (::mkdir(leaf.c_str(), 0755) == 0 || errno == EEXIST) (void)write_file(leaf + "/cgroup.procs", "0");
}

std::string box_of(const std::string& directory, std::uint64_t number) {
  return fmt::format("{}/box-{}", directory, number);
}

}  // namespace

bool Cgroups::join_version2(Group& group, const std::string& parent, const std::string& name) {
  const auto offered = words_of(parent + "/cgroup.controllers");
  if (!std::ranges::any_of(offered, [](const std::string& controller) {
        return controller == "cpu" || controller == "memory" || controller == "pids";
      }))
    return false;
  group.directory = parent + "/" + name;
  if (!make_group(group.directory)) return false;
  for (const auto& [controller, flag] :
       {std::pair("cpu", &Group::cpu), {"memory", &Group::memory}, {"pids", &Group::processes}}) {
    if (!contains(offered, controller)) continue;
    if (!hand_down(parent, controller)) {
      move_to_leaf(parent);
      if (!hand_down(parent, controller)) continue;
    }
    group.*flag = hand_down(group.directory, controller);
  }
  if (group.cpu || group.memory || group.processes) return true;
  remove_group(group.directory);
  return false;
}

Cgroups Cgroups::open(const std::string& data_directory) {
  Cgroups out;
  const std::string name = name_of(data_directory);
  if (name.empty()) return out;
  const auto hierarchies = mounted_hierarchies();
  const auto places = own_places();
  const auto own = [&](const std::string& controller) -> std::optional<std::string> {
    const auto hierarchy = hierarchies.find(controller);
    const auto place = places.find(controller);
    if (hierarchy == hierarchies.end() || place == places.end()) return std::nullopt;
    return own_directory(hierarchy->second, place->second);
  };
  if (const auto directory = own("")) {
    Group group;
    // Our own is a session's or a service's, with others in it; the system's root can make one beside those.
    if (join_version2(group, *directory, name) || join_version2(group, hierarchies.at("").place, name))
      out.groups_.push_back(std::move(group));
  }
  for (const auto& [controller, flag] :
       {std::pair("cpu", &Group::cpu), {"memory", &Group::memory}, {"pids", &Group::processes}}) {
    if (out.has(flag)) continue;
    const auto directory = own(controller);
    if (!directory || !make_group(*directory + "/" + name)) continue;
    Group group{.directory = *directory + "/" + name, .version1 = true};
    group.*flag = true;
    out.groups_.push_back(std::move(group));
  }
  return out;
}

Cgroups::~Cgroups() {
  for (const Group& group : groups_) remove_group(group.directory);
}

Cgroups::Cgroups(Cgroups&& other) noexcept : groups_(std::exchange(other.groups_, {})) {}

Cgroups& Cgroups::operator=(Cgroups&& other) noexcept {
  std::swap(groups_, other.groups_);
  return *this;
}

bool Cgroups::has(bool Group::* controller) const {
  return std::ranges::any_of(groups_, [&](const Group& group) { return group.*controller; });
}

std::string Cgroups::unenforced() const {
  std::string out;
  for (const auto& [what, flag] : {std::pair("processors", &Group::cpu), {"memory", &Group::memory}})
    if (!has(flag)) out += (out.empty() ? "" : " and ") + std::string(what);
  return out;
}

Result<void> Cgroups::write_limits(const Group& group, const std::string& directory, const Limits& limits) {
  const auto set = [&](const char* file, const std::string& value) -> Result<void> {
    if (write_file(directory + "/" + file, value)) return {};
    if (errno == EBUSY)
      return fail(Reason::overloaded, "the sandbox uses more memory than it would be allowed");
    return fail_errno(fmt::format("limit a box by {}", file));
  };
  const auto set_all = [&](std::initializer_list<std::pair<const char*, std::string>> files) -> Result<void> {
    for (const auto& [file, value] : files)
      if (auto done = set(file, value); !done) return done;
    return {};
  };
  const std::string memory = std::to_string(limits.memory_bytes);
  const std::uint64_t quota = std::max(limits.cpu_millicores * period_us / 1000, quota_us_least);
  const std::string processes = std::to_string(processes_max);
  Result<void> done;
  // With what is swapped; absent where the kernel counts no swap. It may not be the lesser of the two.
  const auto limit_swap = [&] {
    if (group.version1)
      (void)write_file(directory + "/memory.memsw.limit_in_bytes", memory);
    else
      (void)write_file(directory + "/memory.swap.max", "0");
  };
  if (group.memory) {
    limit_swap();
    done = set(group.version1 ? "memory.limit_in_bytes" : "memory.max", memory);
    limit_swap();
  }
  if (done && group.cpu && group.version1)
    done = set_all(
        {{"cpu.cfs_period_us", std::to_string(period_us)}, {"cpu.cfs_quota_us", std::to_string(quota)}});
  else if (done && group.cpu)
    done = set("cpu.max", fmt::format("{} {}", quota, period_us));
  if (done && group.processes) done = set("pids.max", processes);
  return done;
}

Result<std::vector<std::string>> Cgroups::make(std::uint64_t number, const Limits& limits) const {
  std::vector<std::string> directories;
  for (const Group& group : groups_) {
    const std::string directory = box_of(group.directory, number);
    Result<void> made;
    if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) made = fail_errno("make a control group");
    if (made) made = write_limits(group, directory, limits);
    if (!made) {
      remove(number);
      return std::unexpected(std::move(made.error()));
    }
    directories.push_back(directory);
  }
  return directories;
}

Result<void> Cgroups::change(std::uint64_t number, const Limits& limits) const {
  for (const Group& group : groups_)
    if (auto done = write_limits(group, box_of(group.directory, number), limits); !done) return done;
  return {};
}

void Cgroups::remove(std::uint64_t number) const {
  for (const Group& group : groups_) (void)::rmdir(box_of(group.directory, number).c_str());
}

Result<void> join_cgroups(const std::vector<std::string>& directories) {
  for (const std::string& directory : directories)
    if (!write_file(directory + "/cgroup.procs", "0")) return fail_errno("join a control group");
  return {};
}

}  // namespace postern::box
