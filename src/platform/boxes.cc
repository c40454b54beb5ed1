#include "platform/boxes.h"

#include <algorithm>
#include <fmt/format.h>

#include "credential/random.h"
#include "store/checks.h"

namespace postern::platform {

namespace {

using control::ApiError;
using store::Fault;
using store::Resource;
using store::Status;

constexpr const char* files_are_gone =
    "its files are not there any more, as after a restored backup; starting it begins anew";
constexpr std::chrono::seconds stopped_look_time{10};  // between two looks for boxes to be removed

control::Response refuse(ApiError what) { return control::to_response(what); }

control::Response policy_refusal(const PolicyRefusal& why) {
  if (const auto* problems = std::get_if<std::vector<policy::Problem>>(&why))
    return control::validation_response(*problems);
  return platform::refusal(std::get<store::Failure>(why));
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

std::string work_directory_of(const BoxSettings& settings, const RunConfig& under) {
  return settings.run_config.work_dir.empty() ? under.work_dir : settings.run_config.work_dir;
}

BoxSettings settings_of(const Resource& resource) {
  return settings_from_json(resource.settings).value_or(BoxSettings{});
}

box::Limits limits_of(const BoxSettings& settings) {
  return {.cpu_millicores = settings.cpu_millicores, .memory_bytes = settings.mem_bytes};
}

}  // namespace

std::vector<std::string> command_environment(const BoxSettings& settings, const policy::Snapshot& policy,
                                             const Variables& under) {
  Variables all = under;
  for (const policy::EnvVar& variable : policy.env_vars()) all[variable.name] = variable.value;
  for (const auto& [name, value] : settings.env_vars) all[name] = value;
  for (const auto& [name, value] : settings.run_config.env_vars) all[name] = value;
  for (const policy::Rule& rule : policy.rules())
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
  /// Waits for its turn, and only then looks what the box is: it may have been changed or removed meanwhile.
  static store::Outcome<Hold> of(Boxes& boxes, const store::WorkspaceId& workspace,
                                 const std::string& name_or_id) {
    auto seen = boxes.look_up(workspace, name_or_id);
    if (!seen) return store::failed(seen);
    Hold hold(boxes, *seen);
    auto found = boxes.store_.sandboxes().find(workspace, seen->id);
    if (found) {
      hold.box_ = std::move(*found);
      return hold;
    }
    // Nothing of it runs: that ends before it is removed from the store.
    if (found.error().fault == Fault::not_found) boxes.forget(seen->id);
    return store::failed(found);
  }
  /// The same for all but its removal, to which a box that is half removed is still there.
  static store::Outcome<Hold> of_present(Boxes& boxes, const store::WorkspaceId& workspace,
                                         const std::string& name_or_id) {
    auto hold = of(boxes, workspace, name_or_id);
    if (hold && hold->box().status == Status::deleting)
      return store::fail(Fault::not_found, "there is no such sandbox");
    return hold;
  }
  Live& live() { return *live_; }
  const Resource& box() const { return box_; }

 private:
  Hold(Boxes& boxes, const Resource& seen)
      : live_(boxes.live_of(seen.id, seen.workspace)), lock_(live_->mutex) {
    if (live_->ended) boxes.clear_up(*live_, seen.id);
  }

  std::shared_ptr<Live> live_;
  std::unique_lock<std::mutex> lock_;
  Resource box_;
};

Boxes::Boxes(store::Store& store, const Policies& policies, Runner& runner, const Clock& clock, Report report,
             Snapshots* snapshots)
    : store_(store),
      policies_(policies),
      runner_(runner),
      clock_(clock),
      report_(std::move(report)),
      snapshots_(snapshots) {
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
  std::vector<Resource> lost, without_files, half_removed;
  each_resource(store_, std::nullopt, [&](const Resource& resource) {
    const bool never_ran = resource.status == Status::provisioning;
    if (resource.status == Status::failed) return;
    if (resource.status == Status::deleting)
      half_removed.push_back(resource);
    else if (!runner_.has_files(resource.id))  // What nobody was told of is not kept, as by create().
      (never_ran ? half_removed : without_files).push_back(resource);
    else if (never_ran || resource.status == Status::ready)
      lost.push_back(resource);
  });
  for (const Resource& resource : without_files) {
    store::ResourceChange change;
    change.status = Status::failed;
    change.status_message = files_are_gone;
    (void)store_.sandboxes().update(resource.workspace, resource.id, change);
  }
  for (const Resource& resource : lost) {
    store::ResourceChange change;
    change.status = Status::stopped;
    change.status_message = "the server was restarted";
    change.stopped_at = clock_.wall();
    (void)store_.sandboxes().update(resource.workspace, resource.id, change);
  }
  for (const Resource& resource : half_removed)
    if (auto hold = Hold::of(*this, resource.workspace, resource.id))
      (void)remove_held(hold->live(), resource.id);
}

std::shared_ptr<Boxes::Live> Boxes::live_of(const std::string& id, const store::WorkspaceId& workspace) {
  const std::lock_guard lock(mutex_);
  auto& live = live_[id];
  if (!live) live = std::make_shared<Live>(workspace);
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
  return store::looks_like_uuid(name_or_id) ? store_.sandboxes().find(workspace, name_or_id)
                                            : store_.sandboxes().find_by_name(workspace, name_or_id);
}

Answer<Resource> Boxes::find(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto found = look_up(workspace, name_or_id);
  if (!found) return std::unexpected(refusal(found.error()));
  return std::move(*found);
}

Answer<Resource> Boxes::find_snapshot(const store::WorkspaceId& workspace, const std::string& reference) {
  const auto wrong = [](std::string why) {
    return std::unexpected(refuse(control::bad_request(std::move(why))));
  };
  if (!snapshots_) return wrong("there is no such snapshot");
  auto found = snapshots_->find(workspace, reference);
  if (!found && found.error().status == 404) return wrong("there is no such snapshot");
  if (!found) return found;
  if (found->status != Status::ready)
    return wrong(fmt::format("the snapshot is not ready, but {}", store::token(found->status)));
  return found;
}

Answer<Resource> Boxes::create(const store::WorkspaceId& workspace, const NewBox& box) {
  const std::uint64_t secrets_seen = secret_changes_;
  auto policy = policies_.check(workspace, box.proxy_config, box.settings.tag_values);
  if (!policy) return std::unexpected(policy_refusal(policy.error()));
  store::NewResource fresh;
  fresh.name =
      box.name.empty() ? fmt::format("sandbox-{}", credential::random_uuid().substr(0, 8)) : box.name;
  fresh.labels = box.labels;
  fresh.created_by = box.created_by;
  BoxSettings settings = box.settings;
  std::shared_lock<std::shared_mutex> kept;  // The snapshot stays until it is known whose it is.
  if (!settings.snapshot_id.empty()) {
    if (snapshots_) kept = snapshots_->keep();
    auto snapshot = find_snapshot(workspace, settings.snapshot_id);
    if (!snapshot) return snapshot;
    settings.snapshot_id = snapshot->id;
    fresh.labels.insert(snapshot->labels.begin(), snapshot->labels.end());
  }
  fresh.settings.json = to_json(settings);
  fresh.policy = std::move(policy->document);
  auto created = store_.sandboxes().create(workspace, fresh);
  if (kept) kept.unlock();
  if (!created) return std::unexpected(refusal(created.error()));
  auto hold = Hold::of_present(*this, workspace, created->id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  if (hold->live().running) return hold->box();  // Woken by somebody who saw it in a list.
  policies_.ledgers().adopt(workspace, created->id, policy->egress->ledger);
  // A change of secrets either is seen here or finds the box; what was changed by name before it started is
  // in the store.
  const bool current = secrets_seen == secret_changes_ && hold->box().revision == created->revision;
  auto started = current ? start_held(hold->live(), *created, std::move(policy->egress))
                         : ensure_running(hold->live(), hold->box());
  // What could not be started is not kept: the caller was told, and asks again by the same name.
  if (!started)
    (void)remove_held(hold->live(), created->id);
  else
    ++counts_.created;
  return started;
}

Answer<Resource> Boxes::start_held(Live& live, const Resource& resource,
                                   std::shared_ptr<const proxy::Egress> egress) {
  live.settings = settings_of(resource);
  Runner::Start start;
  start.id = resource.id;
  start.hostname = hostname_of(resource.name);
  start.workspace = resource.workspace.text;
  live.under = {};
  if (const std::string& snapshot = live.settings.snapshot_id; !snapshot.empty()) {
    auto stack =
        snapshots_
            ? snapshots_->stack(resource.workspace, snapshot)
            : store::Outcome<Snapshots::Stack>(store::fail(Fault::not_found, "there is no such snapshot"));
    if (!stack) return std::unexpected(refusal(stack.error()));
    start.base = stack->base;
    start.layers = std::move(stack->layers);
    live.under = std::move(stack->run_config);
  }
  start.environment = command_environment(live.settings, *egress->snapshot, live.under.env_vars);
  start.work_directory = work_directory_of(live.settings, live.under);
  start.egress = std::move(egress);
  live.ended = false;
  live.idle = false;
  const auto held = live_of(resource.id, resource.workspace);
  start.idle_ttl = live.settings.idle_ttl;
  start.limits = limits_of(live.settings);
  start.on_end = [held] { held->ended = true; };
  start.on_idle = [held] { held->idle = true; };
  const TimePoint began = clock_.now();
  const auto started = runner_.start(std::move(start));
  if (!started) {
    ++counts_.failed;
    runner_.stop(resource.id);
    const Error& why = started.error();
    if (report_) report_(fmt::format("the sandbox {} could not be started: {}", resource.id, why.detail));
    return std::unexpected(
        refuse(api_error(503, "SandboxCreation",
                         why.reason == Reason::overloaded
                             ? why.detail
                             : "the sandbox could not be started; the server's operator was told why")));
  }
  live.running = true;
  counts_.note_start(clock_.now() - began);
  store::ResourceChange change;
  change.status = Status::ready;
  change.status_message = "";
  change.stopped_at = std::optional<WallTime>();
  auto updated = store_.sandboxes().update(resource.workspace, resource.id, change);
  if (!updated) {
    stop_held(live, resource.id, "it could not be noted that the sandbox runs");
    return std::unexpected(refusal(updated.error()));
  }
  return std::move(*updated);
}

Answer<Resource> Boxes::ensure_running(Live& live, const Resource& resource) {
  if (live.running) return resource;
  auto policy = policies_.load(resource.workspace, resource.id, settings_of(resource).tag_values);
  if (!policy) return std::unexpected(refusal(policy.error()));
  return start_held(live, resource, std::move(policy->egress));
}

Answer<Resource> Boxes::start(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  return ensure_running(hold->live(), hold->box());
}

std::expected<std::string, ApiError> Boxes::wake(const store::WorkspaceId& workspace,
                                                 const std::string& name_or_id) {
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(to_api_error(hold.error()));
  hold->live().idle = false;
  if (hold->box().status == Status::failed && !runner_.has_files(hold->box().id))
    return std::unexpected(api_error(409, "Conflict", files_are_gone));
  if (auto started = ensure_running(hold->live(), hold->box()); !started)
    return std::unexpected(api_error(503, "ServiceUnavailable", "the sandbox could not be started"));
  return hold->box().id;
}

void Boxes::stop_held(Live& live, const std::string& id, const std::string& why) {
  runner_.stop(id);
  ++counts_.stopped;
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
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  if (hold->live().running) stop_held(hold->live(), hold->box().id, "");
  return {};
}

store::Outcome<void> Boxes::remove_held(Live& live, const std::string& id) {
  store::ResourceChange change;
  change.status = Status::deleting;
  if (auto marked = store_.sandboxes().update(live.workspace, id, change); !marked)
    return store::failed(marked);
  runner_.stop(id);
  live.running = false;
  if (auto erased = runner_.erase(id); !erased) {  // And again when somebody asks, or the server starts.
    if (report_) report_(erased.error().detail);
    return store::fail(Fault::unavailable, erased.error().detail);
  }
  if (auto removed = store_.sandboxes().remove(live.workspace, id); !removed) return store::failed(removed);
  forget(id);
  policies_.ledgers().forget(id);
  ++counts_.removed;
  return {};
}

Answer<void> Boxes::remove(const store::WorkspaceId& workspace, const std::string& name_or_id) {
  auto hold = Hold::of(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  if (is_copied(hold->box().id))
    return std::unexpected(refuse(api_error(
        409, "Conflict", "a snapshot is being made of the sandbox; it can be deleted when that is ready")));
  if (auto removed = remove_held(hold->live(), hold->box().id); !removed)
    return std::unexpected(refusal(removed.error()));
  return {};
}

bool Boxes::is_copied(const std::string& id) const { return snapshots_ && snapshots_->is_copied(id); }

Answer<Resource> Boxes::capture(const store::WorkspaceId& workspace, const std::string& name_or_id,
                                const NewSnapshot& snapshot) {
  if (!snapshots_) return std::unexpected(refuse(control::bad_request("this server has no snapshots")));
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  return snapshots_->capture(hold->box(), snapshot);
}

Answer<Resource> Boxes::update(const store::WorkspaceId& workspace, const std::string& name_or_id,
                               const BoxUpdate& update) {
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  Live& live = hold->live();
  const std::string id = hold->box().id;

  BoxSettings settings = settings_of(hold->box());
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
    auto policy = policies_.check(workspace, update.proxy_config, settings.tag_values, &id);
    if (!policy) return std::unexpected(policy_refusal(policy.error()));
    change.policy = std::move(policy->document);
    egress = std::move(policy->egress);
  }
  if (live.running && limits_of(settings) != limits_of(before))
    if (auto limited = runner_.set_limits(id, limits_of(settings)); !limited)
      return std::unexpected(refuse(api_error(409, "ResourceInUse", limited.error().detail)));
  auto updated = store_.sandboxes().update(workspace, id, change);
  if (!updated) {
    if (live.running) (void)runner_.set_limits(id, limits_of(before));
    return std::unexpected(refusal(updated.error()));
  }
  if (!live.running) return std::move(*updated);

  // What is acknowledged is in force.
  live.settings = settings;
  if (settings.idle_ttl != before.idle_ttl) {
    live.idle = false;
    runner_.set_idle_ttl(id, settings.idle_ttl);
  }
  if (!egress && settings != before) {
    auto policy = policies_.load(workspace, id, settings.tag_values);
    if (!policy) {  // What is in force is not what is in the store.
      stop_held(live, id, policy.error().detail);
      return std::unexpected(refusal(policy.error()));
    }
    egress = std::move(policy->egress);
  }
  if (egress) {
    runner_.set_environment(id, command_environment(settings, *egress->snapshot, live.under.env_vars),
                            work_directory_of(settings, live.under));
    runner_.swap(id, std::move(egress));
  }
  return std::move(*updated);
}

Answer<Resource> Boxes::change_settings(const store::WorkspaceId& workspace, const std::string& name_or_id,
                                        const SettingsChange& change) {
  auto hold = Hold::of_present(*this, workspace, name_or_id);
  if (!hold) return std::unexpected(refusal(hold.error()));
  const BoxSettings before = settings_of(hold->box());
  BoxSettings settings = before;
  if (auto instead = change(settings)) return std::unexpected(std::move(*instead));
  if (settings == before) return hold->box();
  store::ResourceChange changed;
  changed.settings = store::Document{to_json(settings), {}};
  auto updated = store_.sandboxes().update(workspace, hold->box().id, changed);
  if (!updated) return std::unexpected(refusal(updated.error()));
  return std::move(*updated);
}

void Boxes::reload_held(Live& live, const std::string& id) {
  if (!live.running) return;
  auto policy = policies_.load(live.workspace, id, live.settings.tag_values);
  if (!policy)  // Whatever it had may not be good any more.
    return stop_held(live, id, policy.error().detail);
  runner_.set_environment(id,
                          command_environment(live.settings, *policy->egress->snapshot, live.under.env_vars),
                          work_directory_of(live.settings, live.under));
  runner_.swap(id, std::move(policy->egress));
}

void Boxes::secrets_changed(const store::WorkspaceId& workspace) { reload(&workspace); }

void Boxes::operators_changed() { reload(nullptr); }

void Boxes::reload(const store::WorkspaceId* workspace) {
  ++secret_changes_;
  std::vector<std::pair<std::string, std::shared_ptr<Live>>> busy;
  for (auto& [id, live] : all()) {
    if (workspace && live->workspace != *workspace)
      continue;  // Nobody waits for what others do to their boxes.
    const std::unique_lock lock(live->mutex, std::try_to_lock);
    if (lock)
      reload_held(*live, id);
    else  // A slow one keeps a revoked secret in no other.
      busy.emplace_back(id, live);
  }
  for (const auto& [id, live] : busy) {
    const std::lock_guard lock(live->mutex);
    reload_held(*live, id);
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
  const auto is_over = [&](const Resource& resource) {
    const BoxSettings settings = settings_of(resource);
    return resource.status == Status::stopped && settings.delete_after_stop.count() > 0 &&
           resource.stopped_at && clock_.wall() >= *resource.stopped_at + settings.delete_after_stop;
  };
  std::vector<Resource> over;
  each_resource(store_, Status::stopped, [&](const Resource& resource) {
    if (is_over(resource)) over.push_back(resource);
  });
  for (const Resource& resource : over) {
    auto hold = Hold::of(*this, resource.workspace, resource.id);
    if (hold && !hold->live().running && is_over(hold->box()) && !is_copied(resource.id))
      (void)remove_held(hold->live(), resource.id);
  }
}

}  // namespace postern::platform
