#pragma once
// What the parts of a SqliteStore share: the connections, the master key, and the count of changes.
//
// One connection writes and one reads, each behind a lock. A write waits for the disk, and whoever only reads
// does not wait for that (WAL); a read takes 5 to 15 µs, so that more connections for it would wait for the
// processor instead.

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "credential/sealing.h"
#include "store/sqlite_connection.h"
#include "store/sqlite_store.h"

namespace postern::store {

class SqliteCore {
 public:
  SqliteCore(SqliteConnection writer, SqliteConnection reader, std::optional<credential::MasterKey> master,
             MasterKeyFinder find_master, const Clock& clock)
      : writer_(std::move(writer)),
        reader_(std::move(reader)),
        find_master_(std::move(find_master)),
        clock_(clock) {
    if (master) set_master(std::move(*master));
  }

  /// All that `work(SqliteConnection&)` does, or nothing; on disk when it is answered.
  template <class Work>
  auto write(Work work) {
    const std::scoped_lock lock(writing_);
    return writer_.in_transaction("BEGIN IMMEDIATE", work);
  }
  /// `work` sees one state.
  template <class Work>
  auto read(Work work) {
    const std::scoped_lock lock(reading_);
    return reader_.in_transaction("BEGIN", work);
  }

  WallTime now() const { return clock_.wall(); }

  // Inside write() or read() only, with their connection.

  /// Errors: not_found for a workspace that is not there; sealed; damaged.
  Outcome<credential::DataKey> data_key(SqliteConnection& in, const WorkspaceId& workspace) const;
  /// Of what belongs to no workspace. Errors: not_found before it was made; sealed; damaged.
  Outcome<credential::DataKey> server_data_key(SqliteConnection& in) const;
  Outcome<void> make_data_key(SqliteConnection& in, const WorkspaceId& workspace) const;
  Outcome<void> make_server_data_key(SqliteConnection& in) const;
  static Outcome<void> expect_workspace(SqliteConnection& in, const WorkspaceId& workspace);

  static Outcome<Revision> next_revision(SqliteConnection& in);
  /// For the change log, with the next revision.
  Outcome<Revision> note_change(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                std::string_view id) const;
  Outcome<Removal> note_removal(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                std::string_view id) const;
  /// For what is not there: was it?
  static Outcome<Removal> expect_gone(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                      std::string_view id);

  Outcome<std::size_t> rotate(credential::MasterKey next);
  /// What was overwritten is still in the log until then.
  void empty_log();

 private:
  using Master = std::shared_ptr<const credential::MasterKey>;
  Master master() const;
  void set_master(credential::MasterKey key) const;
  /// The one that the store is sealed with, as `in` sees it. Errors: sealed.
  Outcome<Master> current_master(SqliteConnection& in) const;
  Outcome<credential::DataKey> open_data_key(SqliteConnection& in, std::string_view owner) const;
  Outcome<void> add_data_key(SqliteConnection& in, std::string_view owner) const;
  Outcome<Revision> note(SqliteConnection& in, Kind kind, const WorkspaceId& workspace, std::string_view id,
                         bool gone) const;

  std::mutex writing_, reading_;  ///< Taken in this order.
  SqliteConnection writer_, reader_;
  const MasterKeyFinder find_master_;
  mutable std::mutex master_mutex_;
  mutable Master master_;  ///< nullptr: none.
  const Clock& clock_;
};

/// What a sealed value says when it does not open.
std::unexpected<Failure> does_not_open(std::string_view what, credential::OpenFault fault);
Outcome<Secret> open_sealed(const credential::DataKey& key, std::string_view sealed,
                            const credential::SealedPlace& place, std::string_view what);

}  // namespace postern::store
