#pragma once
// A store in one SQLite database: DIRECTORY/store.db, mode 0600 in a directory of mode 0700, neither of them
// a symbolic link. Several processes may have it open; they take turns in writing.
//
// docs/decisions/0017 says why it is so simple.

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "credential/sealing.h"
#include "store/store.h"

namespace postern::store {

class SqliteCore;

/// Asked for the key of this fingerprint when the one in hand is not the store's (any more): another process
/// may have rotated it. nullopt: it cannot be had. On any thread, with a lock of the store held: not to use
/// it.
using MasterKeyFinder = std::function<std::optional<credential::MasterKey>(const std::string& fingerprint)>;

class SqliteStore final : public Store {
 public:
  /// Makes an empty one where there is none; its master key is then `master`. `clock` outlives the store.
  /// Errors: newer, damaged, unavailable, and invalid for files that others could have read.
  static Outcome<std::unique_ptr<SqliteStore>> open(const std::string& directory,
                                                    std::optional<credential::MasterKey> master,
                                                    const Clock& clock,
                                                    MasterKeyFinder find_master = nullptr);
  ~SqliteStore() override;

  Seal seal() const override { return seal_; }
  Outcome<std::string> master_key_fingerprint() override;
  Outcome<std::size_t> rotate_master_key(credential::MasterKey next) override;

  Workspaces& workspaces() override;
  ApiKeys& api_keys() override;
  WorkspaceSecrets& secrets() override;
  SigningKeys& signing_keys() override;
  Resources& sandboxes() override;
  Resources& snapshots() override;
  RefreshTokenStore& refresh_tokens() override;
  LimitCounts& limit_counts() override;
  ChangeLog& changes() override;

  /// Everything as it is at one moment, into one new file (mode 0600), while the store goes on. Secrets in it
  /// are sealed as here. The file is there whole or not at all; one that is there already is not touched.
  /// Errors: exists, unavailable.
  Outcome<void> back_up(const std::string& path);

 private:
  struct Parts;
  SqliteStore(std::string path, std::unique_ptr<Parts> parts, Seal seal);
  std::string path_;
  std::unique_ptr<Parts> parts_;
  std::atomic<Seal> seal_;
};

struct BackupSummary {
  Revision revision = 0;
  std::size_t workspaces = 0;
  std::size_t sandboxes = 0;
  std::string master_key;  ///< Fingerprint of the one that it is sealed with.
};

/// Reads all of a backup. With `master`, every data key is opened too. Errors: as SqliteStore::open(), and
/// sealed for another master key than the backup's.
Outcome<BackupSummary> check_backup(const std::string& path, const credential::MasterKey* master);

/// Makes the store of `directory` from a backup, which is checked first. Errors: exists, when there is one.
Outcome<void> restore_backup(const std::string& path, const std::string& directory);

}  // namespace postern::store
