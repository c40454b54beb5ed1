#include "box/userland.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <grp.h>
#include <limits.h>
#include <memory>
#include <signal.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "box/agent_bytes.h"
#include "box/box_directory.h"
#include "sandbox/shim_bytes.h"

namespace postern::box {
namespace {

namespace fs = std::filesystem;

// What programs need, and nothing in which an operator might write a password: no profile.d, pip.conf, npmrc,
// gitconfig, environment, wgetrc, Maven settings.
constexpr std::array<std::string_view, 50> etc_names{"alternatives",
                                                     "bash_completion.d",
                                                     "bindresvport.blacklist",
                                                     "ca-certificates",
                                                     "ca-certificates.conf",
                                                     "crypto-policies",
                                                     "debian_version",
                                                     "dpkg",
                                                     "emacs",
                                                     "fonts",
                                                     "gai.conf",
                                                     "ghc",
                                                     "glvnd",
                                                     "groff",
                                                     "host.conf",
                                                     "inputrc",
                                                     "issue",
                                                     "ld.so.cache",
                                                     "ld.so.conf",
                                                     "ld.so.conf.d",
                                                     "locale.alias",
                                                     "locale.conf",
                                                     "locale.gen",
                                                     "localtime",
                                                     "login.defs",
                                                     "lsb-release",
                                                     "magic",
                                                     "magic.mime",
                                                     "mailcap",
                                                     "manpath.config",
                                                     "mime.types",
                                                     "nanorc",
                                                     "netconfig",
                                                     "networks",
                                                     "nsswitch.conf",
                                                     "OpenCL",
                                                     "os-release",
                                                     "perl",
                                                     "pki",
                                                     "protocols",
                                                     "redhat-release",
                                                     "rpc",
                                                     "services",
                                                     "sgml",
                                                     "shells",
                                                     "ssl",
                                                     "terminfo",
                                                     "timezone",
                                                     "vim",
                                                     "xml"};
constexpr std::array<std::string_view, 4> etc_beginnings{"java", "python3", "ruby", "texmf"};
// Below the names above. Private keys are closed to everybody, too; this is the second lock.
constexpr std::array<std::string_view, 5> never{"private", "security.d", "management", "credentials",
                                                "entitlement"};

constexpr int depth_max = 8;
constexpr std::size_t entries_max = 20'000;        // Debian's /etc with all toolchains: 2,000
constexpr std::size_t file_bytes_max = 8UL << 20;  // ld.so.cache and CA bundles are below 1 MiB
constexpr std::size_t total_bytes_max = 64UL << 20;

constexpr std::array<std::string_view, 6> program_places{"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

struct Place {
  const char* path;
  mode_t mode;
};
constexpr std::array<Place, 34> places{{
    {"dev", 0755},
    {"proc", 0555},
    {"sys", 0555},
    {"run", 0755},
    {"usr", 0755},
    {"tmp", 01777},
    {"root", 0700},
    {"home", 0755},
    {"home/user", 0755},
    {"workspace", 0755},
    {"opt", 0755},
    {"srv", 0755},
    {"mnt", 0755},
    {"media", 0755},
    {"etc", 0755},
    {"etc/skel", 0755},
    {"etc/opt", 0755},
    {"etc/profile.d", 0755},
    {"var", 0755},
    {"var/cache", 0755},
    {"var/lib", 0755},
    {"var/lib/dpkg", 0755},
    {"var/lib/dpkg/info", 0755},
    {"var/lib/dpkg/updates", 0755},
    {"var/lib/misc", 0755},
    {"var/local", 0755},
    {"var/log", 0755},
    {"var/mail", 0755},
    {"var/opt", 0755},
    {"var/spool", 0755},
    {"var/tmp", 01777},
    {"var/backups", 0755},
    {"var/cache/apt", 0755},
    {"var/lib/apt", 0755},
}};

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

Result<void> write_file(int directory, const std::string& name, std::string_view bytes, mode_t mode) {
  const Fd file(
      ::openat(directory, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!file) return fail_errno(fmt::format("make '{}'", name));
  while (!bytes.empty()) {
    const ssize_t size = ::write(file.get(), bytes.data(), bytes.size());
    if (size <= 0) return fail_errno(fmt::format("write '{}'", name));
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
  if (::fchmod(file.get(), mode) != 0)
    return fail_errno(fmt::format("make '{}'", name));  // Whatever the umask.
  return {};
}

Result<void> make_directory(int directory, const std::string& name, mode_t mode) {
  if (::mkdirat(directory, name.c_str(), 0700) != 0 || ::fchmodat(directory, name.c_str(), mode, 0) != 0)
    return fail_errno(fmt::format("make '{}'", name));
  return {};
}

Result<void> make_link(int directory, const std::string& name, const std::string& target) {
  if (::symlinkat(target.c_str(), directory, name.c_str()) != 0)
    return fail_errno(fmt::format("link '{}'", name));
  return {};
}

bool begins_with_any(std::string_view name, const auto& beginnings) {
  return std::ranges::any_of(beginnings,
                             [&](std::string_view beginning) { return name.starts_with(beginning); });
}

std::string link_target(int directory, const char* name) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = ::readlinkat(directory, name, target.data(), target.size());
  return size > 0 ? std::string(target.data(), static_cast<std::size_t>(size)) : std::string();
}

using Listing = std::unique_ptr<DIR, decltype([](DIR* listing) { ::closedir(listing); })>;

/// Copies what is open to everybody: links as they are, files and folders. The rest is left out, and so is
/// what goes away meanwhile.
class OpenFiles {
 public:
  Result<void> copy_listed(int from, int to) {
    return each(from, [&](const std::string& name) -> Result<void> {
      const bool listed =
          std::ranges::find(etc_names, name) != etc_names.end() || begins_with_any(name, etc_beginnings);
      return listed ? copy(from, to, name, 0) : Result<void>();
    });
  }

 private:
  Result<void> each(int directory, const auto& visit) {
    Listing listing(::fdopendir(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
      const std::string name = entry->d_name;
      if (name == "." || name == ".." || std::ranges::find(never, name) != never.end()) continue;
      if (++entries_ > entries_max) return fail(Reason::internal, "the host's /etc has too many files");
      if (auto visited = visit(name); !visited) return visited;
    }
    return {};
  }

  Result<void> copy(int from, int to, const std::string& name, int depth) {
    const Fd place(::openat(from, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat status{};
    if (!place || ::fstat(place.get(), &status) != 0) return {};
    if (S_ISLNK(status.st_mode)) {
      const std::string target = link_target(from, name.c_str());
      return target.empty() ? Result<void>() : make_link(to, name, target);
    }
    const std::string opened = fmt::format("/proc/self/fd/{}", place.get());
    if (S_ISREG(status.st_mode) && (status.st_mode & S_IROTH) != 0)
      return copy_file(opened, to, name, status);
    const mode_t passable = S_IROTH | S_IXOTH;
    if (!S_ISDIR(status.st_mode) || (status.st_mode & passable) != passable || depth >= depth_max) return {};
    if (auto made = make_directory(to, name, 0755); !made) return made;
    const Fd source(::open(opened.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const Fd target(::openat(to, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!source || !target) return {};
    return each(source.get(),
                [&](const std::string& below) { return copy(source.get(), target.get(), below, depth + 1); });
  }

  Result<void> copy_file(const std::string& opened, int to, const std::string& name,
                         const struct stat& status) {
    const auto size = static_cast<std::size_t>(status.st_size);
    if (size > file_bytes_max || total_ + size > total_bytes_max) return {};
    const Fd file(::open(opened.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    std::string bytes(size, '\0');
    std::size_t have = 0;
    for (ssize_t got = 0;
         file && have < size && (got = ::read(file.get(), bytes.data() + have, size - have)) > 0;)
      have += static_cast<std::size_t>(got);
    bytes.resize(have);
    total_ += have;
    return write_file(to, name, bytes, (status.st_mode & S_IXOTH) != 0 ? 0755 : 0644);
  }

  std::size_t entries_ = 0;
  std::size_t total_ = 0;
};

Result<void> make_accounts(int etc) {
  const std::string shell = ::access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh";
  const std::array<std::pair<const char*, std::string>, 6> files{{
      {"passwd", fmt::format("root:x:0:0:root:/root:{0}\nuser:x:1000:1000:user:/home/user:{0}\n"
                             "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
                             shell)},
      {"group", "root:x:0:\ntty:x:5:\nstaff:x:50:\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n"},
      {"profile",
       "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n"
       "for i in /etc/profile.d/*.sh; do [ -r \"$i\" ] && . \"$i\"; done\nunset i\n"},
      {"resolv.conf", ""},  // Both are covered in every box.
      {"hosts", ""},
      {"hostname", "box\n"},
  }};
  for (const auto& [name, bytes] : files)
    if (auto written = write_file(etc, name, bytes, 0644); !written) return written;
  return make_link(etc, "mtab", "/proc/mounts");
}

/// So that `dpkg -l` and what looks for packages work.
Result<void> copy_package_status(int root) {
  std::ifstream file("/var/lib/dpkg/status", std::ios::binary);
  if (!file) return {};
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  return write_file(root, "var/lib/dpkg/status", bytes, 0644);
}

Result<void> make_root(int root, const std::string& host_etc) {
  for (const Place& place : places)
    if (auto made = make_directory(root, place.path, place.mode); !made) return made;
  if (auto made = make_link(root, "var/run", "/run"); !made) return made;
  if (auto made = make_link(root, "var/lock", "/run/lock"); !made) return made;
  for (const std::string_view name : program_places) {
    const std::string path = fmt::format("/{}", name);
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) continue;
    const std::string target = S_ISLNK(status.st_mode) ? link_target(AT_FDCWD, path.c_str()) : std::string();
    auto made = target.empty() ? make_directory(root, std::string(name), 0755)
                               : make_link(root, std::string(name), target);
    if (!made) return made;
  }
  const Fd from(::open(host_etc.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd etc(::openat(root, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!from || !etc) return fail_errno("open /etc");
  if (auto copied = OpenFiles().copy_listed(from.get(), etc.get()); !copied) return copied;
  if (auto made = make_accounts(etc.get()); !made) return made;
  return copy_package_status(root);
}

Result<void> fill(int top, const std::string& host_etc) {
  for (const char* name : {"root", "programs"})
    if (auto made = make_directory(top, name, 0755); !made) return made;
  const Fd root(::openat(top, "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const Fd programs(::openat(top, "programs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!root || !programs) return fail_errno("open the userland");
  if (auto written = write_file(programs.get(), "agent", agent_bytes(), 0555); !written) return written;
  if (auto written = write_file(programs.get(), "launch", sandbox::shim_bytes(), 0555); !written)
    return written;
  return make_root(root.get(), host_etc);
}

/// As the boxes' owner: what that one may not read cannot get in by mistake.
Result<void> fill_as(const Owner& owner, int top, const std::string& host_etc) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("make a pipe");
  Fd said(ends[0]), says(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("start a process");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::umask(022);
    const bool changed =
        owner.user == ::geteuid() ||
        (::setgroups(0, nullptr) == 0 && ::setresgid(owner.group, owner.group, owner.group) == 0 &&
         ::setresuid(owner.user, owner.user, owner.user) == 0);
    auto filled = changed ? fill(top, host_etc) : Result<void>(fail_errno("become the boxes' owner"));
    if (!filled) (void)!::write(says.get(), filled.error().detail.data(), filled.error().detail.size());
    ::_exit(filled ? 0 : 1);
  }
  says.reset();
  std::string sentence(PIPE_BUF, '\0');
  const ssize_t size = ::read(said.get(), sentence.data(), sentence.size());
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status == 0) return {};
  sentence.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return fail(Reason::internal,
              fmt::format("the boxes' userland: {}", sentence.empty() ? "its maker died" : sentence));
}

Result<Fd> make_rest(const std::string& state_directory) {
  const Fd file(::open(state_directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0500));
  const std::string_view bytes = rest_bytes();
  if (!file || ::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
      ::fchmod(file.get(), 0555) != 0)
    return fail_errno(fmt::format("write the program that holds boxes in '{}'", state_directory));
  // Not the one that writes: nobody runs a file that could change.
  Fd program(::open(fmt::format("/proc/self/fd/{}", file.get()).c_str(), O_PATH | O_CLOEXEC));
  if (!program) return fail_errno("open the program that holds boxes");
  return program;
}

constexpr std::string_view name_beginning = "userland.";

void remove_left_over(const std::string& state_directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(state_directory, error)) {
    // What a living keeper has is taken, and stays.
    if (entry.path().filename().string().starts_with(name_beginning))
      (void)remove_box_directory(entry.path());
  }
}

}  // namespace

std::vector<std::string> userland_places() {
  std::vector<std::string> found;
  for (const std::string_view name : program_places) {
    std::string path = fmt::format("/{}", name);
    struct stat status{};
    if (::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) found.push_back(std::move(path));
  }
  return found;
}

Result<Userland> Userland::make(const std::string& state_directory, const std::string& host_etc) {
  if (!state_directory.starts_with('/'))
    return fail(Reason::invalid_configuration,
                fmt::format("the state directory '{}' is no absolute path", state_directory));
  remove_left_over(state_directory);
  auto rest = make_rest(state_directory);
  if (!rest) return std::unexpected(std::move(rest.error()));
  std::string path = fmt::format("{}/{}XXXXXX", state_directory, name_beginning);
  if (::mkdtemp(path.data()) == nullptr)
    return fail_errno(fmt::format("make a directory in '{}'", state_directory));
  auto taken = take_box_directory(path);
  if (!taken) return std::unexpected(std::move(taken.error()));
  if (auto filled = fill_as(box_owner(), taken->get(), host_etc); !filled) {
    taken->reset();
    (void)remove_box_directory(path);
    return std::unexpected(std::move(filled.error()));
  }
  return Userland(std::move(path), std::move(*taken), std::move(*rest));
}

}  // namespace postern::box
