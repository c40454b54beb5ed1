#include "store/sqlite_schema.h"

#include <array>
#include <fmt/format.h>

namespace postern::store {

namespace {

constexpr std::int64_t application_id = 0x506f7374;  // "Post", for file(1) and for us

// Never edited once released: what follows is added below it.
//
// Times are microseconds since 1970. `revision` is the number of the last change, `ordinal` that of the
// first: an order of creation that no clock can disturb. What is sealed names its row's revision as its
// version.
constexpr std::array<const char*, 2> migrations = {
    R"sql(
CREATE TABLE meta (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL,
  forgotten INTEGER NOT NULL,  -- deletions up to this revision are not in `changes` any more
  master_key TEXT              -- fingerprint
) STRICT;
INSERT INTO meta VALUES (1, 0, 0, NULL);

CREATE TABLE data_keys (
  owner TEXT PRIMARY KEY,  -- a workspace, or '' for the server
  wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workspaces (
  id TEXT PRIMARY KEY,
  ordinal INTEGER NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  created_at INTEGER NOT NULL,
  revision INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  workspace TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
  ordinal INTEGER NOT NULL,
  digest BLOB NOT NULL,
  scope TEXT NOT NULL,
  label TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  last_used_at INTEGER,
  revoked_at INTEGER,
  revision INTEGER NOT NULL
) STRICT;
CREATE INDEX api_keys_of ON api_keys (workspace, ordinal);

CREATE TABLE secrets (
  workspace TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
  key TEXT NOT NULL,
  sealed BLOB NOT NULL,
  updated_at INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (workspace, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_keys (
  id TEXT PRIMARY KEY,
  ordinal INTEGER NOT NULL,
  sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  not_after INTEGER
) STRICT;

CREATE TABLE resources (
  id TEXT PRIMARY KEY,
  workspace TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
  kind TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  name TEXT NOT NULL,
  tag TEXT NOT NULL,
  status TEXT NOT NULL,
  status_message TEXT NOT NULL,
  labels TEXT NOT NULL,  -- a JSON object
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  stopped_at INTEGER,
  revision INTEGER NOT NULL,
  UNIQUE (workspace, kind, name, tag)
) STRICT;
CREATE INDEX resources_by_age ON resources (workspace, kind, ordinal);

CREATE TABLE documents (
  resource TEXT NOT NULL REFERENCES resources ON DELETE CASCADE,
  part TEXT NOT NULL,
  json TEXT NOT NULL,
  proof BLOB NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (resource, part)
) STRICT;

CREATE TABLE document_secrets (
  resource TEXT NOT NULL,
  part TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  place TEXT NOT NULL,
  sealed BLOB NOT NULL,
  PRIMARY KEY (resource, part, ordinal),
  FOREIGN KEY (resource, part) REFERENCES documents ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE refresh_tokens (
  workspace TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
  key TEXT NOT NULL,
  sealed BLOB NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (workspace, key)
) STRICT, WITHOUT ROWID;

-- The last change of each thing; also of those that are gone.
CREATE TABLE changes (
  workspace TEXT NOT NULL,
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  revision INTEGER NOT NULL UNIQUE,
  at INTEGER NOT NULL,
  gone INTEGER NOT NULL,
  PRIMARY KEY (workspace, kind, id)
) STRICT, WITHOUT ROWID;
)sql",
    R"sql(
-- Of today, or of the last day on which there was something to count.
CREATE TABLE limit_counts (
  sandbox TEXT NOT NULL REFERENCES resources ON DELETE CASCADE,
  rule TEXT NOT NULL,    -- its name, or '' for the sandbox as a whole
  day INTEGER NOT NULL,  -- since 1970, UTC
  requests INTEGER NOT NULL,
  request_bytes INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  PRIMARY KEY (sandbox, rule)
) STRICT, WITHOUT ROWID;
CREATE INDEX limit_counts_by_day ON limit_counts (day);
)sql"};

constexpr auto latest = static_cast<std::int64_t>(migrations.size());

/// The version; 0 for an empty database.
Outcome<std::int64_t> version_of(SqliteConnection& connection) {
  const auto application = connection.number("PRAGMA application_id");
  const auto version = connection.number("PRAGMA user_version");
  const auto tables = connection.number("SELECT count(*) FROM sqlite_schema");
  for (const auto* read : {&application, &version, &tables})
    if (!*read) return std::unexpected(read->error());
  if (*tables == 0 && *application == 0 && *version == 0) return 0;
  if (*application != application_id || *version < 1)
    return fail(Fault::damaged, "the database is not a store of Postern");
  if (*version > latest)
    return fail(Fault::newer, fmt::format("the store was written by a later Postern (its tables are of "
                                          "version {}, and this program knows up to {})",
                                          *version, latest));
  return version;
}

}  // namespace

int sqlite_schema_version() { return static_cast<int>(latest); }

Outcome<void> check_schema(SqliteConnection& connection) {
  auto version = version_of(connection);
  if (!version) return failed(version);
  if (*version == 0) return fail(Fault::damaged, "the database is empty");
  return {};
}

Outcome<void> migrate(SqliteConnection& connection) {
  // Looked at again inside: another process may start at the same time.
  return connection.in_transaction("BEGIN IMMEDIATE", [](SqliteConnection& in) -> Outcome<void> {
    auto version = version_of(in);
    if (!version) return failed(version);
    for (std::int64_t next = *version; next < latest; ++next)
      if (auto done = in.script(migrations[static_cast<std::size_t>(next)]); !done) return done;
    if (*version == latest) return {};
    return in.script(
        fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {};", application_id, latest));
  });
}

}  // namespace postern::store
