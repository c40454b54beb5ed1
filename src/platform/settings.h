#pragma once
// What a box is besides its name and its policy: what callers of the API set and get back, and what is kept
// of it in the store. Nothing here is secret.

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "box/box_root.h"

namespace postern::platform {

using Variables = std::map<std::string, std::string>;

/// How commands run unless they say otherwise.
struct RunConfig {
  std::string user;
  std::string work_dir;
  Variables env_vars;
  bool operator==(const RunConfig&) const = default;
};

/// What was given away to reach a port of a box.
struct ServiceGrant {
  std::string id;  ///< Stands in its tokens: without this grant they are good for nothing.
  WallTime created_at{};
  std::string created_by;
  WallTime expires_at{};  ///< Of the last of its tokens.
  std::vector<std::string> embed_origins;
  bool operator==(const ServiceGrant&) const = default;
};
using Services = std::map<std::uint16_t, ServiceGrant>;  // by port

struct BoxSettings {
  static constexpr std::chrono::seconds idle_ttl_default{600};

  std::string snapshot_id;                           ///< Empty: the default one.
  std::chrono::seconds idle_ttl = idle_ttl_default;  ///< 0: never stopped for being idle.
  std::chrono::seconds delete_after_stop{0};         ///< 0: never.
  std::uint32_t cpu_millicores = 1000;
  std::uint64_t mem_bytes = std::uint64_t{2} << 30;
  std::uint64_t fs_capacity_bytes = 0;  ///< 0: not limited.
  bool persistent = true;
  bool preserve_memory_on_stop = false;  ///< Kept for who reads it again: memory is never kept here.
  Variables env_vars;
  RunConfig run_config;
  std::vector<std::string> tag_values;
  std::string access_delegation;  ///< JSON as it came; empty: none.
  Services services;

  bool operator==(const BoxSettings&) const = default;
};

/// What a snapshot is besides its name.
struct SnapshotSettings {
  box::BoxBase base = box::BoxBase::userland;
  std::vector<std::string> layers;  ///< Ids of the snapshots below it, the uppermost first.
  std::string docker_image;         ///< As the caller said it; empty: made of a box.
  std::string image_digest;
  std::string source_sandbox_id;
  std::string description;
  std::string wanted_tag;  ///< Its own when it is ready.
  std::uint64_t fs_capacity_bytes = 0;
  std::uint64_t fs_used_bytes = 0;  ///< Of its own layer. 0: not known yet.
  RunConfig run_config;             ///< Of its boxes, unless they say otherwise.
  bool operator==(const SnapshotSettings&) const = default;
};

std::string to_json(const SnapshotSettings& settings);
std::optional<SnapshotSettings> snapshot_settings_from_json(std::string_view json);

std::string to_json(const BoxSettings& settings);
/// What to_json() wrote; unknown fields are those of a later program. nullopt for anything else.
std::optional<BoxSettings> settings_from_json(std::string_view json);

}  // namespace postern::platform
