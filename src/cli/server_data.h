#pragma once
// Where a server keeps what it knows, and the key that its secrets are sealed with: for `postern serve`, and
// for the commands that work on the same store beside it.

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "cli/steps.h"
#include "credential/sealing.h"
#include "store/records.h"

namespace postern::cli {

/// Of a new server, with its first key.
inline constexpr const char* first_workspace = "default";

inline constexpr const char* master_key_variable = "POSTERN_MASTER_KEY";

template <class T>
T must(store::Outcome<T> outcome) {
  if (outcome) {
    if constexpr (!std::is_void_v<T>)
      return std::move(*outcome);
    else
      return;
  }
  complain(outcome.error().detail);
  throw Stop{};
}

/// `said`: --data; empty: "server" in the state directory.
std::string data_directory(const std::string& said);

/// `said`: --master-key. Empty: POSTERN_MASTER_KEY, which is taken out of the environment, else the file in
/// `data`, made when it is absent. nullopt: none, as the operator wants it.
std::optional<credential::MasterKey> read_master_key(const std::string& said, const std::string& data);

}  // namespace postern::cli
