#pragma once
// Which rules are for a host, in the order of the document.

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "model/host.h"
#include "policy/document.h"
#include "policy/host_table.h"

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
  /// The next rule, or no_rule.
  std::uint32_t next();

 private:
  friend class RuleIndex;
  // One list for the name and one per label; a name of 253 bytes has at most 127 labels.
  struct Rest {
    const std::uint32_t* first;
    const std::uint32_t* last;
  };
  std::array<Rest, 128> lists_;  // only the first count_ are set
  std::size_t count_ = 0;
  bool judges_paths_ = false;
  bool denies_ = false;
};

class RuleIndex {
 public:
  /// Enabled rules only, in ascending order of `number`.
  void add(const Rule& rule, std::uint32_t number);
  CoveringRules covering(const Host& host) const;

 private:
  struct List {
    std::vector<std::uint32_t> rules;
    bool judges_paths = false;
    bool denies = false;
  };
  HostTable<List> hosts_;
};

}  // namespace postern::policy
