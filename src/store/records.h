#pragma once
// What a store holds, as values. Secrets in them are open while they are here, and sealed on disk.

#include <chrono>
#include <cstdint>
#include <expected>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/secret.h"
#include "base/units.h"

namespace postern::store {

// Limits. What is larger is Fault::too_large, and more is Fault::too_many.
inline constexpr std::size_t name_bytes_max = 128;            // stands in URLs and records
inline constexpr std::size_t text_bytes_max = 4 * KiB;        // a status message: shown to people
inline constexpr std::size_t labels_max = 64;                 // of one resource; looked through in every list
inline constexpr std::size_t label_bytes_max = 256;           // a key or a value
inline constexpr std::size_t settings_bytes_max = 256 * KiB;  // execve takes 128 KiB in one variable
inline constexpr std::size_t document_secrets_max = 100'000;  // as many as a policy may have rules
inline constexpr std::size_t document_secret_bytes_max = 64 * KiB;  // a provider's key file is some 3 KiB
inline constexpr std::size_t secrets_max = 10'000;                  // of one workspace; all are read at once
inline constexpr std::size_t api_keys_max = 1'000;   // of one workspace; all are listed at once
inline constexpr std::size_t signing_keys_max = 64;  // all are published at once
inline constexpr std::size_t page_items_max = 500;

/// Why something was not done. Unlike Reason, nobody in a sandbox ever reads one: the API makes its own
/// answers of them.
enum class Fault : std::uint8_t {
  not_found,  ///< Or another workspace's, which nobody is told apart.
  exists,     ///< The name is taken.
  changed,    ///< It is not what it was when the caller looked.
  invalid,    ///< Not of the form that it must have.
  too_large,
  too_many,
  sealed,       ///< No master key, or another one than the store's.
  damaged,      ///< What is on disk is not what was written.
  newer,        ///< Written by a later program.
  unavailable,  ///< I/O failed, the disk is full, or another process holds it: nothing was changed.
};

struct Failure {
  Fault fault;
  std::string detail;  ///< A sentence for people. Never holds a secret.
};

template <class T>
using Outcome = std::expected<T, Failure>;

inline std::unexpected<Failure> fail(Fault fault, std::string detail) {
  return std::unexpected(Failure{fault, std::move(detail)});
}

/// The same failure, of a call whose value is of another type.
template <class T>
std::unexpected<Failure> failed(Outcome<T>& outcome) {
  return std::unexpected(std::move(outcome.error()));
}

/// A type of its own, so that no other text is taken for one.
struct WorkspaceId {
  std::string text;
  bool operator==(const WorkspaceId&) const = default;
};

/// Every change of anything in a store gets the next number. What has a higher one came later.
using Revision = std::uint64_t;

struct Workspace {
  WorkspaceId id;
  std::string name;
  WallTime created_at;
  Revision revision = 0;
};

enum class Scope : std::uint8_t { admin, workspace, read_only };

struct ApiKey {
  std::string id;  ///< The public part of the key.
  WorkspaceId workspace;
  Scope scope = Scope::read_only;
  std::string label;
  WallTime created_at;
  std::optional<WallTime> last_used_at;
  std::optional<WallTime> revoked_at;
  Revision revision = 0;
};

struct NamedSecret {
  std::string name;
  Secret value;
  Revision revision = 0;  ///< Of a workspace's secret, as it was read.
};

struct SecretChange {
  std::string key;
  std::optional<Secret> value;  ///< nullopt: removed.
};

struct SecretKey {
  std::string key;
  WallTime updated_at;
  Revision revision = 0;
};

struct SigningKey {
  std::string id;
  WallTime created_at;
  std::optional<WallTime> not_after;  ///< Published until then, beside its successor.
};

struct SigningKeyPair {
  SigningKey key;
  Secret pem;
};

/// JSON without its secrets, and the secrets by their place in it (whatever the caller calls it: a JSON
/// pointer). Written together and opened together, or not at all.
struct Document {
  std::string json = "{}";
  std::vector<NamedSecret> secrets;
};

/// Sandboxes are born provisioning, snapshots building.
enum class Status : std::uint8_t { provisioning, building, ready, failed, stopped, deleting };

using Labels = std::map<std::string, std::string>;

/// What a workspace has under a name: a sandbox or a snapshot.
struct Resource {
  std::string id;  ///< A UUID.
  WorkspaceId workspace;
  std::string name;
  std::string tag;  ///< Of a snapshot. Empty for sandboxes.
  Status status = Status::provisioning;
  std::string status_message;
  Labels labels;
  std::string created_by;
  std::string settings;  ///< JSON, as the Document had it.
  std::string policy;
  WallTime created_at;
  WallTime updated_at;
  std::optional<WallTime> stopped_at;
  Revision revision = 0;

  bool operator==(const Resource&) const = default;
};

struct NewResource {
  std::string name;  ///< Unique in the workspace, together with the tag.
  std::string tag;
  Status status = Status::provisioning;
  Labels labels;
  std::string created_by;
  Document settings;
  Document policy;
};

/// What is nullopt stays.
struct ResourceChange {
  std::optional<std::string> name;
  /// Taken from whoever has it under that name, who has its own id for a tag then.
  std::optional<std::string> tag;
  std::optional<Status> status;
  std::optional<std::string> status_message;
  std::optional<std::optional<WallTime>> stopped_at;
  std::optional<Document> settings;
  std::optional<Document> policy;
  /// Only if it still has this revision; else Fault::changed.
  std::optional<Revision> only_if;
};

enum class Part : std::uint8_t { settings, policy };

/// Deleting twice is deleting: a client whose connection broke asks again.
enum class Removal : std::uint8_t { removed, was_gone };

struct Page {
  std::size_t limit = 50;  ///< At most page_items_max; more are cut to it.
  std::string cursor;      ///< Empty: from the start.
};

template <class T>
struct Listed {
  std::vector<T> items;
  std::string next_cursor;  ///< Empty: there is no more.
};

enum class Order : std::uint8_t { created, name, status, stopped };
enum class Direction : std::uint8_t { ascending, descending };

struct LabelFilter {
  std::string key;
  std::optional<std::string> value;
};

struct ResourceQuery {
  Page page;
  Order order = Order::created;
  Direction direction = Direction::descending;
  std::optional<Status> status;
  std::string name_contains;
  std::optional<std::string> created_by;
  std::vector<LabelFilter> labels;  ///< All of them.
};

enum class Kind : std::uint8_t { workspace, api_key, secret, signing_key, sandbox, snapshot };

/// What a sandbox has used today of the limits of one rule.
struct LimitCount {
  std::string rule;  ///< Its name; empty: of the sandbox, whatever the rule.
  std::uint64_t requests = 0;
  std::uint64_t request_bytes = 0;
  std::uint64_t tokens = 0;

  bool operator==(const LimitCount&) const = default;
};

struct SandboxCounts {
  WorkspaceId workspace;
  std::string sandbox;
  std::vector<LimitCount> counts;
};

struct Change {
  Kind kind = Kind::workspace;
  WorkspaceId workspace;  ///< Empty for signing keys, which are the server's.
  std::string id;         ///< A secret's is its key.
  Revision revision = 0;
  bool gone = false;
};

struct Changes {
  std::vector<Change> items;  ///< Oldest first, each thing once.
  Revision upto = 0;          ///< To ask from the next time.
  /// What was asked from is not known (any more): read everything, and go on from `upto`.
  bool start_over = false;
};

}  // namespace postern::store
