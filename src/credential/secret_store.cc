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

#include "base/fd.h"
#include "credential/file_secret.h"
#include "credential/wiped_string.h"
#include "policy/pattern.h"

namespace postern::credential {

namespace {

std::unexpected<Error> refuse(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
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

Result<void> run_command(const std::string& command, WipedString& out) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return refuse(fmt::format("its command: {}", ::strerror(errno)));
  const Fd reading(ends[0]);
  Fd writing(ends[1]);
  const Fd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const pid_t child = ::fork();
  if (child < 0) return refuse(fmt::format("its command: {}", ::strerror(errno)));
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
  if (!complete) return refuse(fmt::format("its command: {}", ::strerror(why)));
  if (WIFSIGNALED(status)) return refuse(fmt::format("its command was ended by signal {}", WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0)
    return refuse(fmt::format("its command failed with status {}", WEXITSTATUS(status)));
  return {};
}

Result<Secret> from_environment(const std::string& key) {
  const char* found = ::getenv(key.c_str());
  if (found == nullptr) return refuse(fmt::format("the environment variable {} is not set", key));
  return copy_of(std::string_view(found));
}

Result<Secret> from_command(const std::string& command) {
  WipedString output(secret_bytes_max + 2);
  if (auto run = run_command(command, output); !run) return std::unexpected(std::move(run.error()));
  cut_line_end(output);
  return std::move(output).seal();
}

Result<Secret> from_vault(const VaultReference& reference, const VaultEntries& entries) {
  const auto found = entries.find(reference.path);
  if (found == entries.end()) return refuse("Vault was not asked");
  auto value = take_vault_field(found->second, reference.field);
  if (!value)
    return refuse(fmt::format("vault:{}#{}: {}", reference.path, reference.field, value.error().detail));
  return value;
}

Result<Secret> value_of(const SecretReference& reference, const SecretStore* earlier,
                        const VaultEntries& vault) {
  using Kind = SecretReference::Kind;
  switch (reference.kind) {
    case Kind::environment: return from_environment(reference.key);
    case Kind::value: return copy_of(reference.value.unwrap());
    case Kind::file: return read_secret_file(reference.text, secret_bytes_max);
    case Kind::vault: return from_vault(reference.vault, vault);
    case Kind::command: break;
  }
  if (earlier == nullptr) return from_command(reference.text);
  if (const Secret* found = earlier->find(reference.key)) return copy_of(found->unwrap());
  return refuse("a command that was not there at the start is not run");
}

}  // namespace

Result<void> SecretStore::set(std::string key, Secret value, std::uint64_t version) {
  if (!policy::is_variable_name(key))
    return refuse("a secret's name has letters, digits and _, and does not begin with a digit");
  return put(std::move(key), std::move(value), version);
}

Result<void> SecretStore::put(std::string key, Secret value, std::uint64_t version) {
  if (value.empty()) return refuse("the value is empty");
  if (value.unwrap().size() > secret_bytes_max)
    return refuse(fmt::format("the value has more than {} bytes", secret_bytes_max));
  secrets_.insert_or_assign(std::move(key), Kept{std::move(value), version});
  return {};
}

Result<void> SecretStore::add(const SecretReference& reference, const SecretStore* earlier,
                              const VaultEntries& vault) {
  auto value = value_of(reference, earlier, vault);
  Result<void> done;
  if (value)
    done = put(reference.key, std::move(*value));
  else
    done = std::unexpected(std::move(value.error()));
  if (done) return done;
  // One that stands in a policy is its own key, and a command is not quoted.
  const bool quotes = reference.key.starts_with("cmd:");
  return refuse(fmt::format("{}: {}: {} ({})", reference.place, quotes ? "cmd" : reference.key,
                            done.error().detail, accepted_secret_forms));
}

bool SecretStore::same_as(const SecretStore& other) const {
  return secrets_.size() == other.secrets_.size() && std::ranges::all_of(secrets_, [&](const auto& entry) {
           const Secret* found = other.find(entry.first);
           return found != nullptr && found->unwrap() == entry.second.value.unwrap();
         });
}

const Secret* SecretStore::find(std::string_view key) const {
  const auto found = secrets_.find(key);
  return found == secrets_.end() ? nullptr : &found->second.value;
}

std::uint64_t SecretStore::version_of(std::string_view key) const {
  const auto found = secrets_.find(key);
  return found == secrets_.end() ? 0 : found->second.version;
}

bool SecretStore::appears_in(std::string_view text) const {
  return std::ranges::any_of(secrets_, [text](const auto& entry) {
    const std::string_view value = entry.second.value.unwrap();
    return value.size() >= recognisable_bytes_min && text.find(value) != std::string_view::npos;
  });
}

}  // namespace postern::credential
