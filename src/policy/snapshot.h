#pragma once
// A sandbox's compiled policy: immutable, shared by the loops, swapped whole. A request is judged by the
// snapshot that is current when its head is complete, and the version goes into its record. Judging is in
// policy/decide.h.

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/address.h"
#include "policy/destinations.h"
#include "policy/document.h"
#include "policy/host_table.h"
#include "policy/rule_index.h"

namespace postern::policy {

/// What a document without `access_control` may reach.
enum class DefaultEgress : std::uint8_t {
  everything,      ///< Every host name (the API's meaning).
  hosts_of_rules,  ///< The hosts of enabled rules that allow, and --allow (`postern run`).
};

/// Whether credentials may travel over plain HTTP. Only an operator says `allow`, never a document.
enum class PlaintextCredentials : std::uint8_t { refuse, allow };

inline constexpr std::size_t networks_max = 1'000;  // looked through one by one, for literal addresses

struct CompileOptions {
  std::vector<std::string> allow;  ///< --allow, forms of `access_control`. Add to an allow list.
  std::vector<std::string> deny;   ///< --deny. Win over everything.
  DefaultEgress default_egress = DefaultEgress::everything;
  std::vector<Cidr> allow_private;  ///< Addresses that the operator opened although they are not public.
  PlaintextCredentials plaintext_credentials = PlaintextCredentials::refuse;
  std::uint64_t version = 0;
};

/// On whose behalf we answer as a cloud's metadata server; no_rule: not at all.
struct MetadataRules {
  std::uint32_t google = no_rule;  ///< Of type gcp.
  std::uint32_t azure = no_rule;   ///< The first workload identity of type azure.
};

class Snapshot {
 public:
  std::uint64_t version() const { return version_; }
  const std::string& description() const { return description_; }
  /// Every rule of the document, disabled ones too: a rule's number is its place here.
  std::span<const Rule> rules() const { return rules_; }
  /// In the order of the document; a callback's number is its place here.
  std::span<const Callback> callbacks() const { return callbacks_; }
  /// The variables of enabled rules, a later rule's value in place of an earlier one's.
  std::span<const EnvVar> env_vars() const { return env_vars_; }
  /// Of the sandbox, whatever the rule; nullptr: as much as it likes.
  const Limits* limits() const { return limits_ ? &*limits_ : nullptr; }
  /// What would be allowed, for people and agents: "api.openai.com, *.github.com:443 and 12 more". No
  /// secrets.
  const std::string& allowed_hint() const { return allowed_hint_; }

  // For decide.cc; everybody else asks there.
  const Destinations* allowed() const { return allowed_ ? &*allowed_ : nullptr; }  ///< nullptr: every name
  const Destinations& denied() const { return denied_; }
  const RuleIndex& rule_index() const { return rule_index_; }
  /// The first callback for a host, or no_rule.
  std::uint32_t callback_for(const Host& host) const;
  bool may_reach_address(const IpAddress& address) const;
  /// The enabled rules on whose behalf we answer as a cloud's metadata server.
  const MetadataRules& metadata_rules() const { return metadata_rules_; }
  PlaintextCredentials plaintext_credentials() const { return plaintext_credentials_; }

 private:
  friend class Compiler;
  Snapshot() = default;

  std::uint64_t version_ = 0;
  std::string description_;
  std::vector<Rule> rules_;
  std::vector<Callback> callbacks_;
  std::vector<EnvVar> env_vars_;
  std::optional<Limits> limits_;
  std::string allowed_hint_;
  std::optional<Destinations> allowed_;
  Destinations denied_{Destinations::Side::deny};
  RuleIndex rule_index_;
  HostTable<std::uint32_t> callback_index_;  ///< The first callback with that pattern.
  MetadataRules metadata_rules_;
  std::vector<Cidr> allow_private_;
  PlaintextCredentials plaintext_credentials_ = PlaintextCredentials::refuse;
};

/// Errors: an --allow or --deny that is no destination ("--allow[0]"), and lists that are too large compiled.
std::expected<std::shared_ptr<const Snapshot>, std::vector<Problem>> compile(
    Document document, const CompileOptions& options = {});

}  // namespace postern::policy
