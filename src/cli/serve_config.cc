#include "cli/serve_config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fstream>
#include <sstream>
#include <vector>

#include "cli/steps.h"
#include "policy/tree.h"

namespace postern::cli {

namespace {

using policy::Node;

constexpr std::size_t config_bytes_max = 1024 * 1024;

std::string variable_of(std::string_view option) {
  std::string out = "POSTERN_";
  for (const char c : option.substr(2))
    out += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return out;
}

[[noreturn]] void refuse(const std::string& file, policy::Position at, std::string_view key,
                         const std::string& message) {
  complain(policy::describe(policy::Problem{std::string(key), at, message}, file));
  throw Stop{};
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in) {
    text.resize(config_bytes_max + 1);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(in.gcount()));
  }
  if (!in.bad() && !text.empty() && text.size() <= config_bytes_max) return text;
  complain(fmt::format("--config '{}' cannot be read, is empty, or has more than {} bytes", path,
                       config_bytes_max));
  throw Stop{};
}

bool is_list(const CLI::Option& option) { return option.get_items_expected_max() > 1; }

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

std::vector<std::string> values_of(const std::string& file, const policy::Member& member, bool list,
                                   bool flag) {
  const auto text = [&](const Node& node) {
    if (node.kind == Node::Kind::string || node.kind == Node::Kind::number) return node.text;
    if (flag && node.kind == Node::Kind::boolean) return std::string(node.truth ? "true" : "false");
    refuse(file, node.at, member.key,
           fmt::format("must be {}, not {}",
                       list   ? "a list of strings"
                       : flag ? "true or false"
                              : "a string",
                       policy::name_of(node.kind)));
  };
  if (!list || member.value.kind != Node::Kind::sequence) return {text(member.value)};
  std::vector<std::string> out;
  for (const Node& item : member.value.items) out.push_back(text(item));
  return out;
}

}  // namespace

void add_serve_options(CLI::App& command, ServeOptions& options) {
  const auto one = [&command](const char* name, std::string& into, const char* help, const char* type) {
    command.add_option(name, into, help)->type_name(type)->envname(variable_of(name));
  };
  const auto list = [&command](const char* name, std::vector<std::string>& into, const char* help,
                               const char* type) {
    command.add_option(name, into, help)
        ->type_name(type)
        ->allow_extra_args(false)
        ->delimiter(',')
        ->envname(variable_of(name));
  };
  const auto number = [&command](const char* name, std::uint64_t& into, std::uint64_t min, std::uint64_t max,
                                 const char* help, const char* type) {
    command.add_option(name, into, help)
        ->check(CLI::Range(min, max).description(""))
        ->type_name(type)
        ->envname(variable_of(name));
  };
  const auto flag = [&command](const char* name, bool& into, const char* help) {
    command.add_flag(name, into, help)->envname(variable_of(name));
  };
  one("--listen", options.listen, "Where the API listens (default: 127.0.0.1:8080)", "ADDRESS:PORT");
  one("--data", options.data, "Where everything is kept (default: server in the state directory)", "DIR");
  one("--config", options.config, "These options, as YAML", "FILE");
  one("--public-url", options.public_url, "How callers reach this server (default: as each of them did)",
      "URL");
  list("--host", options.hosts, "A name by which callers reach this server, besides --public-url's", "NAME");
  list("--allow-origin", options.origins, "A web page that may use the API", "ORIGIN");
  one("--service-domain", options.service_domain,
      "Services of boxes have hosts of their own below this name (default: localhost)", "DOMAIN");
  one("--tls-certificate", options.tls_certificate, "Speak TLS: the certificate with its chain", "FILE.pem");
  one("--tls-key", options.tls_key, "and its private key", "FILE.pem");
  one("--bootstrap-api-key-file", options.bootstrap_api_key_file,
      "Write the first API key there (mode 0600) instead of showing it", "FILE");
  // Not from the environment: POSTERN_MASTER_KEY is the key itself.
  command
      .add_option("--master-key", options.master_key,
                  "What secrets are sealed with: file:PATH, cmd:COMMAND, or none to start sealed (default: "
                  "POSTERN_MASTER_KEY, else master.key in --data)")
      ->type_name("SOURCE");
  list("--allow-private", options.allow_private, "Open a private network to names that lead there", "CIDR");
  list("--resolve", options.resolve, "Where a name really is", "HOST=IP[:PORT]");
  list("--images", options.images, "Callers may make snapshots of the images in this directory", "DIR");
  list("--operator-policy", options.operator_policy,
       "Rules before those of every box, or of a workspace's; read again at SIGHUP", "[WORKSPACE=]FILE");
  list("--origin-ca", options.origin_ca, "Trust these certificates of origins too", "FILE");
  one("--log", options.log.log, "One JSON line per call of a sandbox; - is standard output", "FILE|-");
  one("--log-otlp", options.otlp.url, "Tell a collector of OpenTelemetry, too", "URL");
  list("--log-otlp-header", options.otlp.headers,
       "A header for it; NAME=env:VARIABLE and NAME=file:PATH say where its value is", "NAME=VALUE");
  flag("--log-chain", options.log.chain,
       "Make --log tamper-evident: `postern log verify` finds what was changed");
  flag("--log-strict", options.log.strict, "No credential leaves before a record of it is on disk");
  number("--log-rotate-bytes", options.log.rotate_bytes, log_rotate_bytes_min, std::uint64_t{1} << 50,
         "Begin another --log file when it has as many", "BYTES");
  number("--log-rotate-keep", options.log.rotate_keep, 1, log_rotate_keep_max,
         "How many earlier files are kept (default: 5)", "COUNT");
  number("--log-retention-bytes", options.log_retention_bytes, 16'777'216, std::uint64_t{1} << 50,
         "How much of the network log is kept, at least 16 MiB (default: 1 GiB)", "BYTES");
  number("--log-retention-days", options.log_retention_days, 1, 36'500, "How long it is kept (default: 30)",
         "DAYS");
  number("--signing-key-days", options.signing_key_days, 1, 3'650,
         "After how long a key that signs for callbacks, clouds and links gets a successor (default: 90)",
         "DAYS");
  one("--access-log", options.access_log, "One JSON line per request of the API", "FILE|-");
  command
      .add_option("--limits", options.limits,
                  "What boxes may use of processors and memory: auto limits what this host lets us, required "
                  "does not start without, off limits nothing (default: auto)")
      ->type_name("auto|required|off")
      ->transform(CLI::IsMember({"auto", "required", "off"}).description(""))
      ->envname(variable_of("--limits"));
  one("--metrics-listen", options.metrics_listen,
      "Metrics for Prometheus at /metrics, without a key (for example 127.0.0.1:9464)", "ADDRESS:PORT");
  command.add_flag("--print-routes", options.print_routes)->group("");  // Not in the help.
}

void read_serve_config(CLI::App& command, const ServeOptions& options) {
  if (options.config.empty()) return;
  const std::string file = options.config;
  const auto tree = policy::read_tree(read_file(file), policy::format_of(file));
  if (!tree) {
    complain(policy::describe(tree.error(), file));
    throw Stop{};
  }
  if (tree->kind != Node::Kind::mapping) refuse(file, tree->at, "", "must be a mapping of options");
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames())
      if (name != "help" && name != "config" && !option->get_group().empty()) names.push_back(name);
  for (const policy::Member& member : tree->members) {
    if (std::ranges::find(names, member.key) == names.end())
      refuse(file, member.at, member.key, fmt::format("is no option (accepted: {})", fmt::join(names, ", ")));
    CLI::Option* option = command.get_option("--" + member.key);
    if (option->count() > 0) continue;  // Said already, closer to the caller.
    for (std::string& value : values_of(file, member, is_list(*option), is_flag(*option)))
      option->add_result(std::move(value));
    option->run_callback();
  }
}

}  // namespace postern::cli
