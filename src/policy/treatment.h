#pragma once
// What a rule does with a request and its answer besides putting credentials on it (sections 4 and 8 of the
// policy document). Most rules have none of this, so it lies apart from them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/host.h"
#include "policy/problem.h"

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
using RequestStep = std::variant<SetHeader, RemoveHeader>;

struct Transform {
  std::vector<RequestStep> request;   ///< In this order.
  std::optional<bool> scrub_secrets;  ///< As written; absent is true.
};

struct Treatment {
  std::optional<Rewrite> rewrite;
  std::optional<Transform> transform;
};

}  // namespace postern::policy
