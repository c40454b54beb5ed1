#include "platform/snapshots.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pthread.h>

#include "credential/random.h"
#include "store/checks.h"

namespace postern::platform {

namespace {

using store::Fault;
using store::Resource;
using store::Status;

constexpr std::size_t waiting_max = 32;      // what is asked for faster than disks are filled
constexpr std::size_t users_named_max = 10;  // in a sentence

SnapshotSettings settings_of(const Resource& resource) {
  return snapshot_settings_from_json(resource.settings).value_or(SnapshotSettings{});
}

/// A box that was removed halfway has no settings that matter, but its files still lie on the snapshot's.
std::string snapshot_of(const Resource& box) {
  return settings_from_json(box.settings).value_or(BoxSettings{}).snapshot_id;
}

/// `over` wins: user and directory replace, variables are merged.
RunConfig merged(RunConfig under, const RunConfig& over) {
  if (!over.user.empty()) under.user = over.user;
  if (!over.work_dir.empty()) under.work_dir = over.work_dir;
  for (const auto& [name, value] : over.env_vars) under.env_vars[name] = value;
  return under;
}

RunConfig run_config_of(const box::MadeLayer& made) {
  RunConfig out;
  // There is one user in a box, whatever an image wants.
  if (made.user == "root" || made.user == "0") out.user = made.user;
  out.work_dir = made.work_directory;
  for (const std::string& variable : made.environment) {
    const auto equals = variable.find('=');
    if (equals != std::string::npos) out.env_vars[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  return out;
}

constexpr std::chrono::milliseconds erase_again_time{500};

struct ImageName {
  box::LayerSource source{};
  std::string path, tag;
};

/// nullopt: it is in a registry, or nowhere.
std::optional<ImageName> image_name(std::string_view text) {
  ImageName out;
  const auto colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  if (colon == text.npos) return std::nullopt;
  std::string_view rest = text.substr(colon + 1);
  if (kind == "oci")
    out.source = box::LayerSource::image;
  else if (kind == "tar")
    out.source = box::LayerSource::tar;
  else if (kind == "dir")
    out.source = box::LayerSource::directory;
  else
    return std::nullopt;
  const auto last = rest.rfind(':');
  if (kind == "oci" && last != rest.npos && rest.find('/', last) == rest.npos) {
    out.tag = rest.substr(last + 1);
    rest = rest.substr(0, last);
  }
  if (rest.empty()) return std::nullopt;
  out.path = rest;
  return out;
}

/// Until `visit` says false.
template <class Visit>
store::Outcome<void> each(store::Resources& from, const store::WorkspaceId& workspace,
                          store::ResourceQuery query, Visit visit) {
  query.page.limit = store::page_items_max;
  do {
    auto page = from.list(workspace, query);
    if (!page) return store::failed(page);
    for (Resource& resource : page->items)
      if (!visit(resource)) return {};
    query.page.cursor = page->next_cursor;
  } while (!query.page.cursor.empty());
  return {};
}

std::unexpected<control::Response> refuse(const control::ApiError& error) {
  return std::unexpected(control::to_response(error));
}

}  // namespace

bool has_tag(const Resource& snapshot) { return !store::looks_like_uuid(snapshot.tag); }

Snapshots::Snapshots(store::Store& store, Layers& layers, Report report)
    : store_(store), layers_(layers), report_(std::move(report)) {
  recover();
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

Snapshots::~Snapshots() = default;  // The thread is asked to stop, and joined.

void Snapshots::recover() {
  std::vector<Resource> lost, half_removed;
  store::Page workspaces;
  do {
    auto found = store_.workspaces().list(workspaces);
    if (!found) return;
    for (const store::Workspace& workspace : found->items)
      (void)each(store_.snapshots(), workspace.id, {}, [&](const Resource& resource) {
        if (resource.status == Status::building) lost.push_back(resource);
        if (resource.status == Status::deleting) half_removed.push_back(resource);
        return true;
      });
    workspaces.cursor = found->next_cursor;
  } while (!workspaces.cursor.empty());
  for (const Resource& resource : lost)
    note_failure(resource.workspace, resource.id,
                 Error(Reason::invalid_configuration, Side::self, Retry::never,
                       "the server was restarted while it was built"));
  for (const Resource& resource : half_removed)
    (void)remove_files_and_record(resource.workspace, resource.id);
}

Answer<Resource> Snapshots::create(const store::WorkspaceId& workspace, const NewSnapshot& fresh) {
  const auto image = image_name(fresh.docker_image);
  if (!image)
    return std::unexpected(control::validation_response(
        "docker_image",
        "this server reaches no registry: images are oci:PATH[:TAG], tar:PATH or dir:PATH, below a directory "
        "that its operator opened with `postern serve --images DIR`"));
  auto from = layers_.open_image(image->path);
  if (!from) return std::unexpected(control::validation_response("docker_image", from.error().detail));
  SnapshotSettings settings;
  settings.base = box::BoxBase::nothing;
  settings.docker_image = fresh.docker_image;
  settings.run_config = fresh.run_config;
  NewSnapshot named = fresh;
  if (named.tag.empty()) named.tag = image->tag;
  Build build{workspace, {"", image->source, std::move(*from), image->tag, fresh.fs_capacity_bytes}, "", {}};
  return begin(workspace, named, std::move(settings), std::move(build));
}

Answer<Resource> Snapshots::capture(const Resource& box, const NewSnapshot& fresh) {
  const BoxSettings of_box = settings_from_json(box.settings).value_or(BoxSettings{});
  SnapshotSettings settings;
  settings.source_sandbox_id = box.id;
  if (!of_box.snapshot_id.empty()) {  // It stays: the box is made of it.
    auto below = stack(box.workspace, of_box.snapshot_id);
    if (!below) return std::unexpected(refusal(below.error()));
    settings.base = below->base;
    settings.layers = std::move(below->layers);
    settings.run_config = std::move(below->run_config);
  }
  if (settings.layers.size() >= box::box_layers_max)
    return refuse(control::bad_request(fmt::format(
        "the sandbox's snapshot has {} layers already, which is the most: capture one that was made "
        "from an earlier snapshot, or of the default one",
        settings.layers.size())));
  settings.run_config = merged(merged(std::move(settings.run_config), of_box.run_config), fresh.run_config);
  auto from = layers_.open_box(box.id);
  if (!from) {
    if (report_) report_(from.error().detail);
    return refuse(control::internal_error());
  }
  Build build{
      box.workspace, {"", box::LayerSource::box, std::move(*from), "", fresh.fs_capacity_bytes}, box.id, {}};
  return begin(box.workspace, fresh, std::move(settings), std::move(build));
}

store::Outcome<Resource> Snapshots::make_record(const store::WorkspaceId& workspace, const NewSnapshot& fresh,
                                                SnapshotSettings& settings) {
  store::NewResource record;
  record.name = fresh.name;
  record.tag = fresh.tag.empty() ? "latest" : fresh.tag;
  record.status = Status::building;
  record.labels = fresh.labels;
  record.created_by = fresh.created_by;
  settings.description = fresh.description;
  settings.fs_capacity_bytes = fresh.fs_capacity_bytes;
  settings.wanted_tag = record.tag;
  record.settings.json = to_json(settings);
  auto created = store_.snapshots().create(workspace, record);
  if (created || created.error().fault != Fault::exists) return created;
  record.tag = credential::random_uuid();  // Until it is ready, and takes the tag from whoever has it.
  return store_.snapshots().create(workspace, record);
}

Answer<Resource> Snapshots::begin(const store::WorkspaceId& workspace, const NewSnapshot& fresh,
                                  SnapshotSettings settings, Build build) {
  if (fresh.name.find(':') != std::string::npos || fresh.tag.find(':') != std::string::npos ||
      store::looks_like_uuid(fresh.tag))
    return std::unexpected(control::validation_response(
        "name", "the name and the tag of a snapshot hold no ':', and a tag does not look like an id"));
  const std::lock_guard lock(mutex_);
  if (waiting_.size() >= waiting_max)
    return refuse(api_error(429, "QuotaExceeded", "too many snapshots are being built; try again later"));
  auto record = make_record(workspace, fresh, settings);
  if (!record) return std::unexpected(refusal(record.error()));
  build.job.id = record->id;
  waiting_.push_back(std::make_shared<Build>(std::move(build)));
  changed_.notify_all();
  return std::move(*record);
}

Answer<Resource> Snapshots::find(const store::WorkspaceId& workspace, const std::string& reference) {
  const auto absent = [] { return refuse(control::not_found("there is no such snapshot")); };
  const auto present = [&](store::Outcome<Resource> found) -> Answer<Resource> {
    if (!found && found.error().fault != Fault::not_found) return std::unexpected(refusal(found.error()));
    if (!found || found->status == Status::deleting) return absent();
    return std::move(*found);
  };
  if (store::looks_like_uuid(reference)) return present(store_.snapshots().find(workspace, reference));
  if (const auto colon = reference.rfind(':'); colon != std::string::npos) {
    const std::string tag = reference.substr(colon + 1);
    if (store::looks_like_uuid(tag)) return absent();
    return present(store_.snapshots().find_by_name(workspace, reference.substr(0, colon), tag));
  }
  if (auto latest = present(store_.snapshots().find_by_name(workspace, reference, "latest")); latest)
    return latest;
  auto all = named(workspace, reference);
  if (!all) return std::unexpected(std::move(all.error()));
  for (Resource& each : *all)
    if (!has_tag(each) && each.status == Status::ready) return std::move(each);
  if (!all->empty()) return std::move(all->front());
  return absent();
}

Answer<std::vector<Resource>> Snapshots::named(const store::WorkspaceId& workspace, const std::string& name) {
  std::vector<Resource> out;
  store::ResourceQuery query;  // The newest first.
  query.name_contains = name;
  auto listed = each(store_.snapshots(), workspace, query, [&](Resource& resource) {
    if (resource.name == name && resource.status != Status::deleting) out.push_back(std::move(resource));
    return true;
  });
  if (!listed) return std::unexpected(refusal(listed.error()));
  return out;
}

store::Outcome<Snapshots::Stack> Snapshots::stack(const store::WorkspaceId& workspace,
                                                  const std::string& id) {
  auto found = store_.snapshots().find(workspace, id);
  if (!found) return store::failed(found);
  if (found->status != Status::ready)
    return store::fail(Fault::invalid,
                       fmt::format("the snapshot is not ready, but {}", store::token(found->status)));
  SnapshotSettings settings = settings_of(*found);
  Stack out{settings.base, {id}, std::move(settings.run_config)};
  out.layers.insert(out.layers.end(), settings.layers.begin(), settings.layers.end());
  return out;
}

bool Snapshots::is_copied(const std::string& box_id) const {
  const std::lock_guard lock(mutex_);
  return (current_ && current_->box == box_id) ||
         std::ranges::any_of(waiting_, [&](const auto& build) { return build->box == box_id; });
}

std::optional<control::Response> Snapshots::refusal_by_users(const Resource& snapshot) {
  std::vector<std::string> users;
  const auto note = [&](std::string_view what, const Resource& user) {
    users.push_back(fmt::format("the {} '{}'", what, user.name));
    return users.size() < users_named_max;
  };
  auto looked = each(store_.sandboxes(), snapshot.workspace, {}, [&](const Resource& box) {
    return snapshot_of(box) != snapshot.id || note("sandbox", box);
  });
  if (looked && users.size() < users_named_max)
    looked = each(store_.snapshots(), snapshot.workspace, {}, [&](const Resource& other) {
      if (other.status == Status::failed) return true;  // It has no files.
      const std::vector<std::string> layers = settings_of(other).layers;
      return std::ranges::find(layers, snapshot.id) == layers.end() || note("snapshot", other);
    });
  if (!looked) return refusal(looked.error());
  if (users.empty()) return std::nullopt;
  return control::to_response(
      control::bad_request(fmt::format("the snapshot is used by {}", fmt::join(users, ", "))));
}

void Snapshots::give_up(const std::string& id) {
  std::unique_lock lock(mutex_);
  std::erase_if(waiting_, [&](const auto& build) { return build->job.id == id; });
  if (!current_ || current_->job.id != id) return;
  current_->stop.request_stop();
  changed_.wait(lock, [&] { return !current_ || current_->job.id != id; });
}

Answer<void> Snapshots::remove(const store::WorkspaceId& workspace, const std::string& reference) {
  auto found = find(workspace, reference);
  if (!found) {
    // Half removed: once more.
    if (!store::looks_like_uuid(reference)) return std::unexpected(std::move(found.error()));
    auto rest = store_.snapshots().find(workspace, reference);
    if (!rest) return std::unexpected(std::move(found.error()));
    found = std::move(*rest);
  }
  const std::unique_lock no_users(removals_);
  if (auto refused = refusal_by_users(*found)) return std::unexpected(std::move(*refused));
  store::ResourceChange change;
  change.status = Status::deleting;
  if (auto marked = store_.snapshots().update(workspace, found->id, change); !marked)
    return std::unexpected(refusal(marked.error()));
  give_up(found->id);
  if (auto removed = remove_files_and_record(workspace, found->id); !removed)
    return std::unexpected(refusal(removed.error()));
  return {};
}

store::Outcome<void> Snapshots::remove_files_and_record(const store::WorkspaceId& workspace,
                                                        const std::string& id) {
  if (auto erased = layers_.erase(id); !erased) {
    if (report_) report_(erased.error().detail);
    return store::fail(Fault::unavailable, erased.error().detail);
  }
  if (auto removed = store_.snapshots().remove(workspace, id); !removed) return store::failed(removed);
  return {};
}

// The thread

void Snapshots::run(const std::stop_token& stop) {
  ::pthread_setname_np(::pthread_self(), "snapshots");
  std::unique_lock lock(mutex_);
  const auto is_wanted = [this] { return !waiting_.empty(); };
  while (!stop.stop_requested()) {
    if (left_.empty())
      changed_.wait(lock, stop, [&] { return is_wanted() || !left_.empty(); });
    else
      changed_.wait_for(lock, stop, erase_again_time, is_wanted);
    erase_left(lock);
    if (waiting_.empty() || stop.stop_requested()) continue;
    current_ = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    build(*current_, stop);
    lock.lock();
    current_.reset();
    changed_.notify_all();
  }
}

void Snapshots::erase_left(std::unique_lock<std::mutex>& lock) {
  const auto left = std::exchange(left_, {});
  lock.unlock();
  std::set<std::string> still;
  for (const std::string& id : left)
    if (!layers_.erase(id)) still.insert(id);
  lock.lock();
  left_.merge(still);
}

void Snapshots::build(Build& build, const std::stop_token& server) {
  const std::stop_callback stopping(server, [&build] { build.stop.request_stop(); });
  const auto made = layers_.make(build.job, build.stop.get_token());
  build.job.from.reset();
  if (made) return finish(build, *made);
  // Given up: whoever did that sees to the rest, be it the next server.
  if (build.stop.stop_requested()) return;
  note_failure(build.workspace, build.job.id, made.error());
}

void Snapshots::finish(const Build& build, const box::MadeLayer& made) {
  auto record = store_.snapshots().find(build.workspace, build.job.id);
  if (!record || record->status != Status::building) return;
  SnapshotSettings settings = settings_of(*record);
  settings.fs_used_bytes = made.bytes;
  settings.image_digest = made.digest;
  settings.run_config = merged(run_config_of(made), settings.run_config);
  store::ResourceChange change;
  change.status = Status::ready;
  change.tag = settings.wanted_tag;
  change.settings = store::Document{to_json(settings), {}};
  change.only_if = record->revision;
  if (auto noted = store_.snapshots().update(build.workspace, build.job.id, change); !noted) {
    if (report_)
      report_(fmt::format("a snapshot was built and could not be noted: {}", noted.error().detail));
    note_failure(build.workspace, build.job.id,
                 Error(Reason::internal, Side::self, Retry::never, noted.error().detail));
  }
}

void Snapshots::note_failure(const store::WorkspaceId& workspace, const std::string& id, const Error& why) {
  const bool for_callers = why.reason == Reason::invalid_configuration || why.reason == Reason::overloaded;
  if (report_ && !for_callers) report_(fmt::format("the snapshot {} could not be built: {}", id, why.detail));
  if (!layers_.erase(id)) {  // The process that made it, of a server that was killed, has not ended yet.
    const std::lock_guard lock(mutex_);
    left_.insert(id);
    changed_.notify_all();
  }
  auto record = store_.snapshots().find(workspace, id);
  if (!record || record->status != Status::building) return;
  store::ResourceChange change;
  change.status = Status::failed;
  change.status_message = for_callers ? why.detail.substr(0, 1000)
                                      : "the snapshot could not be built; the server's operator was told why";
  change.only_if = record->revision;
  (void)store_.snapshots().update(workspace, id, change);  // else recover() says so
}

}  // namespace postern::platform
