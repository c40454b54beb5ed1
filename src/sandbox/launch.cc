#include "sandbox/launch.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <limits.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/capture.h"
#include "sandbox/hidden.h"
#include "sandbox/shim_bytes.h"
#include "sandbox/syscall_filter.h"

namespace postern::sandbox {
namespace {

constexpr int start_time_max_ms = 10'000;  // Usual: 3 ms. Longer only on a machine that is swapping.
constexpr int start_attempts_max =
    10;  // A second is rare; on a host where sockets come and go all the time, a fourth.
constexpr std::size_t shared_memory_bytes_max = 256UL << 20;  // Chromium and databases want tens of MiB.
constexpr std::string_view shim_path = "/run/postern/launch";
constexpr std::size_t status_bytes_max = 4096;  // Two short JSON lines.

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

std::string read_all(const char* path) {
  Fd file(open(path, O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t size = 0; file && (size = read(file.get(), part.data(), part.size())) > 0;) {
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  return text;
}

Result<Fd> memory_file(std::string_view content) {
  Fd file(memfd_create("postern", MFD_CLOEXEC));
  if (!file) return fail_errno("make a memory file");
  while (!content.empty()) {
    ssize_t size = write(file.get(), content.data(), content.size());
    if (size <= 0) return fail_errno("fill a memory file");
    content.remove_prefix(static_cast<std::size_t>(size));
  }
  lseek(file.get(), 0, SEEK_SET);
  return file;
}

// ---------------------------------------------------------------------------------------------------------------
// Facts about this host and caller

std::vector<std::string> home_directories() {
  std::vector<std::string> homes;
  auto add = [&](const char* path) {
    if (path == nullptr || path[0] != '/') return;
    std::string real = resolve_place(path).path;
    if (real.size() > 1 && std::ranges::find(homes, real) == homes.end()) homes.push_back(std::move(real));
  };
  add(getenv("HOME"));
  // HOME may be wrong (sudo without -H); the files of the account are readable all the same.
  if (const passwd* account = getpwuid(getuid())) add(account->pw_dir);
  return homes;
}

/// Where `path` ends when its symbolic links are followed, though the end need not exist (resolv.conf often
/// points into /run, of which the sandbox has its own).
std::string final_target(std::string path) {
  for (int hops = 0; hops < 40; ++hops) {
    std::array<char, PATH_MAX> link;
    ssize_t size = readlink(path.c_str(), link.data(), link.size());
    if (size < 0) break;
    std::filesystem::path target(std::string(link.data(), static_cast<std::size_t>(size)));
    path = (std::filesystem::path(path).parent_path() / target).lexically_normal();
  }
  return path;
}

/// A file of ours in place of one of the host's. Nothing where the host has none and the root is read-only.
void add_data(std::vector<MountStep>& steps, const std::string& path, std::string content) {
  std::string target = final_target(path);
  struct stat status{};
  bool creatable = is_within(target, "/run") || is_within(target, "/tmp");
  if (!creatable && stat(target.c_str(), &status) != 0) return;
  steps.push_back({MountStep::Kind::data, {}, std::move(target), std::move(content)});
}

std::vector<MountStep> own_files(const std::string& hostname) {
  std::vector<MountStep> steps;
  // No `search`: one question per name. edns0: the answer's size is ours to choose.
  add_data(steps, "/etc/resolv.conf",
           fmt::format("nameserver {}\noptions ndots:1 edns0\n", nameserver_address));
  add_data(
      steps, "/etc/hosts",
      fmt::format("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {}\n", hostname));
  steps.push_back({MountStep::Kind::program, {}, std::string(shim_path), std::string(shim_bytes())});
  return steps;
}

Result<std::string> real_directory(const std::string& path) {
  HiddenPlace place = resolve_place(path.empty() ? "." : path);
  if (place.path.empty()) return fail_errno(fmt::format("use the working directory '{}'", path));
  if (place.kind != HiddenPlace::Kind::directory) {
    return fail(Reason::invalid_configuration, fmt::format("'{}' is not a directory", path));
  }
  return place.path;
}

Result<void> add_rule(MountFacts& facts, const PathRule& rule) {
  bool hides = rule.kind == PathRule::Kind::hide;
  const std::string& named = hides && rule.source.empty() ? rule.destination : rule.source;
  HiddenPlace place = resolve_place(named);
  // A typing error in --hide must not leave the place open.
  if (place.path.empty()) {
    return fail(Reason::invalid_configuration, fmt::format("'{}' does not exist", named));
  }
  if (!hides && !facts.state_directory.empty() && place.path != facts.state_directory &&
      is_within(place.path, facts.state_directory)) {
    return fail(Reason::invalid_configuration, fmt::format("'{}' belongs to Postern itself", named));
  }
  PathRule resolved{rule.kind, place.path, place.path};
  if (!hides && !rule.destination.empty() && rule.destination != rule.source) {
    if (!rule.destination.starts_with('/')) {
      return fail(Reason::invalid_configuration,
                  fmt::format("'{}' is not an absolute path", rule.destination));
    }
    resolved.destination = std::filesystem::weakly_canonical(rule.destination).string();
  }
  if (resolved.destination == "/") {
    return fail(Reason::invalid_configuration, "the sandbox's root itself cannot be replaced or hidden");
  }
  facts.rules.push_back(std::move(resolved));
  if (hides) facts.rule_hides.push_back(std::move(place));
  return {};
}

Result<MountFacts> gather_facts(const LaunchSpec& spec) {
  MountFacts facts;
  auto work = real_directory(spec.working_directory);
  if (!work) return std::unexpected(work.error());
  facts.working_directory = std::move(*work);
  facts.homes = home_directories();
  std::size_t count = 0;
  while (environ[count] != nullptr) ++count;
  facts.hidden = credential_places(facts.homes, std::span<const char* const>(environ, count));
  for (HiddenPlace& place : socket_places(read_all("/proc/net/unix")))
    facts.hidden.push_back(std::move(place));
  if (!spec.state_directory.empty()) facts.state_directory = resolve_place(spec.state_directory).path;
  for (const char* place : {"/tmp", "/var/tmp"}) {
    if (resolve_place(place).path == place) facts.temporary_places.emplace_back(place);
  }
  // NixOS: the whole system hangs below these.
  for (const char* tree : {"/run/current-system", "/run/opengl-driver"}) {
    if (access(tree, F_OK) == 0) facts.run_trees.emplace_back(tree);
  }
  facts.runtime_directory = fmt::format("/run/user/{}", getuid());
  for (const PathRule& rule : spec.paths) {
    if (auto added = add_rule(facts, rule); !added) return std::unexpected(added.error());
  }
  facts.files = spec.files;
  facts.data = own_files(spec.hostname);
  return facts;
}

/// A working directory that the plan hides would leave the program in nowhere.
Result<void> check_working_directory(const MountFacts& facts, const std::vector<MountStep>& steps) {
  auto last = std::find_if(steps.rbegin(), steps.rend(), [&](const MountStep& step) {
    return is_within(facts.working_directory, step.destination);
  });
  if (last != steps.rend() && last->kind == MountStep::Kind::hide_tree) {
    return fail(
        Reason::invalid_configuration,
        fmt::format("the working directory '{}' lies in '{}', which is hidden from the sandbox; --bind it to "
                    "open it, or start somewhere else",
                    facts.working_directory, last->destination));
  }
  return {};
}

// ---------------------------------------------------------------------------------------------------------------
// bubblewrap's arguments

/// Arguments in a memory file (--args FD), so that neither paths nor environment show in the host's process
/// list.
class Arguments {
 public:
  void add(std::initializer_list<std::string_view> words) {
    for (std::string_view word : words) {
      text_ += word;
      text_ += '\0';
    }
  }
  /// A descriptor that bubblewrap inherits.
  std::string inherit(Fd fd) {
    inherited_.push_back(std::move(fd));
    return std::to_string(inherited_.back().get());
  }
  const std::string& text() const { return text_; }
  const std::vector<Fd>& inherited() const { return inherited_; }

  std::string gate, errors;         ///< The launcher's descriptors.
  Fd messages;                      ///< Becomes bubblewrap's standard error.
  std::vector<std::string> hidden;  ///< Places that must still be there when bubblewrap comes to them.

 private:
  std::string text_;
  std::vector<Fd> inherited_;
};

Result<void> add_file(Arguments& arguments, const MountStep& step, std::string_view permissions) {
  auto file = memory_file(step.content);
  if (!file) return std::unexpected(file.error());
  arguments.add(
      {"--perms", permissions, "--ro-bind-data", arguments.inherit(std::move(*file)), step.destination});
  return {};
}

Result<void> add_step(Arguments& arguments, const MountStep& step) {
  using Kind = MountStep::Kind;
  switch (step.kind) {
    case Kind::bind: arguments.add({"--bind", step.source, step.destination}); return {};
    case Kind::ro_bind: arguments.add({"--ro-bind", step.source, step.destination}); return {};
    case Kind::devices: arguments.add({"--dev", step.destination}); return {};
    case Kind::processes:
      // bubblewrap covers what it finds writable; the folders in sys are not, and the files are, for root.
      arguments.add({"--proc", step.destination, "--ro-bind", "/proc/sys", step.destination + "/sys"});
      return {};
    case Kind::temporary: arguments.add({"--perms", "1777", "--tmpfs", step.destination}); return {};
    case Kind::private_tree: arguments.add({"--perms", "0755", "--tmpfs", step.destination}); return {};
    case Kind::hide_tree: arguments.add({"--perms", "0700", "--tmpfs", step.destination}); return {};
    case Kind::directory: arguments.add({"--perms", "0700", "--dir", step.destination}); return {};
    case Kind::copy: {
      Fd file(open(step.source.c_str(), O_RDONLY | O_CLOEXEC));
      if (!file) return fail_errno(fmt::format("read {}", step.source));
      arguments.add({"--perms", "0600", "--file", arguments.inherit(std::move(file)), step.destination});
      return {};
    }
    case Kind::hide_file: return add_file(arguments, step, "0600");
    case Kind::data: return add_file(arguments, step, "0444");
    case Kind::program: return add_file(arguments, step, "0555");
  }
  return {};
}

Result<void> add_mounts(Arguments& arguments, const LaunchSpec& spec) {
  auto facts = gather_facts(spec);
  if (!facts) return std::unexpected(facts.error());
  auto steps = plan_mounts(*facts);
  if (auto checked = check_working_directory(*facts, steps); !checked) return checked;
  for (const MountStep& step : steps) {
    if (auto added = add_step(arguments, step); !added) return added;
    if (step.kind == MountStep::Kind::hide_tree || step.kind == MountStep::Kind::hide_file)
      arguments.hidden.push_back(step.destination);
  }
  arguments.add({"--chdir", facts->working_directory});
  return {};
}

/// All mounts are made already, but for those that belong to the sandbox's own processes and terminals.
void add_root(Arguments& arguments, const LaunchSpec& spec) {
  arguments.add({"--uid", "0", "--gid", "0", "--bind", spec.root->directory, "/", "--dev", "/dev", "--size",
                 std::to_string(shared_memory_bytes_max), "--perms", "1777", "--tmpfs", "/dev/shm",
                 "--remount-ro", "/dev", "--proc", "/proc",
                 // bubblewrap covers what it finds writable; the folders in here are not, and the files are.
                 "--ro-bind", "/proc/sys", "/proc/sys", "--chdir",
                 spec.working_directory.empty() ? "/root" : std::string_view(spec.working_directory)});
}

void add_environment(Arguments& arguments, const EnvironmentRules& rules, bool of_caller) {
  std::size_t count = 0;
  while (of_caller && environ[count] != nullptr) ++count;
  arguments.add({"--clearenv"});
  for (const auto& [name, value] : program_environment(std::span<const char* const>(environ, count), rules)) {
    if (name.find('=') == std::string::npos) arguments.add({"--setenv", name, value});
  }
}

/// Signals that were ignored when Postern was started (nohup) stay ignored for the program. The ones that
/// Postern handles itself are always given back with their default.
unsigned long long ignored_signals() {
  constexpr std::array ours{SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGCHLD,
                            SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGWINCH};
  unsigned long long set = 0;
  for (int number = 1; number < 32; ++number) {
    struct sigaction current{};
    if (std::ranges::find(ours, number) != ours.end() || sigaction(number, nullptr, &current) != 0) continue;
    if (current.sa_handler == SIG_IGN) set |= 1ULL << (number - 1);
  }
  return set;
}

bool has_terminal() { return Fd(open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)).get() >= 0; }

struct Pipe {
  Fd read_end, write_end;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno("make a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

/// A socket pair, not a pipe: it carries a byte each way, and releasing a sandbox that has died must be an
/// error, not SIGPIPE.
Result<std::pair<Fd, Fd>> make_gate() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) return fail_errno("make a gate");
  return std::pair(Fd(ends[0]), Fd(ends[1]));
}

/// The program's standard error: ours, also when there is none.
Fd program_errors() {
  Fd errors(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
  return errors ? std::move(errors) : Fd(open("/dev/null", O_WRONLY | O_CLOEXEC));
}

/// Everything that bubblewrap is told. `gate`, `status` and `messages` are the sandbox's ends.
Result<Arguments> all_arguments(const LaunchSpec& spec, Fd gate, Fd status, Fd messages) {
  Arguments arguments;
  // As root bubblewrap would make no user namespace and keep every capability if it were not told.
  arguments.add({"--unshare-all", "--unshare-user", "--cap-drop", "ALL", "--die-with-parent", "--hostname",
                 spec.hostname, "--json-status-fd", arguments.inherit(std::move(status))});
  arguments.gate = arguments.inherit(std::move(gate));
  arguments.errors = arguments.inherit(program_errors());
  arguments.messages = std::move(messages);
  auto filter = syscall_filter();
  if (!filter) return std::unexpected(filter.error());
  arguments.add({"--seccomp", arguments.inherit(std::move(*filter))});
  if (spec.root) {
    add_root(arguments, spec);
  } else if (auto added = add_mounts(arguments, spec); !added) {
    return std::unexpected(added.error());
  }
  add_environment(arguments, spec.environment, !spec.root);
  arguments.add({"--setenv", "XDG_RUNTIME_DIR", fmt::format("/run/user/{}", getuid())});
  return arguments;
}

// ---------------------------------------------------------------------------------------------------------------
// The child that becomes bubblewrap

/// The nodes in a sandbox's /dev are the host's, and their owner, which root is, could close them to
/// everybody with chmod. On a read-only mount he cannot, while writing to the device is as before. bubblewrap
/// would make such a mount without devices, so it is made here, for it to copy. Where root may not mount,
/// nothing is done: there the nodes are a container's.
void protect_devices() {
  if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) return;
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
  for (const char* node : {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"})
    if (mount(node, node, nullptr, MS_BIND, nullptr) == 0)
      mount(nullptr, node, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, nullptr);
}

/// Only async-signal-safe calls: other threads may hold locks in the parent.
[[noreturn]] void become_bubblewrap(const char* path, char* const* words, std::span<const int> keep,
                                    int messages, pid_t parent, const LaunchSpec& spec) {
  dup2(messages, STDERR_FILENO);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(1);
  // Nothing that a caller forgot to mark reaches the sandbox.
  if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) != 0) {
    for (int fd = 3; fd < 65536; ++fd) fcntl(fd, F_SETFD, FD_CLOEXEC);  // Before Linux 5.11.
  }
  for (int fd : keep) fcntl(fd, F_SETFD, 0);
  protect_devices();
  // bubblewrap sits in the terminal's foreground group with the program: Ctrl-C is not meant for it. The
  // launcher gives the program its dispositions back.
  for (int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2}) ::signal(number, SIG_IGN);
  for (int number : {SIGPIPE, SIGCHLD}) ::signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const auto& [resource, limit] : spec.limits)
    setrlimit(static_cast<__rlimit_resource>(resource), &limit);
  char* no_environment[] = {nullptr};  // LD_PRELOAD and its like are for the program, not for bubblewrap.
  execve(path, words, no_environment);
  constexpr std::string_view message = "it cannot be executed\n";
  (void)!write(2, message.data(), message.size());
  _exit(1);
}

Result<pid_t> spawn(const std::string& bubblewrap, const LaunchSpec& spec, const Arguments& arguments) {
  auto file = memory_file(arguments.text());
  if (!file) return std::unexpected(file.error());
  std::vector<std::string> words{"bwrap",
                                 "--args",
                                 std::to_string(file->get()),
                                 "--",
                                 std::string(shim_path),
                                 arguments.gate,
                                 arguments.errors,
                                 std::to_string(ignored_signals()),
                                 has_terminal() && !spec.talks ? "share" : "own",
                                 spec.talks ? "keep" : "close"};
  words.insert(words.end(), spec.command.begin(), spec.command.end());
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  std::vector<int> keep{file->get()};
  for (const Fd& fd : arguments.inherited()) keep.push_back(fd.get());

  pid_t parent = getpid();
  pid_t child = fork();
  if (child < 0) return fail_errno("start bubblewrap");
  if (child == 0)
    become_bubblewrap(bubblewrap.c_str(), pointers.data(), keep, arguments.messages.get(), parent, spec);
  return child;
}

/// Appends what arrives. False at end of file, on an error and when nothing arrives in time.
bool read_more(int fd, std::string& text, int timeout_ms) {
  pollfd wait{fd, POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return false;
  std::array<char, 1024> part;
  ssize_t size = read(fd, part.data(), part.size());
  if (size <= 0) return false;
  text.append(part.data(), static_cast<std::size_t>(size));
  return text.size() <= status_bytes_max;
}

std::optional<int> number_in(std::string_view line, const char* key) {
  auto document = nlohmann::json::parse(line, nullptr, false);
  if (!document.is_object() || !document.contains(key) || !document[key].is_number_integer())
    return std::nullopt;
  return document[key].get<int>();
}

bool all_exist(const std::vector<std::string>& paths) {
  return std::ranges::all_of(paths, [](const std::string& path) { return access(path.c_str(), F_OK) == 0; });
}

std::unexpected<Error> could_not_start(const Fd& messages) {
  std::string text;
  while (read_more(messages.get(), text, 0)) {
  }
  std::string_view said = std::string_view(text).substr(0, text.find('\n'));
  if (said.starts_with("bwrap: ")) said.remove_prefix(7);
  return fail(Reason::internal,
              fmt::format("bubblewrap could not make the sandbox{}{}; `postern doctor` says what is missing",
                          said.empty() ? "" : ": ", said));
}

}  // namespace

Result<std::string> find_bubblewrap() {
  std::vector<std::string> places{"/usr/bin", "/usr/local/bin", "/bin", "/run/current-system/sw/bin"};
  const char* search = getenv("PATH");
  std::string_view path = search != nullptr ? search : "";
  while (!path.empty()) {
    std::size_t colon = path.find(':');
    if (path.starts_with('/')) places.emplace_back(path.substr(0, colon));
    path.remove_prefix(colon == std::string_view::npos ? path.size() : colon + 1);
  }
  for (const std::string& place : places) {
    std::string candidate = place + "/bwrap";
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return fail(Reason::invalid_configuration,
              "bubblewrap (bwrap) is not installed; install the package 'bubblewrap' (apt, dnf, pacman, apk, "
              "zypper)");
}

Result<Sandbox> start(const LaunchSpec& spec) {
  if (spec.command.empty()) return fail(Reason::invalid_configuration, "there is no command to run");
  auto bubblewrap = find_bubblewrap();
  if (!bubblewrap) return std::unexpected(bubblewrap.error());
  // Sockets come and go. One that goes between our look and bubblewrap's mount makes the latter fail.
  std::vector<std::string> hidden;
  auto sandbox = Sandbox::start_once(*bubblewrap, spec, hidden);
  for (int i = 1; i < start_attempts_max && !sandbox && !all_exist(hidden); ++i)
    sandbox = Sandbox::start_once(*bubblewrap, spec, hidden);
  return sandbox;
}

Result<Sandbox> Sandbox::start_once(const std::string& bubblewrap, const LaunchSpec& spec,
                                    std::vector<std::string>& hidden) {
  hidden.clear();
  auto gate = make_gate();
  if (!gate) return std::unexpected(gate.error());
  auto status = make_pipe();
  if (!status) return std::unexpected(status.error());
  auto messages = make_pipe();
  if (!messages) return std::unexpected(messages.error());

  Sandbox sandbox;
  sandbox.gate_ = std::move(gate->first);
  sandbox.talks_ = spec.talks;
  sandbox.status_ = std::move(status->read_end);
  sandbox.messages_ = std::move(messages->read_end);
  {
    // The scope closes our copies of bubblewrap's descriptors: its death must read as end of file.
    auto arguments = all_arguments(spec, std::move(gate->second), std::move(status->write_end),
                                   std::move(messages->write_end));
    if (!arguments) return std::unexpected(arguments.error());
    auto child = spawn(bubblewrap, spec, *arguments);
    if (!child) return std::unexpected(child.error());
    sandbox.monitor_ = *child;
    hidden = std::move(arguments->hidden);
  }
  sandbox.monitor_pidfd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, sandbox.monitor_, 0)));
  if (!sandbox.monitor_pidfd_) return fail_errno("watch bubblewrap");
  if (spec.meanwhile) spec.meanwhile();

  while (sandbox.status_text_.find('\n') == std::string::npos) {
    if (!read_more(sandbox.status_.get(), sandbox.status_text_, start_time_max_ms)) {
      return could_not_start(sandbox.messages_);
    }
  }
  std::size_t line_end = sandbox.status_text_.find('\n');
  auto init = number_in(std::string_view(sandbox.status_text_).substr(0, line_end), "child-pid");
  if (!init) return could_not_start(sandbox.messages_);
  sandbox.status_text_.erase(0, line_end + 1);
  sandbox.init_ = *init;
  sandbox.init_pidfd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, *init, 0)));
  if (!sandbox.init_pidfd_) return could_not_start(sandbox.messages_);
  // The launcher's byte: everything is mounted.
  if (std::string byte; !read_more(sandbox.gate_.get(), byte, start_time_max_ms))
    return could_not_start(sandbox.messages_);
  return sandbox;
}

Sandbox::Sandbox(Sandbox&& other) noexcept { *this = std::move(other); }

Sandbox& Sandbox::operator=(Sandbox&& other) noexcept {
  if (this == &other) return *this;
  if (monitor_ > 0) {
    kill();
    (void)wait();
  }
  monitor_ = std::exchange(other.monitor_, -1);
  init_ = std::exchange(other.init_, -1);
  monitor_pidfd_ = std::move(other.monitor_pidfd_);
  init_pidfd_ = std::move(other.init_pidfd_);
  gate_ = std::move(other.gate_);
  talks_ = other.talks_;
  released_ = other.released_;
  status_ = std::move(other.status_);
  messages_ = std::move(other.messages_);
  status_text_ = std::move(other.status_text_);
  return *this;
}

Sandbox::~Sandbox() {
  if (monitor_ <= 0) return;
  kill();
  (void)wait();
}

Result<void> Sandbox::release() {
  if (send(gate_.get(), "x", 1, MSG_NOSIGNAL) != 1) return fail_errno("let the program run");
  released_ = true;
  if (!talks_) gate_.reset();
  return {};
}

void Sandbox::kill() {
  if (init_pidfd_) syscall(SYS_pidfd_send_signal, init_pidfd_.get(), SIGKILL, nullptr, 0);
  if (monitor_ > 0) ::kill(monitor_, SIGKILL);
}

Result<int> Sandbox::wait() {
  if (monitor_ <= 0) return fail(Reason::internal, "the sandbox was waited for already");
  int status = 0;
  while (waitpid(monitor_, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno("wait for bubblewrap");
  }
  monitor_ = -1;
  int code = recorded_exit_code();
  if (code >= 0) return code;
  // Killed from outside, or by our own kill(): there is no record, the signal says it.
  if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
  return could_not_start(messages_);
}

/// bubblewrap records an exit code only if the program was executed: that tells its own failures apart.
int Sandbox::recorded_exit_code() {
  while (read_more(status_.get(), status_text_, 0)) {
  }
  std::string_view text = status_text_;
  for (std::size_t end; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1)) {
    if (auto code = number_in(text.substr(0, end), "exit-code")) return *code;
  }
  return -1;
}

pid_t Sandbox::detach() { return std::exchange(monitor_, -1); }

pid_t Sandbox::command_pid() const {
  // The program is the first child of the sandbox's process 1; orphans that it adopts come behind.
  const std::string children = read_all(fmt::format("/proc/{0}/task/{0}/children", init_).c_str());
  pid_t first = 0;
  std::from_chars(children.data(), children.data() + children.size(), first);
  return first;
}

bool Sandbox::signal(int number) {
  if (monitor_ <= 0 || !released_) return false;
  const pid_t command = command_pid();
  if (command <= 0) return false;
  // The id could pass to another process between the look and the signal; a descriptor cannot.
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, command, 0)));
  if (!process || command_pid() != command) return false;
  return ::syscall(SYS_pidfd_send_signal, process.get(), number, nullptr, 0) == 0;
}

}  // namespace postern::sandbox
