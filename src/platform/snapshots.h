#pragma once
// What becomes of snapshots: made of images and of boxes, found, removed. A snapshot is a layer on those of
// the snapshot that it was made from; the lowest lies on the host's userland, or is a whole system. The store
// says what there is, Layers has the files. They are built one after the other on one thread, since each
// fills a disk.
//
// A name has one snapshot under each tag; it moves to the next that is built for it, and the one before is
// found by its id alone. Without a tag a snapshot's tag in the store is a UUID, which no tag looks like.

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "platform/answer.h"
#include "platform/layers.h"
#include "platform/settings.h"
#include "store/store.h"

namespace postern::platform {

struct NewSnapshot {
  std::string name;
  std::string tag;           ///< Empty: the image's, else "latest".
  std::string docker_image;  ///< "oci:PATH[:TAG]", "tar:PATH" or "dir:PATH"
  std::string description;
  std::uint64_t fs_capacity_bytes = 0;  ///< 0: not limited but by the server.
  store::Labels labels;
  std::string created_by;
  RunConfig run_config;
};

class Snapshots {
 public:
  using Report = std::function<void(const std::string&)>;

  /// Both outlive it. What was being built when an earlier process died has failed. `report`: what callers
  /// are not told; called on any thread.
  Snapshots(store::Store& store, Layers& layers, Report report = nullptr);
  /// What is being built is found to have failed the next time.
  ~Snapshots();
  Snapshots(const Snapshots&) = delete;

  /// It is building when this returns.
  Answer<store::Resource> create(const store::WorkspaceId& workspace, const NewSnapshot& fresh);
  /// The same of the files of a box, which is not removed meanwhile (is_copied()).
  Answer<store::Resource> capture(const store::Resource& box, const NewSnapshot& fresh);
  /// By id, "name:tag" or "name", which is "name:latest", or else the newest of that name.
  Answer<store::Resource> find(const store::WorkspaceId& workspace, const std::string& reference);
  /// All of that name.
  Answer<std::vector<store::Resource>> named(const store::WorkspaceId& workspace, const std::string& name);
  /// Refused while something is made on it. What is being built is given up.
  Answer<void> remove(const store::WorkspaceId& workspace, const std::string& reference);

  /// What a box of it is started with. Errors: it is gone, or not ready.
  struct Stack {
    box::BoxBase base = box::BoxBase::userland;
    std::vector<std::string> layers;  ///< Ids, the uppermost first.
    RunConfig run_config;
  };
  store::Outcome<Stack> stack(const store::WorkspaceId& workspace, const std::string& id);

  bool is_copied(const std::string& box_id) const;
  /// While it is held nothing is removed: what was found can be written down in a box.
  std::shared_lock<std::shared_mutex> keep() { return std::shared_lock(removals_); }

 private:
  struct Build {
    store::WorkspaceId workspace;
    Layers::Job job;
    std::string box;  ///< That is copied.
    std::stop_source stop;
  };

  Answer<store::Resource> begin(const store::WorkspaceId& workspace, const NewSnapshot& fresh,
                                SnapshotSettings settings, Build build);
  store::Outcome<store::Resource> make_record(const store::WorkspaceId& workspace, const NewSnapshot& fresh,
                                              SnapshotSettings& settings);
  std::optional<control::Response> refusal_by_users(const store::Resource& snapshot);
  store::Outcome<void> remove_files_and_record(const store::WorkspaceId& workspace, const std::string& id);
  void give_up(const std::string& id);
  void recover();
  void run(const std::stop_token& stop);
  void erase_left(std::unique_lock<std::mutex>& lock);
  void build(Build& build, const std::stop_token& server);
  void finish(const Build& build, const box::MadeLayer& made);
  void note_failure(const store::WorkspaceId& workspace, const std::string& id, const Error& why);

  store::Store& store_;
  Layers& layers_;
  const Report report_;
  std::shared_mutex removals_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::shared_ptr<Build>> waiting_;
  std::shared_ptr<Build> current_;
  std::set<std::string> left_;  ///< Whose files could not be erased yet.
  std::jthread thread_;
};

/// No UUID, under which nobody finds it.
bool has_tag(const store::Resource& snapshot);

}  // namespace postern::platform
