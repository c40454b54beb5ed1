#pragma once
// What outlives the server: an interface, so that one machine may have SQLite and a fleet PostgreSQL. Both
// keep the promises of store_contract_test.cc:
//
// - What was answered with success is on disk. What failed left nothing behind.
// - Every method takes the workspace, and what belongs to another one is not found.
// - Secrets are sealed (credential/sealing.h), each bound to its place. Without the right master key the
// store
//   is sealed: it opens, lists, and deletes, and whatever needs a secret is Fault::sealed.
// - Whoever asks ChangeLog::since() with the last revision that it saw learns of everything that changed
// since,
//   in the order of the last change of each.
//
// All of it may be called by several threads at once, and blocks: for a disk, not for a loop.

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "credential/api_key.h"
#include "credential/sealing.h"
#include "store/records.h"

namespace postern::store {

class Workspaces {
 public:
  virtual ~Workspaces() = default;
  virtual Outcome<Workspace> create(const std::string& name) = 0;
  virtual Outcome<Workspace> find(const WorkspaceId& id) = 0;
  virtual Outcome<Workspace> find_by_name(const std::string& name) = 0;
  /// In the order of their creation.
  virtual Outcome<Listed<Workspace>> list(const Page& page) = 0;
  /// With all that is in it. Its data key is gone with it, so that no copy of a sealed value opens any more.
  virtual Outcome<Removal> remove(const WorkspaceId& id) = 0;
};

class ApiKeys {
 public:
  /// last_used_at is this exact: one write for a key in a minute, however often it is used.
  static constexpr std::chrono::seconds use_resolution{60};

  virtual ~ApiKeys() = default;
  virtual Outcome<ApiKey> add(const WorkspaceId& workspace, const credential::ApiKeyProof& proof, Scope scope,
                              const std::string& label) = 0;
  /// Whose key this is; the only question that is asked without a workspace, since it answers which one.
  /// Unknown, wrong and revoked ones are all not found.
  virtual Outcome<ApiKey> authenticate(const credential::ApiKeyProof& proof) = 0;
  virtual Outcome<void> note_use(const ApiKey& key) = 0;
  /// Revoked ones too, oldest first.
  virtual Outcome<std::vector<ApiKey>> list(const WorkspaceId& workspace) = 0;
  virtual Outcome<Removal> revoke(const WorkspaceId& workspace, const std::string& id) = 0;
};

class WorkspaceSecrets {
 public:
  virtual ~WorkspaceSecrets() = default;
  /// All or none. Removing what is not there is no error.
  virtual Outcome<void> change(const WorkspaceId& workspace, std::span<const SecretChange> changes) = 0;
  /// By key.
  virtual Outcome<std::vector<SecretKey>> list(const WorkspaceId& workspace) = 0;
  /// For the data plane alone; the API gives no secret back.
  virtual Outcome<std::vector<NamedSecret>> read(const WorkspaceId& workspace) = 0;
};

/// Keys of the server and not of a workspace: one set of public halves is published for all.
class SigningKeys {
 public:
  virtual ~SigningKeys() = default;
  virtual Outcome<SigningKey> add(const std::string& id, const Secret& pem) = 0;
  /// Oldest first, expired ones too.
  virtual Outcome<std::vector<SigningKeyPair>> read() = 0;
  virtual Outcome<void> expire(const std::string& id, WallTime not_after) = 0;
  virtual Outcome<Removal> remove(const std::string& id) = 0;
};

/// Sandboxes, or snapshots.
class Resources {
 public:
  virtual ~Resources() = default;
  virtual Outcome<Resource> create(const WorkspaceId& workspace, const NewResource& resource) = 0;
  virtual Outcome<Resource> find(const WorkspaceId& workspace, const std::string& id) = 0;
  /// No name looks like a UUID.
  virtual Outcome<Resource> find_by_name(const WorkspaceId& workspace, const std::string& name,
                                         const std::string& tag = "") = 0;
  /// Whatever is inserted or removed meanwhile, the rest is seen once; so is what changes its place in the
  /// order, unless it moves past the cursor.
  virtual Outcome<Listed<Resource>> list(const WorkspaceId& workspace, const ResourceQuery& query) = 0;
  virtual Outcome<Resource> update(const WorkspaceId& workspace, const std::string& id,
                                   const ResourceChange& change) = 0;
  /// A document with its secrets, after a proof that it is the one that was written: what is enforced is
  /// read here and not from a Resource.
  virtual Outcome<Document> read(const WorkspaceId& workspace, const std::string& id, Part part) = 0;
  virtual Outcome<Removal> remove(const WorkspaceId& workspace, const std::string& id) = 0;
};

/// See credential::RefreshTokens. `key`: of a line of descent.
class RefreshTokenStore {
 public:
  virtual ~RefreshTokenStore() = default;
  virtual Outcome<std::optional<Secret>> newest(const WorkspaceId& workspace, const std::string& key) = 0;
  virtual Outcome<void> keep(const WorkspaceId& workspace, const std::string& key, const Secret& token) = 0;
};

/// How much of their limits sandboxes have used. Gone with the sandbox; no secrets, and no changes.
class LimitCounts {
 public:
  /// In UTC.
  using Day = std::chrono::sys_days;

  virtual ~LimitCounts() = default;
  /// What was kept of this day. Nothing for what is not there.
  virtual Outcome<std::vector<LimitCount>> read(const WorkspaceId& workspace, const std::string& sandbox,
                                                Day day) = 0;
  /// In place of what was kept by the same names. What is of other days is dropped, whoever's it is, and
  /// sandboxes that are not there (any more) are passed over.
  virtual Outcome<void> keep(Day day, std::span<const SandboxCounts> sandboxes) = 0;
};

class ChangeLog {
 public:
  virtual ~ChangeLog() = default;
  /// At most `limit` of what changed after `revision`. Refresh tokens and the use of keys are no changes.
  virtual Outcome<Changes> since(Revision revision, std::size_t limit) = 0;
  /// What was deleted before is not remembered any more.
  virtual Outcome<void> forget_deleted(WallTime before) = 0;
};

/// Whether secrets can be read.
enum class Seal : std::uint8_t {
  open,
  no_key,     ///< Opened without a master key.
  other_key,  ///< The store's is another one.
};

class Store {
 public:
  virtual ~Store() = default;

  virtual Seal seal() const = 0;
  /// Of the master key that the store is sealed with; empty before the first.
  virtual Outcome<std::string> master_key_fingerprint() = 0;
  /// Wraps every data key by `next`. All or nothing: whenever this is killed, the store has the one or the
  /// other. Again with the same key does nothing, so that it may be repeated until it was answered. Errors:
  /// sealed, when the store is. How many keys were wrapped.
  virtual Outcome<std::size_t> rotate_master_key(credential::MasterKey next) = 0;

  virtual Workspaces& workspaces() = 0;
  virtual ApiKeys& api_keys() = 0;
  virtual WorkspaceSecrets& secrets() = 0;
  virtual SigningKeys& signing_keys() = 0;
  virtual Resources& sandboxes() = 0;
  virtual Resources& snapshots() = 0;
  virtual RefreshTokenStore& refresh_tokens() = 0;
  virtual LimitCounts& limit_counts() = 0;
  virtual ChangeLog& changes() = 0;
};

}  // namespace postern::store
