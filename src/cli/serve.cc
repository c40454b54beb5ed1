#include "cli/serve.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <functional>
#include <memory>
#include <optional>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "api/boxes.h"
#include "api/data_plane.h"
#include "api/download_links.h"
#include "api/explain.h"
#include "api/network_log.h"
#include "api/not_yet.h"
#include "api/secrets.h"
#include "api/server_pages.h"
#include "api/services.h"
#include "api/snapshots.h"
#include "api/usage.h"
#include "api/woken_door.h"
#include "audit/journal.h"
#include "audit/network_log.h"
#include "box/box_loop.h"
#include "box/cgroups.h"
#include "box/keeper.h"
#include "box/trash.h"
#include "cli/doctor.h"
#include "cli/key_server.h"
#include "cli/metrics.h"
#include "cli/operator_files.h"
#include "cli/run_options.h"
#include "cli/serve_config.h"
#include "cli/server_data.h"
#include "cli/steps.h"
#include "control/http_server.h"
#include "control/router.h"
#include "credential/random.h"
#include "platform/boxes.h"
#include "platform/machine.h"
#include "platform/server_keys.h"
#include "sandbox/trust.h"
#include "tls/ca.h"
#include "tls/context.h"
#include "wire/host.h"
#include "wire/url.h"

namespace postern::cli {

namespace {

constexpr std::chrono::seconds patience{10};  // for what is under way when the server is stopped
// They wait for boxes that start, up to ten seconds for each that a hostile caller makes slow.
constexpr unsigned workers = 64;

Endpoint listen_endpoint(const std::string& text) {
  if (auto endpoint = parse_listen(text)) return *endpoint;
  complain(fmt::format("--listen '{}' is not ADDRESS:PORT (for example 127.0.0.1:8080, [::1]:8080)", text));
  throw Stop{};
}

/// The workspace that a new server begins with.
store::WorkspaceId prepare_workspace(store::Store& store) {
  auto found = store.workspaces().find_by_name(first_workspace);
  if (!found && found.error().fault == store::Fault::not_found && store.seal() == store::Seal::open)
    found = store.workspaces().create(first_workspace);
  return must(std::move(found)).id;
}

void hand_out(const credential::NewApiKey& key, const std::string& file) {
  if (file.empty()) {
    std::printf("API key, shown this once: ");
    std::fflush(stdout);
    must(credential::hand_over(key, STDOUT_FILENO));
    return;
  }
  const Fd out(::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!out || ::fchmod(out.get(), 0600) != 0) {
    complain(fmt::format("--bootstrap-api-key-file '{}' cannot be written: {}", file, std::strerror(errno)));
    throw Stop{};
  }
  must(credential::hand_over(key, out.get()));
  std::printf("API key: in %s\n", file.c_str());
}

/// The key that a new server begins with. Not kept if nobody could be given it.
void hand_out_first_key(store::Store& store, const store::WorkspaceId& workspace, const std::string& file) {
  const auto keys = must(store.api_keys().list(workspace));
  if (std::ranges::any_of(keys, [](const store::ApiKey& key) { return !key.revoked_at; })) return;
  const auto key = credential::make_api_key();
  must(store.api_keys().add(workspace, key.proof, store::Scope::admin, "first key"));
  try {
    hand_out(key, file);
  } catch (const Stop&) {
    (void)store.api_keys().revoke(workspace, key.proof.id);
    throw;
  }
}

/// "sandboxes.example" of "https://sandboxes.example:8443".
std::string host_of(const std::string& url) {
  const auto parsed = wire::parse_url(url);
  if (!parsed || parsed->target != "/" || url.ends_with('/')) {
    complain(fmt::format(
        "--public-url '{}' is not the origin of a URL (for example https://sandboxes.example)", url));
    throw Stop{};
  }
  return parsed->host.name;
}

std::string service_domain(const std::string& name) {
  const auto host = wire::canonical_host(name);
  if (host && !host->literal) return host->name;
  complain(fmt::format("--service-domain '{}' is not a name (for example services.example)", name));
  throw Stop{};
}

std::string origin_text(const Endpoint& at, bool tls) {
  return fmt::format("{}://{}", tls ? "https" : "http", at.to_string());
}

audit::LogLimits log_limits(const ServeOptions& options) {
  audit::LogLimits limits;
  limits.bytes = options.log_retention_bytes;
  limits.age = std::chrono::days(options.log_retention_days);
  // Small enough for retention to be even, and not more than some hundred files.
  limits.segment_bytes = std::clamp<std::uint64_t>(limits.bytes / 64, 1 << 20, 1 << 28);
  return limits;
}

class AccessLogFile {
 public:
  explicit AccessLogFile(Fd file) : file_(std::move(file)) {}
  void write(const control::AccessRecord& record) const {
    if (!file_) return;
    const std::string line = api::access_line(record);
    (void)!::write(file_.get(), line.data(), line.size());  // One write, so that lines do not mix.
  }

 private:
  Fd file_;
};

/// The operator's policies anew, for what runs too. Broken ones replace nothing.
void reread(const OperatorFiles& files, store::Store& store, platform::Policies& policies,
            platform::Boxes& boxes) {
  if (files.options.empty()) return;
  try {
    policies.use(read_operator_files(files, store));
  } catch (const Stop&) {
    return complain("the operator's policies stay as they were");
  }
  boxes.operators_changed();
  complain("the operator's policies were read again");
}

/// Until SIGTERM or SIGINT; meanwhile boxes and the log are looked after.
void wait_for_end(const sigset_t& ends, platform::Boxes& boxes, audit::NetworkLog& network_log,
                  audit::Journal& journal, platform::ServerKeys& keys, platform::Ledgers& ledgers,
                  const std::function<void()>& on_hangup) {
  const timespec second{.tv_sec = 1, .tv_nsec = 0};
  bool counts_kept = true;
  while (true) {
    const int number = ::sigtimedwait(&ends, nullptr, &second);
    if (number > 0 && number != SIGHUP) return;
    if (number == SIGHUP) {
      journal.reopen();
      on_hangup();
    }
    boxes.tend();
    network_log.tend();
    const auto kept = ledgers.flush();
    if (!kept && std::exchange(counts_kept, false))
      complain("what sandboxes have used of their limits could not be kept: " + kept.error().detail);
    counts_kept = kept.has_value();
    if (auto tended = keys.tend(); !tended)
      complain("the signing keys could not be looked after: " + tended.error().detail);
  }
}

box::Cgroups open_limits(const std::string& choice, const std::string& data) {
  if (choice == "off") return {};
  box::Cgroups cgroups = box::Cgroups::open(data);
  const std::string lacking = cgroups.unenforced();
  if (lacking.empty()) return cgroups;
  complain(
      fmt::format("{} of boxes cannot be limited here: no control groups are ours to divide (as root, or "
                  "`Delegate=yes` in a systemd unit; docs/serve.md#limits)",
                  lacking));
  if (choice == "required") throw Stop{};
  return cgroups;
}

int serve(const ServeOptions& options, const std::string& version) {
  const Endpoint listen = listen_endpoint(options.listen);
  const auto overrides = must(parse_overrides(options.resolve));
  const std::string services_below = service_domain(options.service_domain);
  const auto allow_private = must(parse_networks(options.allow_private));
  must(tls::TrustStore::check(options.origin_ca));
  must(preflight());
  const std::string data = data_directory(options.data);

  // The signals are taken by wait_for_end() alone; boxes start without the mask (sandbox/launch.h).
  sigset_t ends;
  sigemptyset(&ends);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&ends, number);
  ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  (void)harden();
  const Fd taken = take_data(data);
  if (!taken) {
    complain(fmt::format("another `postern serve` uses '{}'; give each its own --data", data));
    throw Stop{};
  }
  const box::Cgroups cgroups = open_limits(options.limits, data);
  // Before there are secrets and threads.
  const auto keeper = must(box::Keeper::start(master_key_variable));

  const SystemClock clock;
  const auto store = open_store(data, options.master_key, clock);
  if (store->seal() != store::Seal::open)
    complain(
        store->seal() == store::Seal::no_key
            ? "sealed: there is no master key; nothing that needs a secret works until it is given"
            : "sealed: the master key is not the one that this store was sealed with; nothing that needs "
              "a secret works");
  const store::WorkspaceId workspace = prepare_workspace(*store);
  const OperatorFiles operator_files{options.operator_policy, overrides, options.origin_ca};
  auto operators = read_operator_files(operator_files, *store);

  const bool tls = !options.tls_certificate.empty();
  std::string issuer = options.public_url;
  control::ServerOptions server_options;
  server_options.listen = listen;
  server_options.certificate_file = options.tls_certificate;
  server_options.key_file = options.tls_key;
  server_options.workers = workers;
  const auto server = must(control::HttpServer::listen(server_options, clock));
  const std::string own_origin = origin_text(server->local(), tls);
  std::vector<std::string> hosts = options.hosts;
  if (issuer.empty())
    issuer = own_origin;
  else
    hosts.push_back(host_of(issuer));

  const tls::WorkspaceCa ca = must(tls::WorkspaceCa::load_or_create(data));
  const char* home = std::getenv("HOME");
  const sandbox::Trust trust = platform::Machine::trust_in_boxes(
      must(sandbox::prepare_trust({ca.certificate_pem(), data + "/trust"})), home ? home : "");
  const auto network_log = must(audit::NetworkLog::open(data + "/network-log", log_limits(options), clock));
  const auto otlp = OtlpSender::start(options.otlp, version);
  audit::Journal journal(
      audit::Sinks{.file = open_log_file(options.log, data + "/log-chain", TurnsOver::while_running),
                   .keeper = network_log.get(),
                   .listener = otlp.get(),
                   .strict = options.log.strict});
  const AccessLogFile access_log(open_log(options.access_log));
  ApiCounts api_counts;
  std::unique_ptr<KeyServer> metrics;
  if (!options.metrics_listen.empty())
    metrics = must(KeyServer::listen(options.metrics_listen, "--metrics-listen"));
  const std::chrono::days key_life(options.signing_key_days);
  const auto keys =
      must(platform::ServerKeys::load(*store, clock, issuer, {.lifetime = key_life, .links = key_life}));
  {
    proxy::DataPlane data_plane({.overrides = overrides,
                                 .allow_private = allow_private,
                                 .origin_ca_files = options.origin_ca,
                                 .loops = proxy::DataPlane::loops_for_this_machine()},
                                ca, journal);
    box::BoxLoop box_loop(clock);
    const std::string boxes_directory = data + "/boxes";
    if (::mkdir(boxes_directory.c_str(), 0711) != 0 && errno != EEXIST) {
      complain(fmt::format("'{}' cannot be made: {}", boxes_directory, std::strerror(errno)));
      throw Stop{};
    }
    const auto trash = must(box::Trash::open(data + "/trash"));
    platform::Machine machine(*keeper, cgroups, box_loop, *trash, data_plane,
                              {.boxes_directory = boxes_directory,
                               .snapshots_directory = data + "/snapshots",
                               .state_directory = data,
                               .trust = trust});
    const auto layers = must(platform::KeptLayers::open(*keeper, *trash,
                                                        {.snapshots_directory = data + "/snapshots",
                                                         .boxes_directory = boxes_directory,
                                                         .image_directories = options.images}));
    platform::Snapshots snapshots(*store, *layers, complain);
    platform::Policies policies(*store, {.allow_private = allow_private,
                                         .signer = keys->signer(),
                                         .identity = keys->identity(),
                                         .report = complain});
    policies.use(std::move(operators));
    platform::Boxes boxes(*store, policies, machine, clock, complain, &snapshots);
    api::WokenDoor door(boxes, box_loop);
    api::LogFollowers followers(*network_log, box_loop.loop());

    const control::PageGuard guard(hosts, options.origins);
    const api::StoredKeys stored_keys(*store);
    const api::Identify identify = api::identify_by(guard, stored_keys);
    const api::Origin origin = [&options, tls](const control::Request& request) {
      return !options.public_url.empty() ? options.public_url
                                         : fmt::format("{}://{}", tls ? "https" : "http", request.host);
    };
    const api::DownloadLinks links(boxes, door, keys->links(), clock);
    const api::Services services({boxes, door, guard, keys->links(), clock, origin, services_below});
    control::Router router;
    for (const char* prefix : {"/v2/sandboxes", "/api/v2/sandboxes"}) {
      router.mount(prefix, api::box_routes(boxes, *store, identify, origin));
      router.mount(prefix, api::network_log_routes(*network_log, followers, boxes, identify));
      router.mount(prefix, api::explain_routes(boxes, policies, identify));
      router.mount(prefix, api::data_plane_routes(door, identify));
      router.mount(prefix, links.making_routes(identify, origin));
      router.mount(prefix, services.granting_routes(identify));
      router.mount(prefix, api::usage_routes(*store, identify));
      router.mount(prefix, api::snapshot_routes(snapshots, boxes, *store, identify));
      router.mount(prefix, api::not_yet_routes(identify));
    }
    for (const char* prefix : {"/v1", "/api/v1"})
      router.mount(prefix, api::secret_routes(boxes, *store, identify));
    router.mount("", links.serving_routes());
    router.mount("", api::server_pages(*store, guard, *keys, issuer));
    if (options.print_routes) {
      for (const auto& [method, pattern] : router.routes())
        std::printf("%s %s\n", method.c_str(), pattern.c_str());
      return 0;
    }
    server->start(
        [&](const std::shared_ptr<control::Call>& call) {
          if (!services.serve(call)) router.serve(call);
        },
        [&access_log, &api_counts](const control::AccessRecord& record) {
          access_log.write(record);
          api_counts.add(record);
        });

    std::printf("postern is ready: %s\n",
                (options.public_url.empty() ? own_origin : options.public_url).c_str());
    hand_out_first_key(*store, workspace, options.bootstrap_api_key_file);
    std::fflush(stdout);
    if (metrics) {
      metrics->publish("/metrics", "text/plain; version=0.0.4", 0,
                       [&] { return metrics_text(journal, *network_log, otlp.get(), boxes, api_counts); });
      metrics->start();
    }
    wait_for_end(ends, boxes, *network_log, journal, *keys, policies.ledgers(),
                 [&] { reread(operator_files, *store, policies, boxes); });
    metrics.reset();
    followers.stop();
    server->stop(patience);
    data_plane.drain(std::chrono::milliseconds(300));
    if (auto kept = policies.ledgers().flush(); !kept)
      complain("what sandboxes have used of their limits could not be kept: " + kept.error().detail);
  }
  journal.close();
  if (otlp) complain_about_dropped(otlp->close());
  return 0;
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_code, const std::string& version) {
  const auto options = std::make_shared<ServeOptions>();
  CLI::App* command = app.add_subcommand("serve", "Serve sandboxes to others through an API");
  command->footer(
      "Started with nothing it keeps everything in one directory and prints its address and, once, the first "
      "API key. Examples:\n"
      "  postern serve\n"
      "  LANGSMITH_ENDPOINT=http://127.0.0.1:8080 LANGSMITH_API_KEY=postern_... python3 agent.py\n"
      "  postern serve --listen 0.0.0.0:8443 --public-url https://sandboxes.example \\\n"
      "      --tls-certificate cert.pem --tls-key key.pem --master-key file:/run/secrets/master\n"
      "Every option may stand in --config FILE as `name: value`, or in the environment as POSTERN_NAME; the "
      "command line wins over the environment, and that over the file.\n"
      "docs/serve.md explains every option.");
  add_serve_options(*command, *options);
  command->callback([command, options, version, &exit_code] {
    exit_code = unless_stopped(1, [&] {
      read_serve_config(*command, *options);
      return serve(*options, version);
    });
  });
}

}  // namespace postern::cli
