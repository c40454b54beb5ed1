#pragma once
// Boxes that really run: the keeper starts their processes, the box loop has their commands, the data plane
// their network.

#include <map>
#include <mutex>
#include <string>

#include "box/box_loop.h"
#include "box/cgroups.h"
#include "box/keeper.h"
#include "box/trash.h"
#include "platform/runner.h"
#include "proxy/data_plane.h"
#include "sandbox/trust.h"

namespace postern::platform {

class Machine final : public Runner {
 public:
  struct Settings {
    std::string boxes_directory;      ///< Has a directory for each box.
    std::string snapshots_directory;  ///< And one for each snapshot.
    std::string state_directory;      ///< Postern's own, of which no box sees anything.
    sandbox::Trust trust;             ///< How programs come to trust the server's CA.
  };

  /// All outlive it.
  Machine(box::Keeper& keeper, const box::Cgroups& cgroups, box::BoxLoop& boxes, box::Trash& trash,
          proxy::DataPlane& data_plane, Settings settings)
      : keeper_(keeper),
        cgroups_(cgroups),
        boxes_(boxes),
        trash_(trash),
        data_plane_(data_plane),
        settings_(std::move(settings)) {}

  /// `own_home`: as prepare_trust() saw it.
  static sandbox::Trust trust_in_boxes(sandbox::Trust trust, const std::string& own_home);

  Result<void> start(Start start) override;
  void stop(const std::string& id) override;
  Result<void> erase(const std::string& id) override;
  bool has_files(const std::string& id) const override;
  void swap(const std::string& id, std::shared_ptr<const proxy::Egress> egress) override;
  void set_environment(const std::string& id, std::vector<std::string> environment,
                       std::string work_directory) override;
  void set_idle_ttl(const std::string& id, Duration idle_ttl) override;
  Result<void> set_limits(const std::string& id, const box::Limits& limits) override;

 private:
  struct Running {
    std::uint64_t process = 0;  ///< The keeper's number.
    std::uint64_t group = 0;    ///< Ours, of its control groups.
    proxy::DataPlane::Id network = 0;
  };
  std::string directory_of(const std::string& id) const { return settings_.boxes_directory + "/" + id; }
  std::vector<std::string> environment_of(std::vector<std::string> own) const;

  box::Keeper& keeper_;
  const box::Cgroups& cgroups_;
  box::BoxLoop& boxes_;
  box::Trash& trash_;
  proxy::DataPlane& data_plane_;
  const Settings settings_;
  std::mutex mutex_;
  std::map<std::string, Running> running_;
  std::uint64_t last_group_ = 0;
};

}  // namespace postern::platform
