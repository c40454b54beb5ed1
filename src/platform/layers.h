#pragma once
// The files of snapshots. An interface, so that what becomes of snapshots (snapshots.h) is tested without
// any.

#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "box/keeper.h"
#include "box/trash.h"

namespace postern::platform {

class Layers {
 public:
  struct Job {
    std::string id;  ///< Of the snapshot.
    box::LayerSource source{};
    Fd from;
    std::string tag;              ///< Of the image.
    std::uint64_t bytes_max = 0;  ///< 0: as much as the server ever takes.
  };

  virtual ~Layers() = default;
  /// What lies below a directory that the operator opened to callers. Errors are for callers, and name no
  /// place of the host that they did not.
  virtual Result<Fd> open_image(const std::string& path) = 0;
  virtual Result<Fd> open_box(const std::string& id) = 0;
  /// Blocks, for minutes where there is much.
  virtual Result<box::MadeLayer> make(const Job& job, const std::stop_token& stop) = 0;
  /// The snapshot's files go. Idempotent.
  virtual Result<void> erase(const std::string& id) = 0;
};

class KeptLayers final : public Layers {
 public:
  struct Settings {
    std::string snapshots_directory;  ///< Has a directory for each snapshot. Made when absent.
    std::string boxes_directory;
    std::vector<std::string> image_directories;  ///< --images
  };
  /// Both outlive it. Errors: a directory cannot be opened or made.
  static Result<std::unique_ptr<KeptLayers>> open(box::Keeper& keeper, box::Trash& trash, Settings settings);

  Result<Fd> open_image(const std::string& path) override;
  Result<Fd> open_box(const std::string& id) override;
  Result<box::MadeLayer> make(const Job& job, const std::stop_token& stop) override;
  Result<void> erase(const std::string& id) override;

 private:
  KeptLayers(box::Keeper& keeper, box::Trash& trash, Settings settings)
      : keeper_(keeper), trash_(trash), settings_(std::move(settings)) {}

  box::Keeper& keeper_;
  box::Trash& trash_;
  const Settings settings_;
  std::vector<Fd> images_;
};

}  // namespace postern::platform
