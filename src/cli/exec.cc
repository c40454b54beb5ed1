#include "cli/exec.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "cli/client_command.h"
#include "cli/steps.h"
#include "cli/websocket_client.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;
using Kind = WebSocketClient::Kind;

constexpr std::size_t input_waiting_max = 256 * 1024;
// Of output that whoever reads ours has not taken: above, the server is not read, and the command waits.
constexpr std::size_t output_waiting_max = 16 * 1024 * 1024;
constexpr std::size_t input_piece_bytes = 32 * 1024;
constexpr std::size_t output_piece_bytes = 4096;  // PIPE_BUF: so much never waits after POLLOUT
constexpr int look_milliseconds = 15'000;
constexpr int silent_looks_max = 6;  // a ping is answered at once
constexpr char escape = 0x1D;        // Ctrl-]
constexpr int escapes_to_leave = 3;

/// The terminal takes every key for the command, and is what it was when this ends.
class RawTerminal {
 public:
  explicit RawTerminal(bool wanted) {
    if (!wanted || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    ::cfmakeraw(&raw);
    raw_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  }
  ~RawTerminal() {
    if (raw_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;

 private:
  termios before_{};
  bool raw_ = false;
};

/// What would end us ends the command, and then us. Before the terminal is raw.
Fd take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t taken;
  sigemptyset(&taken);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH}) sigaddset(&taken, number);
  ::pthread_sigmask(SIG_BLOCK, &taken, nullptr);
  return Fd(::signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
}

/// Output on its way to one of our streams.
struct Outlet {
  int descriptor;
  bool pieces;  ///< A pipe or a terminal, which must not be waited for.
  std::string waiting = {};
  bool closed = false;

  explicit Outlet(int to) : descriptor(to) {
    struct stat about{};
    pieces = ::fstat(to, &about) != 0 || !S_ISREG(about.st_mode);
  }
  /// After POLLOUT.
  void write_some() {
    const std::size_t size = pieces ? std::min(output_piece_bytes, waiting.size()) : waiting.size();
    const ssize_t count = ::write(descriptor, waiting.data(), size);
    if (count >= 0) waiting.erase(0, static_cast<std::size_t>(count));
    if (count >= 0 || errno == EINTR || errno == EAGAIN) return;
    closed = true;
    waiting.clear();
  }
};

class Session {
 public:
  Session(WebSocketClient socket, const Fd& signals, const ExecOptions& options)
      : socket_(std::move(socket)), signals_(signals), terminal_(options.terminal) {
    input_open_ = terminal_ || ::isatty(STDIN_FILENO) == 0;
    Json opening = {{"type", "execute"},
                    {"command", options.command},
                    {"binary", true},
                    {"timeout_seconds", options.timeout.count()},
                    {"kill_on_disconnect", true},
                    {"pty", terminal_},
                    {"close_stdin", !input_open_}};
    if (!options.directory.empty()) opening["cwd"] = options.directory;
    Json variables = Json::object();
    for (const auto& [name, value] : options.environment) variables[name] = value;
    const char* const term = std::getenv("TERM");
    if (terminal_ && term && is_utf8(term) && !variables.contains("TERM")) variables["TERM"] = term;
    if (!variables.empty()) opening["env"] = std::move(variables);
    socket_.send(Kind::text, opening.dump());
    if (terminal_) tell_size();
  }

  /// Until the command has ended and all of its output is out.
  int run() {
    while (true) {
      take_messages();
      if (status_ && output_.waiting.empty() && errors_.waiting.empty()) return *status_;
      if (!status_ && (output_.closed || errors_.closed)) leave(128 + SIGPIPE);
      if (left_) return farewell(*left_);
      // What was heard is taken first, when there is room for it.
      if (lost_ && !status_ && !full()) return fail("the connection was lost, and the command ended");
      socket_.write_some();
      lost_ = lost_ || socket_.over();
      if (!lost_ || status_ || full()) wait();
    }
  }
  /// What there is to say when the terminal is itself again.
  const std::string& complaint() const { return complaint_; }

 private:
  bool full() const { return output_.waiting.size() + errors_.waiting.size() >= output_waiting_max; }

  void take_messages() {
    while (!full()) {
      const auto message = socket_.next();
      if (!message) return;
      if (message->kind == Kind::binary)
        take_output(message->data);
      else
        take_news(message->data);
    }
  }

  void take_output(std::string_view data) {
    if (data.empty()) return;
    Outlet& outlet = data.front() == 2 ? errors_ : output_;
    if (!outlet.closed) outlet.waiting += data.substr(1);
  }

  void take_news(const std::string& text) {
    const auto news = document_of(text);
    const std::string type = news ? text_of(*news, "type") : "";
    if (type == "exit") status_ = static_cast<int>(number_of(*news, "exit_code") & 0xFF);
    if (type != "error") return;
    const bool timed_out = text_of(*news, "error_type") == "CommandTimeout";
    status_ = timed_out ? exec_timed_out : exec_failed;
    complaint_ = printable(text_of(*news, "error"));
  }

  void wait() {
    const short link = static_cast<short>((full() ? 0 : POLLIN) | (socket_.waiting() > 0 ? POLLOUT : 0));
    const bool ended = lost_ || (status_ && socket_.waiting() == 0);
    const bool takes_input = input_open_ && !status_ && socket_.waiting() < input_waiting_max;
    pollfd waiting[] = {{ended ? -1 : socket_.descriptor(), link, 0},
                        {signals_.get(), POLLIN, 0},
                        {takes_input ? STDIN_FILENO : -1, POLLIN, 0},
                        {output_.waiting.empty() ? -1 : output_.descriptor, POLLOUT, 0},
                        {errors_.waiting.empty() ? -1 : errors_.descriptor, POLLOUT, 0}};
    const int ready = ::poll(waiting, std::size(waiting), look_milliseconds);
    if (ready == 0) return look();
    if (ready < 0) return;
    if (waiting[0].revents != 0 && !full()) {
      silent_looks_ = 0;
      lost_ |= !socket_.read_some();
    }
    if (waiting[1].revents != 0) take_signal();
    if (waiting[2].revents != 0) take_input();
    if (waiting[3].revents != 0) output_.write_some();
    if (waiting[4].revents != 0) errors_.write_some();
  }

  /// Nothing happened for a while: is the server still there?
  void look() {
    if (full() || status_) return;
    if (++silent_looks_ >= silent_looks_max) lost_ = true;
    socket_.send(Kind::ping, {});
  }

  void take_input() {
    char piece[input_piece_bytes];
    const ssize_t count = ::read(STDIN_FILENO, piece, sizeof piece);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    const std::string_view bytes(piece, count < 0 ? 0 : static_cast<std::size_t>(count));
    if (bytes.empty()) {
      input_open_ = false;
      if (terminal_) return leave(128 + SIGHUP);
      return order({{"type", "close_stdin"}});
    }
    if (terminal_) {
      for (const char c : bytes) escapes_ = c == escape ? escapes_ + 1 : 0;
      if (escapes_ >= escapes_to_leave) return leave(128 + SIGINT);
    }
    socket_.send(Kind::binary, bytes);
  }

  void take_signal() {
    signalfd_siginfo about{};
    if (::read(signals_.get(), &about, sizeof about) != sizeof about) return;
    const int number = static_cast<int>(about.ssi_signo);
    if (number == SIGWINCH) {
      if (terminal_) tell_size();
    } else if (number == SIGINT && !killed_) {
      killed_ = true;  // Its output and its end are still to come; a second one does not wait for them.
      order({{"type", "kill"}});
    } else {
      leave(128 + number);
    }
  }

  void tell_size() {
    winsize size{};
    if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
      order({{"type", "resize"}, {"rows", size.ws_row}, {"columns", size.ws_col}});
  }

  void order(const Json& document) { socket_.send(Kind::text, document.dump()); }
  void leave(int status) {
    if (!left_) left_ = status;
  }
  /// The command dies with the connection; this only says so sooner.
  int farewell(int status) {
    order({{"type", "kill"}});
    socket_.write_some();
    return status;
  }
  int fail(const char* why) {
    complaint_ = why;
    return exec_failed;
  }

  WebSocketClient socket_;
  const Fd& signals_;
  const bool terminal_;
  Outlet output_{STDOUT_FILENO}, errors_{STDERR_FILENO};
  bool input_open_ = false;
  bool killed_ = false;
  bool lost_ = false;
  int silent_looks_ = 0;
  int escapes_ = 0;
  std::optional<int> status_, left_;
  std::string complaint_;
};

}  // namespace

int exec(const ExecOptions& options) {
  const auto fail = [](const std::string& why) {
    complain(why);
    return exec_failed;
  };
  if (options.terminal && ::isatty(STDIN_FILENO) == 0) return fail("-t needs a terminal as standard input");
  const auto texts = [](const auto& list, auto text) { return std::ranges::all_of(list, is_utf8, text); };
  if (!texts(options.command, [](const auto& word) -> std::string_view { return word; }) ||
      !texts(options.environment, [](const auto& entry) -> std::string_view { return entry.second; }) ||
      !texts(options.environment, [](const auto& entry) -> std::string_view { return entry.first; }) ||
      !is_utf8(options.directory))
    return fail("the command and its variables must be UTF-8; what is not can be its input");
  auto client = ApiClient::open(options.server);
  if (!client) return fail(client.error().sentence);
  auto socket = WebSocketClient::open(
      std::move(*client), fmt::format("/api/v2/sandboxes/{}/execute/ws", url_escaped(options.sandbox)));
  if (!socket) return fail(socket.error().sentence);
  const Fd signals = take_signals();
  int status = 0;
  std::string complaint;
  {
    const RawTerminal raw(options.terminal);
    Session session(std::move(*socket), signals, options);
    status = session.run();
    complaint = session.complaint();
  }
  if (!complaint.empty()) complain(complaint);
  return status;
}

}  // namespace postern::cli
