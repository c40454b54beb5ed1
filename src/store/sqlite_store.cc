#include "store/sqlite_store.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <unistd.h>

#include "base/private_directory.h"
#include "store/sqlite_parts.h"
#include "store/sqlite_schema.h"

namespace postern::store {

namespace {

constexpr std::string_view file_name = "store.db";

using Access = SqliteConnection::Access;

std::unexpected<Failure> system_failure(const std::string& doing) {
  return fail(Fault::unavailable, fmt::format("{}: {}", doing, std::strerror(errno)));
}

std::unexpected<Failure> refused(Error error) {
  return fail(error.reason == Reason::invalid_configuration ? Fault::invalid : Fault::unavailable,
              std::move(error.detail));
}

struct Place {
  Fd directory;
  std::string path;  ///< Of the directory, without symbolic links: SQLite is told to follow none.
  std::string path_of(std::string_view name) const { return fmt::format("{}/{}", path, name); }
};

/// `directory` is there.
Outcome<Place> real_place(Fd fd, const std::string& directory) {
  std::error_code error;
  std::string path = std::filesystem::canonical(directory, error);
  if (error) return fail(Fault::unavailable, fmt::format("'{}': {}", directory, error.message()));
  return Place{std::move(fd), std::move(path)};
}

Outcome<Place> private_place(const std::string& directory) {
  auto opened = open_private_directory(directory);
  if (!opened) return refused(std::move(opened.error()));
  return real_place(std::move(*opened), directory);
}

/// For backups, which may lie anywhere.
Outcome<Place> place_beside(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  const std::string directory = parent.empty() ? std::string(".") : parent.string();
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return system_failure(fmt::format("opening '{}'", directory));
  return real_place(std::move(fd), directory);
}

std::string file_of(const std::string& path) { return std::filesystem::path(path).filename().string(); }

Outcome<SqliteConnection> open_backup(const std::string& path) {
  auto place = place_beside(path);
  if (!place) return failed(place);
  return SqliteConnection::open(place->path_of(file_of(path)), Access::read_only);
}

/// Empty, and nobody else's from its first moment on.
Outcome<void> make_file(const Place& place, const std::string& name) {
  const Fd file(::openat(place.directory.get(), name.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file && errno == EEXIST) return fail(Fault::exists, fmt::format("'{}' exists", place.path_of(name)));
  if (!file) return system_failure(fmt::format("creating '{}'", place.path_of(name)));
  return {};
}

/// Reads all of it.
Outcome<void> check_pages(SqliteConnection& connection) {
  auto verdict = connection.one("PRAGMA quick_check(1)", {}, "the store is empty",
                                [](const Row& row) -> Outcome<std::string> { return row.text(0); });
  if (!verdict) return failed(verdict);
  if (*verdict != "ok") return fail(Fault::damaged, fmt::format("the store is damaged: {}", *verdict));
  return {};
}

/// `from` into a new file `name`, which is there whole or not at all. `before_it_is_there`: what else is done
/// to the copy.
Outcome<void> copy_into(SqliteConnection& from, const Place& place, const std::string& name,
                        const std::string& before_it_is_there) {
  const std::string fresh = fmt::format("{}.new", name);
  ::unlinkat(place.directory.get(), fresh.c_str(), 0);  // of a process that died here
  if (auto made = make_file(place, fresh); !made) return made;
  auto copied = [&]() -> Outcome<void> {
    auto copy = SqliteConnection::open(place.path_of(fresh), Access::read_write);
    if (!copy) return failed(copy);
    if (auto done = from.copy_to(*copy); !done) return done;
    // One file, without a log beside it. SQLite has it on disk when it says so.
    return copy->script(
        fmt::format("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL; {}", before_it_is_there));
  }();
  // Unlike a rename, a link takes nothing's place.
  if (copied && ::linkat(place.directory.get(), fresh.c_str(), place.directory.get(), name.c_str(), 0) != 0) {
    copied = errno == EEXIST ? fail(Fault::exists, fmt::format("'{}' exists", place.path_of(name)))
                             : system_failure(fmt::format("creating '{}'", place.path_of(name)));
  }
  ::unlinkat(place.directory.get(), fresh.c_str(), 0);
  if (copied && ::fsync(place.directory.get()) != 0)
    return system_failure(fmt::format("writing '{}'", place.path));
  return copied;
}

/// The store's fingerprint becomes that of the first master key that it is opened with.
Outcome<std::string> adopt(SqliteConnection& connection, const std::optional<credential::MasterKey>& master) {
  return connection.in_transaction("BEGIN IMMEDIATE", [&](SqliteConnection& in) -> Outcome<std::string> {
    if (master) {
      auto done =
          in.execute("UPDATE meta SET master_key = ?1 WHERE master_key IS NULL", {master->fingerprint()});
      if (!done) return failed(done);
    }
    return in.one("SELECT coalesce(master_key, '') FROM meta", {}, "the store is empty",
                  [](const Row& row) -> Outcome<std::string> { return row.text(0); });
  });
}

}  // namespace

struct SqliteStore::Parts {
  Parts(SqliteConnection writer, SqliteConnection reader, std::optional<credential::MasterKey> master,
        MasterKeyFinder find_master, const Clock& clock)
      : core(std::move(writer), std::move(reader), std::move(master), std::move(find_master), clock) {}
  SqliteCore core;
  SqliteWorkspaces workspaces{core};
  SqliteApiKeys api_keys{core};
  SqliteSecrets secrets{core};
  SqliteSigningKeys signing_keys{core};
  SqliteResources sandboxes{core, Kind::sandbox};
  SqliteResources snapshots{core, Kind::snapshot};
  SqliteRefreshTokens refresh_tokens{core};
  SqliteLimitCounts limit_counts{core};
  SqliteChangeLog changes{core};
};

SqliteStore::SqliteStore(std::string path, std::unique_ptr<Parts> parts, Seal seal)
    : path_(std::move(path)), parts_(std::move(parts)), seal_(seal) {}
SqliteStore::~SqliteStore() = default;

Outcome<std::unique_ptr<SqliteStore>> SqliteStore::open(const std::string& directory,
                                                        std::optional<credential::MasterKey> master,
                                                        const Clock& clock, MasterKeyFinder find_master) {
  auto place = private_place(directory);
  if (!place) return failed(place);
  const std::string name(file_name);
  // Never opened here where it is there already: closing it again would drop SQLite's locks of this process.
  if (auto made = make_file(*place, name); !made && made.error().fault != Fault::exists) return failed(made);
  for (const char* suffix : {"", "-wal", "-shm", "-journal"})
    if (auto checked = has_private_file(place->directory, place->path, fmt::format("{}{}", name, suffix));
        !checked)
      return refused(std::move(checked.error()));
  const std::string path = place->path_of(name);
  auto writer = SqliteConnection::open(path, Access::read_write);
  if (!writer) return failed(writer);
  // synchronous: what was acknowledged survives a power cut. secure_delete: what was deleted is not kept in
  // free pages, above all not old wraps of data keys.
  if (auto done =
          writer->script("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON;"
                         "PRAGMA journal_size_limit = 67108864;");
      !done)
    return failed(done);
  if (auto migrated = migrate(*writer); !migrated) return failed(migrated);
  if (auto checked = check_pages(*writer); !checked) return failed(checked);
  auto mode = writer->one("PRAGMA journal_mode = WAL", {}, "no answer",
                          [](const Row& row) -> Outcome<std::string> { return row.text(0); });
  if (!mode) return failed(mode);
  if (*mode != "wal")
    return fail(Fault::unavailable,
                fmt::format("'{}': the file system has no shared memory for SQLite's log", path));
  auto fingerprint = adopt(*writer, master);
  if (!fingerprint) return failed(fingerprint);
  auto reader = SqliteConnection::open(path, Access::read_write);  // its log has locks of readers, too
  if (!reader) return failed(reader);
  if (auto done = reader->script("PRAGMA query_only = ON"); !done) return failed(done);
  if (master && find_master && *fingerprint != master->fingerprint())
    if (auto found = find_master(*fingerprint)) master = std::move(found);
  const Seal seal = !master                                 ? Seal::no_key
                    : *fingerprint == master->fingerprint() ? Seal::open
                                                            : Seal::other_key;
  auto parts = std::make_unique<Parts>(std::move(*writer), std::move(*reader), std::move(master),
                                       std::move(find_master), clock);
  return std::unique_ptr<SqliteStore>(new SqliteStore(path, std::move(parts), seal));
}

Outcome<std::string> SqliteStore::master_key_fingerprint() {
  return parts_->core.read([](SqliteConnection& in) {
    return in.one("SELECT coalesce(master_key, '') FROM meta", {}, "the store is empty",
                  [](const Row& row) -> Outcome<std::string> { return row.text(0); });
  });
}

Outcome<std::size_t> SqliteStore::rotate_master_key(credential::MasterKey next) {
  auto wrapped = parts_->core.rotate(std::move(next));
  if (!wrapped) return wrapped;
  seal_ = Seal::open;
  parts_->core.empty_log();
  return wrapped;
}

Workspaces& SqliteStore::workspaces() { return parts_->workspaces; }
ApiKeys& SqliteStore::api_keys() { return parts_->api_keys; }
WorkspaceSecrets& SqliteStore::secrets() { return parts_->secrets; }
SigningKeys& SqliteStore::signing_keys() { return parts_->signing_keys; }
Resources& SqliteStore::sandboxes() { return parts_->sandboxes; }
Resources& SqliteStore::snapshots() { return parts_->snapshots; }
RefreshTokenStore& SqliteStore::refresh_tokens() { return parts_->refresh_tokens; }
LimitCounts& SqliteStore::limit_counts() { return parts_->limit_counts; }
ChangeLog& SqliteStore::changes() { return parts_->changes; }

Outcome<void> SqliteStore::back_up(const std::string& path) {
  auto place = place_beside(path);
  if (!place) return failed(place);
  // A connection of its own: nobody waits for it.
  auto from = SqliteConnection::open(path_, Access::read_only);
  if (!from) return failed(from);
  return copy_into(*from, *place, file_of(path), "");
}

Outcome<BackupSummary> check_backup(const std::string& path, const credential::MasterKey* master) {
  auto backup = open_backup(path);
  if (!backup) return failed(backup);
  if (auto checked = check_schema(*backup); !checked) return failed(checked);
  if (auto checked = check_pages(*backup); !checked) return failed(checked);
  auto summary = backup->one(
      "SELECT revision, coalesce(master_key, ''), (SELECT count(*) FROM workspaces), "
      "(SELECT count(*) FROM resources WHERE kind = 'sandbox') FROM meta",
      {}, "the store is empty", [](const Row& row) -> Outcome<BackupSummary> {
        return BackupSummary{.revision = static_cast<Revision>(row.number(0)),
                             .workspaces = static_cast<std::size_t>(row.number(2)),
                             .sandboxes = static_cast<std::size_t>(row.number(3)),
                             .master_key = row.text(1)};
      });
  if (!summary || master == nullptr) return summary;
  if (summary->master_key != master->fingerprint())
    return does_not_open("the backup", credential::OpenFault::other_key);
  auto keys = backup->all("SELECT owner, wrapped FROM data_keys", {}, [&](const Row& row) -> Outcome<bool> {
    const std::string owner = row.text(0);
    const auto key = master->open(row.bytes(1), owner);
    if (!key) return does_not_open(fmt::format("the key of workspace {}", owner), key.error());
    return true;
  });
  if (!keys) return failed(keys);
  return summary;
}

Outcome<void> restore_backup(const std::string& path, const std::string& directory) {
  if (auto checked = check_backup(path, nullptr); !checked) return failed(checked);
  auto backup = open_backup(path);
  if (!backup) return failed(backup);
  auto place = private_place(directory);
  if (!place) return failed(place);
  // Numbers that were given after the backup are not given again, to something else: whoever has seen them
  // starts over.
  return copy_into(*backup, *place, std::string(file_name),
                   "UPDATE meta SET revision = revision + (1 << 32), forgotten = revision + (1 << 32)");
}

}  // namespace postern::store
