#pragma once
// What a rule does with a request and its answer besides putting credentials on it (sections 4 and 8 of the
// policy document). Most rules have none of this, so it lies apart from them.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/host.h"
#include "policy/problem.h"
#include "transform/body_schema.h"
#include "transform/detectors.h"

namespace postern::policy {

/// What becomes of credentials that the sandbox sent, when its request is sent elsewhere.
enum class SentCredentials : std::uint8_t {
  strip,   ///< They are not sent.
  redact,  ///< Their scheme stays, their value becomes "redacted".
  keep,
};
std::string_view token(SentCredentials what);

/// Send the request to another destination than the one that the sandbox named.
struct Rewrite {
  Position at;
  Host host;  ///< Canonical; never an address.
  std::uint16_t port = 443;
  bool tls = true;
  std::string path_prefix;  ///< Canonical, "/npm"; in front of the request's path. May be empty.
  SentCredentials credentials = SentCredentials::strip;
  bool preserve_host = false;  ///< The Host field stays what the sandbox sent; else it names `host`.

  /// Whether a credential that is given to one is given to the other.
  bool same_destination(const Rewrite& other) const {
    return host == other.host && port == other.port && tls == other.tls;
  }
};

/// `{sandbox.name}` in a header's value.
enum class Variable : std::uint8_t { sandbox_name, workspace_id, rule_name };
std::string_view token(Variable variable);

struct SetHeader {
  std::string name;
  std::string text;                                         ///< As written.
  std::vector<std::variant<std::string, Variable>> pieces;  ///< In turn.
};
struct RemoveHeader {
  std::string name;
};
/// What is looked for in header values, the query, and bodies that are text.
struct Detectors {
  std::vector<transform::DetectorSpec> specs;  ///< As written.
  std::shared_ptr<const transform::DetectorSet> set;
};
struct Redact {
  Detectors detectors;
};
struct Block {
  Detectors detectors;
};
/// What a request must be to be sent at all. Absent and empty: anything.
struct Require {
  std::optional<std::uint64_t> max_body_bytes;  ///< As sent, and decoded.
  std::vector<std::string> content_types;       ///< Lower case: "application/json", "text/*".
  std::string schema_text;                      ///< JSON, as written.
  std::shared_ptr<const transform::BodySchema> schema;
};
using RequestStep = std::variant<SetHeader, RemoveHeader, Redact, Block, Require>;

struct Transform {
  std::vector<RequestStep> request;   ///< In this order.
  std::optional<bool> scrub_secrets;  ///< As written; absent is true.
};

/// How much may be asked, by one sandbox. At least one is set. Days are those of UTC.
struct Limits {
  std::optional<std::uint64_t> requests_per_second;  ///< As many may come at once.
  std::optional<std::uint64_t> concurrent_requests;
  std::optional<std::uint64_t> requests_per_day;
  std::optional<std::uint64_t> request_bytes_per_day;  ///< Of bodies.
  std::optional<std::uint64_t> tokens_per_day;         ///< Of language models, as their answers report them.
};

struct Treatment {
  std::optional<Rewrite> rewrite;
  std::optional<Transform> transform;
  std::optional<Limits> limits;
};

}  // namespace postern::policy
