#pragma once
// What boxes may use of the machine, by control groups: version 2 where a hierarchy gives its controllers to
// us (as root, or delegated by systemd: `Delegate=yes`), else version 1 where it is still mounted.
//
//   .../postern-DEVICE-INODE/box-NUMBER     of the data directory, which one server has at a time
//
// cgroups(7); the kernel's admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/memory.rst.

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace postern::box {

struct Limits {
  std::uint32_t cpu_millicores = 1000;
  std::uint64_t memory_bytes = std::uint64_t{2} << 30;  ///< What is swapped counts.
  bool operator==(const Limits&) const = default;
};

/// Of one box: also without any control group (RLIMIT_NPROC counts in each user namespace by itself).
inline constexpr std::uint32_t processes_max = 4096;

/// Immutable but for the file system; for all threads, as long as nobody does two things to one number.
class Cgroups {
 public:
  /// None: every box may use the whole machine.
  Cgroups() = default;
  /// Finds what this host gives, and makes the server's group, in place of what one that was killed left.
  /// Where only our own group is ours to divide this process moves into a leaf of it: call it before there
  /// are others. Never an error: unenforced() says what is missing.
  static Cgroups open(const std::string& data_directory);
  /// Removes the server's group, when its boxes have ended.
  ~Cgroups();
  Cgroups(Cgroups&& other) noexcept;
  Cgroups& operator=(Cgroups&& other) noexcept;

  /// What is not enforced, in words for the operator ("memory, processes"); empty: nothing.
  std::string unenforced() const;

  /// The groups of a new box: directories for BoxSpec::cgroups, which its first process joins.
  Result<std::vector<std::string>> make(std::uint64_t number, const Limits& limits) const;
  /// Of a box that runs. Errors: it uses more memory than it would be allowed; then nothing has changed.
  Result<void> change(std::uint64_t number, const Limits& limits) const;
  /// Of a box whose processes are gone.
  void remove(std::uint64_t number) const;

 private:
  struct Group {
    std::string directory;  ///< The server's.
    bool version1 = false;
    bool cpu = false, memory = false, processes = false;
  };
  static bool join_version2(Group& group, const std::string& parent, const std::string& name);
  static Result<void> write_limits(const Group& group, const std::string& directory, const Limits& limits);
  bool has(bool Group::* controller) const;

  std::vector<Group> groups_;
};

/// This process, and what it starts from now on, belongs to these groups.
Result<void> join_cgroups(const std::vector<std::string>& directories);

}  // namespace postern::box
