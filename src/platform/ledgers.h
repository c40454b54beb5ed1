#pragma once
// What each sandbox has used of its limits, kept in the store: counts are of a day, whatever becomes of the
// sandbox's policy, of the sandbox, or of the server meanwhile.

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "quota/ledger.h"
#include "store/store.h"

namespace postern::platform {

/// Thread-safe.
class Ledgers {
 public:
  /// Both outlive it.
  Ledgers(store::Store& store, const Clock& clock) : store_(store), clock_(clock) {}
  Ledgers(const Ledgers&) = delete;

  /// A sandbox's own, as the store has it if nobody has it here. Errors: those of the store; without its
  /// counts a sandbox would have its day's limits once more.
  store::Outcome<std::shared_ptr<quota::Ledger>> of(const store::WorkspaceId& workspace,
                                                    const std::string& sandbox);
  /// A new sandbox's, with which it has started already.
  void adopt(const store::WorkspaceId& workspace, const std::string& sandbox,
             std::shared_ptr<quota::Ledger> ledger);
  /// The sandbox is gone, and its counts with it.
  void forget(const std::string& sandbox);

  /// Writes what has changed since the last time. Errors: it is tried again the next time.
  store::Outcome<void> flush();

 private:
  struct Entry {
    store::WorkspaceId workspace;
    std::shared_ptr<quota::Ledger> ledger;
    quota::Day day{};                        ///< Of what was written last.
    std::vector<store::LimitCount> written;  ///< By name.
  };

  store::Store& store_;
  const Clock& clock_;
  std::mutex mutex_;  ///< Not held while the store is asked to write.
  std::map<std::string, Entry> entries_;
};

}  // namespace postern::platform
