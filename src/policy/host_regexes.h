#pragma once
// All `~regex` entries of a policy as one automaton: a single linear pass over the host name answers for all
// of them (RE2: no backtracking, bounded memory). The only file beside its source that knows the
// regular-expression library.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace postern::policy {

inline constexpr std::size_t host_regexes_max = 500;
inline constexpr int host_regex_memory_max = 1 << 20;     // one expression, compiled
inline constexpr int host_regexes_memory_max = 16 << 20;  // all of them together, with their caches

class HostRegexes {
 public:
  HostRegexes();
  HostRegexes(HostRegexes&&) noexcept;
  HostRegexes& operator=(HostRegexes&&) noexcept;
  ~HostRegexes();

  /// What is wrong with the expression, or nullopt.
  static std::optional<std::string> check(std::string_view source);

  /// Adds one that passed check(). False when there are too many.
  bool add(std::string_view source);
  /// After the last add(). False when the expressions are too large together.
  bool compile();
  /// True when an expression matches the whole canonical name.
  bool match(std::string_view name) const;

 private:
  struct Automaton;
  std::unique_ptr<Automaton> automaton_;
};

}  // namespace postern::policy
