#pragma once
// The rules of one host by what they ask of a request, so that judging one does not depend on how many there
// are. A path is looked up whole, by its beginnings that end in a slash, and by its ends; where many rules
// name the same path, they are told apart by a header that they want, or by their methods. What is found
// still has to be matched; what is not found cannot match.

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/http.h"
#include "policy/document.h"

namespace postern::policy {

/// Numbers of rules, ascending.
using RuleNumbers = std::vector<std::uint32_t>;

/// What rules are found by. Made for one judgement.
struct Asked {
  std::string_view method;
  std::span<const HeaderField> fields;
  /// Every form in which the path is compared with a pattern.
  std::span<const std::string_view> readings;
};

/// Fields by which some frameworks let a request name another method than its own.
bool is_method_override(std::string_view name);

namespace detail {

/// ASCII letters of either case are the same: names of fields, and methods of rules that deny.
struct NameHash {
  std::size_t operator()(std::string_view name) const;
};
struct NameEqual {
  bool operator()(std::string_view a, std::string_view b) const;
};
using ByName = std::unordered_map<std::string_view, RuleNumbers, NameHash, NameEqual>;
using ByValue = std::unordered_map<std::string_view, RuleNumbers>;
using ByField = std::unordered_map<std::string_view, ByValue, NameHash, NameEqual>;

/// How many rules want a field to have a value.
using FieldCounts = std::unordered_map<std::string_view, std::unordered_map<std::string_view, std::size_t>>;

/// Rules that are found by the same path. Where they are many, what else they want tells them apart.
class Bucket {
 public:
  void add(std::uint32_t number) {
    if (rules_.empty() || rules_.back() != number) rules_.push_back(number);
  }
  void finish(std::span<const Rule> rules, const FieldCounts& counts);
  /// Calls `visit(numbers)` until it answers false, which is the answer then.
  template <class Visit>
  bool visit(const Asked& asked, Visit visit) const {
    if (!rules_.empty() && !visit(rules_)) return false;
    return !finer_ || finer_->visit(asked, visit);
  }

 private:
  struct Finer {
    ByField fields;
    ByName methods;
    template <class Visit>
    bool visit(const Asked& asked, Visit visit) const;
  };
  RuleNumbers rules_;
  std::unique_ptr<Finer> finer_;
};

}  // namespace detail

class RequestIndex {
 public:
  /// The strings of `rules` must stay where they are while the index lives.
  RequestIndex(std::span<const Rule> rules, const RuleNumbers& numbers);

  /// Calls `visit(numbers)` with every list that may hold a rule that matches, until it answers false, which
  /// is the answer then.
  template <class Visit>
  bool visit(const Asked& asked, Visit visit) const;

 private:
  using Buckets = std::unordered_map<std::string_view, detail::Bucket>;
  /// A pattern that a path ends in. In the order of their last bytes, then those before them: patterns that
  /// end a path stand above each other in one chain, which a search finds.
  struct Ending {
    std::string_view text;
    std::array<std::uint64_t, 2>
        tail;  ///< Its last bytes, the last of all foremost: most searches need no more.
    detail::Bucket bucket;
    std::optional<std::size_t> above = {};  ///< The longest other one that this one ends in.
  };

  void add(PathPattern::Form form, std::string_view text, std::uint32_t number);
  void sort_endings();
  static std::array<std::uint64_t, 2> tail_of(std::string_view text);
  std::optional<std::size_t> longest_ending(std::string_view path) const;

  detail::Bucket every_;  ///< Those that some pattern does not tie to a path.
  Buckets exact_, prefix_, ending_of_;
  std::size_t prefix_bytes_max_ = 0;
  std::vector<Ending> endings_;
};

template <class Visit>
bool detail::Bucket::Finer::visit(const Asked& asked, Visit visit) const {
  const auto look = [&visit](const auto& map, std::string_view text) {
    const auto found = map.find(text);
    return found == map.end() || visit(found->second);
  };
  // Rules that deny take the method in either case, and from the fields that override it.
  if (!methods.empty() && !look(methods, asked.method)) return false;
  for (const HeaderField& field : asked.fields) {
    if (!methods.empty() && is_method_override(field.name) && !look(methods, field.value)) return false;
    if (fields.empty()) continue;
    const auto of_name = fields.find(field.name);
    if (of_name != fields.end() && !look(of_name->second, field.value)) return false;
  }
  return true;
}

template <class Visit>
bool RequestIndex::visit(const Asked& asked, Visit visit) const {
  const auto look = [&](const Buckets& buckets, std::string_view text) {
    const auto found = buckets.find(text);
    return found == buckets.end() || found->second.visit(asked, visit);
  };
  if (!every_.visit(asked, visit)) return false;
  for (const std::string_view path : asked.readings) {
    if (!look(exact_, path)) return false;
    for (std::size_t slash = path.find('/'); slash < std::min(path.size(), prefix_bytes_max_);
         slash = path.find('/', slash + 1)) {
      if (!look(prefix_, path.substr(0, slash + 1))) return false;
    }
    for (auto at = longest_ending(path); at; at = endings_[*at].above) {
      if (!endings_[*at].bucket.visit(asked, visit)) return false;
    }
  }
  return true;
}

}  // namespace postern::policy
