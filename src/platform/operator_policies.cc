#include "platform/operator_policies.h"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>
#include <iterator>
#include <utility>

#include "credential/injections.h"
#include "credential/secret_copies.h"
#include "policy/opaque_values.h"
#include "policy/snapshot.h"

namespace postern::platform {

namespace {

template <class T>
void append(std::vector<T>& to, std::vector<T> from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void lower(std::optional<std::uint64_t>& limit, const std::optional<std::uint64_t>& other) {
  if (other) limit = limit ? std::min(*limit, *other) : *other;
}

void lower(std::optional<policy::Limits>& limits, const std::optional<policy::Limits>& other) {
  if (!other) return;
  if (!limits) limits.emplace();
  lower(limits->requests_per_second, other->requests_per_second);
  lower(limits->concurrent_requests, other->concurrent_requests);
  lower(limits->requests_per_day, other->requests_per_day);
  lower(limits->request_bytes_per_day, other->request_bytes_per_day);
  lower(limits->tokens_per_day, other->tokens_per_day);
}

std::expected<policy::Document, std::vector<policy::Problem>> read_again(const std::string& json) {
  return policy::parse_document(json, policy::Format::json, policy::UnknownFields::tolerate,
                                policy::References::accept);
}

/// In the order of who sees it: the operator's first.
void join(std::string& text, const std::string& more) {
  if (!text.empty() && !more.empty()) text += "\n";
  text += more;
}

}  // namespace

std::expected<OperatorPolicy, std::vector<policy::Problem>> OperatorPolicy::make(
    std::string file, policy::Document document, const credential::SecretStore& references) {
  OperatorPolicy out;
  std::vector<policy::Problem> problems;
  out.file_ = std::move(file);
  for (std::size_t i = 0; i < document.rules.size(); ++i) {
    const policy::Rule& rule = document.rules[i];
    if (rule.name.size() + operator_prefix.size() > policy::rule_name_bytes_max)
      problems.push_back({fmt::format("rules[{}].name", i), rule.at,
                          fmt::format("must have at most {} bytes in a policy of the operator's",
                                      policy::rule_name_bytes_max - operator_prefix.size())});
    out.rule_names_.push_back(rule.name);
  }
  if (const auto& access = document.access_control;
      access && access->kind == policy::AccessControl::Kind::deny_list)
    for (const auto& entry : access->entries) out.denied_.push_back(entry.text);
  out.json_ = policy::print(document);

  const auto keep = [&](const std::string& place, const Result<void>& kept) {
    if (kept)
      out.places_.push_back(place);
    else
      problems.push_back({place, {}, kept.error().detail});
  };
  for (const policy::PlacedValue& value : policy::take_opaque_values(document))
    keep(value.place, credential::keep_secret(value.value, value.place, out.secrets_));
  for (const policy::PlacedReference& said : policy::refer_by_place(document, ""))
    if (references.find(said.from))  // Not of a rule that is disabled.
      keep(said.place, credential::copy_secret(references, said.from, said.place, out.secrets_));
  for (const policy::Reference& needed : policy::references_of(document.rules, document.callbacks))
    if (!out.secrets_.find(needed.text))
      problems.push_back({std::string(needed.text), needed.at, "no value is set for it"});
  if (!problems.empty()) return std::unexpected(std::move(problems));
  const auto compiled = policy::compile(std::move(document));
  if (!compiled) return std::unexpected(compiled.error());
  // A rule that a workspace has no secret for is closed there; a callback cannot be.
  if (auto tried = credential::resolve(**compiled, out.secrets_); !tried)
    for (policy::Problem& problem : tried.error())
      if (problem.where.starts_with("callbacks[")) problems.push_back(std::move(problem));
  // Printed it may have grown beyond what a document may have.
  if (!read_again(out.json_)) problems.push_back({"", {}, "is too large"});
  if (!problems.empty()) return std::unexpected(std::move(problems));
  return out;
}

policy::Document OperatorPolicy::document(const std::string& prefix) const {
  auto read = read_again(json_);
  if (!read) std::abort();  // make() has seen that it can be: nothing passes without the rules.
  policy::refer_by_place(*read, prefix);
  for (policy::Rule& rule : read->rules) {
    rule.at = {};  // Lines of a text that nobody has.
    rule.name.insert(0, operator_prefix);
  }
  for (policy::Callback& callback : read->callbacks) callback.at = {};
  return std::move(*read);
}

struct Layering {
  LayeredPolicy out;
  credential::SecretStore& secrets;
  std::size_t layers = 0;
  bool listed = false;  ///< The operator said what may be reached.

  void add(const OperatorPolicy& layer) {
    // Colons stand in no name of a workspace's secret.
    const std::string prefix = fmt::format("operator:{}:", layers++);
    policy::Document document = layer.document(prefix);
    for (const std::string& place : layer.places_)
      (void)credential::copy_secret(layer.secrets_, place, prefix + place, secrets);
    if (document.access_control && !listed) {
      listed = document.access_control->kind == policy::AccessControl::Kind::allow_list;
      if (listed) out.document.access_control = std::move(document.access_control);
    }
    append(out.deny, layer.denied_);
    append(out.document.rules, std::move(document.rules));
    append(out.document.callbacks, std::move(document.callbacks));
    lower(out.document.limits, document.limits);
    join(out.document.description, document.description);
  }

  void end_with(policy::Document own) {
    out.rules_before = out.document.rules.size();
    out.callbacks_before = out.document.callbacks.size();
    if (!listed) out.document.access_control = std::move(own.access_control);
    // A policy that is older than the prefix: records and counters must not take it for the operator's.
    for (policy::Rule& rule : own.rules)
      if (rule.name.starts_with(operator_prefix)) rule.name.insert(0, "sandbox/");
    append(out.document.rules, std::move(own.rules));
    append(out.document.callbacks, std::move(own.callbacks));
    lower(out.document.limits, own.limits);
    join(out.document.description, own.description);
  }
};

LayeredPolicy OperatorPolicies::put_before(policy::Document own, const store::WorkspaceId& workspace,
                                           credential::SecretStore& secrets) const {
  if (empty()) return {.document = std::move(own), .deny = {}};
  Layering layering{.out = {}, .secrets = secrets};
  if (const auto found = of_workspaces.find(workspace.text); found != of_workspaces.end())
    layering.add(*found->second);
  if (of_all) layering.add(*of_all);
  layering.end_with(std::move(own));
  return std::move(layering.out);
}

}  // namespace postern::platform
