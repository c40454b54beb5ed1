#pragma once
// Starting a program in a sandbox: bubblewrap's namespaces, a file system without secrets, nothing inherited.
//
//   start(spec)            the sandbox exists, the program does not run yet
//   capture_network(init)  its network becomes Postern's sockets (capture.h)
//   release()              the program runs
//   wait()                 its exit status
//
// The program has no capability in any namespace that it did not make itself, no_new_privs, a seccomp filter
// (syscall_filter.h), descriptors 0, 1 and 2 only, the environment of environment.h and the file system of
// mounts.h. It shares the terminal, and where there is one the process group, with its caller, so Ctrl-C,
// Ctrl-Z and job control are as if it ran directly; without a terminal it has a process group of its own, so
// that kill(0) does not reach outside. If Postern dies the program dies, by SIGKILL.
//
// Call start() on a thread that lives as long as the sandbox: "parent death" means the starting *thread*.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/types.h>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sandbox/environment.h"
#include "sandbox/mounts.h"

namespace postern::sandbox {

/// A whole file system of the sandbox's own, in place of a view of the host's: box/box_root.h makes one.
struct RootSpec {
  /// Becomes "/", with all that is mounted below it. `/dev`, `/proc` and `/run/postern/launch` (the bytes of
  /// shim_bytes.h) are there, and no part of these paths is a symbolic link: bubblewrap would follow it out.
  std::string directory;
};

struct LaunchSpec {
  std::vector<std::string> command;  ///< At least the program's name; looked up in the sandbox's PATH.
  std::string working_directory;     ///< Writable in the sandbox. Empty: the caller's.
  EnvironmentRules environment;      ///< What of the caller's environment passes.
  std::vector<PathRule> paths;       ///< --bind, --ro-bind, --hide in their order; later wins.
  std::vector<MountStep> files;      ///< CA bundles and the like (trust.h), mounted last.
  std::string state_directory;       ///< Postern's own: invisible, whatever `paths` say. Empty: none.
  std::string hostname = "postern";
  /// Resource limits to give back to the program where Postern changed its own (core size, open files).
  std::vector<std::pair<int, rlimit>> limits;
  /// The program's descriptor 3 is a stream socket, whose other end is Sandbox::take_socket(). Then it is no
  /// child of the terminal: it has a process group of its own.
  bool talks = false;
  /// Nothing of the host is visible but this, nor of the caller's environment, and the caller must be user 0
  /// of its user namespace, as the program will be. `paths`, `files` and `state_directory` mean nothing then,
  /// and an empty `working_directory` is "/root".
  std::optional<RootSpec> root;
  /// What else can be done while bubblewrap is at work, some ten milliseconds. May be called again.
  std::function<void()> meanwhile;
};

/// A started sandbox. Destroying it kills everything in it. Belongs to one thread.
class Sandbox {
 public:
  Sandbox(Sandbox&& other) noexcept;
  Sandbox& operator=(Sandbox&& other) noexcept;
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;
  ~Sandbox();

  /// The sandbox's first process, as this process numbers it. For capture_network().
  pid_t init_pid() const { return init_; }

  /// Lets the program run. Everything that must be there before it has to be there now.
  Result<void> release();

  /// With LaunchSpec::talks, after release(). Once.
  Fd take_socket() { return std::move(gate_); }

  /// Readable (epoll) once the sandbox has ended and wait() will not block. Owned by the Sandbox.
  int exit_fd() const { return monitor_pidfd_.get(); }

  /// Waits for the end. The program's exit status, 128 + N when signal N killed it, 126 or 127 when it could
  /// not be executed (the program's stderr says why). An error when the sandbox could not be made.
  Result<int> wait();

  /// Sends a signal to the program (not to what it started). False when there is no such process: before it
  /// runs and after its end.
  bool signal(int number);

  /// The child of this process to wait for, in place of wait(): its end is the sandbox's, and nothing here
  /// kills it any more.
  pid_t detach();

  /// Kills everything in the sandbox. wait() afterwards.
  void kill();

 private:
  friend Result<Sandbox> start(const LaunchSpec& spec);
  Sandbox() = default;
  static Result<Sandbox> start_once(const std::string& bubblewrap, const LaunchSpec& spec,
                                    std::vector<std::string>& hidden);
  pid_t command_pid() const;
  int recorded_exit_code();

  pid_t monitor_ = -1;  // bubblewrap outside, our child
  pid_t init_ = -1;     // bubblewrap inside, process 1 of the sandbox
  Fd monitor_pidfd_;
  Fd init_pidfd_;  // No other process can take the id while we hold this and check it.
  Fd gate_;        // To the launcher: a byte lets the program run. Then to the program, if it talks.
  bool talks_ = false;
  bool released_ = false;
  Fd status_;    // bubblewrap's JSON lines
  Fd messages_;  // What bubblewrap complains of
  std::string status_text_;
};

/// Makes the sandbox; blocks until it is complete (some milliseconds). Errors are sentences for the user.
Result<Sandbox> start(const LaunchSpec& spec);

/// The bubblewrap to use: a fixed list of places, then PATH.
Result<std::string> find_bubblewrap();

}  // namespace postern::sandbox
