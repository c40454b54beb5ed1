#pragma once
// From what the store has of a box to what its traffic is judged by and gets its credentials from. The store
// is the only place where secrets are kept: what is in force was read from there.

#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "credential/callback.h"
#include "credential/workload_identity.h"
#include "model/address.h"
#include "platform/ledgers.h"
#include "platform/operator_policies.h"
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
  /// For whoever runs the server, on any thread; may be empty.
  std::function<void(const std::string&)> report;
};

/// What a box's policy amounts to.
struct BoxPolicy {
  std::shared_ptr<const proxy::Egress> egress;
  /// Rules whose secrets are not there any more: they deny, until the secrets are back.
  std::vector<std::string> closed_rules;
  /// How many of the snapshot's rules are the operator's: they stand first.
  std::size_t operator_rules = 0;
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

  /// The operator's, for every policy that is put in force from now on. Never nullptr.
  void use(std::shared_ptr<const OperatorPolicies> operators);

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
  struct Attempt;
  std::shared_ptr<const OperatorPolicies> operators() const;
  Attempt attempt(policy::Document own, const OperatorPolicies& operators,
                  const store::WorkspaceId& workspace, const std::vector<std::string>& tag_values,
                  credential::SecretStore& secrets, const std::shared_ptr<quota::Ledger>& ledger,
                  std::set<std::size_t>& closed) const;
  std::expected<std::shared_ptr<const proxy::Egress>, std::vector<policy::Problem>> make(
      LayeredPolicy policy, const credential::SecretStore& secrets, const store::WorkspaceId& workspace,
      const std::vector<std::string>& tag_values, std::shared_ptr<quota::Ledger> ledger) const;
  void report_once(const std::string& what) const;

  store::Store& store_;
  PolicySettings settings_;
  mutable Ledgers ledgers_;
  mutable std::mutex mutex_;
  std::shared_ptr<const OperatorPolicies> operators_ = std::make_shared<OperatorPolicies>();
  mutable std::set<std::string> reported_;
};

}  // namespace postern::platform
