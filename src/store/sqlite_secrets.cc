// Secrets of workspaces, signing keys of the server, refresh tokens.

#include <fmt/format.h>

#include "credential/secret_store.h"
#include "store/checks.h"
#include "store/sqlite_parts.h"

namespace postern::store {

namespace {

credential::SealedPlace secret_place(const WorkspaceId& workspace, std::string_view key, Revision revision) {
  return {.purpose = "workspace secret", .workspace = workspace.text, .name = key, .version = revision};
}

credential::SealedPlace signing_key_place(std::string_view id) {
  return {.purpose = "signing key", .workspace = {}, .name = id};  // never written twice
}

credential::SealedPlace refresh_token_place(const WorkspaceId& workspace, std::string_view key,
                                            Revision revision) {
  return {.purpose = "refresh token", .workspace = workspace.text, .name = key, .version = revision};
}

const WorkspaceId of_the_server;

struct Sealed {
  std::string name, bytes;
  Revision revision;
};

Outcome<Sealed> sealed_of(const Row& row) {
  return Sealed{row.text(0), row.text(1), static_cast<Revision>(row.number(2))};
}

/// Sealed, so that nobody here looks at a secret: its length shows.
Outcome<void> check_size(std::string_view what, std::string_view sealed, std::size_t bytes_max) {
  if (sealed.size() <= bytes_max + credential::DataKey::overhead_bytes) return {};
  return fail(Fault::too_large, fmt::format("{} has more than {} bytes", what, bytes_max));
}

}  // namespace

Outcome<void> SqliteSecrets::change(const WorkspaceId& workspace, std::span<const SecretChange> changes) {
  for (const SecretChange& change : changes) {
    if (auto checked = check_secret_key(change.key); !checked) return checked;
    if (change.value && change.value->empty())
      return fail(Fault::invalid, fmt::format("the value of {} is empty", change.key));
  }
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    if (auto there = SqliteCore::expect_workspace(in, workspace); !there) return there;
    std::optional<credential::DataKey> data_key;  // a sealed store can still remove
    for (const SecretChange& change : changes) {
      if (!change.value) {
        auto removed =
            in.execute("DELETE FROM secrets WHERE workspace = ?1 AND key = ?2", {workspace, change.key});
        if (!removed) return failed(removed);
        if (*removed == 0) continue;
        if (auto noted = core_.note_removal(in, Kind::secret, workspace, change.key); !noted)
          return failed(noted);
        continue;
      }
      if (!data_key) {
        auto opened = core_.data_key(in, workspace);
        if (!opened) return failed(opened);
        data_key.emplace(std::move(*opened));
      }
      auto revision = core_.note_change(in, Kind::secret, workspace, change.key);
      if (!revision) return failed(revision);
      const std::string sealed =
          data_key->seal(*change.value, secret_place(workspace, change.key, *revision));
      if (auto checked = check_size(change.key, sealed, credential::secret_bytes_max); !checked)
        return checked;
      auto done = in.execute(
          "INSERT INTO secrets (workspace, key, sealed, updated_at, revision) VALUES (?1, ?2, ?3, ?4, ?5) "
          "ON CONFLICT DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at, "
          "revision = excluded.revision",
          {workspace, change.key, Blob{sealed}, core_.now(), *revision});
      if (!done) return failed(done);
    }
    auto count = in.number("SELECT count(*) FROM secrets WHERE workspace = ?1", {workspace});
    if (!count) return failed(count);
    if (static_cast<std::size_t>(*count) > secrets_max)
      return fail(Fault::too_many, fmt::format("a workspace has at most {} secrets", secrets_max));
    return {};
  });
}

Outcome<std::vector<SecretKey>> SqliteSecrets::list(const WorkspaceId& workspace) {
  return core_.read([&](SqliteConnection& in) -> Outcome<std::vector<SecretKey>> {
    if (auto there = SqliteCore::expect_workspace(in, workspace); !there) return failed(there);
    return in.all("SELECT key, updated_at, revision FROM secrets WHERE workspace = ?1 ORDER BY key",
                  {workspace}, [](const Row& row) -> Outcome<SecretKey> {
                    return SecretKey{row.text(0), row.time(1), static_cast<Revision>(row.number(2))};
                  });
  });
}

Outcome<std::vector<NamedSecret>> SqliteSecrets::read(const WorkspaceId& workspace) {
  return core_.read([&](SqliteConnection& in) -> Outcome<std::vector<NamedSecret>> {
    auto key = core_.data_key(in, workspace);
    if (!key) return failed(key);
    return in.all("SELECT key, sealed, revision FROM secrets WHERE workspace = ?1 ORDER BY key", {workspace},
                  [&](const Row& row) -> Outcome<NamedSecret> {
                    const std::string name = row.text(0);
                    const auto place = secret_place(workspace, name, static_cast<Revision>(row.number(2)));
                    auto value = open_sealed(*key, row.bytes(1), place, fmt::format("the secret {}", name));
                    if (!value) return failed(value);
                    return NamedSecret{name, std::move(*value), static_cast<Revision>(row.number(2))};
                  });
  });
}

Outcome<SigningKey> SqliteSigningKeys::add(const std::string& id, const Secret& pem) {
  if (auto checked = check_name("a key's id", id); !checked) return failed(checked);
  return core_.write([&](SqliteConnection& in) -> Outcome<SigningKey> {
    auto count = in.number("SELECT count(*) FROM signing_keys");
    if (!count) return failed(count);
    if (static_cast<std::size_t>(*count) >= signing_keys_max)
      return fail(Fault::too_many, fmt::format("there are at most {} signing keys", signing_keys_max));
    auto key = core_.server_data_key(in);
    if (!key && key.error().fault == Fault::not_found) {
      if (auto made = core_.make_server_data_key(in); !made) return failed(made);
      key = core_.server_data_key(in);
    }
    if (!key) return failed(key);
    auto revision = core_.note_change(in, Kind::signing_key, of_the_server, id);
    if (!revision) return failed(revision);
    SigningKey made{.id = id, .created_at = core_.now(), .not_after = std::nullopt};
    const std::string sealed = key->seal(pem, signing_key_place(id));
    if (auto checked = check_size("a signing key", sealed, document_secret_bytes_max); !checked)
      return failed(checked);
    auto done =
        in.execute("INSERT INTO signing_keys (id, ordinal, sealed, created_at) VALUES (?1, ?2, ?3, ?4)",
                   {id, *revision, Blob{sealed}, made.created_at});
    if (!done && done.error().fault == Fault::exists)
      return fail(Fault::exists, fmt::format("there is a signing key '{}' already", id));
    if (!done) return failed(done);
    return made;
  });
}

Outcome<std::vector<SigningKeyPair>> SqliteSigningKeys::read() {
  return core_.read([&](SqliteConnection& in) -> Outcome<std::vector<SigningKeyPair>> {
    auto count = in.number("SELECT count(*) FROM signing_keys");
    if (!count) return failed(count);
    if (*count == 0) return std::vector<SigningKeyPair>();
    auto key = core_.server_data_key(in);
    if (!key) return failed(key);
    return in.all("SELECT id, sealed, created_at, not_after FROM signing_keys ORDER BY ordinal", {},
                  [&](const Row& row) -> Outcome<SigningKeyPair> {
                    SigningKey signing{row.text(0), row.time(2), row.time_if_any(3)};
                    auto pem = open_sealed(*key, row.bytes(1), signing_key_place(signing.id),
                                           fmt::format("the signing key {}", signing.id));
                    if (!pem) return failed(pem);
                    return SigningKeyPair{std::move(signing), std::move(*pem)};
                  });
  });
}

Outcome<void> SqliteSigningKeys::expire(const std::string& id, WallTime not_after) {
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    auto done = in.execute("UPDATE signing_keys SET not_after = ?2 WHERE id = ?1", {id, not_after});
    if (!done) return failed(done);
    if (*done == 0) return fail(Fault::not_found, "there is no such signing key");
    if (auto noted = core_.note_change(in, Kind::signing_key, of_the_server, id); !noted)
      return failed(noted);
    return {};
  });
}

Outcome<Removal> SqliteSigningKeys::remove(const std::string& id) {
  return core_.write([&](SqliteConnection& in) -> Outcome<Removal> {
    auto done = in.execute("DELETE FROM signing_keys WHERE id = ?1", {id});
    if (!done) return failed(done);
    if (*done == 0) return SqliteCore::expect_gone(in, Kind::signing_key, of_the_server, id);
    return core_.note_removal(in, Kind::signing_key, of_the_server, id);
  });
}

Outcome<std::optional<Secret>> SqliteRefreshTokens::newest(const WorkspaceId& workspace,
                                                           const std::string& key) {
  return core_.read([&](SqliteConnection& in) -> Outcome<std::optional<Secret>> {
    auto data_key = core_.data_key(in, workspace);
    if (!data_key) return failed(data_key);
    auto sealed = in.all("SELECT key, sealed, revision FROM refresh_tokens WHERE workspace = ?1 AND key = ?2",
                         {workspace, key}, sealed_of);
    if (!sealed) return failed(sealed);
    if (sealed->empty()) return std::nullopt;
    auto token =
        open_sealed(*data_key, sealed->front().bytes,
                    refresh_token_place(workspace, key, sealed->front().revision), "a refresh token");
    if (!token) return failed(token);
    return std::optional(std::move(*token));
  });
}

Outcome<void> SqliteRefreshTokens::keep(const WorkspaceId& workspace, const std::string& key,
                                        const Secret& token) {
  if (auto checked = check_name("a refresh token's key", key); !checked) return checked;
  return core_.write([&](SqliteConnection& in) -> Outcome<void> {
    auto data_key = core_.data_key(in, workspace);
    if (!data_key) return failed(data_key);
    auto revision = SqliteCore::next_revision(in);
    if (!revision) return failed(revision);
    const std::string sealed = data_key->seal(token, refresh_token_place(workspace, key, *revision));
    if (auto checked = check_size("a refresh token", sealed, document_secret_bytes_max); !checked)
      return checked;
    auto done = in.execute(
        "INSERT INTO refresh_tokens (workspace, key, sealed, revision) VALUES (?1, ?2, ?3, ?4) "
        "ON CONFLICT DO UPDATE SET sealed = excluded.sealed, revision = excluded.revision",
        {workspace, key, Blob{sealed}, *revision});
    if (!done) return failed(done);
    return {};
  });
}

}  // namespace postern::store
