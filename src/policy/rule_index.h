#pragma once
// Which rules are for a host, in the order of the document.

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "model/host.h"
#include "policy/document.h"
#include "policy/host_table.h"
#include "policy/request_index.h"

namespace postern::policy {

inline constexpr std::uint32_t no_rule = std::numeric_limits<std::uint32_t>::max();

/// The numbers of the rules that cover one host, ascending: a merge of the lists for its name and for the
/// suffixes above it. Made on the stack, valid while the index lives.
class CoveringRules {
 public:
  bool empty() const { return count_ == 0; }
  bool judges_paths() const { return judges_paths_; }
  /// Some rule closes a part of the host.
  bool denies() const { return denies_; }
  /// Leaves out rules that cannot match. Those that stay are still to be matched.
  void keep_for(const Asked& asked);
  /// The next rule, or no_rule.
  std::uint32_t next();

 private:
  friend class RuleIndex;
  struct Rest {
    const std::uint32_t* first;
    const std::uint32_t* last;
  };
  // One list for the name and one per label (a name of 253 bytes has at most 127); then those of requests.
  static constexpr std::size_t lists_max = 256;
  /// False when there is no room.
  bool add(const RuleNumbers& rules);

  std::array<Rest, lists_max> lists_;              // only the first count_ are set
  std::array<const RequestIndex*, 128> requests_;  // of each list of a host; nullptr where it is short
  std::size_t count_ = 0;
  bool judges_paths_ = false;
  bool denies_ = false;
};

class RuleIndex {
 public:
  /// Enabled rules only, in ascending order of `number`.
  void add(const Rule& rule, std::uint32_t number);
  /// After the last add(). `rules`: all of the document; their strings must stay where they are.
  void finish(std::span<const Rule> rules);
  CoveringRules covering(const Host& host) const;

 private:
  struct List {
    RuleNumbers rules;
    std::unique_ptr<RequestIndex> requests;  ///< Where there are many.
    bool judges_paths = false;
    bool denies = false;
  };
  static constexpr std::size_t short_list = 8;  // matched one by one sooner than looked up
  HostTable<List> hosts_;
};

}  // namespace postern::policy
