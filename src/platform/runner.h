#pragma once
// What it takes to run a box: its processes, its network, and the commands in it. An interface, so that what
// becomes of boxes (boxes.h) is tested without any.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "box/box_root.h"
#include "box/cgroups.h"
#include "proxy/egress.h"

namespace postern::platform {

class Runner {
 public:
  struct Start {
    std::string id;        ///< Of the box: what records and callbacks call it.
    std::string hostname;  ///< As the box sees itself.
    std::string workspace;
    box::BoxBase base = box::BoxBase::userland;
    std::vector<std::string> layers;  ///< Ids of snapshots, the uppermost first.
    std::shared_ptr<const proxy::Egress> egress;
    std::vector<std::string> environment;  ///< NAME=VALUE, in addition to what every box has.
    std::string work_directory;            ///< Where commands start; empty: the home directory.
    Duration idle_ttl{0};                  ///< Unused for so long it is idle; 0: never.
    box::Limits limits;
    // On any thread; not after stop().
    std::function<void()> on_end;   ///< It has ended by itself. Once; stop() is still to be called.
    std::function<void()> on_idle;  ///< Again after each further idle_ttl.
  };

  virtual ~Runner() = default;
  /// Blocks until commands can be given. Errors are sentences for whoever wanted the box.
  virtual Result<void> start(Start start) = 0;
  /// Blocks until nothing of it runs. What it wrote to its files stays. Idempotent.
  virtual void stop(const std::string& id) = 0;
  /// What belongs to it on disk goes too: it is out of the way at once, and deleted in its time. Idempotent;
  /// of a box that does not run.
  virtual Result<void> erase(const std::string& id) = 0;
  /// False: what it wrote is lost, and starting it would begin anew.
  virtual bool has_files(const std::string& id) const = 0;
  /// When it returns, the next request is judged by this.
  virtual void swap(const std::string& id, std::shared_ptr<const proxy::Egress> egress) = 0;
  /// For commands that start from now on.
  virtual void set_environment(const std::string& id, std::vector<std::string> environment,
                               std::string work_directory) = 0;
  virtual void set_idle_ttl(const std::string& id, Duration idle_ttl) = 0;
  /// Errors: it uses more than it would be allowed; nothing has changed.
  virtual Result<void> set_limits(const std::string& id, const box::Limits& limits) = 0;
};

}  // namespace postern::platform
