// postern-agent: starts commands in a box, carries their input and output, and says how they ended. It runs
// inside the box's root, whatever that is: static, embedded in the postern binary, one thread, one poll().
//
//   postern-agent SOCKET     frames of protocol.h on this descriptor; its end is the end of the box's
//   commands

#include <charconv>
#include <errno.h>
#include <fcntl.h>
#include <memory>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include "box/agent/connect.h"
#include "box/agent/files.h"
#include "box/agent/protocol.h"

namespace postern::box {
namespace {

constexpr std::size_t unsent_bytes_max = 1024 * 1024;  // beyond it no output is read
constexpr std::size_t left_behind_max = 64;            // pipes that outlived their command
// After a command's end its output goes on for a moment, for what it started may hold the pipes for ever:
// what is in them is passed on, which is no more than a pipe can hold, and what comes within the grace.
constexpr long long grace_milliseconds = 100;
constexpr std::size_t pipe_bytes_max = 1024 * 1024;  // /proc/sys/fs/pipe-max-size

long long now_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1'000'000;
}

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { reset(); }
  void reset() {
    if (number_ >= 0) close(std::exchange(number_, -1));
  }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_;
};

void make_nonblocking(int descriptor) { fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK); }

bool make_pipe(Descriptor& reading, Descriptor& writing) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  reading = Descriptor(ends[0]);
  writing = Descriptor(ends[1]);
  return true;
}

struct Command {
  std::uint32_t id = 0;
  pid_t process = -1;
  bool terminal = false;
  Descriptor input;      ///< On a terminal: a copy of output[0].
  Descriptor output[2];  ///< By StreamId, from 1.
  std::uint32_t window[2] = {window_bytes, window_bytes};
  std::string unread;  ///< Input that the command has not taken.
  bool closing_input = false;
  int status = -1;  ///< How it ended.
  long long grace_until = 0;
  std::size_t after_end[2] = {0, 0};  ///< Output since then.
  bool drained[2] = {false, false};

  bool gone() const { return status >= 0; }
};

/// What a command's child process needs; everything is ready before the fork.
struct Start {
  RunRequest request;
  Descriptor input, output, error, failure;  ///< The child's ends.
  Descriptor terminal;
};

[[noreturn]] void fail_start(int failure) {
  const int number = errno;
  (void)!write(failure, &number, sizeof number);
  _exit(127);
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> out;
  out.reserve(words.size() + 1);
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

void close_from(unsigned first) {
  if (syscall(SYS_close_range, first, ~0U, 0U) == 0) return;
  for (int number = static_cast<int>(first); number < 65536; ++number) close(number);  // Before Linux 5.9.
}

[[noreturn]] void become(Start& start) {
  setsid();
  const int failure = start.failure.get();
  if (start.terminal) {
    if (ioctl(start.terminal.get(), TIOCSCTTY, 0) != 0) fail_start(failure);
    for (int number = 0; number < 3; ++number) dup2(start.terminal.get(), number);
  } else if (dup2(start.input.get(), 0) < 0 || dup2(start.output.get(), 1) < 0 ||
             dup2(start.error.get(), 2) < 0) {
    fail_start(failure);
  }
  for (int number = 1; number <= 64; ++number) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (!start.request.directory.empty() && chdir(start.request.directory.c_str()) != 0) fail_start(failure);
  if (start.request.of_agent) {
    close_from(3);  // The pipes of other commands, too, which would not end else.
    const std::vector<std::string>& words = start.request.arguments;
    if (words[0] == "connect" && words.size() == 2) _exit(run_connect(words[1]));
    _exit(run_file_command(words));
  }
  const std::vector<char*> arguments = pointers_to(start.request.arguments);
  std::vector<char*> variables = pointers_to(start.request.environment);
  environ = variables.data();
  execvp(arguments[0], arguments.data());
  fail_start(failure);
}

class Agent {
 public:
  explicit Agent(int socket) : socket_(socket) {
    make_nonblocking(socket);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, nullptr);
    children_ = Descriptor(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  /// Until the other end goes, or says what is no frame.
  void run() {
    while (turn()) {
    }
    for (const auto& command : commands_)
      if (!command->gone()) kill(-command->process, SIGKILL);
  }

 private:
  enum class Role : std::uint8_t { socket, children, input, output, left_behind };
  struct Watched {
    Role role;
    Command* command;
    int stream;
  };

  bool turn() {
    polled_.clear();
    watched_.clear();
    watch(socket_, static_cast<short>(POLLIN | (sent_ < unsent_.size() ? POLLOUT : 0)),
          {Role::socket, nullptr, 0});
    watch(children_.get(), POLLIN, {Role::children, nullptr, 0});
    const bool may_read = unsent_.size() - sent_ < unsent_bytes_max;
    int patience = -1;
    for (const auto& command : commands_) {
      if (command->input && !command->unread.empty())
        watch(command->input.get(), POLLOUT, {Role::input, command.get(), 0});
      for (int i = 0; i < 2; ++i)
        if (command->output[i] && command->window[i] > 0 && may_read)
          watch(command->output[i].get(), POLLIN, {Role::output, command.get(), i});
      if (command->gone()) patience = static_cast<int>(grace_milliseconds);
    }
    for (std::size_t i = 0; i < left_behind_.size(); ++i)
      watch(left_behind_[i].get(), POLLIN, {Role::left_behind, nullptr, static_cast<int>(i)});
    if (poll(polled_.data(), polled_.size(), patience) < 0 && errno != EINTR) return false;
    for (std::size_t i = 0; i < polled_.size(); ++i)
      if (polled_[i].revents != 0 && !serve(watched_[i], polled_[i].revents)) return false;
    std::erase_if(left_behind_, [](const Descriptor& pipe) { return !pipe; });
    std::erase_if(commands_, [this](const auto& command) { return finish(*command); });
    return flush();
  }

  void watch(int descriptor, short events, Watched what) {
    polled_.push_back({descriptor, events, 0});
    watched_.push_back(what);
  }

  bool serve(const Watched& what, short events) {
    switch (what.role) {
      case Role::socket: return (events & (POLLIN | POLLHUP | POLLERR)) == 0 || receive();
      case Role::children: collect(); return true;
      case Role::input: write_input(*what.command); return true;
      case Role::output: read_output(*what.command, what.stream); return true;
      case Role::left_behind: discard(left_behind_[static_cast<std::size_t>(what.stream)]); return true;
    }
    return true;
  }

  // ---- the socket

  bool receive() {
    char piece[64 * 1024];
    const ssize_t size = recv(socket_, piece, sizeof piece, 0);
    if (size == 0) return false;
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    received_.append(piece, static_cast<std::size_t>(size));
    return take_frames(received_, [this](const FrameHeader& header, std::string_view bytes) {
      take(header, bytes);
      return true;
    });
  }

  void take(const FrameHeader& header, std::string_view bytes) {
    if (header.type == FrameType::run) return start(header.command, bytes);
    Command* command = find(header.command);
    if (command == nullptr) return;  // It has ended meanwhile.
    switch (header.type) {
      case FrameType::input:
        if (command->input && !command->closing_input &&
            command->unread.size() + bytes.size() <= window_bytes)
          command->unread.append(bytes);
        else  // Nobody reads it; as if it had been read.
          send(FrameType::wanted, command->id, static_cast<std::uint32_t>(bytes.size()));
        write_input(*command);
        break;
      case FrameType::close_input:
        command->closing_input = !command->terminal;
        write_input(*command);
        break;
      case FrameType::signal:
        if (!command->gone() && header.value >= 1 && header.value <= 64)
          kill(-command->process, static_cast<int>(header.value));
        break;
      case FrameType::resize: resize(*command, header.value); break;
      case FrameType::taken: {
        const unsigned stream = static_cast<unsigned>(header.stream) - 1;
        if (stream < 2 && header.value <= window_bytes - command->window[stream])
          command->window[stream] += header.value;
        break;
      }
      default: break;
    }
  }

  void send(FrameType type, std::uint32_t command, std::uint32_t value, StreamId stream = {},
            std::string_view bytes = {}) {
    append_frame(type, command, value, stream, bytes, unsent_);
  }

  bool flush() {
    while (sent_ < unsent_.size()) {
      const ssize_t size = ::send(socket_, unsent_.data() + sent_, unsent_.size() - sent_, MSG_NOSIGNAL);
      if (size < 0) return errno == EAGAIN || errno == EINTR;
      sent_ += static_cast<std::size_t>(size);
    }
    unsent_.clear();
    sent_ = 0;
    return true;
  }

  // ---- commands

  Command* find(std::uint32_t id) {
    for (const auto& command : commands_)
      if (command->id == id) return command.get();
    return nullptr;
  }

  void start(std::uint32_t id, std::string_view bytes) {
    auto request = decode_run(bytes);
    const int refusal = !request || find(id) ? EINVAL : commands_.size() >= commands_max ? EAGAIN : 0;
    if (refusal != 0) return send(FrameType::refused, id, static_cast<std::uint32_t>(refusal));
    auto command = std::make_unique<Command>();
    command->id = id;
    command->terminal = request->terminal;
    const int error = launch(*command, std::move(*request));
    if (error != 0) return send(FrameType::refused, id, static_cast<std::uint32_t>(error));
    send(FrameType::started, id, static_cast<std::uint32_t>(command->process));
    commands_.push_back(std::move(command));
  }

  /// 0, or errno.
  int launch(Command& command, RunRequest request) {
    Start start{std::move(request), Descriptor(), Descriptor(), Descriptor(), Descriptor(), Descriptor()};
    Descriptor failure;
    if (!make_pipe(failure, start.failure)) return errno;
    if (start.request.terminal ? !open_terminal(command, start) : !open_pipes(command, start)) return errno;
    const pid_t child = fork();
    if (child < 0) return errno;
    if (child == 0) become(start);
    start.failure.reset();
    int error = 0;
    ssize_t size = 0;
    do {
      size = read(failure.get(), &error, sizeof error);
    } while (size < 0 && errno == EINTR);
    if (size == static_cast<ssize_t>(sizeof error)) {
      waitpid(child, nullptr, 0);
      return error;
    }
    command.process = child;
    return 0;
  }

  static bool open_pipes(Command& command, Start& start) {
    if (start.request.has_input) {
      if (!make_pipe(start.input, command.input)) return false;
      make_nonblocking(command.input.get());
    } else {
      start.input = Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC));
      if (!start.input) return false;
    }
    if (!make_pipe(command.output[0], start.output) || !make_pipe(command.output[1], start.error))
      return false;
    make_nonblocking(command.output[0].get());
    make_nonblocking(command.output[1].get());
    return true;
  }

  static bool open_terminal(Command& command, Start& start) {
    Descriptor master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
    char name[64];
    if (!master || unlockpt(master.get()) != 0 || ptsname_r(master.get(), name, sizeof name) != 0)
      return false;
    start.terminal = Descriptor(open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!start.terminal) return false;
    const winsize size{start.request.rows, start.request.columns, 0, 0};
    ioctl(master.get(), TIOCSWINSZ, &size);
    command.input = Descriptor(fcntl(master.get(), F_DUPFD_CLOEXEC, 3));
    command.output[0] = std::move(master);
    return static_cast<bool>(command.input);
  }

  static void resize(Command& command, std::uint32_t value) {
    if (!command.terminal || !command.output[0]) return;
    const winsize size{static_cast<unsigned short>(value >> 16), static_cast<unsigned short>(value), 0, 0};
    ioctl(command.output[0].get(), TIOCSWINSZ, &size);
  }

  void write_input(Command& command) {
    if (command.input && !command.unread.empty()) {
      const ssize_t size = write(command.input.get(), command.unread.data(), command.unread.size());
      if (size > 0) {
        command.unread.erase(0, static_cast<std::size_t>(size));
        send(FrameType::wanted, command.id, static_cast<std::uint32_t>(size));
      } else if (size < 0 && errno != EAGAIN && errno != EINTR) {
        drop_input(command);  // It does not read any more.
      }
    }
    if (command.unread.empty() && command.closing_input) command.input.reset();
  }

  void drop_input(Command& command) {
    if (!command.unread.empty())
      send(FrameType::wanted, command.id, static_cast<std::uint32_t>(command.unread.size()));
    command.unread.clear();
    command.input.reset();
  }

  void read_output(Command& command, int stream) {
    char piece[output_bytes_max];
    const std::size_t room = std::min<std::size_t>(sizeof piece, command.window[stream]);
    const ssize_t size = read(command.output[stream].get(), piece, room);
    if (size < 0 && errno == EINTR) return;
    if (size < 0 && errno == EAGAIN) {
      command.drained[stream] = command.gone();
      return;
    }
    if (size <= 0) return end_output(command, stream);  // EIO: nobody has the terminal open
    command.window[stream] -= static_cast<std::uint32_t>(size);
    if (command.gone()) command.after_end[stream] += static_cast<std::size_t>(size);
    if (command.after_end[stream] >= pipe_bytes_max) command.drained[stream] = true;
    send(FrameType::output, command.id, 0, static_cast<StreamId>(stream + 1),
         {piece, static_cast<std::size_t>(size)});
  }

  void end_output(Command& command, int stream) {
    command.output[stream].reset();
    send(FrameType::ended, command.id, 0, static_cast<StreamId>(stream + 1));
  }

  void collect() {
    signalfd_siginfo info{};
    while (read(children_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    }
    for (const auto& command : commands_) {
      int status = 0;
      if (command->gone() || waitpid(command->process, &status, WNOHANG) != command->process) continue;
      command->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      command->grace_until = now_milliseconds() + grace_milliseconds;
      drop_input(*command);
    }
  }

  /// True when all is said about it.
  bool finish(Command& command) {
    if (!command.gone()) return false;
    const bool late = now_milliseconds() >= command.grace_until;
    for (int i = 0; i < 2; ++i) {
      if (late && command.output[i] && !command.drained[i] && command.window[i] > 0) read_output(command, i);
      if (command.output[i] && (!late || !command.drained[i])) return false;
    }
    for (int i = 0; i < 2; ++i) {
      if (!command.output[i]) continue;
      // Closed, it would kill by SIGPIPE whatever the command left running.
      left_behind_.push_back(std::move(command.output[i]));
      command.output[i] = Descriptor();
      send(FrameType::ended, command.id, 0, static_cast<StreamId>(i + 1));
    }
    if (left_behind_.size() > left_behind_max) left_behind_.erase(left_behind_.begin());
    send(FrameType::exited, command.id, static_cast<std::uint32_t>(command.status));
    return true;
  }

  static void discard(Descriptor& pipe) {
    char piece[output_bytes_max];
    const ssize_t size = read(pipe.get(), piece, sizeof piece);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) pipe.reset();
  }

  const int socket_;
  Descriptor children_;
  std::string received_;
  std::string unsent_;
  std::size_t sent_ = 0;
  std::vector<std::unique_ptr<Command>> commands_;
  std::vector<Descriptor> left_behind_;
  std::vector<pollfd> polled_;
  std::vector<Watched> watched_;
};

/// Nothing that this process has is for the commands.
void keep_from_commands() {
  constexpr unsigned close_on_exec = 4;  // CLOSE_RANGE_CLOEXEC
  if (syscall(SYS_close_range, 3U, ~0U, close_on_exec) == 0) return;
  for (int number = 3; number < 65536; ++number) fcntl(number, F_SETFD, FD_CLOEXEC);  // Before Linux 5.11.
}

}  // namespace
}  // namespace postern::box

int main(int count, char** arguments) {
  if (count != 2) return 2;
  int socket = -1;
  const std::string_view number = arguments[1];
  std::from_chars(number.data(), number.data() + number.size(), socket);
  // Commands run as the same user: none may look into this process, or take its socket.
  prctl(PR_SET_DUMPABLE, 0);
  signal(SIGPIPE, SIG_IGN);
  const int nothing = open("/dev/null", O_RDWR);
  if (nothing < 0) return 2;
  for (int standard = 0; standard < 3; ++standard) dup2(nothing, standard);
  if (fcntl(socket, F_GETFD) < 0) return 2;
  postern::box::keep_from_commands();
  postern::box::Agent(socket).run();
  return 0;
}
