#include "box/holder.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "box/box_directory.h"
#include "box/cgroups.h"
#include "box/inner_process.h"
#include "box/keeper_protocol.h"
#include "sandbox/capture.h"
#include "sandbox/launch.h"

namespace postern::box {
namespace {

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

void send_answer(int socket, std::string_view bytes, const std::vector<int>& descriptors) {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * answer_descriptors_max)> space{};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = space.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(header), descriptors.data(), sizeof(int) * descriptors.size());
  }
  (void)::sendmsg(socket, &message, MSG_NOSIGNAL);
}

Result<void> check(const BoxSpec& spec) {
  // gethostname() knows 64 bytes; the characters are those of RFC 1123 §2.1.
  const bool named =
      !spec.name.empty() && spec.name.size() <= 63 &&
      spec.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") ==
          std::string::npos;
  if (!named)
    return fail(Reason::invalid_configuration, fmt::format("'{}' is no host name for a box", spec.name));
  return {};
}

sandbox::LaunchSpec launch_spec(const BoxSpec& spec) {
  sandbox::LaunchSpec launch;
  launch.command = {"/run/postern/agent", "3"};
  launch.hostname = spec.name;
  launch.talks = true;
  launch.root = sandbox::RootSpec{box_root_path};
  launch.environment.set = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                            {"HOME", "/root"},
                            {"USER", "root"},
                            {"LOGNAME", "root"},
                            {"SHELL", ::access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh"},
                            {"LANG", "C.UTF-8"}};
  launch.environment.set.insert(launch.environment.set.end(), spec.environment.begin(),
                                spec.environment.end());
  return launch;
}

// ---------------------------------------------------------------------------------------------------------------
// The inner process

/// What the outer one leaves to it.
struct Inherited {
  int answer;  ///< To the server.
  int exit;    ///< A pidfd of the outer one.
  int outer;   ///< End of file: the outer one is gone.
};

/// What both processes need from outside the box.
struct Held {
  Fd directory;  ///< As long as it is open, the box's directory is taken.
  Fd rest;       ///< The program that they become.
};

/// Becomes the program that waits for `child`, and keeps what must stay open. No return.
[[noreturn]] void become_rest(const Held& held, pid_t child, int kept) {
  for (const int descriptor : {held.directory.get(), kept})
    if (descriptor >= 0) ::fcntl(descriptor, F_SETFD, 0);
  sigset_t awaited;
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGTERM);
  sigaddset(&awaited, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &awaited, nullptr);
  const std::string number = std::to_string(child);
  const std::array<const char*, 3> arguments{"postern-box", number.c_str(), nullptr};
  const char* const nothing = nullptr;
  ::syscall(SYS_execveat, held.rest.get(), "", arguments.data(), &nothing, AT_EMPTY_PATH);
  ::_exit(1);  // And the box ends with it.
}

/// Tells the server of the box, which can be used now, and forgets its sockets.
void send_launched(const Inherited& inherited, Fd agent, sandbox::CaptureSockets network) {
  std::vector<int> descriptors{agent.get(), inherited.exit};
  const std::array sockets{&network.tcp4,     &network.tcp6,     &network.dns_udp4,
                           &network.dns_udp6, &network.dns_tcp4, &network.dns_tcp6};
  char which = 0;
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    if (!*sockets[i]) continue;
    which = static_cast<char>(which | (1 << i));
    descriptors.push_back(sockets[i]->get());
  }
  send_answer(inherited.answer, std::string{static_cast<char>(Answer::launched), which}, descriptors);
}

Result<sandbox::Sandbox> make_box(const Inherited& inherited, const BoxSpec& spec,
                                  const std::string& userland) {
  const rlimit processes{processes_max, processes_max};
  if (::setrlimit(RLIMIT_NPROC, &processes) != 0) return fail_errno("limit the box's processes");
  if (auto made = make_box_root(spec, userland); !made) return std::unexpected(std::move(made.error()));
  die_with_outer(inherited.outer);  // Once more: becoming another user cleared it.
  auto sandbox = sandbox::start(launch_spec(spec));
  if (!sandbox) return sandbox;
  auto network = sandbox::capture_network(sandbox->init_pid());
  if (!network) return std::unexpected(std::move(network.error()));
  if (auto released = sandbox->release(); !released) return std::unexpected(std::move(released.error()));
  Fd agent = sandbox->take_socket();
  if (::fcntl(agent.get(), F_SETFL, O_NONBLOCK) != 0) return fail_errno("prepare the agent's socket");
  send_launched(inherited, std::move(agent), std::move(*network));
  return sandbox;
}

[[noreturn]] void run_inner(const Inherited& inherited, const Held& held, const BoxSpec& spec,
                            const std::string& userland) {
  auto sandbox = make_box(inherited, spec, userland);
  if (!sandbox) {
    send_failure(inherited.answer, sandbox.error());
    ::_exit(1);
  }
  // When that has ended, what the box's process 1 still has is gone.
  become_rest(held, sandbox->detach(), -1);
}

// ---------------------------------------------------------------------------------------------------------------
// The outer process

Result<pid_t> start_box(int answer, const BoxSpec& spec, const std::string& userland, Held& held,
                        Fd& keeps_alive) {
  if (auto checked = check(spec); !checked) return std::unexpected(std::move(checked.error()));
  auto directory = take_box_directory(spec.directory);
  if (!directory) return std::unexpected(std::move(directory.error()));
  if (auto joined = join_cgroups(spec.cgroups); !joined) return std::unexpected(std::move(joined.error()));
  held.directory = std::move(*directory);
  return start_inner(0, keeps_alive, [&](InnerEnds ends) {
    run_inner({answer, ends.exit, ends.outer}, held, spec, userland);
  });
}

}  // namespace

void run_holder(int answer, const BoxSpec& spec, const Userland& userland, pid_t keeper) {
  die_with(keeper);
  ::prctl(PR_SET_DUMPABLE, 0);
  ::prctl(PR_SET_NAME, "postern-box");
  keep_only({answer, userland.rest().get()});
  let_signals_end();
  Held held{.directory = {}, .rest = Fd(4)};
  Fd keeps_alive;
  const auto inner = start_box(3, spec, userland.path(), held, keeps_alive);
  if (!inner) {
    send_failure(3, inner.error());
    ::_exit(1);
  }
  become_rest(held, *inner, keeps_alive.get());
}

void send_failure(int answer, const Error& error) {
  std::string bytes{static_cast<char>(Answer::failed), static_cast<char>(error.reason)};
  bytes += std::string_view(error.detail).substr(0, answer_bytes_max - bytes.size());
  send_answer(answer, bytes, {});
}

void die_with(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
}

void keep_only(std::initializer_list<int> kept) {
  std::vector<int> far;  // Not in each other's way.
  for (const int descriptor : kept) far.push_back(::fcntl(descriptor, F_DUPFD, 16));
  int first = 3;
  for (const int descriptor : far) {
    if (::dup3(descriptor, first, O_CLOEXEC) != first) ::_exit(1);
    ++first;
  }
  if (::syscall(SYS_close_range, static_cast<unsigned>(first), ~0U, 0U) != 0)
    for (int fd = first; fd < 65536; ++fd) ::close(fd);  // Before Linux 5.9.
}

}  // namespace postern::box
