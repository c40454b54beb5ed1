#include "sandbox/mounts.h"

#include <algorithm>
#include <array>

namespace postern::sandbox {
namespace {

using Kind = MountStep::Kind;

// Places that are the sandbox's own and never the host's.
constexpr std::array<std::string_view, 3> kernel_places{"/dev", "/proc", "/sys"};
constexpr std::array<std::string_view, 3> private_places{"/tmp", "/var/tmp", "/run"};

bool within_any(std::string_view path, const auto& places) {
  return std::ranges::any_of(places, [&](std::string_view place) { return is_within(path, place); });
}

/// Writable only where that makes sense: nobody works in /proc, and /run as a whole is full of host sockets.
bool may_bind_working_directory(std::string_view path) {
  return path != "/run" && (!within_any(path, kernel_places) || is_within(path, "/dev/shm"));
}

class Planner {
 public:
  explicit Planner(const MountFacts& facts) : facts_(facts) {}

  std::vector<MountStep> plan() {
    root_and_work();
    own_places();
    hidden();
    user_rules();
    own_files();
    return std::move(steps_);
  }

 private:
  void add(Kind kind, std::string source, std::string destination) {
    steps_.push_back({kind, std::move(source), std::move(destination), {}});
  }

  bool work_is_inside_own_place() const {
    const std::string& work = facts_.working_directory;
    return within_any(work, private_places) || within_any(work, kernel_places);
  }

  void root_and_work() {
    const std::string& work = facts_.working_directory;
    add(work == "/" ? Kind::bind : Kind::ro_bind, "/", "/");
    if (work != "/" && !work_is_inside_own_place()) expose(Kind::bind, work);
  }

  void expose(Kind kind, const std::string& path) {
    add(kind, path, path);
    exposed_.push_back(path);
  }

  void own_places() {
    add(Kind::devices, {}, "/dev");
    add(Kind::processes, {}, "/proc");
    for (const std::string& place : facts_.temporary_places) add(Kind::temporary, {}, place);
    add(Kind::private_tree, {}, "/run");
    for (const std::string& tree : facts_.run_trees) expose(Kind::ro_bind, tree);
    if (!facts_.runtime_directory.empty()) add(Kind::directory, {}, facts_.runtime_directory);
    for (const std::string& home : facts_.homes) {
      bool lost = std::ranges::any_of(private_places,
                                      [&](auto place) { return is_within(home, place) && home != place; });
      if (lost) expose(Kind::ro_bind, home);
    }
    const std::string& work = facts_.working_directory;
    if (work_is_inside_own_place() && may_bind_working_directory(work)) expose(Kind::bind, work);
  }

  /// Whether the host's file at this path can be seen at all.
  bool visible(std::string_view path) const {
    if (!within_any(path, private_places) && !within_any(path, kernel_places)) return true;
    return std::ranges::any_of(exposed_, [&](const std::string& shown) { return is_within(path, shown); });
  }

  void hidden() {
    for (const HiddenPlace& place : facts_.hidden) {
      if (visible(place.path)) hide_at(place, place.path);
    }
  }

  /// Below an empty tree the mount point does not exist any more, and there is nothing left to hide. The last
  /// mount over a path is the one that counts.
  bool covered(std::string_view path) const {
    auto last = std::find_if(steps_.rbegin(), steps_.rend(),
                             [&](const MountStep& step) { return is_within(path, step.destination); });
    return last != steps_.rend() && (last->kind == Kind::hide_tree || last->kind == Kind::hide_file);
  }

  void hide_at(const HiddenPlace& place, std::string destination) {
    if (covered(destination)) return;
    Kind kind = place.kind == HiddenPlace::Kind::directory ? Kind::hide_tree : Kind::hide_file;
    add(kind, {}, std::move(destination));
  }

  void user_rules() {
    std::size_t hides = 0;
    for (const PathRule& rule : facts_.rules) {
      if (rule.kind == PathRule::Kind::hide) {
        const HiddenPlace& place = facts_.rule_hides[hides++];
        hide_at(place, place.path);
        continue;
      }
      const std::string& destination = rule.destination.empty() ? rule.source : rule.destination;
      add(rule.kind == PathRule::Kind::bind ? Kind::bind : Kind::ro_bind, rule.source, destination);
      hide_again_below(rule.source, destination);
    }
  }

  /// The bind brought the host's view back, perhaps at another place: what is hidden below it stays hidden.
  void hide_again_below(const std::string& source, const std::string& destination) {
    for (const HiddenPlace& place : facts_.hidden) {
      if (place.path != source && is_within(place.path, source)) {
        hide_at(place, moved(place.path, source, destination));
      }
    }
    // The state directory itself, too: nobody may open that.
    const std::string& state = facts_.state_directory;
    if (!state.empty() && is_within(state, source))
      add(Kind::hide_tree, {}, moved(state, source, destination));
  }

  static std::string moved(std::string_view path, std::string_view from, std::string_view to) {
    path.remove_prefix(from == "/" ? 0 : from.size());
    return (to == "/" ? std::string() : std::string(to)) + std::string(path);
  }

  void own_files() {
    if (!facts_.state_directory.empty() && visible(facts_.state_directory)) {
      add(Kind::hide_tree, {}, facts_.state_directory);
    }
    steps_.insert(steps_.end(), facts_.data.begin(), facts_.data.end());
    steps_.insert(steps_.end(), facts_.files.begin(), facts_.files.end());
  }

  const MountFacts& facts_;
  std::vector<MountStep> steps_;
  std::vector<std::string> exposed_;  // Host places shown inside the sandbox's own ones.
};

}  // namespace

std::vector<MountStep> plan_mounts(const MountFacts& facts) { return Planner(facts).plan(); }

}  // namespace postern::sandbox
