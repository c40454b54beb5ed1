#include "cli/run_options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "wire/host.h"

namespace postern::cli {

namespace {

std::unexpected<Error> usage(std::string message) {
  return fail(Reason::invalid_configuration, std::move(message));
}

std::optional<origin::Override> parse_target(std::string_view text) {
  if (const auto whole = IpAddress::parse(text)) return origin::Override{*whole, std::nullopt};
  const auto authority = wire::parse_authority(text);
  if (!authority || !authority->host.literal) return std::nullopt;
  // "1.2.3" is 1.2.0.3 to a browser; an operator who writes it has forgotten a part.
  if (authority->host.literal->is_v4() && !text.starts_with(authority->host.name)) return std::nullopt;
  return origin::Override{*authority->host.literal, authority->port};
}

}  // namespace

void add_path_options(CLI::App& command, RunOptions& options) {
  const auto add = [&](const char* name, PathOption::Kind kind, const char* help) {
    command.add_option_function<std::vector<std::string>>(
               name, [](const std::vector<std::string>&) {}, help)
        ->type_name("PATH")
        ->allow_extra_args(false)
        ->each([&options, kind](const std::string& path) { options.paths.push_back({kind, path}); });
  };
  add("--bind", PathOption::Kind::bind, "Make a path writable");
  add("--ro-bind", PathOption::Kind::ro_bind, "Show a path that is hidden, read-only");
  add("--hide", PathOption::Kind::hide, "Hide a path");
}

Result<origin::Overrides> parse_overrides(const std::vector<std::string>& options) {
  origin::Overrides overrides;
  for (const std::string& option : options) {
    const auto equals = option.find('=');
    const auto host = wire::canonical_host(option.substr(0, equals));
    const auto target = equals == std::string::npos
                            ? std::nullopt
                            : parse_target(std::string_view(option).substr(equals + 1));
    if (!host || host->literal || !target)
      return usage(
          fmt::format("--resolve '{}' is not HOST=IP[:PORT] (for example api.example.com=127.0.0.1:8443 or "
                      "db.example.com=[::1]:5432)",
                      option));
    overrides[host->name].push_back(*target);
  }
  return overrides;
}

Result<std::vector<Cidr>> parse_networks(const std::vector<std::string>& options) {
  std::vector<Cidr> networks;
  for (const std::string& option : options) {
    auto network = Cidr::parse(option);
    if (!network)
      if (const auto address = IpAddress::parse(option))
        network = Cidr::parse(option + (address->is_v4() ? "/32" : "/128"));
    if (!network)
      return usage(fmt::format(
          "--allow-private '{}' is not a network (for example 10.1.0.0/16, 192.168.7.4 or fd00:1::/64)",
          option));
    networks.push_back(*network);
  }
  return networks;
}

std::optional<Endpoint> parse_listen(std::string_view text) {
  // Port 0 is none to parse_authority(), and any to the kernel.
  const bool any_port = text.ends_with(":0");
  const auto parsed = wire::parse_authority(any_port ? text.substr(0, text.size() - 2) : text);
  if (!parsed || !parsed->host.literal || (!parsed->port && !any_port)) return std::nullopt;
  return Endpoint{*parsed->host.literal, parsed->port.value_or(0)};
}

}  // namespace postern::cli
