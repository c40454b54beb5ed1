#include "box/inner_process.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string>
#include <string_view>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box/box_directory.h"

namespace postern::box {
namespace {

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

Result<void> write_text(const std::string& path, std::string_view text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail_errno(fmt::format("write {}", path));
  return {};
}

/// user_namespaces(7): an ordinary user maps itself only, and gives up setgroups() for it.
Result<void> map_owner(pid_t inner, const Owner& owner) {
  const std::string process = fmt::format("/proc/{}", inner);
  if (::geteuid() != 0)
    if (auto denied = write_text(process + "/setgroups", "deny"); !denied) return denied;
  if (auto mapped = write_text(process + "/uid_map", fmt::format("0 {} 1\n", owner.user)); !mapped)
    return mapped;
  return write_text(process + "/gid_map", fmt::format("0 {} 1\n", owner.group));
}

}  // namespace

void let_signals_end() {
  sigset_t none;
  sigemptyset(&none);
  ::signal(SIGTERM, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

void stay_with(pid_t inner) {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGTERM);
  sigaddset(&both, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &both, nullptr);
  const Fd told(::signalfd(-1, &both, SFD_CLOEXEC));
  while (::waitpid(inner, nullptr, WNOHANG) == 0) {
    signalfd_siginfo info{};
    if (::read(told.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info) &&
        info.ssi_signo == SIGTERM)
      ::kill(inner, SIGKILL);
  }
  ::_exit(0);
}

void die_with_outer(int outer) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd gone{outer, 0, 0};
  if (::poll(&gone, 1, 0) != 0) ::_exit(1);
}

Result<void> part_from_mounts() {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_errno("part from the host's mounts");
  return {};
}

Result<void> become_owner() {
  // An ordinary user may not, and keeps its groups.
  if (::setgroups(0, nullptr) != 0 && errno != EPERM) return fail_errno("leave all groups");
  if (::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0) return fail_errno("become the box's owner");
  return {};
}

Result<pid_t> start_inner(int more_namespaces, Fd& keeps_alive, const std::function<void(InnerEnds)>& run) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("make a pipe");
  const Fd outer(ends[0]);
  keeps_alive = Fd(ends[1]);
  const Fd exit(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!exit) return fail_errno("make a descriptor of a process");
  ::prctl(PR_SET_DUMPABLE, 1);  // Else /proc/PID/uid_map of the inner one is root's.
  const int flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | more_namespaces | SIGCHLD;
  const auto inner = static_cast<pid_t>(::syscall(SYS_clone, flags, nullptr, nullptr, nullptr, 0));
  if (inner < 0)
    return fail_errno(
        "make namespaces for a box; this host may forbid them to ordinary users (`postern doctor`)");
  if (inner == 0) {
    keeps_alive.reset();
    die_with_outer(outer.get());
    char byte = 0;
    if (::read(outer.get(), &byte, 1) != 1) ::_exit(1);
    ::prctl(PR_SET_DUMPABLE, 0);  // Not before: the outer one could not write our uid_map.
    run({exit.get(), outer.get()});
    ::_exit(1);
  }
  auto mapped = map_owner(inner, box_owner());
  ::prctl(PR_SET_DUMPABLE, 0);
  if (mapped && ::write(keeps_alive.get(), "x", 1) != 1) mapped = fail_errno("start the box");
  if (mapped) return inner;
  ::kill(inner, SIGKILL);
  return std::unexpected(std::move(mapped.error()));
}

}  // namespace postern::box
