#include "cli/doctor.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <optional>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "sandbox/capture.h"
#include "sandbox/launch.h"
#include "sandbox/trust.h"

namespace postern::cli {
namespace {

namespace fs = std::filesystem;

constexpr long memory_bytes_min = 128 * MiB;  // The proxy needs 30 MiB, a small agent the rest.

Finding good(std::string subject, std::string text) {
  return {std::move(subject), true, std::move(text), {}};
}

Finding problem(std::string subject, std::string text, std::string mend) {
  return {std::move(subject), false, std::move(text), std::move(mend)};
}

std::optional<long> number_in_file(const char* path) {
  std::ifstream file(path);
  long value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

/// The first of these programs that is installed, to name a command that works on this system.
std::string package_command(std::string_view package) {
  constexpr std::array<std::pair<const char*, std::string_view>, 5> managers{
      {{"/usr/bin/apt-get", "apt-get install -y"},
       {"/usr/bin/dnf", "dnf install -y"},
       {"/usr/bin/pacman", "pacman -S"},
       {"/usr/bin/zypper", "zypper install"},
       {"/sbin/apk", "apk add"}}};
  for (const auto& [path, command] : managers) {
    if (access(path, X_OK) == 0) return fmt::format("sudo {} {}", command, package);
  }
  return fmt::format("install the package '{}'", package);
}

Finding check_bubblewrap() {
  auto found = sandbox::find_bubblewrap();
  if (!found) return problem("bubblewrap", "not installed", package_command("bubblewrap"));
  return good("bubblewrap", *found);
}

/// Ubuntu from 23.10 on: user namespaces can be made, but without capabilities, unless a profile allows the
/// program.
bool apparmor_restricts() {
  if (geteuid() == 0 || number_in_file("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") != 1)
    return false;
  return std::ranges::none_of(std::array{"/etc/apparmor.d/bwrap", "/etc/apparmor.d/bwrap-userns-restrict"},
                              [](const char* profile) { return access(profile, F_OK) == 0; });
}

Finding check_user_namespaces() {
  const std::string subject = "user namespaces";
  if (number_in_file("/proc/sys/user/max_user_namespaces") == 0) {
    return problem(subject, "switched off (user.max_user_namespaces = 0)",
                   "sudo sysctl -w user.max_user_namespaces=15000");
  }
  if (geteuid() != 0 && number_in_file("/proc/sys/kernel/unprivileged_userns_clone") == 0) {
    return problem(subject, "not for ordinary users (kernel.unprivileged_userns_clone = 0)",
                   "sudo sysctl -w kernel.unprivileged_userns_clone=1");
  }
  if (apparmor_restricts()) {
    return problem(subject, "taken away by AppArmor (kernel.apparmor_restrict_unprivileged_userns = 1)",
                   "printf 'abi <abi/4.0>,\\nprofile bwrap /usr/bin/bwrap flags=(unconfined) {\\n  "
                   "userns,\\n}\\n' | sudo tee "
                   "/etc/apparmor.d/bwrap && sudo apparmor_parser -r /etc/apparmor.d/bwrap");
  }
  return good(subject, "allowed");
}

/// A whole sandbox with a whole capture, which proves itself by catching a connection before it returns.
std::vector<Finding> check_capture() {
  sandbox::LaunchSpec spec;
  spec.command = {"true"};
  spec.working_directory = "/usr";
  auto started = sandbox::start(spec);
  if (!started) {
    return {problem("sandbox", started.error().detail,
                    "bwrap --unshare-all --unshare-user --ro-bind / / --dev /dev --proc /proc true")};
  }
  auto sockets = sandbox::capture_network(started->init_pid());
  if (!sockets) {
    return {
        problem("capture", sockets.error().detail, "sudo modprobe -a nf_tables nft_tproxy nft_reject_inet")};
  }
  std::vector<Finding> findings{good("capture", "a connection was caught")};
  // Without it the sandbox has IPv4 only, which costs nothing: the proxy's own side does not depend on it.
  findings.push_back(good("IPv6", sockets->tcp6 ? "caught" : "not in this kernel; sandboxes have IPv4 only"));
  auto released = started->release();
  auto ended = started->wait();
  if (!released || !ended || *ended != 0) {
    findings.push_back(
        problem("sandbox", ended ? fmt::format("`true` ended with status {}", *ended) : ended.error().detail,
                "bwrap --unshare-all --unshare-user --ro-bind / / --dev /dev --proc /proc true"));
  } else {
    findings.push_back(good("sandbox", "a program ran in it"));
  }
  return findings;
}

Finding check_bundle() {
  std::string bundle = sandbox::host_bundle();
  if (bundle.empty())
    return problem("CA certificates", "no bundle on this host", package_command("ca-certificates"));
  return good("CA certificates", bundle);
}

Finding check_state_directory(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  std::string probe = path + "/.probe-XXXXXX";
  Fd file(mkstemp(probe.data()));
  if (!file) {
    return problem("state directory", fmt::format("{}: {}", path, std::strerror(errno)),
                   fmt::format("sudo install -d -m 700 -o {} {}", geteuid(), path));
  }
  unlink(probe.c_str());
  return good("state directory", path);
}

/// The least of the machine's memory and this process' control group.
long memory_bytes() {
  long bytes = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::")) continue;
    auto limit = number_in_file(("/sys/fs/cgroup" + line.substr(3) + "/memory.max").c_str());
    if (limit && *limit > 0) bytes = std::min(bytes, *limit);
  }
  return bytes;
}

Finding check_machine() {
  long bytes = memory_bytes();
  std::string text = fmt::format("{} cores, {} MiB of memory", std::thread::hardware_concurrency(),
                                 bytes / static_cast<long>(MiB));
  if (bytes >= memory_bytes_min) return good("machine", text);
  return problem("machine", text + ", too little",
                 "systemd-run --user --scope -p MemoryMax=512M postern run ...");
}

}  // namespace

std::vector<Finding> examine(const std::string& state_directory) {
  std::vector<Finding> findings{check_bubblewrap(), check_user_namespaces()};
  bool possible = std::ranges::all_of(findings, &Finding::ok);
  if (possible) {
    for (Finding& finding : check_capture()) findings.push_back(std::move(finding));
  }
  findings.push_back(check_bundle());
  findings.push_back(check_state_directory(state_directory));
  findings.push_back(check_machine());
  return findings;
}

int doctor(std::FILE* out, const std::string& state_directory) {
  bool healthy = true;
  for (const Finding& finding : examine(state_directory)) {
    fmt::print(out, "{:<8} {:<16} {}\n", finding.ok ? "ok" : "problem", finding.subject, finding.text);
    if (!finding.ok) fmt::print(out, "         {:<16} mend it: {}\n", "", finding.mend);
    healthy = healthy && finding.ok;
  }
  return healthy ? 0 : 1;
}

Result<void> preflight() {
  for (const Finding& finding : {check_bubblewrap(), check_user_namespaces()}) {
    if (finding.ok) continue;
    return fail(Reason::invalid_configuration,
                fmt::format("{}: {}; mend it: {}", finding.subject, finding.text, finding.mend));
  }
  return {};
}

}  // namespace postern::cli
