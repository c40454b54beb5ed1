#include "api/snapshots.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/body.h"
#include "api/listing.h"
#include "api/run_config.h"
#include "base/date.h"
#include "base/units.h"
#include "control/call.h"
#include "store/checks.h"

namespace postern::api {

namespace {

using control::Call;
using control::Principal;
using control::Scope;
using platform::NewSnapshot;
using platform::SnapshotSettings;
using Json = nlohmann::ordered_json;
using CallPointer = std::shared_ptr<Call>;

constexpr std::size_t body_bytes_max = MiB;  // an environment, mostly
constexpr std::int64_t fs_bytes_max = std::int64_t{1} << 44;

Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json snapshot_document(const store::Resource& snapshot) {
  const auto settings = platform::snapshot_settings_from_json(snapshot.settings).value_or(SnapshotSettings{});
  const bool ready = snapshot.status == store::Status::ready;
  return {{"id", snapshot.id},
          {"name", snapshot.name},
          {"status", store::token(snapshot.status)},
          {"status_message", or_null(snapshot.status_message)},
          {"fs_capacity_bytes", settings.fs_capacity_bytes},
          {"fs_used_bytes", ready ? Json(settings.fs_used_bytes) : Json()},
          {"docker_image", or_null(settings.docker_image)},
          {"image_digest", or_null(settings.image_digest)},
          {"source_sandbox_id", or_null(settings.source_sandbox_id)},
          {"registry_id", Json()},
          {"created_by", snapshot.created_by},
          {"created_at", date_text(snapshot.created_at)},
          {"updated_at", date_text(snapshot.updated_at)},
          {"tags", platform::has_tag(snapshot) ? Json::array({snapshot.tag}) : Json::array()},
          {"labels", snapshot.labels},
          {"description", settings.description},
          {"run_config", run_config_document(settings.run_config)},
          {"included", Json::array()}};
}

std::string written(const Json& document) {
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

NewSnapshot read_new_snapshot(BodyFields& body) {
  NewSnapshot out;
  if (auto name = body.text("name", store::name_bytes_max))
    out.name = std::move(*name);
  else if (body.good())
    body.note("name", "is required");
  if (auto tag = body.text("tag", store::name_bytes_max)) out.tag = std::move(*tag);
  if (auto labels = body.strings("labels", store::labels_max)) out.labels = std::move(*labels);
  if (auto description = body.text("description")) out.description = std::move(*description);
  if (const auto bytes = body.integer("fs_capacity_bytes", 0, fs_bytes_max))
    out.fs_capacity_bytes = static_cast<std::uint64_t>(*bytes);
  read_run_config(body, out.run_config);
  check_variables(body, "run_config.env_vars", out.run_config.env_vars);
  return out;
}

/// What a capture can be asked for beyond files, and is not done here. Nothing is silently left out.
void refuse_what_is_not_captured(BodyFields& body) {
  if (body.has("docker_image"))
    body.note("docker_image",
              "images that were built in a sandbox cannot be exported by this server; without this field the "
              "sandbox's files are captured");
  for (const std::string_view key : {"include_memory", "checkpoint"})
    if (const policy::Node* node = body.find(key);
        node && !(node->kind == policy::Node::Kind::boolean && !node->truth))
      body.note(key, "memory is not kept by this server");
  if (const policy::Node* node = body.find("image_config"); node && !node->members.empty())
    body.note("image_config", "what a sandbox starts with cannot be set by this server");
  if (const auto included = body.list("include", 16); included && !included->empty())
    body.note("include", "a snapshot has the sandbox's files and its run_config, and nothing else");
}

class Handlers : public std::enable_shared_from_this<Handlers> {
 public:
  Handlers(platform::Snapshots& snapshots, platform::Boxes& boxes, store::Store& store, Identify identify)
      : snapshots_(snapshots), boxes_(boxes), store_(store), identify_(std::move(identify)) {}

  std::vector<control::Route> routes() {
    return {route("POST", "/snapshots", Scope::workspace, &Handlers::create),
            route("GET", "/snapshots", Scope::read_only, &Handlers::list_snapshots),
            route("GET", "/snapshots/{name}", Scope::read_only, &Handlers::get),
            route("DELETE", "/snapshots/{name}", Scope::workspace, &Handlers::remove),
            route("GET", "/snapshots-by-name/{name}", Scope::read_only, &Handlers::tags),
            route("POST", "/boxes/{name}/snapshot", Scope::workspace, &Handlers::capture)};
  }

 private:
  using Method = void (Handlers::*)(const CallPointer&, const Principal&);

  control::Route route(std::string method, std::string pattern, Scope scope, Method handler) {
    return admitting_route(std::move(method), std::move(pattern), identify_, scope,
                           std::bind_front(handler, shared_from_this()));
  }

  static store::WorkspaceId workspace_of(const Principal& caller) { return {caller.workspace}; }

  static void answer(const CallPointer& call, int status, platform::Answer<store::Resource> snapshot) {
    call->answer(snapshot ? control::json_response(status, written(snapshot_document(*snapshot)))
                          : std::move(snapshot.error()));
  }

  void create(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      NewSnapshot fresh = read_new_snapshot(fields);
      if (auto image = fields.text("docker_image"))
        fresh.docker_image = std::move(*image);
      else if (fields.good())
        fields.note("docker_image", "is required");
      if (fields.has("registry_id")) fields.note("registry_id", "this server reaches no registry");
      if (!fields.good()) return call->answer(fields.refusal());
      fresh.created_by = caller.key_id;
      answer(call, 201, self->snapshots_.create(workspace_of(caller), fresh));
    });
  }

  void capture(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      NewSnapshot fresh = read_new_snapshot(fields);
      refuse_what_is_not_captured(fields);
      if (!fields.good()) return call->answer(fields.refusal());
      fresh.created_by = caller.key_id;
      answer(call, 201, self->boxes_.capture(workspace_of(caller), call->request().parameter("name"), fresh));
    });
  }

  void list_snapshots(const CallPointer& call, const Principal& caller) {
    auto query = read_list_query(call->request(), caller);
    if (!query) return call->answer(std::move(query.error()));
    const std::size_t next_offset = query->offset + query->query.page.limit;
    const bool by_cursor = query->by_cursor;
    auto found = list(store_.snapshots(), workspace_of(caller), std::move(*query));
    if (!found) return call->answer(platform::to_api_error(found.error()));
    Json items = Json::array();
    for (const store::Resource& snapshot : found->items) items.push_back(snapshot_document(snapshot));
    const bool more = !found->next_cursor.empty();
    call->answer(
        control::json_response(200, written({{"snapshots", items},
                                             {"items", items},
                                             {"next_cursor", more ? Json(found->next_cursor) : Json()},
                                             {"offset", more && !by_cursor ? next_offset : 0}})));
  }

  void get(const CallPointer& call, const Principal& caller) {
    answer(call, 200, snapshots_.find(workspace_of(caller), call->request().parameter("name")));
  }

  void remove(const CallPointer& call, const Principal& caller) {
    auto removed = snapshots_.remove(workspace_of(caller), call->request().parameter("name"));
    if (!removed) return call->answer(std::move(removed.error()));
    control::Response nothing;
    nothing.status = 204;
    call->answer(std::move(nothing));
  }

  void tags(const CallPointer& call, const Principal& caller) {
    const std::string name = call->request().parameter("name");
    auto found = snapshots_.named(workspace_of(caller), name);
    if (!found) return call->answer(std::move(found.error()));
    if (found->empty()) return call->answer(control::not_found("there is no snapshot of that name"));
    Json tags = Json::array();
    for (const store::Resource& snapshot : *found)
      if (platform::has_tag(snapshot)) tags.push_back({{"tag", snapshot.tag}, {"snapshot_id", snapshot.id}});
    call->answer(control::json_response(200, written({{"name", name}, {"tags", std::move(tags)}})));
  }

  platform::Snapshots& snapshots_;
  platform::Boxes& boxes_;
  store::Store& store_;
  const Identify identify_;
};

}  // namespace

std::vector<control::Route> snapshot_routes(platform::Snapshots& snapshots, platform::Boxes& boxes,
                                            store::Store& store, Identify identify) {
  return std::make_shared<Handlers>(snapshots, boxes, store, std::move(identify))->routes();
}

}  // namespace postern::api
