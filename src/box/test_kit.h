#pragma once
// A box's agent, run as a process beside the test and not in a sandbox.

#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box/command.h"

namespace postern::box {

/// The other end of a link: the agent itself, or the test in its place.
struct Pair {
  Fd ours, theirs;
  Pair() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ours = Fd(ends[0]);
    theirs = Fd(ends[1]);
  }
};

inline pid_t start_agent(const Fd& socket) {
  const std::string number = std::to_string(socket.get());
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::fcntl(socket.get(), F_SETFD, 0);
  ::execl(POSTERN_AGENT_PATH, "postern-agent", number.c_str(), nullptr);
  ::_exit(127);
}

inline CommandOptions shell(const std::string& script, bool has_input = false) {
  CommandOptions options;
  options.request.arguments = {"/bin/sh", "-c", script};
  options.request.environment = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8"};
  options.request.has_input = has_input;
  return options;
}

struct Watcher final : Command::Viewer {
  int changes = 0;
  void changed() override { ++changes; }
};

struct Ended {
  int status = -1;
  std::string out;  ///< Both streams, as they came.
};

/// Runs a command to its end, which must be its own.
inline Ended run_to_end(io::Loop& loop, const Clock& clock, AgentLink& link, CommandOptions options,
                        std::chrono::seconds longest) {
  Command command(loop, link, std::move(options));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  Ended ended;
  const TimePoint end = clock.now() + longest;
  while (!command.at_end(viewer) && clock.now() < end) {
    loop.run_once(std::chrono::milliseconds(20));
    for (const StreamId stream : {StreamId::standard_output, StreamId::standard_error})
      while (auto chunk = command.pull(viewer, stream, 100'000)) ended.out += chunk->bytes;
  }
  EXPECT_EQ(command.state(), Command::State::exited) << command.error_number();
  ended.status = command.status();
  command.detach(viewer);
  return ended;
}

class WithAgent : public testing::Test {
 protected:
  WithAgent() : loop_(clock_), agent_(start_agent(pair_.theirs)), link_(loop_, std::move(pair_.ours)) {
    pair_.theirs.reset();
  }
  ~WithAgent() override {
    ::kill(agent_, SIGKILL);
    ::waitpid(agent_, nullptr, 0);
  }
  template <class Condition>
  bool wait(Condition condition, std::chrono::seconds longest = std::chrono::seconds(20)) {
    const TimePoint end = clock_.now() + longest;
    while (clock_.now() < end) {
      if (condition()) return true;
      loop_.run_once(std::chrono::milliseconds(20));
    }
    return condition();
  }
  /// Everything, pulled as it comes.
  std::string all(Command& command, StreamId stream = StreamId::standard_output) {
    Watcher viewer;
    command.attach(viewer, 0, 0);
    std::string out;
    const auto pull = [&] {
      for (const StreamId each : {StreamId::standard_output, StreamId::standard_error})
        while (auto chunk = command.pull(viewer, each, 100'000))
          if (each == stream) out += chunk->bytes;
      return command.at_end(viewer);
    };
    EXPECT_TRUE(wait(pull));
    command.detach(viewer);
    return out;
  }

  SystemClock clock_;
  Pair pair_;
  io::Loop loop_;
  pid_t agent_;
  AgentLink link_;
};

}  // namespace postern::box
