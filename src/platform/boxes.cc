#include "platform/boxes.h"

#include <algorithm>
#include <fmt/format.h>

#include "credential/random.h"

namespace postern::platform {

namespace {

using control::ApiError;
using store::Fault;
using store::Resource;
using store::Status;

constexpr std::chrono::seconds stopped_look_time{10};  // between two looks for boxes to be removed

ApiError error(int status, std::string type, std::string message) {
  ApiError out;
  out.status = status;
  out.type = std::move(type);
  out.message = std::move(message);
  return out;
}

control::Response refuse(ApiError what) { return control::to_response(what); }

control::Response policy_refusal(const PolicyRefusal& why) {
  if (const auto* problems = std::get_if<std::vector<policy::Problem>>(&why))
    return control::validation_response(*problems);
  return platform::refusal(std::get<store::Failure>(why));
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (dash ? c != '-' : !hex) return false;
  }
  return true;
}

/// As a host name: what the box's name has of letters, digits and '-'.
std::string hostname_of(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 63)) {
    const bool kept = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    out += kept ? c : '-';
  }
  while (!out.empty() && out.front() == '-') out.erase(0, 1);
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out.empty() ? "sandbox" : out;
}

BoxSettings settings_of(const Resource& resource) {
  return settings_from_json(resource.settings).value_or(BoxSettings{});
}

}  // namespace

ApiError to_api_error(const store::Failure& failure) {
  switch (failure.fault) {
    case Fault::not_found: return control::not_found(failure.detail);
    case Fault::exists: return error(409, "Conflict", failure.detail);
    case Fault::changed: return error(409, "Conflict", failure.detail);
    case Fault::invalid: return control::bad_request(failure.detail);
    case Fault::too_large: return control::too_large(failure.detail);
    case Fault::too_many: return error(429, "QuotaExceeded", failure.detail);
    case Fault::sealed:
      return error(503, "Sealed", "the server has no master key for its secrets: its operator must give it");
    case Fault::unavailable: return control::overloaded("the store cannot be used at the moment");
    case Fault::damaged:
    case Fault::newer: return control::internal_error();
  }
  return control::internal_error();
}

control::Response refusal(const store::Failure& failure) { return refuse(to_api_error(failure)); }

std::vector<std::string> command_environment(const BoxSettings& settings, const policy::Snapshot& snapshot) {
  Variables all;
  for (const policy::EnvVar& variable : snapshot.env_vars()) all[variable.name] = variable.value;
  for (const auto& [name, value] : settings.env_vars) all[name] = value;
  for (const auto& [name, value] : settings.run_config.env_vars) all[name] = value;
  for (const policy::Rule& rule : snapshot.rules())
    if (rule.enabled)
      for (const policy::EnvVar& variable : rule.own_env) all[variable.name] = variable.value;
  std::vector<std::string> out;
  out.reserve(all.size());
  for (const auto& [name, value] : all) out.push_back(name + "=" + value);
  return out;
}

/// Something is being done to a box, by whoever holds this.
class Boxes::Hold {
 public:
  Hold(Boxes& boxes, const Resource& resource)
      : live_(boxes.live_of(resource.id, resource.workspace)), lock_(live_->mutex) {
    if (live_->ended) boxes.clear_up(*live_, resource.id);
  }
  Live& live() { return *live_; }

 private:
  std::shared_ptr<Live> live_;
  std::unique_lock<std::mutex> lock_;
};

Boxes::Boxes(store::Store& store, const Policies& policies, Runner& runner, const Clock& clock)
    : store_(store), policies_(policies), runner_(runner), clock_(clock) {
  recover();
}

Boxes::~Boxes() {
  for (const auto& [id, live] : all()) {
    const std::lock_guard lock(live->mutex);
    if (live->running) stop_held(*live, id, "the server was stopped");
  }
}

/// For each resource of every workspace.
template <class Each>
static void each_resource(store::Store& store, std::optional<Status> status, Each each) {
  store::Page workspaces;
  do {
    auto found = store.workspaces().list(workspaces);
    if (!found) return;
    for (const store::Workspace& workspace : found->items) {
      store::ResourceQuery query;
      query.page.limit = store::page_items_max;
      query.status = status;
      do {
        auto page = store.sandboxes().list(workspace.id, query);
        if (!page) break;
        for (const Resource& resource : page->items) each(resource);
        query.page.cursor = page->next_cursor;
      } while (!query.page.cursor.empty());
    }
    workspaces.cursor = found->next_cursor;
  } while (!workspaces.cursor.empty());
}

void Boxes::recover() {
  std::vector<Resource> lost, half_removed;
  each_resource(store_, std::nullopt, [&](const Resource& resource) {
    if (resource.status == Status::ready || resource.status == Status::provisioning) lost.push_back(resource);
    if (resource.status == Status::deleting) half_removed.push_back(resource);
  });
  for (const Resource& resource : lost) {
    store::ResourceChange change;
    change.status = Status::stopped;
    change.status_message = "the server was restarted";
    change.stopped_at = clock_.wall();
    (void)store_.sandboxes().update(resource.workspace, resource.id, change);
  }
  for (const Resource& resource : half_removed) {
    Hold hold(*this, resource);
    (void)remove_held(hold.live(), resource.id);
  }
}

std::shared_ptr<Boxes::Live> Boxes::live_of(const std::string& id, const store::WorkspaceId& workspace) {
  const std::lock_guard lock(mutex_);
  auto& live = live_[id];
  if (!live) {
    live = std::make_shared<Live>();
    live->workspace = workspace;
  }
  return live;
}

void Boxes::forget(const std::string& id) {
  const std::lock_guard lock(mutex_);
  live_.erase(id);
}

std::vector<std::pair<std::string, std::shared_ptr<Boxes::Live>>> Boxes::all() const {
  const std::lock_guard lock(mutex_);
  return {live_.begin(), live_.end()};
}

std::size_t Boxes::running() const {
  std::size_t count = 0;
  for (const auto& [id, live] : all()) count += live->running ? 1 : 0;
  return count;
}

store::Outcome<Resource> Boxes::look_up(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  return is_uuid(name_or_id) ? store_.sandboxes().find(workspace, name_or_id)
                             : store_.sandboxes().find_by_name(workspace, name_or_id);
}

Answer<Resource> Boxes::find(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  return std::move(*found);
}

Answer<Resource> Boxes::create(const store::WorkspaceId& workspace, const NewBox& box) {
  if (!box.settings.snapshot_id.empty())  // There are none yet but the default one.
    return std::unexpected(refuse(control::bad_request("there is no such snapshot")));
  auto policy = policies_.check(workspace, box.proxy_config, box.settings.tag_values);
  if (!policy) return std::unexpected(policy_refusal(policy.error()));
  store::NewResource fresh;
  fresh.name =
      box.name.empty() ? fmt::format("sandbox-{}", credential::random_uuid().substr(0, 8)) : box.name;
  fresh.labels = box.labels;
  fresh.created_by = box.created_by;
  fresh.settings.json = to_json(box.settings);
  fresh.policy = std::move(policy->document);
  auto created = store_.sandboxes().create(workspace, fresh);
  if (!created) return std::unexpected(refusal(created.error()));
  Hold hold(*this, *created);
  if (hold.live().running) return find(workspace, created->id);  // Woken by somebody who saw it in a list.
  auto started = start_held(hold.live(), *created, std::move(policy->egress));
  // What could not be started is not kept: the caller was told, and asks again by the same name.
  if (!started) (void)remove_held(hold.live(), created->id);
  return started;
}

Answer<Resource> Boxes::start_held(Live& live, const Resource& resource,
                                   std::shared_ptr<const proxy::Egress> egress) {
  live.settings = settings_of(resource);
  Runner::Start start;
  start.id = resource.id;
  start.hostname = hostname_of(resource.name);
  start.workspace = resource.workspace.text;
  start.snapshot = live.settings.snapshot_id;
  start.environment = command_environment(live.settings, *egress->snapshot);
  start.work_directory = live.settings.run_config.work_dir;
  start.egress = std::move(egress);
  live.ended = false;
  live.idle = false;
  const auto held = live_of(resource.id, resource.workspace);
  start.idle_ttl = live.settings.idle_ttl;
  start.on_end = [held] { held->ended = true; };
  start.on_idle = [held] { held->idle = true; };
  const auto started = runner_.start(std::move(start));
  if (!started) {
    runner_.stop(resource.id);
    return std::unexpected(refuse(error(503, "SandboxCreation", started.error().detail)));
  }
  live.running = true;
  store::ResourceChange change;
  change.status = Status::ready;
  change.status_message = "";
  change.stopped_at = std::optional<WallTime>();
  auto updated = store_.sandboxes().update(resource.workspace, resource.id, change);
  if (!updated) {
    stop_held(live, resource.id, updated.error().detail);
    return std::unexpected(refusal(updated.error()));
  }
  return std::move(*updated);
}

Answer<Resource> Boxes::ensure_running(Live& live, const Resource& resource) {
  if (live.gone) return std::unexpected(refuse(control::not_found("there is no such sandbox")));
  if (live.running) return resource;
  auto policy = policies_.load(resource.workspace, resource.id, settings_of(resource).tag_values);
  if (!policy) return std::unexpected(refusal(policy.error()));
  return start_held(live, resource, std::move(policy->egress));
}

Answer<Resource> Boxes::start(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  Hold hold(*this, *found);
  return ensure_running(hold.live(), *found);
}

std::expected<std::string, ApiError> Boxes::wake(const store::WorkspaceId& workspace,
                                                 const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(to_api_error(found.error()));
  Hold hold(*this, *found);
  hold.live().idle = false;
  if (hold.live().running) return found->id;
  if (hold.live().gone) return std::unexpected(control::not_found("there is no such sandbox"));
  if (auto started = ensure_running(hold.live(), *found); !started)
    return std::unexpected(error(503, "ServiceUnavailable", "the sandbox could not be started"));
  return found->id;
}

void Boxes::stop_held(Live& live, const std::string& id, const std::string& why) {
  runner_.stop(id);
  live.running = false;
  live.ended = false;
  store::ResourceChange change;
  change.status = Status::stopped;
  change.status_message = why;
  change.stopped_at = clock_.wall();
  (void)store_.sandboxes().update(live.workspace, id, change);  // else recover() says so
}

void Boxes::clear_up(Live& live, const std::string& id) {
  if (live.running) stop_held(live, id, "the sandbox has ended by itself");
}

Answer<void> Boxes::stop(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  Hold hold(*this, *found);
  if (hold.live().gone) return std::unexpected(refuse(control::not_found("there is no such sandbox")));
  if (hold.live().running) stop_held(hold.live(), found->id, "");
  return {};
}

store::Outcome<void> Boxes::remove_held(Live& live, const std::string& id) {
  store::ResourceChange change;
  change.status = Status::deleting;
  (void)store_.sandboxes().update(live.workspace, id, change);
  runner_.stop(id);
  live.running = false;
  live.gone = true;
  if (auto erased = runner_.erase(id); !erased)
    return store::fail(Fault::unavailable, erased.error().detail);  // and again when the server starts
  if (auto removed = store_.sandboxes().remove(live.workspace, id); !removed) return store::failed(removed);
  forget(id);
  return {};
}

Answer<void> Boxes::remove(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  Hold hold(*this, *found);
  if (hold.live().gone) return {};
  if (auto removed = remove_held(hold.live(), found->id); !removed)
    return std::unexpected(refusal(removed.error()));
  return {};
}

Answer<Resource> Boxes::update(const store::WorkspaceId& workspace, const std::string& name_or_id,
                               const BoxUpdate& update) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  Hold hold(*this, *found);
  Live& live = hold.live();
  if (live.gone) return std::unexpected(refuse(control::not_found("there is no such sandbox")));

  BoxSettings settings = settings_of(*found);
  const BoxSettings before = settings;
  if (update.idle_ttl) settings.idle_ttl = *update.idle_ttl;
  if (update.delete_after_stop) settings.delete_after_stop = *update.delete_after_stop;
  if (update.cpu_millicores) settings.cpu_millicores = *update.cpu_millicores;
  if (update.mem_bytes) settings.mem_bytes = *update.mem_bytes;
  if (update.fs_capacity_bytes) settings.fs_capacity_bytes = *update.fs_capacity_bytes;
  if (update.tag_values) settings.tag_values = *update.tag_values;
  if (update.user) settings.run_config.user = *update.user;
  if (update.work_dir) settings.run_config.work_dir = *update.work_dir;
  for (const auto& [name, value] : update.env_vars) settings.run_config.env_vars[name] = value;

  store::ResourceChange change;
  change.name = update.name;
  if (settings != before) change.settings = store::Document{to_json(settings), {}};
  std::shared_ptr<const proxy::Egress> egress;
  if (update.proxy_config) {
    auto policy = policies_.check(workspace, update.proxy_config, settings.tag_values, &found->id);
    if (!policy) return std::unexpected(policy_refusal(policy.error()));
    change.policy = std::move(policy->document);
    egress = std::move(policy->egress);
  }
  auto updated = store_.sandboxes().update(workspace, found->id, change);
  if (!updated) return std::unexpected(refusal(updated.error()));
  if (!live.running) return std::move(*updated);

  // What is acknowledged is in force.
  live.settings = settings;
  if (settings.idle_ttl != before.idle_ttl) {
    live.idle = false;
    runner_.set_idle_ttl(found->id, settings.idle_ttl);
  }
  if (!egress && settings != before) {
    auto policy = policies_.load(workspace, found->id, settings.tag_values);
    if (!policy) return std::unexpected(refusal(policy.error()));
    egress = std::move(policy->egress);
  }
  if (egress) {
    runner_.set_environment(found->id, command_environment(settings, *egress->snapshot),
                            settings.run_config.work_dir);
    runner_.swap(found->id, std::move(egress));
  }
  return std::move(*updated);
}

void Boxes::secrets_changed(const store::WorkspaceId& workspace) {
  for (const auto& [id, live] : all()) {
    const std::lock_guard lock(live->mutex);
    if (!live->running || live->workspace != workspace) continue;
    auto policy = policies_.load(workspace, id, live->settings.tag_values);
    if (policy)
      runner_.swap(id, std::move(policy->egress));
    else  // Whatever it had may not be good any more.
      stop_held(*live, id, policy.error().detail);
  }
}

void Boxes::tend() {
  for (const auto& [id, live] : all()) {
    const std::unique_lock lock(live->mutex, std::try_to_lock);
    if (!lock || !live->running) continue;  // Whoever is at it sees to it.
    if (live->ended)
      clear_up(*live, id);
    else if (live->idle)
      stop_held(*live, id, "it was idle");
  }
  if (clock_.now() < look_at_stopped_) return;
  look_at_stopped_ = clock_.now() + stopped_look_time;
  std::vector<Resource> over;
  each_resource(store_, Status::stopped, [&](const Resource& resource) {
    const BoxSettings settings = settings_of(resource);
    if (settings.delete_after_stop.count() > 0 && resource.stopped_at &&
        clock_.wall() >= *resource.stopped_at + settings.delete_after_stop)
      over.push_back(resource);
  });
  for (const Resource& resource : over) {
    Hold hold(*this, resource);
    if (!hold.live().running && !hold.live().gone) (void)remove_held(hold.live(), resource.id);
  }
}

}  // namespace postern::platform
