#pragma once
// The parts of a SqliteStore, one for each interface of store/store.h.

#include "store/sqlite_core.h"
#include "store/store.h"

namespace postern::store {

class SqliteWorkspaces final : public Workspaces {
 public:
  explicit SqliteWorkspaces(SqliteCore& core) : core_(core) {}
  Outcome<Workspace> create(const std::string& name) override;
  Outcome<Workspace> find(const WorkspaceId& id) override;
  Outcome<Workspace> find_by_name(const std::string& name) override;
  Outcome<Listed<Workspace>> list(const Page& page) override;
  Outcome<Removal> remove(const WorkspaceId& id) override;

 private:
  SqliteCore& core_;
};

class SqliteApiKeys final : public ApiKeys {
 public:
  explicit SqliteApiKeys(SqliteCore& core) : core_(core) {}
  Outcome<ApiKey> add(const WorkspaceId& workspace, const credential::ApiKeyProof& proof, Scope scope,
                      const std::string& label) override;
  Outcome<ApiKey> authenticate(const credential::ApiKeyProof& proof) override;
  Outcome<void> note_use(const ApiKey& key) override;
  Outcome<std::vector<ApiKey>> list(const WorkspaceId& workspace) override;
  Outcome<Removal> revoke(const WorkspaceId& workspace, const std::string& id) override;

 private:
  SqliteCore& core_;
};

class SqliteSecrets final : public WorkspaceSecrets {
 public:
  explicit SqliteSecrets(SqliteCore& core) : core_(core) {}
  Outcome<void> change(const WorkspaceId& workspace, std::span<const SecretChange> changes) override;
  Outcome<std::vector<SecretKey>> list(const WorkspaceId& workspace) override;
  Outcome<std::vector<NamedSecret>> read(const WorkspaceId& workspace) override;

 private:
  SqliteCore& core_;
};

class SqliteSigningKeys final : public SigningKeys {
 public:
  explicit SqliteSigningKeys(SqliteCore& core) : core_(core) {}
  Outcome<SigningKey> add(const std::string& id, const Secret& pem) override;
  Outcome<std::vector<SigningKeyPair>> read() override;
  Outcome<void> expire(const std::string& id, WallTime not_after) override;
  Outcome<Removal> remove(const std::string& id) override;

 private:
  SqliteCore& core_;
};

class SqliteResources final : public Resources {
 public:
  /// `kind`: sandbox or snapshot.
  SqliteResources(SqliteCore& core, Kind kind) : core_(core), kind_(kind) {}
  Outcome<Resource> create(const WorkspaceId& workspace, const NewResource& resource) override;
  Outcome<Resource> find(const WorkspaceId& workspace, const std::string& id) override;
  Outcome<Resource> find_by_name(const WorkspaceId& workspace, const std::string& name,
                                 const std::string& tag) override;
  Outcome<Listed<Resource>> list(const WorkspaceId& workspace, const ResourceQuery& query) override;
  Outcome<Resource> update(const WorkspaceId& workspace, const std::string& id,
                           const ResourceChange& change) override;
  Outcome<Document> read(const WorkspaceId& workspace, const std::string& id, Part part) override;
  Outcome<Removal> remove(const WorkspaceId& workspace, const std::string& id) override;

 private:
  Outcome<Resource> found(SqliteConnection& in, const WorkspaceId& workspace, const std::string& id) const;
  Outcome<void> free_tag(SqliteConnection& in, const WorkspaceId& workspace, const std::string& name,
                         const std::string& tag, const std::string& id) const;

  SqliteCore& core_;
  Kind kind_;
};

class SqliteRefreshTokens final : public RefreshTokenStore {
 public:
  explicit SqliteRefreshTokens(SqliteCore& core) : core_(core) {}
  Outcome<std::optional<Secret>> newest(const WorkspaceId& workspace, const std::string& key) override;
  Outcome<void> keep(const WorkspaceId& workspace, const std::string& key, const Secret& token) override;

 private:
  SqliteCore& core_;
};

class SqliteLimitCounts final : public LimitCounts {
 public:
  explicit SqliteLimitCounts(SqliteCore& core) : core_(core) {}
  Outcome<std::vector<LimitCount>> read(const WorkspaceId& workspace, const std::string& sandbox,
                                        Day day) override;
  Outcome<void> keep(Day day, std::span<const SandboxCounts> sandboxes) override;

 private:
  SqliteCore& core_;
};

class SqliteChangeLog final : public ChangeLog {
 public:
  explicit SqliteChangeLog(SqliteCore& core) : core_(core) {}
  Outcome<Changes> since(Revision revision, std::size_t limit) override;
  Outcome<void> forget_deleted(WallTime before) override;

 private:
  SqliteCore& core_;
};

}  // namespace postern::store
