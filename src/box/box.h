#pragma once
// A box: a sandbox that lives on, whose commands are started one by one by the agent inside.
//
//   start(spec)              the sandbox exists; capture_network(init_pid()) may be called
//   open(loop)               its agent runs, and commands can be given to it
//
// Belongs to the thread that started it, which lives as long as it does (sandbox/launch.h).

#include <memory>
#include <sys/types.h>

#include "base/result.h"
#include "box/agent_link.h"
#include "sandbox/launch.h"

namespace postern::box {

class Box {
 public:
  /// `spec.command` is the agent's to fill in. Errors as sandbox::start().
  static Result<Box> start(sandbox::LaunchSpec spec);

  pid_t init_pid() const { return sandbox_.init_pid(); }
  /// Once. The link ends with the box, and the box with the agent.
  Result<std::unique_ptr<AgentLink>> open(io::Loop& loop);

  /// Readable (epoll) once the box has ended.
  int exit_fd() const { return sandbox_.exit_fd(); }
  /// Kills everything in it, and waits.
  void stop();

 private:
  explicit Box(sandbox::Sandbox sandbox) : sandbox_(std::move(sandbox)) {}
  sandbox::Sandbox sandbox_;
};

}  // namespace postern::box
