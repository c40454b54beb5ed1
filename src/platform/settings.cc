#include "platform/settings.h"

#include <nlohmann/json.hpp>

namespace postern::platform {

namespace {

using Json = nlohmann::json;

std::int64_t seconds_of(WallTime at) {
  return std::chrono::floor<std::chrono::seconds>(at).time_since_epoch().count();
}
WallTime time_of(std::int64_t seconds) { return WallTime(std::chrono::seconds(seconds)); }

Json services_json(const Services& services) {
  Json out = Json::array();
  for (const auto& [port, grant] : services)
    out.push_back({{"port", port},
                   {"id", grant.id},
                   {"created_at", seconds_of(grant.created_at)},
                   {"created_by", grant.created_by},
                   {"expires_at", seconds_of(grant.expires_at)},
                   {"embed_origins", grant.embed_origins}});
  return out;
}

Services read_services(const Json& from) {
  Services out;
  for (const Json& item : from) {
    ServiceGrant& grant = out[item.at("port").get<std::uint16_t>()];
    grant.id = item.at("id");
    grant.created_at = time_of(item.at("created_at"));
    grant.created_by = item.at("created_by");
    grant.expires_at = time_of(item.at("expires_at"));
    grant.embed_origins = item.at("embed_origins").get<std::vector<std::string>>();
  }
  return out;
}

void read(const Json& from, RunConfig& out) {
  out.user = from.value("user", "");
  out.work_dir = from.value("work_dir", "");
  out.env_vars = from.value("env_vars", Variables{});
}

Json run_config_json(const RunConfig& run) {
  return {{"user", run.user}, {"work_dir", run.work_dir}, {"env_vars", run.env_vars}};
}

// Images may have what is no UTF-8 in their variables.
std::string written(const Json& out) { return out.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string to_json(const SnapshotSettings& settings) {
  return written({{"base", settings.base == box::BoxBase::nothing ? "nothing" : "userland"},
                  {"layers", settings.layers},
                  {"docker_image", settings.docker_image},
                  {"image_digest", settings.image_digest},
                  {"source_sandbox_id", settings.source_sandbox_id},
                  {"description", settings.description},
                  {"wanted_tag", settings.wanted_tag},
                  {"fs_capacity_bytes", settings.fs_capacity_bytes},
                  {"fs_used_bytes", settings.fs_used_bytes},
                  {"run_config", run_config_json(settings.run_config)}});
}

std::optional<SnapshotSettings> snapshot_settings_from_json(std::string_view json) {
  const Json from = Json::parse(json, nullptr, false);
  if (!from.is_object()) return std::nullopt;
  try {
    SnapshotSettings out;
    const std::string base = from.value("base", "userland");
    if (base != "userland" && base != "nothing") return std::nullopt;
    out.base = base == "nothing" ? box::BoxBase::nothing : box::BoxBase::userland;
    out.layers = from.value("layers", std::vector<std::string>{});
    out.docker_image = from.value("docker_image", "");
    out.image_digest = from.value("image_digest", "");
    out.source_sandbox_id = from.value("source_sandbox_id", "");
    out.description = from.value("description", "");
    out.wanted_tag = from.value("wanted_tag", "");
    out.fs_capacity_bytes = from.value("fs_capacity_bytes", out.fs_capacity_bytes);
    out.fs_used_bytes = from.value("fs_used_bytes", out.fs_used_bytes);
    if (const auto run = from.find("run_config"); run != from.end()) read(*run, out.run_config);
    return out;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

std::string to_json(const BoxSettings& settings) {
  const Json out = {{"snapshot_id", settings.snapshot_id},
                    {"idle_ttl_seconds", settings.idle_ttl.count()},
                    {"delete_after_stop_seconds", settings.delete_after_stop.count()},
                    {"cpu_millicores", settings.cpu_millicores},
                    {"mem_bytes", settings.mem_bytes},
                    {"fs_capacity_bytes", settings.fs_capacity_bytes},
                    {"persistent", settings.persistent},
                    {"preserve_memory_on_stop", settings.preserve_memory_on_stop},
                    {"env_vars", settings.env_vars},
                    {"run_config", run_config_json(settings.run_config)},
                    {"tag_values", settings.tag_values},
                    {"access_delegation", settings.access_delegation},
                    {"services", services_json(settings.services)}};
  return out.dump();
}

std::optional<BoxSettings> settings_from_json(std::string_view json) {
  const Json from = Json::parse(json, nullptr, false);
  if (!from.is_object()) return std::nullopt;
  try {
    BoxSettings out;
    out.snapshot_id = from.value("snapshot_id", "");
    out.idle_ttl =
        std::chrono::seconds(from.value("idle_ttl_seconds", BoxSettings::idle_ttl_default.count()));
    out.delete_after_stop = std::chrono::seconds(from.value("delete_after_stop_seconds", 0));
    out.cpu_millicores = from.value("cpu_millicores", out.cpu_millicores);
    out.mem_bytes = from.value("mem_bytes", out.mem_bytes);
    out.fs_capacity_bytes = from.value("fs_capacity_bytes", out.fs_capacity_bytes);
    out.persistent = from.value("persistent", true);
    out.preserve_memory_on_stop = from.value("preserve_memory_on_stop", false);
    out.env_vars = from.value("env_vars", Variables{});
    if (const auto run = from.find("run_config"); run != from.end()) read(*run, out.run_config);
    out.tag_values = from.value("tag_values", std::vector<std::string>{});
    out.access_delegation = from.value("access_delegation", "");
    if (const auto services = from.find("services"); services != from.end())
      out.services = read_services(*services);
    return out;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

}  // namespace postern::platform
