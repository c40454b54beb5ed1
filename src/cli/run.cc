#include "cli/run.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <functional>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/doctor.h"
#include "cli/key_server.h"
#include "cli/run_summary.h"
#include "cli/secret_sources.h"
#include "cli/state_directory.h"
#include "cli/steps.h"
#include "credential/injections.h"
#include "credential/refresh_tokens.h"
#include "credential/signing_keys.h"
#include "credential/workload_identity.h"
#include "policy/document.h"
#include "policy/snapshot.h"
#include "proxy/data_plane.h"
#include "sandbox/capture.h"
#include "sandbox/launch.h"
#include "sandbox/trust.h"
#include "tls/ca.h"
#include "tls/context.h"
#include "tls/leaf.h"

namespace postern::cli {

namespace {

constexpr const char* sandbox_name = "run";
constexpr const char* workspace_name = "local";

/// Who asks callbacks and clouds for credentials. The listener of the keys is part of it.
struct Asking {
  std::shared_ptr<const credential::CallbackSigner> signer;
  std::shared_ptr<const credential::WorkloadIdentity> identity;
  std::unique_ptr<KeyServer> keys;
};

std::string check_issuer(const std::string& issuer) {
  const auto url = wire::parse_url(issuer);
  if (url && url->target == "/" && !issuer.ends_with('/')) return issuer;
  complain(fmt::format(
      "--callback-issuer '{}' is not the origin of a URL (for example https://postern.example.com)", issuer));
  throw Stop{};
}

/// A cloud asks the issuer by HTTPS for our key: a name that says nothing would be found out at the first
/// request.
std::shared_ptr<const credential::WorkloadIdentity> prepare_identity(const RunOptions& options,
                                                                     const std::string& workspace_directory) {
  if (!options.callback_issuer.starts_with("https://")) {
    complain(
        "a rule has a workload identity (role_arn, workload_identity_provider or tenant_id): say with "
        "--callback-issuer https://... where the cloud finds the key that its tokens are signed with");
    throw Stop{};
  }
  return std::make_shared<const credential::WorkloadIdentity>(
      must(credential::load_or_create_identity_key(workspace_directory)), options.callback_issuer);
}

bool has_workload_identity(const policy::Snapshot& snapshot) {
  return std::ranges::any_of(snapshot.rules(),
                             [](const policy::Rule& rule) { return rule.enabled && rule.token_subject(); });
}

Asking prepare_asking(const RunOptions& options, const policy::Snapshot& snapshot,
                      const std::string& workspace_directory) {
  Asking asking;
  std::string issuer = options.callback_issuer.empty() ? "" : check_issuer(options.callback_issuer);
  if (has_workload_identity(snapshot)) asking.identity = prepare_identity(options, workspace_directory);
  if (snapshot.callbacks().empty() && options.callback_jwks.empty()) return asking;
  auto key = must(credential::load_or_create_callback_key(workspace_directory));
  if (!options.callback_jwks.empty()) {
    std::vector<const credential::JwtKey*> published = {&key};
    if (asking.identity) published.push_back(asking.identity->key.get().get());
    asking.keys = must(KeyServer::listen(options.callback_jwks, "--callback-jwks"));
    if (issuer.empty()) issuer = asking.keys->origin();
    asking.keys->publish("/.well-known/jwks.json", credential::jwk_set(published));
    asking.keys->publish("/.well-known/openid-configuration", credential::openid_configuration(issuer));
  }
  if (issuer.empty()) issuer = "https://postern.invalid";  // Says nothing, and leads nowhere (RFC 6761 §6.4).
  asking.signer = std::make_shared<const credential::CallbackSigner>(std::move(key), std::move(issuer));
  return asking;
}

std::string policy_name(const RunOptions& options) {
  return options.policy_file.empty() ? "command line" : options.policy_file;
}

std::shared_ptr<const policy::Snapshot> load_policy(const RunOptions& options,
                                                    const std::vector<Cidr>& allow_private) {
  policy::Document document;
  if (!options.policy_text.empty())
    document = must(policy::parse_document(options.policy_text, policy::Format::json), "");
  if (!options.policy_file.empty())
    document = must(policy::load_document(options.policy_file), options.policy_file);
  for (const policy::Problem& warning : document.warnings)
    complain("warning: " + policy::describe(warning, options.policy_file));
  return must(policy::compile(std::move(document), {.allow = options.allow,
                                                    .deny = options.deny,
                                                    .default_egress = policy::DefaultEgress::hosts_of_rules,
                                                    .allow_private = allow_private,
                                                    .version = 1}),
              policy_name(options));
}

credential::ResolveOptions resolve_options(const std::string& workspace, const Asking& asking) {
  return {.kept = std::make_shared<credential::RefreshTokenFiles>(workspace + "/refresh"),
          .identity = asking.identity,
          .tag_values = {}};
}

/// Files in which secrets or the log rest must not be readable or writable for the program, wherever they
/// lie.
void hide_own_files(const RunOptions& options, const std::vector<std::string>& secret_files,
                    sandbox::LaunchSpec& spec) {
  const auto hide = [&](const std::string& path) {
    if (path.empty() || path == "-") return;
    struct stat info{};
    if (::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode))
      spec.paths.push_back({sandbox::PathRule::Kind::hide, {}, path});
  };
  for (const std::string& file : secret_files) hide(file);
  hide(options.policy_file);
  for (const std::string& file : log_files(options.log)) hide(file);
}

sandbox::LaunchSpec describe_program(const RunOptions& options, const std::vector<std::string>& secret_files,
                                     const credential::SecretStore& secrets,
                                     const policy::Snapshot& snapshot) {
  sandbox::LaunchSpec spec;
  spec.command = options.command;
  for (const PathOption& path : options.paths) {
    const auto kind = path.kind == PathOption::Kind::bind      ? sandbox::PathRule::Kind::bind
                      : path.kind == PathOption::Kind::ro_bind ? sandbox::PathRule::Kind::ro_bind
                                                               : sandbox::PathRule::Kind::hide;
    if (::access(path.path.c_str(), F_OK) != 0) {
      const char* option = kind == sandbox::PathRule::Kind::bind      ? "--bind"
                           : kind == sandbox::PathRule::Kind::ro_bind ? "--ro-bind"
                                                                      : "--hide";
      complain(fmt::format("{} '{}': {}", option, path.path, std::strerror(errno)));
      throw Stop{};
    }
    if (kind == sandbox::PathRule::Kind::hide)
      spec.paths.push_back({kind, {}, path.path});
    else
      spec.paths.push_back({kind, path.path, {}});
  }
  hide_own_files(options, secret_files, spec);
  spec.environment.holds_secret = [&secrets](std::string_view value) { return secrets.appears_in(value); };
  for (const policy::EnvVar& variable : snapshot.env_vars())
    spec.environment.set.emplace_back(variable.name, variable.value);
  return spec;
}

/// The home is read-only: tools that insist on a cache below it get one in the sandbox's own /tmp, unless the
/// caller chose.
void add_writable_caches(sandbox::LaunchSpec& spec) {
  constexpr std::pair<const char*, const char*> caches[] = {{"npm_config_cache", "/tmp/.npm"},
                                                            {"GOCACHE", "/tmp/.cache/go-build"},
                                                            {"XDG_CACHE_HOME", "/tmp/.cache"}};
  for (const auto& [name, place] : caches)
    if (!std::getenv(name)) spec.environment.set.emplace(spec.environment.set.begin(), name, place);
}

void add_variables(const RunOptions& options, const credential::SecretStore& secrets,
                   sandbox::LaunchSpec& spec) {
  for (const std::string& option : options.env) {
    const auto equals = option.find('=');
    const std::string name = option.substr(0, equals);
    if (name.empty()) {
      complain(fmt::format("--env '{}' is not NAME=VALUE or NAME", option));
      throw Stop{};
    }
    if (equals == std::string::npos) {
      spec.environment.keep.push_back(name);
      continue;
    }
    std::string value = option.substr(equals + 1);
    if (secrets.appears_in(value)) {
      complain(fmt::format(
          "--env {}: the value contains one of the secrets given by --secret; a sandbox never holds those",
          name));
      throw Stop{};
    }
    spec.environment.set.emplace_back(name, std::move(value));
  }
}

/// The signals that are the program's, as a descriptor. Before any thread starts: one that does not block
/// them would take them, and end us. After the sandbox's processes started: they would inherit the mask.
Fd take_signals() {
  sigset_t passed;
  sigemptyset(&passed);
  for (const int number : {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2}) sigaddset(&passed, number);
  ::pthread_sigmask(SIG_BLOCK, &passed, nullptr);
  return Fd(::signalfd(-1, &passed, SFD_CLOEXEC | SFD_NONBLOCK));
}

/// Secrets that changed are used from the next request on. Broken ones replace nothing.
class Rereading {
 public:
  Rereading(SecretSources& sources, std::shared_ptr<const policy::Snapshot> snapshot, std::string workspace,
            const RunOptions& options, const Asking& asking, credential::SecretStore& secrets,
            proxy::DataPlane& data_plane, proxy::DataPlane::Id sandbox, std::shared_ptr<quota::Ledger> ledger)
      : sources_(sources),
        snapshot_(std::move(snapshot)),
        workspace_(std::move(workspace)),
        options_(options),
        asking_(asking),
        secrets_(secrets),
        data_plane_(data_plane),
        sandbox_(sandbox),
        ledger_(std::move(ledger)) {}

  /// True: look again soon.
  bool look() {
    auto changed = sources_.look(secrets_);
    if (changed && *changed)
      use(std::move(**changed));
    else if (changed)
      complain_once(changed->error().detail);
    return sources_.asking();
  }

 private:
  void use(credential::SecretStore fresh) {
    if (fresh.same_as(secrets_)) return complaint_.clear();
    auto injections = credential::resolve(*snapshot_, fresh, resolve_options(workspace_, asking_));
    if (!injections) {
      std::string all;
      for (const policy::Problem& problem : injections.error())
        all += (all.empty() ? "" : "; ") + policy::describe(problem, options_.policy_file);
      return complain_once(all);
    }
    complaint_.clear();
    secrets_ = std::move(fresh);
    data_plane_.swap(sandbox_,
                     proxy::make_egress(snapshot_, std::move(*injections), asking_.signer, ledger_));
  }
  /// A server that is down for an hour is one complaint.
  void complain_once(const std::string& what) {
    if (what == complaint_) return;
    complaint_ = what;
    complain(what + "; the secrets stay as they were");
  }

  SecretSources& sources_;
  std::shared_ptr<const policy::Snapshot> snapshot_;
  std::string workspace_;
  const RunOptions& options_;
  const Asking& asking_;
  credential::SecretStore& secrets_;
  proxy::DataPlane& data_plane_;
  const proxy::DataPlane::Id sandbox_;
  const std::shared_ptr<quota::Ledger> ledger_;
  std::string complaint_;
};

constexpr int look_milliseconds = 1000;  // between two looks at secrets
constexpr int soon_milliseconds = 10;    // while somebody is being asked, or a signal waits

/// Passes on what is sent to this process alone. What the terminal sends reaches the program by itself.
/// `look` is called once a second, when there is something to look at, and sooner as long as it says so.
int supervise(sandbox::Sandbox& program, const Fd& signals, const std::function<bool()>& look) {
  must(program.release());
  std::vector<int> undelivered;  // Came while the program was being started.
  bool soon = false;
  while (true) {
    pollfd waiting[] = {{program.exit_fd(), POLLIN, 0}, {signals.get(), POLLIN, 0}};
    const int patience = soon || !undelivered.empty() ? soon_milliseconds : look ? look_milliseconds : -1;
    const int ready = ::poll(waiting, 2, patience);
    if (ready < 0 && errno != EINTR) break;
    if (waiting[0].revents) break;
    if (ready == 0 && look) soon = look();
    signalfd_siginfo info{};
    while (::read(signals.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      const bool from_terminal = info.ssi_code == SI_KERNEL;
      if (!from_terminal) undelivered.push_back(static_cast<int>(info.ssi_signo));
    }
    std::erase_if(undelivered, [&](int number) { return program.signal(number); });
  }
  return must(program.wait());
}

int run_checked(const RunOptions& options) {
  const auto original_limits = harden();
  const auto overrides = must(parse_overrides(options.resolve));
  const auto allow_private = must(parse_networks(options.allow_private));
  must(tls::TrustStore::check(options.origin_ca));
  const auto snapshot = load_policy(options, allow_private);
  SecretSources sources({.secrets = options.secrets,
                         .secret_files = options.secret_files,
                         .policy_file = options.policy_file,
                         .policy = snapshot,
                         .overrides = overrides,
                         .origin_ca = options.origin_ca,
                         .vault_interval = options.vault_interval});
  credential::SecretStore secrets = must(sources.read());
  const std::string state = must(state_directory());
  const std::string workspace = state + "/workspaces/" + workspace_name;
  Asking asking = prepare_asking(options, *snapshot, workspace);
  auto injections =
      must(credential::resolve(*snapshot, secrets, resolve_options(workspace, asking)), policy_name(options),
           "secrets are given by --secret KEY (from this environment), --secret KEY=VALUE or --secrets FILE");
  if (options.log.strict && options.log.log.empty()) {
    complain("--log-strict needs --log FILE: where what is about to be sent is written down");
    throw Stop{};
  }
  auto log = open_log_file(options.log, state + "/log-chain", TurnsOver::at_start_only);
  const tls::WorkspaceCa ca = must(tls::WorkspaceCa::load_or_create(workspace));
  const auto egress = proxy::make_egress(snapshot, std::move(injections), asking.signer);

  sandbox::LaunchSpec spec = describe_program(options, sources.files(), secrets, *egress->snapshot);
  spec.limits = original_limits;
  spec.state_directory = state;
  const sandbox::Trust trust = must(sandbox::prepare_trust({ca.certificate_pem(), state + "/trust"}));
  spec.files = trust.mounts;
  // The program's own settings win over a rule's placeholders, and both over what trust needs.
  spec.environment.set.insert(spec.environment.set.begin(), trust.environment.begin(),
                              trust.environment.end());
  add_writable_caches(spec);
  add_variables(options, secrets, spec);

  must(preflight());
  // What the proxy needs and takes long is made while the sandbox is; no thread may be there yet.
  std::optional<tls::TrustStore> roots;
  std::optional<tls::LeafMinter> minter;
  spec.meanwhile = [&] {
    if (auto loaded = tls::TrustStore::load(options.origin_ca)) roots = std::move(*loaded);
    if (auto made = tls::LeafMinter::create(ca)) minter = std::move(*made);
  };
  sandbox::Sandbox program = must(sandbox::start(spec));
  auto captured = must(sandbox::capture_network(program.init_pid()));
  const Fd signals = take_signals();
  if (asking.keys) asking.keys->start();
  const auto otlp = OtlpSender::start(options.otlp, options.version);
  audit::Journal journal(
      audit::Sinks{.file = std::move(log), .listener = otlp.get(), .strict = options.log.strict});
  int status = 0;
  {
    proxy::DataPlane data_plane({.overrides = overrides,
                                 .allow_private = allow_private,
                                 .origin_ca_files = options.origin_ca,
                                 .trust = std::move(roots),
                                 .minter = std::move(minter),
                                 .loops = proxy::DataPlane::loops_for_this_machine()},
                                ca, journal);
    const auto id = data_plane.add({.sandbox = sandbox_name,
                                    .workspace = workspace_name,
                                    .egress = egress,
                                    .sockets = {std::move(captured.tcp4), std::move(captured.tcp6),
                                                std::move(captured.dns_udp4), std::move(captured.dns_udp6),
                                                std::move(captured.dns_tcp4), std::move(captured.dns_tcp6)}});
    Rereading rereading(sources, egress->snapshot, workspace, options, asking, secrets, data_plane, id,
                        egress->ledger);
    std::function<bool()> look;
    if (sources.may_change()) look = [&] { return rereading.look(); };
    status = supervise(program, signals, look);
    data_plane.drain(std::chrono::milliseconds(300));
  }
  const audit::Summary summary = journal.close();
  if (otlp) complain_about_dropped(otlp->close());
  if (!options.quiet) print_summary(summary, options.verbose, stderr);
  return status;
}

}  // namespace

int run(const RunOptions& options) {
  return unless_stopped(exit_postern_failed, [&] { return run_checked(options); });
}

}  // namespace postern::cli
