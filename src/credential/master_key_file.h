#pragma once
// The master key of a store whose operator named none: a file beside it. Whoever takes the whole directory
// has both; an operator who minds keeps the key elsewhere.

#include <optional>
#include <string>

#include "base/private_directory.h"
#include "credential/sealing.h"
#include "credential/secret_reference.h"

namespace postern::credential {

/// From `directory`/master.key (mode 0600), or made there. Errors as PrivateDirectory and
/// MasterKey::from_text().
Result<MasterKey> load_or_create_master_key(const std::string& directory);

/// The key of that fingerprint, in `directory`: master.key, or what a rotation that is not over has put
/// beside it. Makes nothing and waits for nobody. nullopt: it is not there. Errors as
/// load_or_create_master_key().
Result<std::optional<MasterKey>> find_master_key(const std::string& directory,
                                                 const std::string& fingerprint);

/// The store has the key of that fingerprint: where a rotation that was cut short left it beside master.key,
/// it takes its place. Waits while a rotation is under way. Errors as load_or_create_master_key().
Result<void> settle_master_key(const std::string& directory, const std::string& fingerprint);

/// `directory`/master.key gives way to another key, in an order in which the store can always be opened:
///
///   begin()    the new key is on disk, as master.key.next; one that a killed rotation left is used again
///   ...        the store is wrapped with next()
///   finish()   it is master.key, and the old one is gone
///
/// Nobody else reads or changes the keys of the directory meanwhile.
class MasterKeyRotation {
 public:
  /// Errors as load_or_create_master_key(), and invalid_configuration where there is no master.key.
  static Result<MasterKeyRotation> begin(const std::string& directory);

  /// Once each: a MasterKey has one owner.
  MasterKey take_current() { return std::move(current_); }
  MasterKey take_next() { return std::move(next_); }
  /// Another rotation had begun, and did not finish.
  bool resumed() const { return resumed_; }
  Result<void> finish();

 private:
  MasterKeyRotation(PrivateDirectory directory, MasterKey current, MasterKey next, bool resumed)
      : directory_(std::move(directory)),
        current_(std::move(current)),
        next_(std::move(next)),
        resumed_(resumed) {}

  PrivateDirectory directory_;
  MasterKey current_, next_;
  bool resumed_;
};

/// From where `reference` says: a file, what a command prints, a variable of this process. Before threads
/// start. Errors name the place, and hold nothing of the key.
Result<MasterKey> read_master_key(const SecretReference& reference);

}  // namespace postern::credential
