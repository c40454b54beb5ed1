#include "cli/secret_command.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/utf8.h"
#include "cli/client_command.h"
#include "cli/steps.h"
#include "credential/wiped_string.h"

namespace postern::cli {

namespace {

using Json = nlohmann::ordered_json;
using Value = credential::WipedString;

constexpr std::size_t value_bytes_max = 64 * 1024;  // more than a server takes

struct Options {
  ServerOptions server;
  std::string key, file;
  std::vector<std::string> keys;
  bool json = false;
};

/// Shows nothing of what is typed, and the terminal is what it was when this ends.
class SilentTerminal {
 public:
  explicit SilentTerminal(int terminal) : terminal_(terminal) {
    // What would end us meanwhile ends the question, so that the terminal is itself again before.
    sigset_t ends;
    sigemptyset(&ends);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&ends, number);
    ::pthread_sigmask(SIG_BLOCK, &ends, &mask_);
    signals_ = Fd(::signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
    if (::tcgetattr(terminal_, &before_) != 0) return;
    termios silent = before_;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO | ISIG | ICANON);
    silent_ = ::tcsetattr(terminal_, TCSAFLUSH, &silent) == 0;
  }
  ~SilentTerminal() {
    if (silent_) ::tcsetattr(terminal_, TCSAFLUSH, &before_);
    ::pthread_sigmask(SIG_SETMASK, &mask_, nullptr);
  }
  SilentTerminal(const SilentTerminal&) = delete;
  bool silent() const { return silent_; }
  /// nullopt: a signal, or the terminal is gone.
  std::optional<char> key() const {
    pollfd waiting[] = {{terminal_, POLLIN, 0}, {signals_.get(), POLLIN, 0}};
    char c = 0;
    if (::poll(waiting, 2, -1) < 1 || waiting[1].revents != 0 || ::read(terminal_, &c, 1) != 1)
      return std::nullopt;
    return c;
  }

 private:
  const int terminal_;
  termios before_{};
  sigset_t mask_{};
  Fd signals_;
  bool silent_ = false;
};

// Keys that are no text.
constexpr char interrupt = 0x03, end_of_input = 0x04, backspace = 0x08, kill_line = 0x15, quit = 0x1C,
               del = 0x7F;

/// A line of the terminal; nullopt when it was given up.
std::optional<Value> read_line(const SilentTerminal& terminal) {
  Value value(value_bytes_max + 1);
  std::string& bytes = value.bytes();
  while (const auto key = terminal.key()) {
    switch (*key) {
      case '\n':
      case '\r':
      case end_of_input: return value;
      case interrupt:
      case quit: return std::nullopt;
      case kill_line: bytes.clear(); break;
      case backspace:
      case del:  // A whole character.
        while (!bytes.empty() && (static_cast<unsigned char>(bytes.back()) & 0xC0) == 0x80) bytes.pop_back();
        if (!bytes.empty()) bytes.pop_back();
        break;
      default:
        if (bytes.size() <= value_bytes_max) bytes += *key;
    }
  }
  return std::nullopt;
}

std::optional<Value> ask(const std::string& key) {
  const Fd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC));
  if (!terminal) return std::nullopt;
  const SilentTerminal silent(terminal.get());
  if (!silent.silent()) return std::nullopt;
  const std::string prompt = fmt::format("Value of {} (not shown): ", printable(key));
  (void)!::write(terminal.get(), prompt.data(), prompt.size());
  auto value = read_line(silent);
  (void)!::write(terminal.get(), "\n", 1);
  return value;
}

/// All of it, without the newline that ends a file.
std::optional<Value> read_all(int from) {
  Value value;
  char piece[4096];
  ssize_t count = 1;
  while (count > 0 && value.view().size() <= value_bytes_max) {
    count = ::read(from, piece, sizeof piece);
    if (count > 0) value.append({piece, static_cast<std::size_t>(count)});
    if (count < 0 && errno == EINTR) count = 1;
  }
  ::explicit_bzero(piece, sizeof piece);
  if (count < 0) return std::nullopt;
  std::string& bytes = value.bytes();
  if (bytes.ends_with('\n')) bytes.pop_back();
  if (bytes.ends_with('\r')) bytes.pop_back();
  return value;
}

std::optional<Value> obtain_value(const Options& options) {
  if (options.file.empty()) return ::isatty(STDIN_FILENO) == 1 ? ask(options.key) : read_all(STDIN_FILENO);
  const Fd file(::open(options.file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  return file ? read_all(file.get()) : std::nullopt;
}

Asked<Value> read_value(const Options& options) {
  auto value = obtain_value(options);
  if (!value && !options.file.empty())
    return misused(fmt::format("'{}' cannot be read: {}", printable(options.file), std::strerror(errno)));
  if (!value) return misused("no value was given");
  if (value->view().empty()) return misused("the value is empty");
  if (value->view().size() > value_bytes_max) return misused("the value is too long to be a secret");
  for (std::string_view rest = value->view(); !rest.empty();) {
    const std::size_t length = utf8_length(rest);
    if (length == 0) return misused("the value is no text");
    rest.remove_prefix(length);
  }
  return std::move(*value);
}

/// JSON's escapes, without a copy that stays behind.
void append_text(std::string_view text, Value& out) {
  out.append("\"");
  for (const char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out.append("\\");
    if (byte >= 0x20) out.append({&c, 1});
    if (byte < 0x20) out.append(fmt::format("\\u{:04x}", byte));
  }
  out.append("\"");
}

Asked<void> change(const ServerOptions& server, std::string_view body) {
  auto client = ApiClient::open(server);
  if (!client) return std::unexpected(std::move(client.error()));
  const auto answer = client->send(ApiClient::Method::post, std::string(secrets_path), body);
  if (!answer) return std::unexpected(answer.error());
  return {};
}

Asked<void> set(const Options& options) {
  (void)harden();
  const auto value = read_value(options);
  if (!value) return std::unexpected(value.error());
  Value body(4 * value->view().size() + 256);
  body.append("[{\"key\":");
  append_text(options.key, body);
  body.append(",\"value\":");
  append_text(value->view(), body);
  body.append("}]");
  return change(options.server, body.view());
}

Asked<void> remove(const Options& options) {
  Json changes = Json::array();
  for (const std::string& key : options.keys) changes.push_back({{"key", key}, {"value", nullptr}});
  return change(options.server, changes.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Asked<void> list(const Options& options) {
  auto client = ApiClient::open(options.server);
  if (!client) return std::unexpected(std::move(client.error()));
  const auto answer = client->get(std::string(secrets_path));
  const auto keys = answer ? document_of(*answer) : std::unexpected(answer.error());
  if (!keys) return std::unexpected(keys.error());
  if (!keys->is_array()) return refused("the server's answer is no list of secrets");
  TextTable table({"KEY", "CHANGED"});
  for (const Json& key : *keys) {
    if (options.json) fmt::print("{}", line_of(key));
    table.add({text_of(key, "key"), text_of(key, "updated_at").substr(0, 19)});
  }
  if (!options.json) fmt::print("{}", table.text());
  return {};
}

}  // namespace

void add_secret_command(CLI::App& app, int& exit_code) {
  CLI::App* secret = app.add_subcommand("secret", "Set, list and remove the secrets of a server's workspace");
  secret->require_subcommand(1);
  secret->footer(
      std::string("Start with:\n"
                  "  postern secret set OPENAI_API_KEY        # asks for the value\n"
                  "  postern secret list\n"
                  "A policy names them: `value: Bearer {OPENAI_API_KEY}`. Their values never come back.\n") +
      client_exits_help + "\nHelp for a command: postern secret COMMAND --help");
  const auto options = std::make_shared<Options>();
  const auto add = [&](const char* name, const char* help, const char* footer,
                       Asked<void> (*act)(const Options&)) {
    CLI::App* command = secret->add_subcommand(name, help);
    command->footer(footer);
    add_server_options(*command, options->server);
    command->callback([options, act, &exit_code] { exit_code = exit_of(act(*options)); });
    return command;
  };
  CLI::App* sets =
      add("set", "Set a secret, in force for the next request",
          "Examples:\n"
          "  postern secret set OPENAI_API_KEY\n"
          "  postern secret set OPENAI_API_KEY --file key.txt\n"
          "  vault read -field=key secret/openai | postern secret set OPENAI_API_KEY\n"
          "The value is never taken from the command line, which every user may read. It comes from "
          "--file, else\n"
          "from standard input, and is asked for where that is a terminal. A newline at its end is "
          "left out.",
          set);
  sets->add_option("KEY", options->key, "Its name, as policies have it")->required()->type_name("");
  sets->add_option("--file", options->file, "Where the value is")->type_name("FILE");
  add("list", "The names of the secrets", "Example:\n  postern secret list --json | jq -r .key", list)
      ->add_flag("--json", options->json, "One JSON object per line");
  add("rm", "Remove secrets. Rules that need them refuse their requests from then on",
      "Example:\n  postern secret rm OLD_KEY", remove)
      ->add_option("KEY", options->keys, "Their names")
      ->required()
      ->type_name("");
}

}  // namespace postern::cli
