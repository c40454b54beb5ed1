#pragma once
// What rules put on requests, made ready once per snapshot: templates filled in, checked, and locked away;
// and the sources of those rules whose credentials must be asked for. Immutable, shared by the loops beside
// the snapshot that they belong to.

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "credential/injected_header.h"
#include "credential/secret_store.h"
#include "credential/signer.h"
#include "credential/source.h"
#include "credential/token_sources.h"
#include "policy/snapshot.h"

namespace postern::credential {

struct Buildup;
struct WorkloadIdentity;

/// Whose tokens a rule of type gcp puts on requests. Nothing of it is secret.
struct GoogleIdentity {
  std::string project_id;    ///< May be empty.
  std::string client_email;  ///< Empty where no service account is impersonated.
  std::vector<std::string> scopes;
};

class Injections {
 public:
  Injections() = default;
  Injections(Injections&&) noexcept = default;
  Injections& operator=(Injections&&) noexcept = default;
  Injections(const Injections&) = delete;
  Injections& operator=(const Injections&) = delete;

  /// The headers with which a callback is asked. Valid while the Injections live.
  std::span<const InjectedHeader> of_callback(std::uint32_t callback_index) const {
    return callbacks_[callback_index];
  }

  /// How requests of a rule are signed, or nullptr. Valid while the Injections live.
  const Signing* signing_of(std::uint32_t rule_index) const {
    return rule_index < signings_.size() ? signings_[rule_index].get() : nullptr;
  }
  /// The newest workspace secret that a rule signs or asks with; 0: unknown, or there is none.
  std::uint64_t version_of(std::uint32_t rule_index) const {
    return rule_index < versions_.size() ? versions_[rule_index] : 0;
  }
  /// nullptr without a rule of type gcp.
  const GoogleIdentity* google() const { return google_ ? &*google_ : nullptr; }

  /// By rule; nullptr where there is nobody to ask. Once.
  std::vector<std::unique_ptr<const Source>> take_sources() { return std::move(sources_); }

  /// The headers of a rule, in the order of the document; empty for policy::no_rule and for rules that set
  /// none. Valid while the Injections live.
  std::span<const InjectedHeader> of(std::uint32_t rule_index) const {
    if (rule_index >= rules_.size()) return {};
    return rules_[rule_index];
  }

 private:
  friend struct Buildup;
  std::vector<std::vector<InjectedHeader>> rules_;
  std::vector<std::vector<InjectedHeader>> callbacks_;
  std::vector<std::unique_ptr<const Source>> sources_;
  std::vector<std::unique_ptr<const Signing>> signings_;  ///< Up to the last rule that signs.
  std::vector<std::uint64_t> versions_;
  std::optional<GoogleIdentity> google_;
};

/// What credentials are made of besides secrets.
struct ResolveOptions {
  std::shared_ptr<RefreshTokens> kept;  ///< Refresh tokens that servers changed; nullptr: in memory only.
  std::shared_ptr<const WorkloadIdentity> identity;  ///< nullptr: rules that need it have no credential.
  std::vector<std::string> tag_values;               ///< The sandbox's.
};

/// Fills in the templates of every enabled rule. Problems, all of them: a {KEY} that the store does not have
/// (named), an opaque value that was not given, a filled-in value that no header can hold (CR, LF, NUL...),
/// a provider's secret that is not what it should be, and a tag that the sandbox does not have.
std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets,
                                                                const ResolveOptions& options = {});

}  // namespace postern::credential
