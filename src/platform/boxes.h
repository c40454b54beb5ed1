#pragma once
// What becomes of boxes: made, started, changed, stopped, woken, removed. The store says what there is, the
// Runner makes it run, and this keeps the two together, whoever asks for what at the same time.
//
// Everything blocks, for a disk or for a box that starts (some 50 ms), and may be called by many threads at
// once. What is done to one box is done one after the other; boxes do not wait for each other.

#include <atomic>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "control/errors.h"
#include "platform/answer.h"
#include "platform/box_counts.h"
#include "platform/policies.h"
#include "platform/runner.h"
#include "platform/settings.h"
#include "platform/snapshots.h"
#include "policy/tree.h"
#include "store/store.h"

namespace postern::platform {

struct NewBox {
  std::string name;  ///< Empty: one is made up.
  store::Labels labels;
  std::string created_by;
  BoxSettings settings;
  const policy::Node* proxy_config = nullptr;  ///< Borrowed for the call.
};

/// What is nullopt, or nullptr, stays.
struct BoxUpdate {
  std::optional<std::string> name;
  std::optional<std::chrono::seconds> idle_ttl;
  std::optional<std::chrono::seconds> delete_after_stop;
  std::optional<std::uint32_t> cpu_millicores;
  std::optional<std::uint64_t> mem_bytes;
  std::optional<std::uint64_t> fs_capacity_bytes;
  std::optional<std::vector<std::string>> tag_values;
  std::optional<std::string> user, work_dir;
  Variables env_vars;  ///< Added to those of its run_config.
  const policy::Node* proxy_config = nullptr;
};

class Boxes {
 public:
  /// For whoever runs the server: what a caller is not told, as it may name places of this host.
  using Report = std::function<void(const std::string&)>;

  /// All outlive it; without `snapshots` there is the default one alone. Boxes of an earlier process, which
  /// died with it, are marked as stopped, or as failed where their files are gone too: no other process has
  /// boxes in this store. `report` is called on any thread.
  Boxes(store::Store& store, const Policies& policies, Runner& runner, const Clock& clock,
        Report report = nullptr, Snapshots* snapshots = nullptr);
  /// Stops what runs; it is found stopped the next time.
  ~Boxes();
  Boxes(const Boxes&) = delete;

  /// It runs when this returns.
  Answer<store::Resource> create(const store::WorkspaceId& workspace, const NewBox& box);
  Answer<store::Resource> find(const store::WorkspaceId& workspace, const std::string& name_or_id);
  Answer<store::Resource> update(const store::WorkspaceId& workspace, const std::string& name_or_id,
                                 const BoxUpdate& update);
  /// Changes what does not change how it runs. `change`: says what to answer instead, and then nothing is
  /// kept.
  using SettingsChange = std::function<std::optional<control::Response>(BoxSettings&)>;
  Answer<store::Resource> change_settings(const store::WorkspaceId& workspace, const std::string& name_or_id,
                                          const SettingsChange& change);
  Answer<store::Resource> start(const store::WorkspaceId& workspace, const std::string& name_or_id);
  Answer<void> stop(const store::WorkspaceId& workspace, const std::string& name_or_id);
  Answer<void> remove(const store::WorkspaceId& workspace, const std::string& name_or_id);
  /// The id of a box that runs, started if need be: for requests to its data plane. Not one whose files are
  /// lost: that it begins anew is for its owner to say, by start().
  std::expected<std::string, control::ApiError> wake(const store::WorkspaceId& workspace,
                                                     const std::string& name_or_id);

  /// A snapshot of what it has in its files, which is building when this returns.
  Answer<store::Resource> capture(const store::WorkspaceId& workspace, const std::string& name_or_id,
                                  const NewSnapshot& snapshot);

  /// Secrets of the workspace have changed: what runs in it uses the new ones when this returns.
  void secrets_changed(const store::WorkspaceId& workspace);
  /// The same of the operator's policies, for every box.
  void operators_changed();

  /// Once a second or so: stops what is idle, removes what was stopped for long enough, notices what has
  /// ended.
  void tend();

  std::size_t running() const;
  const BoxCounts& counts() const { return counts_; }

 private:
  struct Live {
    explicit Live(store::WorkspaceId whose) : workspace(std::move(whose)) {}
    std::mutex mutex;  ///< Held while something is done to the box.
    const store::WorkspaceId workspace;
    std::atomic<bool> running = false;
    std::atomic<bool> ended = false;  ///< By itself; nobody has cleared up yet.
    std::atomic<bool> idle = false;   ///< For its whole idle_ttl, and not woken since.
    BoxSettings settings;             ///< While it runs.
    RunConfig under;                  ///< The same, of its snapshot.
  };
  class Hold;

  Answer<store::Resource> find_snapshot(const store::WorkspaceId& workspace, const std::string& reference);
  std::shared_ptr<Live> live_of(const std::string& id, const store::WorkspaceId& workspace);
  void forget(const std::string& id);
  bool is_copied(const std::string& id) const;  ///< To a snapshot, now.
  store::Outcome<store::Resource> look_up(const store::WorkspaceId& workspace, const std::string& name_or_id);
  Answer<store::Resource> start_held(Live& live, const store::Resource& resource,
                                     std::shared_ptr<const proxy::Egress> egress);
  Answer<store::Resource> ensure_running(Live& live, const store::Resource& resource);
  void stop_held(Live& live, const std::string& id, const std::string& why);
  store::Outcome<void> remove_held(Live& live, const std::string& id);
  void reload_held(Live& live, const std::string& id);
  void reload(const store::WorkspaceId* workspace);
  void clear_up(Live& live, const std::string& id);
  void recover();
  std::vector<std::pair<std::string, std::shared_ptr<Live>>> all() const;

  store::Store& store_;
  const Policies& policies_;
  Runner& runner_;
  const Clock& clock_;
  const Report report_;
  BoxCounts counts_;
  Snapshots* const snapshots_;
  std::atomic<std::uint64_t> secret_changes_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Live>> live_;
  TimePoint look_at_stopped_{};
};

/// What commands of a box have in their environment besides what every box has: the variables of its
/// snapshot, those of rules, of the box, of its run_config, and those that providers' SDKs need, where later
/// ones win.
std::vector<std::string> command_environment(const BoxSettings& settings, const policy::Snapshot& policy,
                                             const Variables& under = {});

}  // namespace postern::platform
