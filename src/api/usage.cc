#include "api/usage.h"

#include <nlohmann/json.hpp>

#include "control/call.h"
#include "platform/boxes.h"

namespace postern::api {

namespace {

using control::Call;
using CallPointer = std::shared_ptr<Call>;
using Json = nlohmann::ordered_json;

struct Counts {
  std::uint64_t boxes = 0, running = 0, stopped = 0, snapshots = 0;
  std::uint64_t millicores = 0, bytes = 0;  ///< By the settings of those that run.
};

template <class Each>
store::Outcome<void> each(store::Resources& resources, const store::WorkspaceId& workspace, Each take) {
  store::ResourceQuery query;
  query.page.limit = store::page_items_max;
  do {
    auto page = resources.list(workspace, query);
    if (!page) return store::failed(page);
    for (const store::Resource& one : page->items) take(one);
    query.page.cursor = page->next_cursor;
  } while (!query.page.cursor.empty());
  return {};
}

store::Outcome<Counts> count(store::Store& store, const store::WorkspaceId& workspace) {
  Counts counts;
  auto boxes = each(store.sandboxes(), workspace, [&counts](const store::Resource& box) {
    ++counts.boxes;
    if (box.status == store::Status::stopped) ++counts.stopped;
    if (box.status != store::Status::ready && box.status != store::Status::provisioning) return;
    ++counts.running;
    const auto settings = platform::settings_from_json(box.settings).value_or(platform::BoxSettings{});
    counts.millicores += settings.cpu_millicores;
    counts.bytes += settings.mem_bytes;
  });
  if (!boxes) return store::failed(boxes);
  auto snapshots =
      each(store.snapshots(), workspace, [&counts](const store::Resource&) { ++counts.snapshots; });
  if (!snapshots) return store::failed(snapshots);
  return counts;
}

}  // namespace

std::vector<control::Route> usage_routes(store::Store& store, Identify identify, std::uint64_t boxes_max) {
  return {admitting_route("GET", "/usage", identify, control::Scope::read_only,
                          [&store, boxes_max](const CallPointer& call, const control::Principal& caller) {
                            const auto counts = count(store, {caller.workspace});
                            if (!counts) return call->answer(platform::to_api_error(counts.error()));
                            const Json out = {{"cpu_limit_millicores", 0},
                                              {"cpu_used_millicores", counts->millicores},
                                              {"memory_limit_bytes", 0},
                                              {"memory_used_bytes", counts->bytes},
                                              {"sandboxes_limit", boxes_max},
                                              {"sandboxes_used", counts->boxes},
                                              {"sandbox_running_count", counts->running},
                                              {"sandbox_stopped_count", counts->stopped},
                                              {"snapshots_count", counts->snapshots},
                                              {"registries_count", 0}};
                            call->answer(control::json_response(200, out.dump()));
                          }),
          admitting_route("GET", "/usage/costs", identify, control::Scope::read_only,
                          [](const CallPointer& call, const control::Principal&) {
                            // Nothing costs anything here.
                            call->answer(control::json_response(200, R"({"items":[],"next_cursor":null})"));
                          })};
}

}  // namespace postern::api
