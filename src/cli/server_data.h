#pragma once
// Where a server keeps what it knows, and the key that its secrets are sealed with: for `postern serve`, and
// for the commands that work on the same store beside it.

#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/steps.h"
#include "credential/sealing.h"
#include "store/records.h"
#include "store/sqlite_store.h"

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

/// Absolute. `said`: --data; empty: "server" in the state directory.
std::string data_directory(const std::string& said);

/// No other process has boxes in this store, for as long as the descriptor is open: it would take ours for
/// those of a server that died. Not valid: a server runs there. Makes the directory.
Fd take_data(const std::string& data);

/// Complains and stops unless there is one that may be used.
void expect_store(const std::string& data);

/// With the master key that was said. Goes on when the key in `data` is rotated by another process.
std::unique_ptr<store::SqliteStore> open_store(const std::string& data, const std::string& master_key,
                                               const Clock& clock);

/// The key at an operator's `option`: file:PATH or cmd:COMMAND.
credential::MasterKey read_key_source(const std::string& option, const std::string& said);

/// `said`: --master-key. Empty: POSTERN_MASTER_KEY, which is taken out of the environment, else the file in
/// `data`, made when it is absent. nullopt: none, as the operator wants it.
std::optional<credential::MasterKey> read_master_key(const std::string& said, const std::string& data);

}  // namespace postern::cli
