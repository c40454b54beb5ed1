#include "store/sqlite_core.h"

#include <fmt/format.h>
#include <vector>

#include "store/checks.h"

namespace postern::store {

namespace {

constexpr std::string_view the_server;  // as an owner of a data key

std::unexpected<Failure> sealed_store() {
  return fail(Fault::sealed, "the store is sealed: it was opened without its master key");
}

Outcome<std::string> first_text(const Row& row) { return row.text(0); }

}  // namespace

std::unexpected<Failure> does_not_open(std::string_view what, credential::OpenFault fault) {
  if (fault == credential::OpenFault::other_key)
    return fail(Fault::sealed, "the store is sealed: its master key is another one");
  return fail(Fault::damaged, fmt::format("{} is not what was stored", what));
}

Outcome<Secret> open_sealed(const credential::DataKey& key, std::string_view sealed,
                            const credential::SealedPlace& place, std::string_view what) {
  auto opened = key.open(sealed, place);
  if (!opened) return does_not_open(what, opened.error());
  return std::move(*opened);
}

Outcome<credential::DataKey> SqliteCore::data_key(SqliteConnection& in, const WorkspaceId& workspace) const {
  // First: the server's owner is no workspace, whatever somebody calls theirs.
  if (auto there = expect_workspace(in, workspace); !there) return failed(there);
  return open_data_key(in, workspace.text);
}

Outcome<credential::DataKey> SqliteCore::server_data_key(SqliteConnection& in) const {
  return open_data_key(in, the_server);
}

Outcome<void> SqliteCore::make_data_key(SqliteConnection& in, const WorkspaceId& workspace) const {
  return add_data_key(in, workspace.text);
}

Outcome<void> SqliteCore::make_server_data_key(SqliteConnection& in) const {
  return add_data_key(in, the_server);
}

SqliteCore::Master SqliteCore::master() const {
  const std::lock_guard lock(master_mutex_);
  return master_;
}

void SqliteCore::set_master(credential::MasterKey key) const {
  auto set = std::make_shared<const credential::MasterKey>(std::move(key));
  const std::lock_guard lock(master_mutex_);
  master_ = std::move(set);
}

Outcome<SqliteCore::Master> SqliteCore::current_master(SqliteConnection& in) const {
  const Master known = master();
  if (!known) return sealed_store();
  // Another process may have changed the master key since this one opened the store.
  auto current = in.one("SELECT master_key FROM meta", {}, "the store is empty", first_text);
  if (!current) return failed(current);
  if (*current == known->fingerprint()) return known;
  auto found = find_master_ ? find_master_(*current) : std::nullopt;
  if (!found || found->fingerprint() != *current)
    return does_not_open("the master key", credential::OpenFault::other_key);
  set_master(std::move(*found));
  return master();
}

Outcome<credential::DataKey> SqliteCore::open_data_key(SqliteConnection& in, std::string_view owner) const {
  auto wrapped =
      in.one("SELECT wrapped FROM data_keys WHERE owner = ?1", {owner}, "there is no data key", first_text);
  if (!wrapped) return failed(wrapped);
  const Master known = master();
  if (!known) return sealed_store();
  auto key = known->open(*wrapped, owner);
  if (!key && key.error() == credential::OpenFault::other_key) {
    auto current = current_master(in);
    if (!current) return failed(current);
    key = (*current)->open(*wrapped, owner);
  }
  if (!key) return does_not_open("the key of a workspace", key.error());
  return std::move(*key);
}

Outcome<void> SqliteCore::add_data_key(SqliteConnection& in, std::string_view owner) const {
  auto current = current_master(in);
  if (!current) return failed(current);
  const std::string wrapped = (*current)->wrap(credential::DataKey::generate(), owner);
  auto done = in.execute("INSERT INTO data_keys VALUES (?1, ?2)", {owner, Blob{wrapped}});
  if (!done) return failed(done);
  return {};
}

Outcome<void> SqliteCore::expect_workspace(SqliteConnection& in, const WorkspaceId& workspace) {
  auto found = in.one("SELECT id FROM workspaces WHERE id = ?1", {workspace}, "there is no such workspace",
                      first_text);
  if (!found) return failed(found);
  return {};
}

Outcome<Revision> SqliteCore::next_revision(SqliteConnection& in) {
  auto next = in.number("UPDATE meta SET revision = revision + 1 RETURNING revision");
  if (!next) return failed(next);
  return static_cast<Revision>(*next);
}

Outcome<Revision> SqliteCore::note(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                   std::string_view id, bool gone) const {
  auto revision = next_revision(in);
  if (!revision) return revision;
  auto noted = in.execute(
      "INSERT INTO changes (workspace, kind, id, revision, at, gone) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
      "ON CONFLICT DO UPDATE SET revision = excluded.revision, at = excluded.at, gone = excluded.gone",
      {workspace, token(kind), id, *revision, now(), gone});
  if (!noted) return failed(noted);
  return revision;
}

Outcome<Revision> SqliteCore::note_change(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                          std::string_view id) const {
  return note(in, kind, workspace, id, false);
}

Outcome<Removal> SqliteCore::note_removal(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                          std::string_view id) const {
  auto noted = note(in, kind, workspace, id, true);
  if (!noted) return failed(noted);
  return Removal::removed;
}

Outcome<Removal> SqliteCore::expect_gone(SqliteConnection& in, Kind kind, const WorkspaceId& workspace,
                                         std::string_view id) {
  auto gone = in.one("SELECT id FROM changes WHERE workspace = ?1 AND kind = ?2 AND id = ?3 AND gone = 1",
                     {workspace, token(kind), id}, "there is no such thing", first_text);
  if (!gone) return failed(gone);
  return Removal::was_gone;
}

Outcome<std::size_t> SqliteCore::rotate(credential::MasterKey next) {
  // Nobody opens anything while there are two keys.
  const std::scoped_lock lock(writing_, reading_);
  const Master before = master();
  if (!before) return sealed_store();
  struct Wrapped {
    std::string owner, bytes;
  };
  auto done = writer_.in_transaction("BEGIN IMMEDIATE", [&](SqliteConnection& in) -> Outcome<std::size_t> {
    auto current = in.one("SELECT master_key FROM meta", {}, "the store is empty", first_text);
    if (!current) return failed(current);
    if (*current == next.fingerprint()) return 0;
    if (*current != before->fingerprint())
      return does_not_open("the master key", credential::OpenFault::other_key);
    auto keys = in.all("SELECT owner, wrapped FROM data_keys", {},
                       [](const Row& row) { return Outcome<Wrapped>(Wrapped{row.text(0), row.text(1)}); });
    if (!keys) return failed(keys);
    for (const Wrapped& wrapped : *keys) {
      const auto key = before->open(wrapped.bytes, wrapped.owner);
      if (!key) return does_not_open(fmt::format("the key of workspace {}", wrapped.owner), key.error());
      const std::string again = next.wrap(*key, wrapped.owner);
      auto updated =
          in.execute("UPDATE data_keys SET wrapped = ?2 WHERE owner = ?1", {wrapped.owner, Blob{again}});
      if (!updated) return failed(updated);
    }
    auto named = in.execute("UPDATE meta SET master_key = ?1", {next.fingerprint()});
    if (!named) return failed(named);
    return keys->size();
  });
  if (done) set_master(std::move(next));
  return done;
}

void SqliteCore::empty_log() {
  const std::scoped_lock lock(writing_);
  // When somebody reads an older state it stays, until the next time.
  (void)writer_.number("PRAGMA wal_checkpoint(TRUNCATE)");
}

}  // namespace postern::store
