#pragma once
// From what the store has of a box to what its traffic is judged by and gets its credentials from. The store
// is the only place where secrets are kept: what is in force was read from there.

#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "credential/callback.h"
#include "credential/workload_identity.h"
#include "model/address.h"
#include "platform/ledgers.h"
#include "policy/tree.h"
#include "proxy/egress.h"
#include "store/store.h"

namespace postern::platform {

/// The server's, for every box.
struct PolicySettings {
  std::vector<Cidr> allow_private;
  std::shared_ptr<const credential::CallbackSigner> signer;
  /// nullptr: rules with a workload identity are refused.
  std::shared_ptr<const credential::WorkloadIdentity> identity;
};

/// What a box's policy amounts to.
struct BoxPolicy {
  std::shared_ptr<const proxy::Egress> egress;
  /// Rules whose secrets are not there any more: they deny, until the secrets are back.
  std::vector<std::string> closed_rules;
};

/// A policy that was checked, and the two forms of it.
struct NewPolicy {
  std::shared_ptr<const proxy::Egress> egress;
  store::Document document;
};

/// What is wrong with the document, or why it could not be looked at.
using PolicyRefusal = std::variant<std::vector<policy::Problem>, store::Failure>;

class Policies {
 public:
  /// `store` and `clock` outlive it. Thread-safe.
  Policies(store::Store& store, PolicySettings settings, const Clock& clock = system_clock)
      : store_(store), settings_(std::move(settings)), ledgers_(store, clock) {}

  /// `proxy_config` as a caller sent it; nullptr: the policy of a box that was given none. With `updates`, a
  /// box whose opaque values are kept where the document leaves them out.
  std::expected<NewPolicy, PolicyRefusal> check(const store::WorkspaceId& workspace,
                                                const policy::Node* proxy_config,
                                                const std::vector<std::string>& tag_values,
                                                const std::string* updates = nullptr) const;

  /// What is in the store for a box, with the workspace's secrets as they are now.
  store::Outcome<BoxPolicy> load(const store::WorkspaceId& workspace, const std::string& box,
                                 const std::vector<std::string>& tag_values) const;

  /// What boxes have used of their limits. That of a new one is to be adopted, once it has a name.
  Ledgers& ledgers() const { return ledgers_; }

 private:
  inline static const SystemClock system_clock;

  store::Outcome<policy::Document> stored(const store::WorkspaceId& workspace, const std::string& box) const;
  store::Outcome<credential::SecretStore> secrets(const store::WorkspaceId& workspace) const;
  std::expected<std::shared_ptr<const proxy::Egress>, std::vector<policy::Problem>> make(
      policy::Document document, const credential::SecretStore& secrets, const store::WorkspaceId& workspace,
      const std::vector<std::string>& tag_values, std::shared_ptr<quota::Ledger> ledger) const;

  store::Store& store_;
  PolicySettings settings_;
  mutable Ledgers ledgers_;
};

}  // namespace postern::platform
