#include "box/box_root.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/openat2.h>
#include <optional>
#include <sched.h>
#include <string_view>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box/box_directory.h"
#include "box/inner_process.h"
#include "box/userland.h"
#include "sandbox/capture.h"

namespace postern::box {
namespace {

using sandbox::MountStep;

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::string by_number(const Fd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

// ---------------------------------------------------------------------------------------------------------------
// Leaving the host

/// The namespace's own view of processes too: /proc/self must be this one.
Result<void> part_from_host() {
  if (auto parted = part_from_mounts(); !parted) return parted;
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return fail_errno("mount /proc");
  return {};
}

// ---------------------------------------------------------------------------------------------------------------
// Mounts

Result<void> mount_at(const Fd& place, const char* type, unsigned long flags, const std::string& options) {
  if (::mount(type, by_number(place).c_str(), type, flags, options.c_str()) != 0)
    return fail_errno(fmt::format("mount {}", type));
  return {};
}

Result<Fd> open_directory(int at, const char* path) {
  Fd directory(::openat(at, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory) return fail_errno(fmt::format("open '{}'", path));
  return directory;
}

/// A copy of the mount at `path`, attached nowhere yet, read-only with all below it.
Result<Fd> read_only_view(const std::string& path) {
  Fd view(static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)));
  if (!view) return fail_errno(fmt::format("take a view of '{}'", path));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  if (::syscall(SYS_mount_setattr, view.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                sizeof attributes) != 0)
    return fail_errno(fmt::format("make the view of '{}' read-only", path));
  return view;
}

Result<void> attach(const Fd& view, const Fd& place) {
  if (::syscall(SYS_move_mount, view.get(), "", place.get(), "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
    return fail_errno("attach a mount");
  return {};
}

// ---------------------------------------------------------------------------------------------------------------
// Places in the box's root, of which nothing is believed

class Places {
 public:
  explicit Places(const Fd& root) : root_(root.get()) {}

  /// A real directory, no part of whose path is a link.
  Result<Fd> directory(std::string_view path) const {
    Fd here(::fcntl(root_, F_DUPFD_CLOEXEC, 3));
    while (!path.empty()) {
      const std::string name(path.substr(0, path.find('/')));
      path.remove_prefix(std::min(path.size(), name.size() + 1));
      if (name.empty()) continue;
      auto next = step(here, name);
      if (!next) return next;
      here = std::move(*next);
    }
    return here;
  }

  /// The same, where links may stay that lead to a directory of this root (as some systems have them in
  /// /etc).
  Result<Fd> reached_directory(std::string_view path) const {
    if (Fd found = resolve(path, O_PATH | O_DIRECTORY)) return found;
    return directory(path);
  }

  /// A regular file, empty if it is new. Whatever else is there is renamed.
  Result<Fd> file(std::string_view path) const {
    const std::size_t slash = path.rfind('/');
    auto parent = reached_directory(path.substr(0, slash == path.npos ? 0 : slash));
    if (!parent) return parent;
    const std::string name(path.substr(slash == path.npos ? 0 : slash + 1));
    if (name.empty() || name == "." || name == "..")
      return fail(Reason::invalid_configuration, fmt::format("'{}' is no path of a file", path));
    for (int i = 0; i < 3; ++i) {
      Fd found(::openat(parent->get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      struct stat status{};
      if (found && ::fstat(found.get(), &status) == 0 && S_ISREG(status.st_mode)) return found;
      if (found) put_aside(*parent, name);
      const Fd made(::openat(parent->get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    }
    return fail_errno(fmt::format("make '{}' in the box", path));
  }

 private:
  Fd resolve(std::string_view path, int flags) const {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    const std::string text = path.empty() ? "." : std::string(path);
    return Fd(static_cast<int>(::syscall(SYS_openat2, root_, text.c_str(), &how, sizeof how)));
  }

  static Result<Fd> step(const Fd& here, const std::string& name) {
    if (name == "." || name == "..")
      return fail(Reason::invalid_configuration, fmt::format("'{}' in a path", name));
    for (int i = 0; i < 3; ++i) {
      Fd next(::openat(here.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (next) {
        struct stat status{};
        // Its commands, and the launcher among them, have no capability to pass a closed directory.
        if (::fstat(next.get(), &status) == 0 && (status.st_mode & 0500) != 0500)
          (void)::chmod(by_number(next).c_str(), (status.st_mode & 07777) | 0700);
        return next;
      }
      if (errno == ENOTDIR || errno == ELOOP) put_aside(here, name);
      (void)::mkdirat(here.get(), name.c_str(), 0755);
    }
    return fail_errno(fmt::format("make '{}' in the box", name));
  }

  static void put_aside(const Fd& parent, const std::string& name) {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const std::string aside = fmt::format("{}.replaced-{}-{}", name.substr(0, 200), now.tv_sec, now.tv_nsec);
    if (::renameat(parent.get(), name.c_str(), parent.get(), aside.c_str()) != 0)
      (void)::unlinkat(parent.get(), name.c_str(), 0);
  }

  int root_;
};

// ---------------------------------------------------------------------------------------------------------------
// The root

std::string_view relative(std::string_view path) {
  while (path.starts_with('/')) path.remove_prefix(1);
  return path;
}

/// What a step of BoxSpec::files brings from the host, opened with the server's rights.
struct Source {
  Fd view;
  std::string content;
};

Result<std::string> read_file(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return fail_errno(fmt::format("read '{}'", path));
  std::string bytes;
  std::array<char, 16384> piece;
  ssize_t size = 0;
  while ((size = ::read(file.get(), piece.data(), piece.size())) > 0)
    bytes.append(piece.data(), static_cast<std::size_t>(size));
  if (size < 0) return fail_errno(fmt::format("read '{}'", path));
  return bytes;
}

Result<Source> open_source(const MountStep& step) {
  Source source;
  if (step.kind == MountStep::Kind::ro_bind) {
    auto view = read_only_view(step.source);
    if (!view) return std::unexpected(std::move(view.error()));
    source.view = std::move(*view);
  } else if (step.kind == MountStep::Kind::copy) {
    auto bytes = read_file(step.source);
    if (!bytes) return std::unexpected(std::move(bytes.error()));
    source.content = std::move(*bytes);
  }
  return source;
}

constexpr const char* own_programs[] = {"agent", "launch"};

class Builder {
 public:
  Builder(const BoxSpec& spec, const std::string& userland) : spec_(spec), userland_(userland) {}

  Result<void> build() {
    for (const auto part : {&Builder::open_all, &Builder::leave, &Builder::make_layers, &Builder::mount_root,
                            &Builder::mount_places, &Builder::mount_own_files, &Builder::mount_files})
      if (auto done = (this->*part)(); !done) return done;
    return {};
  }

 private:
  /// Everything of the host that is needed, before its paths are out of reach.
  Result<void> open_all() {
    if (auto parted = part_from_host(); !parted) return parted;
    auto box = open_directory(AT_FDCWD, spec_.directory.c_str());
    if (!box) return std::unexpected(std::move(box.error()));
    box_ = std::move(*box);
    if (auto opened = open_layers(); !opened) return opened;
    for (const char* name : own_programs) {
      auto program = read_only_view(fmt::format("{}/programs/{}", userland_, name));
      if (!program) return std::unexpected(std::move(program.error()));
      programs_.push_back(std::move(*program));
    }
    for (const MountStep& step : spec_.files) {
      auto source = open_source(step);
      if (!source) return std::unexpected(std::move(source.error()));
      sources_.push_back(std::move(*source));
    }
    return {};
  }

  Result<void> open_layers() {
    if (spec_.layers.size() > box_layers_max || (spec_.layers.empty() && !on_userland()))
      return fail(Reason::invalid_configuration, "a snapshot has from one to 16 layers");
    const auto open_into = [](std::vector<Fd>& layers, const std::string& path) -> Result<void> {
      auto layer = open_directory(AT_FDCWD, path.c_str());
      if (!layer) return std::unexpected(std::move(layer.error()));
      layers.push_back(std::move(*layer));
      return {};
    };
    for (const std::string& layer : spec_.layers) {
      if (auto opened = open_into(lower_, layer + "/root"); !opened) return opened;
      if (!on_userland()) continue;
      if (auto opened = open_into(lower_usr_, layer + "/usr"); !opened) return opened;
    }
    return on_userland() ? open_into(lower_, userland_ + "/root") : Result<void>();
  }

  bool on_userland() const { return spec_.base == BoxBase::userland; }

  Result<void> leave() { return become_owner(); }

  Result<void> make_layers() {
    ::umask(022);
    for (const char* layer : {"root", "root.work", "usr", "usr.work"}) {
      if (::mkdirat(box_.get(), layer, 0755) != 0 && errno != EEXIST)
        return fail_errno("make the box's layers");
      auto opened = open_directory(box_.get(), layer);
      if (!opened) return std::unexpected(std::move(opened.error()));
      // The box can close its "/" to itself.
      if (::chmod(by_number(*opened).c_str(), 0755) != 0) return fail_errno("open the box's layers");
    }
    return {};
  }

  /// By numbers: some 16 bytes for each, and the kernel takes a page of options.
  static std::string stack(const std::vector<Fd>& layers) {
    std::string out;
    for (const Fd& layer : layers) out += (out.empty() ? "" : ":") + by_number(layer);
    return out;
  }

  Result<void> overlay(const std::string& lower, const char* layer, const Fd& place) {
    const std::string box = by_number(box_);
    auto mounted = mount_at(place, "overlay", MS_NOSUID | MS_NODEV,
                            fmt::format("lowerdir={},upperdir={}/{},workdir={}/{}.work,userxattr", lower, box,
                                        layer, box, layer));
    if (!mounted)
      mounted.error().detail +=
          "; boxes need Linux 5.12 or later, and a state directory on a file system that can be the "
          "upper layer of an overlay (ext4, xfs, btrfs, tmpfs, but not another overlay)";
    return mounted;
  }

  Result<void> mount_root() {
    // A place that every host has, and that is nobody's business any more in this namespace.
    if (::mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m") != 0)
      return fail_errno("mount a tmpfs");
    if (::mkdir(box_root_path, 0755) != 0) return fail_errno("make the root's place");
    auto place = open_directory(AT_FDCWD, box_root_path);
    if (!place) return std::unexpected(std::move(place.error()));
    if (auto mounted = overlay(stack(lower_), "root", *place); !mounted) return mounted;
    auto root = open_directory(AT_FDCWD, box_root_path);
    if (!root) return std::unexpected(std::move(root.error()));
    root_ = std::move(*root);
    return {};
  }

  Result<void> mount_places() {
    const Places places(root_);
    for (const char* name : {"dev", "proc", "sys", "etc", "tmp", "root"})
      if (auto place = places.directory(name); !place) return std::unexpected(std::move(place.error()));
    if (on_userland())
      if (auto mounted = mount_userland(places); !mounted) return mounted;
    // Where commands start, which images do not have.
    if (!on_userland())
      if (auto home = places.reached_directory("home/user"); !home)
        return std::unexpected(std::move(home.error()));
    auto run = places.directory("run");
    if (!run) return std::unexpected(std::move(run.error()));
    if (auto mounted = mount_at(*run, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m"); !mounted)
      return mounted;
    for (const auto& [name, mode] :
         {std::pair("run/postern", 0755), {"run/lock", 01777}, {"run/user", 0755}, {"run/user/0", 0700}}) {
      auto place = places.directory(name);
      if (!place) return std::unexpected(std::move(place.error()));
      if (::chmod(by_number(*place).c_str(), static_cast<mode_t>(mode)) != 0) return fail_errno("make /run");
    }
    // One by one, as others have files in that folder too.
    for (std::size_t i = 0; i < std::size(own_programs); ++i) {
      auto place = places.file(fmt::format("run/postern/{}", own_programs[i]));
      if (!place) return std::unexpected(std::move(place.error()));
      if (auto attached = attach(programs_[i], *place); !attached) return attached;
    }
    return {};
  }

  Result<void> mount_userland(const Places& places) {
    if (auto made = make_writable_places(); !made) return made;
    auto usr = places.directory("usr");
    if (!usr) return std::unexpected(std::move(usr.error()));
    if (auto mounted = overlay(stack(lower_usr_) + (lower_usr_.empty() ? "" : ":") + "/usr", "usr", *usr);
        !mounted)
      return mounted;
    for (const std::string& path : userland_places()) {
      auto view = read_only_view(path);
      if (!view) return std::unexpected(std::move(view.error()));
      auto place = places.directory(relative(path));
      if (!place) return std::unexpected(std::move(place.error()));
      if (auto attached = attach(*view, *place); !attached) return attached;
    }
    return {};
  }

  /// The host's folders are root's, and the box's root is somebody else. Where a system's root installs
  /// things the folders are its own; what is in them stays the host's.
  Result<void> make_writable_places() {
    auto upper = open_directory(box_.get(), "usr");
    if (!upper) return std::unexpected(std::move(upper.error()));
    if (::faccessat(upper->get(), "local", F_OK, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT)
      return {};  // Once.
    for (const char* name :
         {"local", "local/bin", "local/etc", "local/games", "local/include", "local/lib",
          "local/lib/node_modules", "local/sbin", "local/share", "local/share/man", "local/src"})
      if (::mkdirat(upper->get(), name, 0755) != 0 && errno != EEXIST) return fail_errno("make /usr/local");
    const Fd libraries(::open("/usr/lib", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (int minor = 6; minor < 30; ++minor) {
      const std::string python = fmt::format("python3.{}", minor);
      if (::faccessat(libraries.get(), python.c_str(), F_OK, 0) != 0) continue;
      for (const std::string& name : {"local/lib/" + python, "local/lib/" + python + "/dist-packages"})
        if (::mkdirat(upper->get(), name.c_str(), 0755) != 0 && errno != EEXIST)
          return fail_errno("make /usr/local");
    }
    return {};
  }

  Result<void> mount_own_files() {
    // No `search`: one question per name. edns0: the answer's size is ours to choose.
    auto mounted = mount_content(
        "etc/resolv.conf", fmt::format("nameserver {}\noptions ndots:1 edns0\n", sandbox::nameserver_address),
        0444);
    if (!mounted) return mounted;
    return mount_content(
        "etc/hosts",
        fmt::format("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {}\n",
                    spec_.name),
        0444);
  }

  /// A read-only file of these bytes, kept where the box does not come.
  Result<void> mount_content(std::string_view path, std::string_view bytes, mode_t mode) {
    const std::string kept = fmt::format("/tmp/{}", ++files_);
    {
      const Fd file(::open(kept.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
      if (!file || ::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
        return fail_errno(fmt::format("make '/{}'", path));
    }
    auto view = read_only_view(kept);
    if (!view) return std::unexpected(std::move(view.error()));
    auto place = Places(root_).file(path);
    if (!place) return std::unexpected(std::move(place.error()));
    return attach(*view, *place);
  }

  Result<void> mount_files() {
    for (std::size_t i = 0; i < spec_.files.size(); ++i)
      if (auto mounted = mount_step(spec_.files[i], sources_[i]); !mounted) return mounted;
    return {};
  }

  Result<void> mount_step(const MountStep& step, const Source& source) {
    using Kind = MountStep::Kind;
    const Places places(root_);
    const std::string_view path = relative(step.destination);
    switch (step.kind) {
      case Kind::ro_bind: {
        struct stat status{};
        if (::fstat(source.view.get(), &status) != 0) return fail_errno("look at a file");
        auto place = S_ISDIR(status.st_mode) ? places.reached_directory(path) : places.file(path);
        if (!place) return std::unexpected(std::move(place.error()));
        return attach(source.view, *place);
      }
      case Kind::data: return mount_content(path, step.content, 0444);
      case Kind::program: return mount_content(path, step.content, 0555);
      case Kind::hide_file: return mount_content(path, {}, 0444);
      case Kind::hide_tree:
      case Kind::private_tree: {
        auto place = places.reached_directory(path);
        if (!place) return std::unexpected(std::move(place.error()));
        return mount_at(*place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=64m");
      }
      case Kind::copy: return copy_into(path, source.content);
      case Kind::directory: {
        auto place = places.reached_directory(path);
        return place ? Result<void>() : std::unexpected(std::move(place.error()));
      }
      default: break;
    }
    return fail(Reason::invalid_configuration,
                fmt::format("'{}' cannot be mounted in a box", step.destination));
  }

  Result<void> copy_into(std::string_view path, std::string_view bytes) {
    auto place = Places(root_).file(path);
    if (!place) return std::unexpected(std::move(place.error()));
    const Fd file(::open(by_number(*place).c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    if (!file || ::write(file.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()) ||
        ::fchmod(file.get(), 0600) != 0)
      return fail_errno(fmt::format("write '/{}'", path));
    return {};
  }

  const BoxSpec& spec_;
  const std::string& userland_;
  Fd box_, root_;
  std::vector<Fd> lower_, lower_usr_;  ///< The uppermost first.
  std::vector<Fd> programs_;
  std::vector<Source> sources_;
  int files_ = 0;
};

}  // namespace

Result<void> make_box_root(const BoxSpec& spec, const std::string& userland) {
  return Builder(spec, userland).build();
}

}  // namespace postern::box
