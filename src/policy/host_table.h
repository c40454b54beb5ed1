#pragma once
// Host → value, for exact names and for every name below a suffix. Lookups hash the name and then its
// suffixes, label by label from the right: their cost is that of the name, whatever the number of entries,
// and they allocate nothing. Names are canonical, so labels end where dots stand ("evilgithub.com" is not
// below "github.com").

#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace postern::policy {

template <class T>
class HostTable {
 public:
  T& exact(std::string_view name) { return exact_.try_emplace(std::string(name)).first->second; }
  /// The value for every name below `suffix`, and not for `suffix` itself.
  T& below(std::string_view suffix) {
    const auto labels = static_cast<std::size_t>(std::ranges::count(suffix, '.')) + 1;
    labels_max_ = std::max(labels_max_, labels);
    return below_.try_emplace(std::string(suffix)).first->second;
  }

  const T* find_exact(std::string_view name) const {
    const auto found = exact_.find(name);
    return found == exact_.end() ? nullptr : &found->second;
  }

  /// Calls `visit(value)` for every suffix that `name` lies below, shortest first, until it answers true.
  template <class Visit>
  bool any_below(std::string_view name, Visit visit) const {
    std::size_t end = name.size();
    for (std::size_t labels = 1; labels <= labels_max_; ++labels) {
      const std::size_t dot = end == 0 ? std::string_view::npos : name.rfind('.', end - 1);
      if (dot == std::string_view::npos) return false;  // the whole name is not below itself
      if (const auto found = below_.find(name.substr(dot + 1));
          found != below_.end() && visit(found->second)) {
        return true;
      }
      end = dot;
    }
    return false;
  }

  template <class Visit>
  void each(Visit visit) {
    for (auto& [name, value] : exact_) visit(value);
    for (auto& [name, value] : below_) visit(value);
  }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  using Map = std::unordered_map<std::string, T, Hash, std::equal_to<>>;
  Map exact_, below_;
  std::size_t labels_max_ = 0;
};

}  // namespace postern::policy
