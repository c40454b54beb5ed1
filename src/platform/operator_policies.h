#pragma once
// Rules of the operator's own, for every sandbox of the server or of a workspace: all of npm to a mirror,
// with the mirror's token. They stand before the rules of a sandbox's own policy, where the first that
// matches wins, and its callers neither change nor read them: what the API gives back is the caller's
// document.
//
// One is put before a sandbox's document when that is compiled, so that requests are judged by one snapshot
// as ever. In it the operator's rules are called "operator/NAME", as no caller's rule may be.

#include <cstddef>
#include <expected>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "credential/secret_store.h"
#include "policy/document.h"
#include "store/store.h"

namespace postern::platform {

inline constexpr std::string_view operator_prefix = "operator/";

class OperatorPolicy {
 public:
  /// `document` is the operator's file, and `references` has what stands behind each `from` in it, by its
  /// text. Problems: an opaque value that is not given, names that are too long with the prefix, and all that
  /// compiling it finds.
  static std::expected<OperatorPolicy, std::vector<policy::Problem>> make(
      std::string file, policy::Document document, const credential::SecretStore& references);

  const std::string& file() const { return file_; }
  /// As in the file, in their order.
  const std::vector<std::string>& rule_names() const { return rule_names_; }

 private:
  friend struct Layering;
  OperatorPolicy() = default;
  policy::Document document(const std::string& prefix) const;

  std::string file_;
  std::string json_;  ///< As print() writes it: a document holds secrets, and is not copied.
  std::vector<std::string> rule_names_;
  std::vector<std::string> denied_;  ///< Its deny_list.
  std::vector<std::string> places_;  ///< Of opaque values; keys of secrets_.
  credential::SecretStore secrets_;
};

/// What a sandbox's policy is compiled from.
struct LayeredPolicy {
  policy::Document document;
  std::vector<std::string> deny;  ///< For CompileOptions.
  std::size_t rules_before = 0;   ///< How many of document.rules are the operator's.
  std::size_t callbacks_before = 0;
};

/// Those in force. Immutable, replaced whole.
struct OperatorPolicies {
  std::shared_ptr<const OperatorPolicy> of_all;                                ///< May be nullptr.
  std::map<std::string, std::shared_ptr<const OperatorPolicy>> of_workspaces;  ///< By id.

  bool empty() const { return !of_all && of_workspaces.empty(); }

  /// The workspace's policy, then that of all, then `own`. Rules and callbacks stand in this order; what each
  /// denies is denied; the first allow_list replaces own.access_control; of limits the lowest holds. What the
  /// operator's rules need is added to `secrets`, under keys that no template names.
  LayeredPolicy put_before(policy::Document own, const store::WorkspaceId& workspace,
                           credential::SecretStore& secrets) const;
};

}  // namespace postern::platform
