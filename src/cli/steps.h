#pragma once
// What the long commands have in common: every step before the start either gives a value or says why not,
// and the first complaint ends the command.

#include <cstdio>
#include <expected>
#include <string>
#include <sys/resource.h>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "policy/problem.h"

namespace postern::cli {

/// Thrown after the complaint.
struct Stop {};

inline void complain(const std::string& message) { std::fprintf(stderr, "postern: %s\n", message.c_str()); }

template <class T>
T must(Result<T> result) {
  if (result) {
    if constexpr (!std::is_void_v<T>)
      return std::move(*result);
    else
      return;
  }
  complain(result.error().detail);
  throw Stop{};
}

template <class T>
T must(std::expected<T, std::vector<policy::Problem>> result, const std::string& file,
       const char* advice = nullptr) {
  if (result) return std::move(*result);
  for (const policy::Problem& problem : result.error()) complain(policy::describe(problem, file));
  if (advice) complain(advice);
  throw Stop{};
}

/// The exit code of a command: what `act` returns, or `stopped` after a complaint.
template <class Act>
int unless_stopped(int stopped, Act act) {
  try {
    return act();
  } catch (const Stop&) {
    return stopped;
  }
}

/// For a process that will have secrets in its memory: no core dump, no other process of the user looking in;
/// and as many descriptors as it may have. The limits as they were, for whoever is started by us.
std::vector<std::pair<int, rlimit>> harden();

/// Where records go: a file (mode 0600, appended to, no symbolic link), "-" for standard output, empty for
/// nowhere.
Fd open_log(const std::string& log);

}  // namespace postern::cli
