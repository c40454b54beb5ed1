#pragma once
// The policy document as its author wrote it: checked for form, every entry parsed, nothing compiled yet. It
// is moved into a Snapshot (policy/snapshot.h), where requests are judged by it. Opaque credentials in it are
// Secrets, so a Document moves and is never copied.

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/secret.h"
#include "policy/pattern.h"
#include "policy/problem.h"
#include "policy/treatment.h"
#include "transform/operations.h"
#include "wire/url.h"

namespace postern::policy {

struct Node;  // policy/tree.h

inline constexpr std::size_t rules_max = 100'000;           // about 1 KB each, compiled
inline constexpr std::size_t access_entries_max = 200'000;  // the hosts of as many rules, and others
inline constexpr std::size_t callbacks_max = 100;           // each is an endpoint of the policy's author
inline constexpr std::size_t rule_entries_max =
    1'000;                                           // hosts, paths, methods, variables... of one rule, each
inline constexpr std::size_t rule_headers_max = 64;  // a request head has at most 256 fields
inline constexpr std::size_t rule_name_bytes_max = 128;  // stands in every record
inline constexpr std::size_t description_characters_max = 1024;
inline constexpr std::chrono::seconds callback_ttl_min{60}, callback_ttl_max{3600};
inline constexpr std::size_t header_name_bytes_max = 128;
inline constexpr std::size_t header_value_bytes_max = 16 * 1024;    // heads are cut at 64 KiB
inline constexpr std::size_t variable_value_bytes_max = 32 * 1024;  // execve takes 128 KiB in one string

enum class HeaderType : std::uint8_t { workspace_secret, plaintext, opaque };
std::string_view token(HeaderType type);

/// One header to put on a request.
struct Header {
  Position at;
  std::string name;
  HeaderType type = HeaderType::plaintext;
  std::string text;  ///< plaintext: the value; workspace_secret: the template, which parse_template() accepts
  Secret value;      ///< opaque; empty when the document did not give it
  std::string from;  ///< opaque: where the value is kept instead ("file:PATH"); of the operator's files only
};

struct HeaderCondition {
  std::string name;  ///< lower case
  std::string value;
};

struct EnvVar {
  std::string name, value;
};

/// A secret that a provider's rule needs. Never plaintext.
struct SecretValue {
  Position at;
  HeaderType type = HeaderType::workspace_secret;
  std::string text;  ///< workspace_secret: the template.
  Secret value;      ///< opaque; empty when the document did not give it.
  std::string from;  ///< opaque: where the value is kept instead.
};

/// What AWS's SDKs in a sandbox sign with (AWS_ACCESS_KEY_ID).
inline constexpr std::string_view aws_placeholder_key_id = "AKIAPOSTERNINJECTED0";

/// As whom a cloud knows a sandbox that has no secret there, but a token that Postern signs.
struct TokenSubject {
  Position at;
  std::string tag;  ///< One of the sandbox's tag values; empty: the whole workspace.
};

/// Credentials for an hour, of a role that trusts our tokens (STS AssumeRoleWithWebIdentity).
struct AwsRole {
  std::string arn;
  std::string partition;             ///< Of the ARN: "aws", "aws-cn", "aws-us-gov".
  std::vector<EnvVar> session_tags;  ///< They go inside the token.
  TokenSubject subject;
};
/// Requests to AWS are signed anew (SigV4), with keys or as a role.
struct AwsAuth {
  SecretValue access_key_id;
  SecretValue secret_access_key;
  std::optional<SecretValue> session_token;
  std::optional<AwsRole> role;  ///< In place of the keys.
};

/// A provider of a workload identity pool that trusts our tokens.
struct GcpFederation {
  std::string provider;               ///< "//iam.googleapis.com/projects/..."
  std::string service_account_email;  ///< Which is impersonated; empty: nobody.
  TokenSubject subject;
};
/// An access token: for a service account (RFC 7523 §2.1), or by workload identity federation (RFC 8693).
struct GcpAuth {
  SecretValue service_account_json;
  std::vector<std::string> scopes;
  std::optional<GcpFederation> federation;  ///< In place of the service account's key.
};

/// Entra's resources, in the order of azure_resources.
enum class AzureResource : std::uint8_t { storage, vault, management, cognitive_services };
inline constexpr std::array<std::string_view, 4> azure_resources = {
    "https://storage.azure.com", "https://vault.azure.net", "https://management.azure.com",
    "https://cognitiveservices.azure.com"};
/// Whose tokens a host takes; nullopt: nobody's here.
std::optional<AzureResource> azure_resource_of(std::string_view host);

/// An application of Entra's that trusts our tokens.
struct AzureFederation {
  std::string tenant_id;
  std::string client_id;
  std::vector<AzureResource> resources;  ///< Which it asks tokens for. At least one.
  TokenSubject subject;
};
/// Requests to a storage account are signed anew (SharedKey), or get its signature (SAS); or requests to any
/// of Azure's services get an access token.
struct AzureAuth {
  std::string storage_account;
  std::optional<SecretValue> account_key;
  std::optional<SecretValue> sas_token;
  std::optional<AzureFederation> federation;  ///< In place of all of these.
};
/// An access token of any OAuth 2.0 server (RFC 6749 §4.4 and §6).
struct Oauth2Auth {
  enum class Grant : std::uint8_t { client_credentials, refresh_token };
  wire::Url token_url;
  Grant grant = Grant::client_credentials;
  std::string client_id;
  std::optional<SecretValue> client_secret;
  std::optional<SecretValue> refresh_token;
  std::vector<std::string> scopes;
};
/// An installation's access token of a GitHub App.
struct GithubAppAuth {
  std::string app_id;
  std::string installation_id;
  SecretValue private_key;
  std::vector<std::string> repositories;  ///< Names; empty: all of the installation.
  std::vector<EnvVar> permissions;        ///< "contents": "read"; empty: all of the installation.
};
using Provider = std::variant<std::monostate, AwsAuth, GcpAuth, AzureAuth, Oauth2Auth, GithubAppAuth>;

/// "aws", "gcp", "azure", "oauth2", "github_app"; empty for a rule of headers.
std::string_view type_of(const Provider& provider);

enum class Action : std::uint8_t { allow, deny };

struct Rule {
  struct MatchHost {
    std::string text;
    HostPattern pattern;
  };
  struct MatchPath {
    std::string text;
    PathPattern pattern;
  };
  Position at;
  std::string name;
  std::string description;
  bool enabled = true;
  Action action = Action::allow;
  std::vector<MatchHost> match_hosts;
  std::vector<MatchPath> match_paths;                         ///< Empty: every path.
  std::vector<HeaderCondition> match_headers;                 ///< All must be present.
  std::vector<std::string> match_methods;                     ///< Empty: every method.
  std::vector<transform::OperationPattern> match_operations;  ///< Empty: whatever the body asks for.
  std::vector<Header> headers;
  std::vector<EnvVar> env_vars;
  Provider provider;
  bool own_hosts = false;                      ///< match_hosts are the provider's, and not the document's.
  std::vector<EnvVar> own_env;                 ///< The provider's placeholders; they win over env_vars.
  std::unique_ptr<const Treatment> treatment;  ///< nullptr for most.

  /// True when some path is told from another, or joined to another.
  bool judges_paths() const;
  /// Where its requests are sent instead; nullptr: where the sandbox meant.
  const Rewrite* rewrite() const { return treatment && treatment->rewrite ? &*treatment->rewrite : nullptr; }
  /// nullptr: as much as anybody likes.
  const Limits* limits() const { return treatment && treatment->limits ? &*treatment->limits : nullptr; }
  /// True when it puts a credential (not only plain text) on requests.
  bool injects_credential() const;
  /// True when its credential is a signature: over TLS only, whatever the operator says.
  bool signs() const {
    const auto* azure = std::get_if<AzureAuth>(&provider);
    return std::holds_alternative<AwsAuth>(provider) || (azure && !azure->federation);
  }
  /// Not nullptr when its credential is asked for with a token that Postern signs.
  const TokenSubject* token_subject() const;
  /// True when it says what to put on requests, so that no callback is asked.
  bool has_headers() const { return !headers.empty() || !std::holds_alternative<std::monostate>(provider); }
};

/// Credentials that are asked of an endpoint of the policy's author, for hosts that no rule has headers for.
struct Callback {
  Position at;
  std::vector<Rule::MatchHost> match_hosts;
  wire::Url url;
  std::chrono::seconds ttl{};           ///< How long an answer is used.
  bool full_request = false;            ///< Every request is shown to it, and no answer is used twice.
  std::vector<Header> request_headers;  ///< For the endpoint: plaintext or opaque.
};

struct AccessControl {
  enum class Kind : std::uint8_t { allow_list, deny_list };
  struct Entry {
    std::string text;
    Position at;
    DestinationPattern pattern;
  };
  Kind kind = Kind::allow_list;
  std::vector<Entry> entries;
};

struct Document {
  std::string description;
  std::optional<AccessControl> access_control;
  std::vector<Rule> rules;
  std::vector<Callback> callbacks;
  std::optional<Limits> limits;   ///< Of the sandbox, whatever the rule.
  std::vector<Problem> warnings;  ///< Accepted, without effect (`no_proxy`).
};

/// A file's typo must not silently widen or narrow a policy; the HTTP API must bear the fields of newer
/// clients.
enum class UnknownFields : std::uint8_t { refuse, tolerate };

/// Whether `from` may say where an opaque value is kept. A reference reads files and runs commands with our
/// rights, so only the operator's own files may hold one (docs/decisions/0015).
enum class References : std::uint8_t { refuse, accept };

/// What nobody may set on a message: it belongs to the connection or to the message itself (RFC 9110 §7.6.1
/// and §10.1.1, RFC 9112 §6, RFC 6455 §11.3). Ignores case.
bool is_reserved_header(std::string_view name);

std::expected<Document, std::vector<Problem>> parse_document(
    std::string_view text, Format format, UnknownFields unknown_fields = UnknownFields::refuse,
    References references = References::refuse);

/// The same for a document that stands in another one and was read with it. Nothing in it is a reference.
std::expected<Document, std::vector<Problem>> read_document(
    const Node& root, UnknownFields unknown_fields = UnknownFields::tolerate);

/// Reads the operator's own file the strict way; the format is told by the name. References are accepted,
/// unless others may write the file. The Problem of an unreadable file has no position.
std::expected<Document, std::vector<Problem>> load_document(const std::string& path);

/// Where a value of the document is kept, for whoever reads it from there.
struct Reference {
  std::string_view text;  ///< Header::from
  std::string where;      ///< "rules[2].headers[0].from"
  Position at;
};
/// Those of enabled rules and of callbacks, in the order of the document.
std::vector<Reference> references_of(std::span<const Rule> rules, std::span<const Callback> callbacks);

/// The document as JSON, the form in which the API returns it: opaque values are absent, `is_set` says if
/// there is one. parse_document() accepts it again.
std::string print(const Document& document);

}  // namespace postern::policy
