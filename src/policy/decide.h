#pragma once
// The decision, as a pure function of a snapshot and facts. Nobody behind it decides again: connection, DNS
// answer, request and record all use what it says. Facts are canonical (wire/host.h, wire/path.h) before they
// come here.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/reason.h"
#include "model/host.h"
#include "model/http.h"
#include "policy/snapshot.h"

namespace postern::policy {

/// What the sandbox speaks to the destination; HTTP inside TLS is `tls`.
enum class Transport : std::uint8_t { tcp, tls, http };

struct Destination {
  const Host& host;
  std::uint16_t port;
  Transport transport;
};

struct DestinationVerdict {
  Reason reason = Reason::internal;
  /// An enabled rule or a callback covers the host: HTTP and TLS to it are looked into, on every port. Only
  /// set when allowed.
  bool intercept = false;
  /// A rule closes a part of the host, so nothing that cannot be looked into may go there.
  bool denies_some = false;
  /// A rule of this host tells paths apart: the canonical path is sent, and an ambiguous one is refused (400)
  /// before decide() is asked.
  bool judges_paths = false;
  /// When denied: what would be allowed instead, or empty. Valid while the snapshot lives.
  std::string_view allowed_hint;
};

/// Once per connection, and again for each request on it. Reasons: allowed, literal_address, private_address,
/// in_deny_list, not_in_allow_list, protocol_not_allowed (80 speaks HTTP, 443 speaks TLS).
DestinationVerdict judge_destination(const Snapshot& snapshot, const Destination& destination);

/// For DNS, which knows no port: whether the name is allowed on any port. False: answer without asking
/// anybody about it.
bool may_resolve(const Snapshot& snapshot, const Host& host);

/// Whether some rule sends requests for the host elsewhere, so that it need not exist.
bool is_sent_elsewhere(const Snapshot& snapshot, const Host& host);

/// Whether we answer this destination ourselves, as a cloud's metadata server (proxy/metadata_server.h):
/// plain HTTP to 169.254.169.254 while a rule of type gcp or a workload identity of Azure's is in force, and
/// to metadata.google.internal with the former, unless it is denied by name or address. Nothing is ever sent
/// there.
bool answers_as_metadata(const Snapshot& snapshot, const Host& host, std::uint16_t port, bool tls);
inline constexpr std::uint32_t metadata_address = 0xa9fea9fe;  // 169.254.169.254

/// What transform::read_operations() said.
using Operations = std::optional<std::vector<transform::Operation>>;

struct RequestFacts {
  const Host& host;
  std::uint16_t port;
  bool tls;
  std::string_view method;
  std::string_view path;  ///< Canonical, without the query.
  std::span<const HeaderField> fields;
  /// nullptr: nobody has looked yet.
  const Operations* operations = nullptr;
};

struct Verdict {
  Reason reason = Reason::internal;
  const Rule* rule = nullptr;  ///< The first enabled rule that matches. Valid while the snapshot lives.
  std::uint32_t rule_index = no_rule;
  /// The callback to ask for credentials, when no rule has any for this request; or no_rule.
  std::uint32_t callback_index = no_rule;
  bool judges_paths = false;
  /// Which rule it is depends on what the body asks for: nothing else here means anything until decide() is
  /// called again with `operations`.
  bool wants_operations = false;
};

/// The destination, then the rules. A rule that denies also matches the methods and paths that a lenient
/// origin reads as its own: lower-case methods, method overrides, "//admin", "/admin;x", "/admin/",
/// "/v1/a%3Ab". What was closed stays closed; a rule that allows matches exactly. Of operations, a rule that
/// denies matches any, and those that cannot be told; a rule that allows matches only all of them. Reasons of
/// judge_destination(), denied_by_rule, and plaintext_credential (the rule's credential would travel over
/// plain HTTP).
Verdict decide(const Snapshot& snapshot, const RequestFacts& facts);

/// Whether a request that `rewriting` (a rule with a rewrite, which matched it) sends elsewhere may go there,
/// and with which credentials: its own headers or, when it has none, those of the first rule that matches it
/// at its destination, or of a callback. `facts` are those of the request as it would be sent. What the
/// document allows says nothing here, for the sandbox did not choose the destination; what is denied stays
/// denied. Rules that rewrite are passed over: a request is sent elsewhere once. `rule` is `rewriting` when
/// no other has the credentials.
Verdict decide_rewritten(const Snapshot& snapshot, const Rule& rewriting, std::uint32_t rewriting_index,
                         const RequestFacts& facts);

}  // namespace postern::policy
