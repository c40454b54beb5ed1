#pragma once
// The header lines that rules put on requests, made ready once per snapshot: templates filled in, checked,
// and locked away. Immutable, shared by the loops beside the snapshot that they belong to.

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "credential/injected_header.h"
#include "credential/secret_store.h"
#include "policy/snapshot.h"

namespace postern::credential {

struct Buildup;

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
};

/// Fills in the templates of every enabled rule. Problems, all of them: a {KEY} that the store does not have
/// (named), an opaque header without a value, and a filled-in value with CR, LF, NUL or another character
/// that no header can hold.
std::expected<Injections, std::vector<policy::Problem>> resolve(const policy::Snapshot& snapshot,
                                                                const SecretStore& secrets);

}  // namespace postern::credential
