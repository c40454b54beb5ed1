#include "api/boxes.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "api/body.h"
#include "api/listing.h"
#include "api/run_config.h"
#include "base/units.h"
#include "control/call.h"
#include "store/checks.h"

namespace postern::api {

namespace {

using control::Call;
using control::Principal;
using control::Response;
using control::Scope;
using platform::BoxSettings;
using Json = nlohmann::ordered_json;
using CallPointer = std::shared_ptr<Call>;

constexpr std::size_t body_bytes_max = 8 * MiB;  // a policy of some ten thousand rules
constexpr std::int64_t idle_ttl_max = 2'147'483'640;
constexpr std::int64_t cpu_millicores_max = 64'000;
constexpr std::int64_t mem_bytes_max = std::int64_t{64} << 30;
constexpr std::int64_t mem_bytes_min = std::int64_t{16} << 20;
constexpr std::int64_t fs_bytes_max = std::int64_t{1} << 44;
constexpr std::size_t tags_max = 64;
constexpr std::size_t batch_max = 1'000;

store::WorkspaceId workspace_of(const Principal& caller) { return {caller.workspace}; }

Json box_document(const store::Resource& box, const std::string& origin) {
  const BoxSettings settings = platform::settings_from_json(box.settings).value_or(BoxSettings{});
  Json out = {{"id", box.id},
              {"name", box.name},
              {"status", store::token(box.status)},
              {"status_message", box.status_message.empty() ? Json() : Json(box.status_message)},
              {"dataplane_url", fmt::format("{}/api/v2/sandboxes/{}", origin, box.id)},
              {"created_at", date_text(box.created_at)},
              {"updated_at", date_text(box.updated_at)},
              {"created_by", box.created_by},
              {"stopped_at", box.stopped_at ? Json(date_text(*box.stopped_at)) : Json()},
              {"idle_ttl_seconds", settings.idle_ttl.count()},
              {"delete_after_stop_seconds", settings.delete_after_stop.count()},
              {"snapshot_id", settings.snapshot_id.empty() ? Json() : Json(settings.snapshot_id)},
              {"vcpus", std::max<std::uint32_t>(1, (settings.cpu_millicores + 999) / 1000)},
              {"cpu_millicores", settings.cpu_millicores},
              {"mem_bytes", settings.mem_bytes},
              {"fs_capacity_bytes", settings.fs_capacity_bytes},
              {"persistent", settings.persistent},
              {"preserve_memory_on_stop", settings.preserve_memory_on_stop},
              {"labels", box.labels},
              {"env_vars", settings.env_vars},
              {"tag_value_ids", settings.tag_values}};
  out["run_config"] = run_config_document(settings.run_config);
  if (!settings.access_delegation.empty())
    out["access_delegation"] = Json::parse(settings.access_delegation, nullptr, false);
  if (Json policy = Json::parse(box.policy, nullptr, false); policy.is_object() && !policy.empty())
    out["proxy_config"] = std::move(policy);
  return out;
}

std::string written(const Json& document) {
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Bodies

std::optional<std::chrono::seconds> read_seconds(BodyFields& body, std::string_view key) {
  const auto seconds = body.integer(key, 0, idle_ttl_max);
  if (!seconds) return std::nullopt;
  if (key == "idle_ttl_seconds" && *seconds % 60 != 0) body.note(key, "must be a multiple of 60");
  return std::chrono::seconds(*seconds);
}

std::optional<std::uint32_t> read_cpu(BodyFields& body) {
  const auto cores = body.integer("vcpus", 1, cpu_millicores_max / 1000);
  if (const auto millicores = body.integer("cpu_millicores", 1, cpu_millicores_max))
    return static_cast<std::uint32_t>(*millicores);
  if (cores) return static_cast<std::uint32_t>(*cores * 1000);
  return std::nullopt;
}

/// Accepted and answered, or refused: nothing is silently left out of what a caller relies on.
void refuse_what_is_not_there(BodyFields& body) {
  for (const std::string_view key : {"volumes", "mount_config"}) {
    const policy::Node* node = body.find(key);
    if (node && !(node->items.empty() && node->members.empty()))
      body.note(key, "volumes and mounts are not available on this server");
  }
  if (body.flag("restore_memory").value_or(false))
    body.note("restore_memory", "memory is not kept by this server");
}

platform::NewBox read_new_box(BodyFields& body) {
  platform::NewBox box;
  if (auto name = body.text("name", store::name_bytes_max)) box.name = std::move(*name);
  if (auto labels = body.strings("labels", store::labels_max)) box.labels = std::move(*labels);
  BoxSettings& settings = box.settings;
  for (const std::string_view key : {"snapshot_id", "snapshot_name", "snapshot"})
    if (auto snapshot = body.text(key, 512); snapshot && !snapshot->empty()) {
      if (!settings.snapshot_id.empty())
        body.note(key, "only one of snapshot_id, snapshot_name and snapshot");
      settings.snapshot_id = std::move(*snapshot);
    }
  if (const auto ttl = read_seconds(body, "idle_ttl_seconds")) settings.idle_ttl = *ttl;
  if (const auto ttl = read_seconds(body, "delete_after_stop_seconds")) settings.delete_after_stop = *ttl;
  if (const auto cpu = read_cpu(body)) settings.cpu_millicores = *cpu;
  if (const auto bytes = body.integer("mem_bytes", mem_bytes_min, mem_bytes_max))
    settings.mem_bytes = static_cast<std::uint64_t>(*bytes);
  if (const auto bytes = body.integer("fs_capacity_bytes", 0, fs_bytes_max))
    settings.fs_capacity_bytes = static_cast<std::uint64_t>(*bytes);
  if (const auto kept = body.flag("persistent")) settings.persistent = *kept;
  if (const auto kept = body.flag("preserve_memory_on_stop")) settings.preserve_memory_on_stop = *kept;
  if (auto variables = body.strings("env_vars", variables_max)) settings.env_vars = std::move(*variables);
  check_variables(body, "env_vars", settings.env_vars);
  read_run_config(body, settings.run_config);
  check_variables(body, "run_config.env_vars", settings.run_config.env_vars);
  if (auto tags = body.list("tag_value_ids", tags_max)) settings.tag_values = std::move(*tags);
  if (const policy::Node* node = body.mapping("access_delegation")) {
    BodyFields fields(*node, "access_delegation");
    if (const auto mode = fields.text("mode", 16); mode && (*mode == "INHERIT" || *mode == "EXPLICIT")) {
      Json kept = {{"mode", *mode}};
      if (const auto permissions = fields.list("permissions", 100)) kept["permissions"] = *permissions;
      settings.access_delegation = kept.dump();
    } else {
      fields.note("mode", "must be INHERIT or EXPLICIT");
    }
    body.take_problems(fields);
  }
  (void)body.flag("wait_for_ready");  // It is ready when it is answered.
  (void)body.integer("timeout", 0, 86'400);
  refuse_what_is_not_there(body);
  box.proxy_config = body.find("proxy_config");
  return box;
}

platform::BoxUpdate read_update(BodyFields& body) {
  platform::BoxUpdate update;
  update.name = body.text("name", store::name_bytes_max);
  update.idle_ttl = read_seconds(body, "idle_ttl_seconds");
  update.delete_after_stop = read_seconds(body, "delete_after_stop_seconds");
  update.cpu_millicores = read_cpu(body);
  if (const auto bytes = body.integer("mem_bytes", mem_bytes_min, mem_bytes_max))
    update.mem_bytes = static_cast<std::uint64_t>(*bytes);
  if (const auto bytes = body.integer("fs_capacity_bytes", 0, fs_bytes_max))
    update.fs_capacity_bytes = static_cast<std::uint64_t>(*bytes);
  update.tag_values = body.list("tag_value_ids", tags_max);
  if (const policy::Node* node = body.mapping("run_config")) {
    BodyFields fields(*node, "run_config");
    update.user = fields.text("user", 64);
    update.work_dir = fields.text("work_dir");
    if (auto variables = fields.strings("env_vars", variables_max)) update.env_vars = std::move(*variables);
    body.take_problems(fields);
    check_variables(body, "run_config.env_vars", update.env_vars);
  }
  update.proxy_config = body.find("proxy_config");
  return update;
}

bool has_tags(const store::Resource& box, const std::vector<std::string>& tags) {
  if (tags.empty()) return true;
  const auto settings = platform::settings_from_json(box.settings);
  return settings && std::ranges::all_of(tags, [&](const std::string& tag) {
           return std::ranges::find(settings->tag_values, tag) != settings->tag_values.end();
         });
}

// Handlers

class Handlers : public std::enable_shared_from_this<Handlers> {
 public:
  Handlers(platform::Boxes& boxes, store::Store& store, Identify identify, Origin origin)
      : boxes_(boxes), store_(store), identify_(std::move(identify)), origin_(std::move(origin)) {}

  std::vector<control::Route> routes() {
    return {route("GET", "/boxes", Scope::read_only, &Handlers::list_boxes),
            route("POST", "/boxes", Scope::workspace, &Handlers::create),
            route("POST", "/boxes/batch-delete", Scope::workspace, &Handlers::batch_delete),
            route("GET", "/boxes/{name}", Scope::read_only, &Handlers::get),
            route("PATCH", "/boxes/{name}", Scope::workspace, &Handlers::patch),
            route("DELETE", "/boxes/{name}", Scope::workspace, &Handlers::remove),
            route("GET", "/boxes/{name}/status", Scope::read_only, &Handlers::status),
            route("POST", "/boxes/{name}/start", Scope::workspace, &Handlers::start),
            route("POST", "/boxes/{name}/stop", Scope::workspace, &Handlers::stop)};
  }

 private:
  using Method = void (Handlers::*)(const CallPointer&, const Principal&);

  control::Route route(std::string method, std::string pattern, Scope scope, Method handler) {
    return admitting_route(std::move(method), std::move(pattern), identify_, scope,
                           std::bind_front(handler, shared_from_this()));
  }

  Response box_response(int status, const control::Request& request, const store::Resource& box) {
    return control::json_response(status, written(box_document(box, origin_(request))));
  }
  void answer(const CallPointer& call, int status, platform::Answer<store::Resource> box) {
    call->answer(box ? box_response(status, call->request(), *box) : std::move(box.error()));
  }
  void answer(const CallPointer& call, platform::Answer<void> done) {
    Response nothing;
    nothing.status = 204;
    call->answer(done ? std::move(nothing) : std::move(done.error()));
  }

  void list_boxes(const CallPointer& call, const Principal& caller) {
    auto query = read_list_query(call->request(), caller);
    if (!query) return call->answer(std::move(query.error()));
    const std::size_t next_offset = query->offset + query->query.page.limit;
    const bool by_cursor = query->by_cursor;
    auto found = list(store_.sandboxes(), workspace_of(caller), std::move(*query), has_tags);
    if (!found) return call->answer(platform::to_api_error(found.error()));
    Json items = Json::array();
    const std::string origin = origin_(call->request());
    for (const store::Resource& box : found->items) items.push_back(box_document(box, origin));
    const bool more = !found->next_cursor.empty();
    Json out = {{"sandboxes", items},
                {"items", items},
                {"next_cursor", more ? Json(found->next_cursor) : Json()},
                {"offset", more && !by_cursor ? next_offset : 0}};
    call->answer(control::json_response(200, written(out)));
  }

  void create(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      platform::NewBox box = read_new_box(fields);
      if (!fields.good()) return call->answer(fields.refusal());
      box.created_by = caller.key_id;
      self->answer(call, 201, self->boxes_.create(workspace_of(caller), box));
    });
  }

  void get(const CallPointer& call, const Principal& caller) {
    answer(call, 200, boxes_.find(workspace_of(caller), call->request().parameter("name")));
  }

  void patch(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      const platform::BoxUpdate update = read_update(fields);
      if (!fields.good()) return call->answer(fields.refusal());
      self->answer(call, 200,
                   self->boxes_.update(workspace_of(caller), call->request().parameter("name"), update));
    });
  }

  void remove(const CallPointer& call, const Principal& caller) {
    answer(call, boxes_.remove(workspace_of(caller), call->request().parameter("name")));
  }

  void batch_delete(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      const auto names = fields.list("names", batch_max);
      if (!names && fields.good()) fields.note("names", "is required");
      if (!fields.good()) return call->answer(fields.refusal());
      Json deleted = Json::array(), skipped = Json::array();
      for (const std::string& name : *names) {
        const auto removed = self->boxes_.remove(workspace_of(caller), name);
        if (removed)
          deleted.push_back(name);
        else
          skipped.push_back(
              {{"name", name},
               {"reason", removed.error().status == 404 ? "not found" : "could not be deleted"}});
      }
      call->answer(control::json_response(
          200, written({{"deleted", std::move(deleted)}, {"skipped", std::move(skipped)}})));
    });
  }

  void status(const CallPointer& call, const Principal& caller) {
    auto box = boxes_.find(workspace_of(caller), call->request().parameter("name"));
    if (!box) return call->answer(std::move(box.error()));
    call->answer(control::json_response(
        200,
        written({{"status", store::token(box->status)},
                 {"status_message", box->status_message.empty() ? Json() : Json(box->status_message)}})));
  }

  void start(const CallPointer& call, const Principal& caller) {
    answer(call, 202, boxes_.start(workspace_of(caller), call->request().parameter("name")));
  }

  void stop(const CallPointer& call, const Principal& caller) {
    answer(call, boxes_.stop(workspace_of(caller), call->request().parameter("name")));
  }

  platform::Boxes& boxes_;
  store::Store& store_;
  const Identify identify_;
  const Origin origin_;
};

}  // namespace

std::string box_json(const store::Resource& box, const std::string& origin) {
  return written(box_document(box, origin));
}

std::vector<control::Route> box_routes(platform::Boxes& boxes, store::Store& store, Identify identify,
                                       Origin origin) {
  return std::make_shared<Handlers>(boxes, store, std::move(identify), std::move(origin))->routes();
}

}  // namespace postern::api
