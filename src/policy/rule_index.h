#pragma once
// Which rules are for a host, in the order of the document.

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/host.h"
#include "policy/document.h"
#include "policy/host_table.h"

namespace postern::policy {

inline constexpr std::uint32_t no_rule = std::numeric_limits<std::uint32_t>::max();

class PathIndex;

/// The numbers of the rules that cover one host, ascending: a merge of the lists for its name and for the
/// suffixes above it. Made on the stack, valid while the index lives.
class CoveringRules {
 public:
  bool empty() const { return count_ == 0; }
  bool judges_paths() const { return judges_paths_; }
  /// Some rule closes a part of the host.
  bool denies() const { return denies_; }
  /// Leaves out rules that name only paths which none of `readings` can match. Those that stay are still to
  /// be matched. `readings`: every form in which the path is compared with a pattern.
  void keep_for(std::span<const std::string_view> readings);
  /// The next rule, or no_rule.
  std::uint32_t next();

 private:
  friend class RuleIndex;
  struct Rest {
    const std::uint32_t* first;
    const std::uint32_t* last;
  };
  // One list for the name and one per label (a name of 253 bytes has at most 127); then those of paths.
  static constexpr std::size_t lists_max = 256;
  void add(const std::vector<std::uint32_t>& rules) {
    lists_[count_++] = {rules.data(), rules.data() + rules.size()};
  }

  std::array<Rest, lists_max> lists_;        // only the first count_ are set
  std::array<const PathIndex*, 128> paths_;  // of each list of a host; nullptr where it is short
  std::size_t count_ = 0;
  bool judges_paths_ = false;
  bool denies_ = false;
};

/// The rules of one host by their paths, so that judging a request does not depend on how many there are. A
/// path is looked up whole, by its beginnings that end in a slash, and by its ends.
class PathIndex {
 public:
  void add(const Rule& rule, std::uint32_t number);
  /// False when there were more than fit: all rules are to be looked at.
  template <class Visit>
  bool visit(std::span<const std::string_view> readings, Visit visit) const;

 private:
  using Rules = std::vector<std::uint32_t>;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  using Map = std::unordered_map<std::string, Rules, Hash, std::equal_to<>>;

  void add(PathPattern::Form form, std::string_view text, std::uint32_t number);
  static void append(Rules& rules, std::uint32_t number) {
    if (rules.empty() || rules.back() != number) rules.push_back(number);
  }

  Rules every_;  ///< Those that some pattern does not tie to a path.
  Map exact_, prefix_, suffix_;
  std::size_t prefix_bytes_max_ = 0;
  std::vector<std::size_t> suffix_sizes_;
};

class RuleIndex {
 public:
  /// Enabled rules only, in ascending order of `number`.
  void add(const Rule& rule, std::uint32_t number);
  CoveringRules covering(const Host& host) const;

 private:
  struct List {
    std::vector<std::uint32_t> rules;
    PathIndex paths;
    bool judges_paths = false;
    bool denies = false;
  };
  static constexpr std::size_t short_list = 8;  // matched one by one sooner than looked up
  HostTable<List> hosts_;
};

}  // namespace postern::policy
