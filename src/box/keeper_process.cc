#include "box/keeper_process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <map>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <vector>

#include "box/holder.h"
#include "box/keeper_protocol.h"
#include "box/layer_maker.h"
#include "box/userland.h"

namespace postern::box {
namespace {

constexpr std::int64_t patience_ms = 8'000;  // With a holder that was told to end. Usual: 20 ms.
constexpr std::size_t boxes_max = 4'096;     // Each has three processes besides its own.

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::int64_t now_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

sigset_t set_of(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) sigaddset(&set, number);
  return set;
}

// ---------------------------------------------------------------------------------------------------------------
// The keeper

struct Box {
  pid_t holder = -1;
  std::optional<std::int64_t> kill_at;  ///< It was told to end.
  std::vector<Fd> waiting;              ///< Closed when it has.
};

class KeeperProcess {
 public:
  explicit KeeperProcess(Fd socket) : socket_(std::move(socket)), process_(::getpid()) {
    const sigset_t children = set_of({SIGCHLD});
    ::sigprocmask(SIG_BLOCK, &children, nullptr);
    children_ = Fd(::signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  /// Until the server goes.
  void run() {
    std::array<pollfd, 2> waits{pollfd{socket_.get(), POLLIN, 0}, pollfd{children_.get(), POLLIN, 0}};
    for (;;) {
      if (::poll(waits.data(), waits.size(), patience()) < 0 && errno != EINTR) return;
      reap();
      kill_late();
      if (waits[0].revents != 0 && !serve()) return;
    }
  }

  /// Everything ends, and is waited for.
  void end() {
    for (auto& [number, box] : boxes_) tell(box);
    while (!boxes_.empty()) {
      pollfd wait{children_.get(), POLLIN, 0};
      (void)::poll(&wait, 1, patience());
      reap();
      kill_late();
    }
  }

 private:
  int patience() const {
    std::int64_t least = -1;
    for (const auto& [number, box] : boxes_) {
      if (!box.kill_at) continue;
      const std::int64_t left = std::max<std::int64_t>(*box.kill_at - now_ms(), 0);
      least = least < 0 ? left : std::min(least, left);
    }
    return static_cast<int>(least);
  }

  /// The holders, and what they leave to us, since we are the reaper of all below us.
  void reap() {
    signalfd_siginfo info{};
    while (::read(children_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    }
    for (pid_t gone = 0; (gone = ::waitpid(-1, nullptr, WNOHANG)) > 0;)
      std::erase_if(boxes_, [&](const auto& entry) { return entry.second.holder == gone; });
  }

  void kill_late() {
    for (auto& [number, box] : boxes_) {
      if (!box.kill_at || *box.kill_at > now_ms()) continue;
      ::kill(box.holder, SIGKILL);
      box.kill_at = now_ms() + patience_ms;
    }
  }

  static void tell(Box& box) {
    if (box.kill_at) return;
    ::kill(box.holder, SIGTERM);
    box.kill_at = now_ms() + patience_ms;
  }

  /// One request. False: the server has gone, or says what is none.
  bool serve() {
    Fd answer, source;
    std::string bytes;
    if (!receive(bytes, answer, source)) return false;
    auto request = decode_request(bytes);
    if (!request) return false;
    if (request->kind == RequestKind::stop) {
      const auto found = boxes_.find(request->number);
      if (found == boxes_.end()) return true;
      tell(found->second);
      found->second.waiting.push_back(std::move(answer));
    } else if (auto started = request->kind == RequestKind::launch
                                  ? start(*request, answer.get())
                                  : start_layer_maker(*request, answer.get(), std::move(source));
               !started) {
      send_failure(answer.get(), started.error());
    }
    return true;
  }

  Result<void> start(const Request& request, int answer) {
    if (boxes_.size() >= boxes_max) return fail(Reason::overloaded, "there are too many boxes");
    if (auto made = make_userland(request.spec.state_directory); !made) return made;
    const pid_t child = ::fork();
    if (child < 0) return fail_errno("start a process for the box");
    if (child == 0) run_holder(answer, request.spec, *userland_, process_);
    boxes_[request.number] = Box{child, std::nullopt, {}};
    return {};
  }

  Result<void> start_layer_maker(const Request& request, int answer, Fd source) {
    if (!source) return fail(Reason::internal, "there is nothing to make a layer of");
    const pid_t child = ::fork();
    if (child < 0) return fail_errno("start a process for the snapshot");
    if (child == 0) run_layer_maker(answer, std::move(source), request.layer, process_);
    boxes_[request.number] = Box{child, std::nullopt, {}};
    return {};
  }

  /// Once: it is tens of milliseconds of work, and the same for all.
  Result<void> make_userland(const std::string& state_directory) {
    if (userland_ && userland_of_ == state_directory) return {};
    auto made = Userland::make(state_directory);
    if (!made) return std::unexpected(std::move(made.error()));
    userland_.emplace(std::move(*made));
    userland_of_ = state_directory;
    return {};
  }

  bool receive(std::string& bytes, Fd& answer, Fd& source) {
    std::uint32_t size = 0;
    if (!receive_first(size, answer, source) || !answer || size > request_bytes_max) return false;
    bytes.resize(size);
    for (std::size_t have = 0; have < size;) {
      const ssize_t got = ::recv(socket_.get(), bytes.data() + have, size - have, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      have += static_cast<std::size_t>(got);
    }
    return true;
  }

  /// The length, with the descriptors beside its first byte.
  bool receive_first(std::uint32_t& size, Fd& answer, Fd& source) {
    std::array<char, sizeof size> bytes{};
    for (std::size_t have = 0; have < bytes.size();) {
      alignas(cmsghdr) std::array<char, CMSG_SPACE(2 * sizeof(int))> space{};
      iovec part{bytes.data() + have, bytes.size() - have};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = space.data();
      message.msg_controllen = space.size();
      const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      have += static_cast<std::size_t>(got);
      const cmsghdr* header = CMSG_FIRSTHDR(&message);
      if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      std::array<int, 2> descriptors{-1, -1};
      std::memcpy(descriptors.data(), CMSG_DATA(header),
                  std::min(header->cmsg_len - CMSG_LEN(0), sizeof descriptors));
      answer = Fd(descriptors[0]);
      source = Fd(descriptors[1]);
    }
    std::memcpy(&size, bytes.data(), sizeof size);
    return true;
  }

  Fd socket_;
  Fd children_;
  const pid_t process_;
  std::map<std::uint64_t, Box> boxes_;
  std::optional<Userland> userland_;
  std::string userland_of_;
};

/// The server's environment may hold its secrets, and lies in this process too.
void forget_environment() {
  const char* path = ::getenv("PATH");
  const std::string kept = path != nullptr ? path : "";
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
    ::explicit_bzero(*entry, std::strlen(*entry));
  ::clearenv();
  if (!kept.empty()) ::setenv("PATH", kept.c_str(), 1);
}

}  // namespace

void run_keeper(Fd socket, pid_t parent) {
  die_with(parent);
  ::prctl(PR_SET_DUMPABLE, 0);
  ::prctl(PR_SET_NAME, "postern-keeper");
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::setsid();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2})
    ::signal(number, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  forget_environment();
  keep_only({socket.release()});
  const int nothing = ::open("/dev/null", O_RDWR);
  for (int standard = 0; standard < 3; ++standard)
    if (nothing < 0 || ::dup2(nothing, standard) < 0) ::_exit(1);
  if (nothing > 2) ::close(nothing);
  if (::chdir("/") != 0) ::_exit(1);
  KeeperProcess keeper{Fd(3)};
  keeper.run();
  keeper.end();
  ::_exit(0);
}

}  // namespace postern::box
