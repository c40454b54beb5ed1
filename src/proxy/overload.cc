#include "proxy/overload.h"

#include <algorithm>
#include <charconv>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace postern::proxy {

namespace {

/// A small file of /proc or /sys; empty when it cannot be read.
std::string read_small(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(4096, '\0');
  const ssize_t count = file ? ::read(file.get(), text.data(), text.size()) : -1;
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}

std::uint64_t number_in(std::string_view text, std::uint64_t otherwise) {
  std::uint64_t value = 0;
  return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc() ? value : otherwise;
}

/// cgroups(7), version 2: "0::/a/b" is below /sys/fs/cgroup, and each group on the way may set a limit.
std::uint64_t memory_of_control_groups() {
  std::uint64_t least = UINT64_MAX;
  const std::string groups = read_small("/proc/self/cgroup");
  const std::size_t line = groups.find("0::/");
  if (line == std::string::npos) return least;
  std::string path = groups.substr(line + 3, groups.find('\n', line) - line - 3);
  while (true) {
    least = std::min(least, number_in(read_small("/sys/fs/cgroup" + path + "/memory.max"), UINT64_MAX));
    if (path.empty() || path == "/") return least;
    path.erase(path.rfind('/'));
  }
}

std::uint64_t own_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
  return limit.rlim_cur;
}

}  // namespace

ProcessUse allowed_to_process() {
  const auto machine = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                       static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  ProcessUse allowed;
  allowed.memory_bytes =
      std::min({machine, memory_of_control_groups(), own_limit(RLIMIT_DATA), own_limit(RLIMIT_AS)});
  allowed.descriptors = own_limit(RLIMIT_NOFILE);
  return allowed;
}

ProcessMeter::ProcessMeter() : memory_(::open("/proc/self/statm", O_RDONLY | O_CLOEXEC)) {}

ProcessUse ProcessMeter::measure() const {
  ProcessUse use{.memory_bytes = 0, .descriptors = 0};
  char text[128];
  const ssize_t count = memory_ ? ::pread(memory_.get(), text, sizeof text, 0) : -1;
  if (count > 0) {
    // "size resident shared ...", in pages.
    const std::string_view fields(text, static_cast<std::size_t>(count));
    const std::size_t resident = fields.find(' ') + 1;
    use.memory_bytes =
        number_in(fields.substr(resident), 0) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  // Since Linux 6.2 the size of the directory is the number of descriptors. Before, the lowest free one says
  // that all below it are taken.
  struct stat directory{};
  if (::stat("/proc/self/fd", &directory) == 0 && directory.st_size > 0) {
    use.descriptors = static_cast<std::uint64_t>(directory.st_size);
  } else {
    const Fd lowest(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
    use.descriptors = lowest ? static_cast<std::uint64_t>(lowest.get()) : UINT64_MAX;
  }
  return use;
}

Overload::Pressure Overload::pressure_of(std::uint64_t use, std::uint64_t allowed, std::uint64_t hard) {
  if (use >= hard) return Pressure::hard;
  return use >= soft(allowed) ? Pressure::soft : Pressure::none;
}

// The last descriptors, and the last tenth of memory, are for what is under way.
void Overload::measured(const ProcessUse& use) {
  const std::uint64_t memory = limits_.process.memory_bytes;
  const std::uint64_t descriptors = limits_.process.descriptors;
  memory_ = pressure_of(use.memory_bytes, memory, memory - memory / 10);
  descriptors_ = pressure_of(use.descriptors, descriptors, descriptors - descriptors / 64);
}

bool Overload::admits_connection(const TenantLoad& tenant, int descriptor) const {
  const std::uint64_t descriptors = limits_.process.descriptors;
  return within_share(tenant.connections, connections(), limits_.connections_max) &&
         !refusing(connections()) && static_cast<std::uint64_t>(descriptor) < descriptors - descriptors / 64;
}

}  // namespace postern::proxy
