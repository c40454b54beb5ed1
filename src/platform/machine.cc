#include "platform/machine.h"

#include <optional>
#include <unistd.h>
#include <utility>

#include "store/checks.h"

namespace postern::platform {

namespace {

// As of the hosted sandboxes: where relative paths begin.
constexpr const char* home = "/home/user";

}  // namespace

/// Later ones win, as in any environment that is written line by line.
std::vector<std::string> Machine::environment_of(std::vector<std::string> own) const {
  std::vector<std::string> out = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                  std::string("HOME=") + home,
                                  "USER=root",
                                  "LOGNAME=root",
                                  "SHELL=/bin/bash",
                                  "LANG=C.UTF-8"};
  for (const auto& [name, value] : settings_.trust.environment) out.push_back(name + "=" + value);
  for (std::string& variable : own) {
    const auto name = std::string_view(variable).substr(0, variable.find('=') + 1);
    std::erase_if(out, [&](const std::string& other) { return other.starts_with(name); });
    out.push_back(std::move(variable));
  }
  return out;
}

/// What stands in the home directory of whoever started us belongs into the box's.
sandbox::Trust Machine::trust_in_boxes(sandbox::Trust trust, const std::string& own_home) {
  for (sandbox::MountStep& step : trust.mounts)
    if (!own_home.empty() && step.destination.starts_with(own_home + "/"))
      step.destination = home + step.destination.substr(own_home.size());
  return trust;
}

Result<void> Machine::start(Start start) {
  box::BoxSpec spec;
  spec.name = start.hostname;
  spec.directory = directory_of(start.id);
  spec.files = settings_.trust.mounts;
  spec.state_directory = settings_.state_directory;
  spec.base = start.base;
  for (const std::string& id : start.layers) {
    // The keeper's are directories of the host, and these from the store: never one for the other.
    if (!store::looks_like_uuid(id)) return fail(Reason::invalid_configuration, "there is no such snapshot");
    spec.layers.push_back(settings_.snapshots_directory + "/" + id);
  }
  std::uint64_t group = 0;
  {
    const std::lock_guard lock(mutex_);
    group = ++last_group_;
  }
  auto groups = cgroups_.make(group, start.limits);
  if (!groups) return std::unexpected(std::move(groups.error()));
  spec.cgroups = std::move(*groups);
  auto launched = keeper_.launch(spec);
  if (!launched) {
    cgroups_.remove(group);
    return std::unexpected(std::move(launched.error()));
  }
  auto& network = launched->network;
  proxy::SandboxEntry entry;
  entry.sandbox = start.id;
  entry.workspace = start.workspace;
  entry.egress = std::move(start.egress);
  entry.sockets = {std::move(network.tcp4),     std::move(network.tcp6),     std::move(network.dns_udp4),
                   std::move(network.dns_udp6), std::move(network.dns_tcp4), std::move(network.dns_tcp6)};
  const proxy::DataPlane::Id number = data_plane_.add(std::move(entry));
  {
    const std::lock_guard lock(mutex_);
    running_[start.id] = {launched->number, group, number};
  }
  box::BoxDefaults defaults;
  defaults.environment = environment_of(std::move(start.environment));
  defaults.home = start.work_directory.empty() ? home : start.work_directory;
  defaults.idle_ttl = start.idle_ttl;
  defaults.on_idle = std::move(start.on_idle);
  boxes_.open(start.id, std::move(launched->agent), std::move(launched->exit), std::move(defaults),
              std::move(start.on_end));
  return {};
}

void Machine::stop(const std::string& id) {
  std::optional<Running> running;
  {
    const std::lock_guard lock(mutex_);
    if (auto found = running_.extract(id)) running = found.mapped();
  }
  if (!running) return;
  boxes_.close(id);
  keeper_.stop(running->process);
  cgroups_.remove(running->group);
  data_plane_.remove(running->network);
}

Result<void> Machine::erase(const std::string& id) { return trash_.take(directory_of(id)); }

bool Machine::has_files(const std::string& id) const { return ::access(directory_of(id).c_str(), F_OK) == 0; }

void Machine::swap(const std::string& id, std::shared_ptr<const proxy::Egress> egress) {
  proxy::DataPlane::Id number = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = running_.find(id);
    if (found == running_.end()) return;
    number = found->second.network;
  }
  data_plane_.swap(number, std::move(egress));
}

void Machine::set_environment(const std::string& id, std::vector<std::string> environment,
                              std::string work_directory) {
  boxes_.with(id, [own = environment_of(std::move(environment)),
                   place = work_directory.empty() ? std::string(home)
                                                  : std::move(work_directory)](box::OpenBox* box) mutable {
    if (!box) return;
    box->environment = std::move(own);
    box->home = std::move(place);
  });
}

Result<void> Machine::set_limits(const std::string& id, const box::Limits& limits) {
  std::uint64_t group = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = running_.find(id);
    if (found == running_.end()) return {};
    group = found->second.group;
  }
  return cgroups_.change(group, limits);
}

void Machine::set_idle_ttl(const std::string& id, Duration idle_ttl) { boxes_.set_idle_ttl(id, idle_ttl); }

}  // namespace postern::platform
