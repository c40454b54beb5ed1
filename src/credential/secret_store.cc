#include "credential/secret_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "base/fd.h"
#include "credential/wiped_string.h"
#include "policy/pattern.h"

namespace postern::credential {

namespace {

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

/// What may follow a closing quote.
bool is_blank_or_comment(std::string_view text) {
  text = trimmed(text);
  return text.empty() || text.front() == '#';
}

/// The value of one line. The error is a sentence without the value.
std::expected<Secret, const char*> read_value(std::string_view text) {
  text = trimmed(text);
  WipedString value(text.size());
  if (text.starts_with('\'')) {
    const auto close = text.find('\'', 1);
    if (close == std::string_view::npos) return std::unexpected("the single quote is never closed");
    if (!is_blank_or_comment(text.substr(close + 1)))
      return std::unexpected("text follows the closing quote");
    value.bytes() = text.substr(1, close - 1);
    return std::move(value).seal();
  }
  if (!text.starts_with('"')) {
    // Some readers cut here and some do not; a secret must not depend on it.
    if (text.find(" #") != std::string_view::npos || text.find("\t#") != std::string_view::npos) {
      return std::unexpected("a value with ' #' in it needs quotes, and a comment its own line");
    }
    if (text.find('"') == text.size() - 1 || text.ends_with('\''))
      return std::unexpected("a quote is closed that was not opened");
    value.bytes() = text;
    return std::move(value).seal();
  }
  std::size_t i = 1;
  for (; i < text.size() && text[i] != '"'; ++i) {
    if (text[i] != '\\') {
      value.bytes() += text[i];
      continue;
    }
    switch (++i < text.size() ? text[i] : '\0') {
      case '"':
      case '\\':
      case '$': value.bytes() += text[i]; break;
      case 'n': value.bytes() += '\n'; break;
      case 'r': value.bytes() += '\r'; break;
      case 't': value.bytes() += '\t'; break;
      default:
        return std::unexpected("unknown escape in double quotes (accepted: \\\" \\\\ \\$ \\n \\r \\t)");
    }
  }
  if (i >= text.size()) return std::unexpected("the double quote is never closed");
  if (!is_blank_or_comment(text.substr(i + 1))) return std::unexpected("text follows the closing quote");
  return std::move(value).seal();
}

Result<void> read_file(const std::string& path, WipedString& out) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) return refuse(fmt::format("{}: cannot be read: {}", path, ::strerror(errno)));
  std::string& bytes = out.bytes();
  bytes.resize(env_file_bytes_max + 1);  // within the reserved capacity
  std::size_t length = 0;
  while (length < bytes.size()) {
    const ssize_t count = ::read(file.get(), bytes.data() + length, bytes.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return refuse(fmt::format("{}: cannot be read: {}", path, ::strerror(errno)));
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  if (length > env_file_bytes_max)
    return refuse(fmt::format("{}: more than {} bytes", path, env_file_bytes_max));
  bytes.resize(length);
  return {};
}

void cut_line_end(WipedString& text) {
  if (text.view().ends_with('\n')) text.bytes().pop_back();
  if (text.view().ends_with('\r')) text.bytes().pop_back();
}

constexpr std::chrono::seconds command_time{60};

/// Reads what the command prints until it ends; false with errno, or when its time is over (ETIMEDOUT).
bool read_output(int pipe, WipedString& out) {
  const auto deadline = std::chrono::steady_clock::now() + command_time;
  std::string& bytes = out.bytes();
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd waiting{pipe, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) errno = ETIMEDOUT;
    if (ready <= 0) return false;
    const std::size_t before = bytes.size();
    if (before == bytes.capacity()) return true;  // more than a secret may have; said by who looks at it
    bytes.resize(bytes.capacity());
    const ssize_t count = ::read(pipe, bytes.data() + before, bytes.size() - before);
    bytes.resize(before + static_cast<std::size_t>(std::max<ssize_t>(0, count)));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    if (count == 0) return true;
  }
}

Result<void> run_command(const std::string& key, const std::string& command, WipedString& out) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return refuse(fmt::format("{}: {}", key, ::strerror(errno)));
  const Fd reading(ends[0]);
  Fd writing(ends[1]);
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const pid_t child = ::fork();
  if (child < 0) return refuse(fmt::format("{}: {}", key, ::strerror(errno)));
  if (child == 0) {
    ::setpgid(0, 0);
    ::dup2(nothing.get(), STDIN_FILENO);
    ::dup2(writing.get(), STDOUT_FILENO);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  writing.reset();
  const bool complete = read_output(reading.get(), out);
  const int why = errno;
  if (!complete) ::kill(-child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  // The command is not quoted: it may hold what it should not.
  if (!complete) return refuse(fmt::format("{}: its command: {}", key, ::strerror(why)));
  if (WIFSIGNALED(status))
    return refuse(fmt::format("{}: its command was ended by signal {}", key, WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0)
    return refuse(fmt::format("{}: its command failed with status {}", key, WEXITSTATUS(status)));
  return {};
}

std::optional<std::string> wrong_with(std::string_view key, const Secret& value) {
  if (!policy::is_variable_name(key))
    return "a secret's name has letters, digits and _, and does not begin with a digit";
  if (value.empty()) return fmt::format("{} is empty", key);
  if (value.unwrap().size() > secret_bytes_max)
    return fmt::format("{} has more than {} bytes", key, secret_bytes_max);
  return std::nullopt;
}

}  // namespace

Result<void> SecretStore::set(std::string key, Secret value) {
  if (const auto wrong = wrong_with(key, value)) return refuse(*wrong);
  secrets_.insert_or_assign(std::move(key), std::move(value));
  return {};
}

Result<void> SecretStore::set_from_environment(const std::string& key) {
  if (!policy::is_variable_name(key)) return refuse(*wrong_with(key, Secret()));
  const char* found = ::getenv(key.c_str());
  if (found == nullptr) return refuse(fmt::format("the environment variable {} is not set", key));
  WipedString value(std::string_view(found).size());
  value.bytes() = found;
  return set(key, std::move(value).seal());
}

Result<void> SecretStore::set_from_file(std::string key, const std::string& path) {
  WipedString file(env_file_bytes_max + 1);
  if (auto read = read_file(path, file); !read) return read;
  cut_line_end(file);
  return set(std::move(key), std::move(file).seal());
}

Result<void> SecretStore::set_from_command(std::string key, const std::string& command) {
  WipedString output(secret_bytes_max + 2);
  if (auto run = run_command(key, command, output); !run) return run;
  cut_line_end(output);
  return set(std::move(key), std::move(output).seal());
}

Result<void> SecretStore::set_from(std::string key, const SecretStore& other) {
  const Secret* found = other.find(key);
  if (!found) return refuse(fmt::format("there is no secret named {}", key));
  WipedString copy(found->unwrap().size());
  copy.bytes() = found->unwrap();
  return set(std::move(key), std::move(copy).seal());
}

Result<void> SecretStore::load_env_file(const std::string& path) {
  WipedString file(env_file_bytes_max + 1);
  if (auto read = read_file(path, file); !read) return read;

  std::vector<std::pair<std::string, Secret>> found;
  std::string_view rest = file.view();
  for (int number = 1; !rest.empty(); ++number) {
    const auto wrong = [&](std::string_view what) {
      return refuse(fmt::format("{}:{}: {}", path, number, what));
    };
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find('\0') != std::string_view::npos) return wrong("holds a NUL byte");
    line = trimmed(line);
    if (line.empty() || line.front() == '#') continue;
    if (line.starts_with("export ")) line = trimmed(line.substr(7));

    const auto equals = line.find('=');
    // The line is not quoted: a value without its key is a value all the same.
    if (equals == std::string_view::npos) return wrong("is not KEY=VALUE");
    const std::string_view key = line.substr(0, equals);
    if (!policy::is_variable_name(key))
      return wrong("what stands before = is not a secret's name (letters, digits and _)");
    auto value = read_value(line.substr(equals + 1));
    if (!value) return wrong(fmt::format("{}: {}", key, value.error()));
    if (const auto fault = wrong_with(key, *value)) return wrong(*fault);
    if (std::ranges::any_of(found, [&](const auto& earlier) { return earlier.first == key; })) {
      return wrong(fmt::format("{} is set twice in this file", key));
    }
    found.emplace_back(key, std::move(*value));
  }
  for (auto& [key, value] : found) secrets_.insert_or_assign(std::move(key), std::move(value));
  return {};
}

const Secret* SecretStore::find(std::string_view key) const {
  const auto found = secrets_.find(key);
  return found == secrets_.end() ? nullptr : &found->second;
}

bool SecretStore::appears_in(std::string_view text) const {
  return std::ranges::any_of(secrets_, [text](const auto& entry) {
    const std::string_view value = entry.second.unwrap();
    return value.size() >= recognisable_bytes_min && text.find(value) != std::string_view::npos;
  });
}

}  // namespace postern::credential
