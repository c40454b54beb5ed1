// Workspaces, the keys of their callers, and the log of changes.

#include <algorithm>
#include <fmt/format.h>
#include <ranges>

#include "credential/random.h"
#include "store/checks.h"
#include "store/sqlite_parts.h"

namespace postern::store {

namespace {

constexpr std::string_view no_workspace = "there is no such workspace";
constexpr std::string_view no_api_key = "there is no such API key";

Outcome<Workspace> workspace_of(const Row& row) {
  return Workspace{WorkspaceId{row.text(0)}, row.text(1), row.time(2), static_cast<Revision>(row.number(3))};
}

#define API_KEY_COLUMNS "id, workspace, scope, label, created_at, last_used_at, revoked_at, revision"

Outcome<ApiKey> api_key_of(const Row& row) {
  auto scope = from_token<Scope>(row.text(2));
  if (!scope) return failed(scope);
  return ApiKey{row.text(0),
                WorkspaceId{row.text(1)},
                *scope,
                row.text(3),
                row.time(4),
                row.time_if_any(5),
                row.time_if_any(6),
                static_cast<Revision>(row.number(7))};
}

}  // namespace

Outcome<Workspace> SqliteWorkspaces::create(const std::string& name) {
  if (auto checked = check_name("a workspace's name", name); !checked) return failed(checked);
  return core_.write([&](SqliteConnection& in) -> Outcome<Workspace> {
    Workspace made{WorkspaceId{credential::random_uuid()}, name, core_.now()};
    auto revision = core_.note_change(in, Kind::workspace, made.id, made.id.text);
    if (!revision) return failed(revision);
    made.revision = *revision;
    auto inserted = in.execute(
        "INSERT INTO workspaces (id, ordinal, name, created_at, revision) VALUES (?1, ?4, ?2, ?3, ?4)",
        {made.id, name, made.created_at, made.revision});
    if (!inserted && inserted.error().fault == Fault::exists)
      return fail(Fault::exists, fmt::format("there is a workspace '{}' already", name));
    if (!inserted) return failed(inserted);
    if (auto key = core_.make_data_key(in, made.id); !key) return failed(key);
    return made;
  });
}

Outcome<Workspace> SqliteWorkspaces::find(const WorkspaceId& id) {
  return core_.read([&](SqliteConnection& in) {
    return in.one("SELECT id, name, created_at, revision FROM workspaces WHERE id = ?1", {id}, no_workspace,
                  workspace_of);
  });
}

Outcome<Workspace> SqliteWorkspaces::find_by_name(const std::string& name) {
  return core_.read([&](SqliteConnection& in) {
    return in.one("SELECT id, name, created_at, revision FROM workspaces WHERE name = ?1", {name},
                  no_workspace, workspace_of);
  });
}

Outcome<Listed<Workspace>> SqliteWorkspaces::list(const Page& page) {
  std::uint64_t after = 0;
  if (!page.cursor.empty()) {
    auto cursor = read_cursor(page.cursor, Order::created, Direction::ascending);
    if (!cursor) return failed(cursor);
    after = cursor->ordinal;
  }
  return core_.read([&](SqliteConnection& in) -> Outcome<Listed<Workspace>> {
    const std::size_t limit = std::min(page.limit, page_items_max);
    struct Found {
      Workspace workspace;
      std::uint64_t ordinal;
    };
    auto found = in.all(
        "SELECT id, name, created_at, revision, ordinal FROM workspaces WHERE ordinal > ?1 ORDER BY ordinal "
        "LIMIT ?2",
        {after, limit + 1}, [](const Row& row) -> Outcome<Found> {
          return Found{*workspace_of(row), static_cast<std::uint64_t>(row.number(4))};
        });
    if (!found) return failed(found);
    Listed<Workspace> listed;
    for (const Found& one : *found | std::views::take(limit)) listed.items.push_back(one.workspace);
    if (found->size() > limit && limit > 0)
      listed.next_cursor = write_cursor({.ordinal = (*found)[limit - 1].ordinal});
    return listed;
  });
}

Outcome<Removal> SqliteWorkspaces::remove(const WorkspaceId& id) {
  auto removal = core_.write([&](SqliteConnection& in) -> Outcome<Removal> {
    auto removed = in.execute("DELETE FROM workspaces WHERE id = ?1", {id});
    if (!removed) return failed(removed);
    if (*removed == 0) return SqliteCore::expect_gone(in, Kind::workspace, id, id.text);
    // Its end says all about what was in it.
    for (const std::string_view sql :
         {"DELETE FROM data_keys WHERE owner = ?1", "DELETE FROM changes WHERE workspace = ?1"})
      if (auto done = in.execute(sql, {id}); !done) return failed(done);
    return core_.note_removal(in, Kind::workspace, id, id.text);
  });
  if (removal && *removal == Removal::removed) core_.empty_log();
  return removal;
}

Outcome<ApiKey> SqliteApiKeys::add(const WorkspaceId& workspace, const credential::ApiKeyProof& proof,
                                   Scope scope, const std::string& label) {
  if (auto checked = check_text("a label", label, name_bytes_max); !checked) return failed(checked);
  return core_.write([&](SqliteConnection& in) -> Outcome<ApiKey> {
    if (auto there = SqliteCore::expect_workspace(in, workspace); !there) return failed(there);
    auto count = in.number("SELECT count(*) FROM api_keys WHERE workspace = ?1", {workspace});
    if (!count) return failed(count);
    if (static_cast<std::size_t>(*count) >= api_keys_max)
      return fail(Fault::too_many, fmt::format("a workspace has at most {} API keys", api_keys_max));
    auto revision = core_.note_change(in, Kind::api_key, workspace, proof.id);
    if (!revision) return failed(revision);
    const std::string_view digest(reinterpret_cast<const char*>(proof.digest.data()), proof.digest.size());
    auto inserted = in.execute(
        "INSERT INTO api_keys (id, workspace, ordinal, digest, scope, label, created_at, revision) "
        "VALUES (?1, ?2, ?7, ?3, ?4, ?5, ?6, ?7)",
        {proof.id, workspace, Blob{digest}, token(scope), label, core_.now(), *revision});
    if (!inserted) return failed(inserted);
    return in.one("SELECT " API_KEY_COLUMNS " FROM api_keys WHERE id = ?1", {proof.id}, no_api_key,
                  api_key_of);
  });
}

Outcome<ApiKey> SqliteApiKeys::authenticate(const credential::ApiKeyProof& proof) {
  return core_.read([&](SqliteConnection& in) -> Outcome<ApiKey> {
    return in.one("SELECT " API_KEY_COLUMNS ", digest FROM api_keys WHERE id = ?1", {proof.id}, no_api_key,
                  [&](const Row& row) -> Outcome<ApiKey> {
                    credential::Digest digest{};
                    const std::string_view stored = row.bytes(8);
                    if (stored.size() != digest.size())
                      return fail(Fault::damaged, "an API key is not what was stored");
                    std::ranges::copy(stored, digest.begin());
                    auto key = api_key_of(row);
                    if (!key) return key;
                    if (!credential::same_digest(digest, proof.digest) || key->revoked_at)
                      return fail(Fault::not_found, std::string(no_api_key));
                    return key;
                  });
  });
}

Outcome<void> SqliteApiKeys::note_use(const ApiKey& key) {
  const WallTime now = core_.now();
  if (key.last_used_at && now - *key.last_used_at < use_resolution) return {};
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    auto done = in.execute("UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1", {key.id, now});
    if (!done) return failed(done);
    return {};
  });
}

Outcome<std::vector<ApiKey>> SqliteApiKeys::list(const WorkspaceId& workspace) {
  return core_.read([&](SqliteConnection& in) -> Outcome<std::vector<ApiKey>> {
    if (auto there = SqliteCore::expect_workspace(in, workspace); !there) return failed(there);
    return in.all("SELECT " API_KEY_COLUMNS " FROM api_keys WHERE workspace = ?1 ORDER BY ordinal",
                  {workspace}, api_key_of);
  });
}

Outcome<Removal> SqliteApiKeys::revoke(const WorkspaceId& workspace, const std::string& id) {
  return core_.write([&](SqliteConnection& in) -> Outcome<Removal> {
    auto key = in.one("SELECT " API_KEY_COLUMNS " FROM api_keys WHERE id = ?1 AND workspace = ?2",
                      {id, workspace}, no_api_key, api_key_of);
    if (!key) return failed(key);
    if (key->revoked_at) return Removal::was_gone;
    auto revision = core_.note_change(in, Kind::api_key, workspace, id);
    if (!revision) return failed(revision);
    auto done = in.execute("UPDATE api_keys SET revoked_at = ?2, revision = ?3 WHERE id = ?1",
                           {id, core_.now(), *revision});
    if (!done) return failed(done);
    return Removal::removed;
  });
}

Outcome<Changes> SqliteChangeLog::since(Revision revision, std::size_t limit) {
  return core_.read([&](SqliteConnection& in) -> Outcome<Changes> {
    auto current = in.number("SELECT revision FROM meta");
    if (!current) return failed(current);
    auto forgotten = in.number("SELECT forgotten FROM meta");
    if (!forgotten) return failed(forgotten);
    Changes changes{.upto = static_cast<Revision>(*current)};
    // Later than the store: it was made from a backup since.
    if (revision < static_cast<Revision>(*forgotten) || revision > changes.upto) {
      changes.start_over = true;
      return changes;
    }
    auto items = in.all(
        "SELECT kind, workspace, id, revision, gone FROM changes WHERE revision > ?1 ORDER BY revision LIMIT "
        "?2",
        {revision, limit}, [](const Row& row) -> Outcome<Change> {
          auto kind = from_token<Kind>(row.text(0));
          if (!kind) return failed(kind);
          return Change{*kind, WorkspaceId{row.text(1)}, row.text(2), static_cast<Revision>(row.number(3)),
                        row.number(4) != 0};
        });
    if (!items) return failed(items);
    if (items->size() == limit) changes.upto = items->empty() ? revision : items->back().revision;
    changes.items = std::move(*items);
    return changes;
  });
}

Outcome<void> SqliteChangeLog::forget_deleted(WallTime before) {
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    auto noted = in.execute(
        "UPDATE meta SET forgotten = max(forgotten, "
        "coalesce((SELECT max(revision) FROM changes WHERE gone = 1 AND at < ?1), 0))",
        {before});
    if (!noted) return failed(noted);
    auto done = in.execute("DELETE FROM changes WHERE gone = 1 AND at < ?1", {before});
    if (!done) return failed(done);
    return {};
  });
}

}  // namespace postern::store
