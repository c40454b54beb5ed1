#pragma once
// `postern policy learn`: the narrowest policy under which what was seen would have been allowed.

#include <cstdint>
#include <istream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "cli/run_options.h"

namespace CLI {
class App;
}

namespace postern::cli {

/// How much of a path a rule names.
enum class LearntPaths : std::uint8_t {
  exact,
  prefix,  ///< Everything below the last `/`: numbers and names of things come last.
  none,
};

/// What records add up to.
class Learnt {
 public:
  Learnt(LearntPaths paths, bool include_failed) : paths_(paths), include_failed_(include_failed) {}

  /// A line of a log. One that is no record, or not to be learnt from, changes nothing.
  void add(const std::string& line);
  void add_all(std::istream& lines);

  std::size_t calls() const { return calls_; }
  /// A policy document in YAML; only the destinations and requests that were added are allowed by it.
  std::string policy() const;

 private:
  using Methods = std::set<std::string>;
  std::string pattern_of(std::string_view path) const;

  const LearntPaths paths_;
  const bool include_failed_;
  std::size_t calls_ = 0;
  std::set<std::pair<std::string, std::uint16_t>> destinations_;
  std::map<std::string, std::map<std::string, Methods>>
      hosts_;  ///< Patterns of paths, for hosts looked into.
};

/// Below `postern policy`. `exit_code` becomes that of the program that was run, 0, or 125.
void add_policy_learn_command(CLI::App& policy, int& exit_code);

}  // namespace postern::cli
