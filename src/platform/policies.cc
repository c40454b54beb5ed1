#include "platform/policies.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <fmt/format.h>
#include <set>

#include "policy/carry_over.h"
#include "policy/opaque_values.h"

namespace postern::platform {

namespace {

/// Of every policy that this process puts in force; records name it.
std::uint64_t next_version() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

/// Refresh tokens of one workspace, in the store.
class StoredRefreshTokens final : public credential::RefreshTokens {
 public:
  StoredRefreshTokens(store::RefreshTokenStore& store, store::WorkspaceId workspace)
      : store_(store), workspace_(std::move(workspace)) {}

  std::optional<Secret> newest(const std::string& key) override {
    auto found = store_.newest(workspace_, key);
    return found ? std::move(*found) : std::nullopt;
  }

  Result<void> keep(const std::string& key, const Secret& token) override {
    if (auto kept = store_.keep(workspace_, key, token); !kept)
      return fail(Reason::internal, kept.error().detail);
    return {};
  }

 private:
  store::RefreshTokenStore& store_;
  store::WorkspaceId workspace_;
};

/// The rule that a problem is about: "rules[12].headers[0]" says 12.
std::optional<std::size_t> rule_of(const policy::Problem& problem) {
  constexpr std::string_view start = "rules[";
  if (!problem.where.starts_with(start)) return std::nullopt;
  std::size_t index = 0;
  const char* end = problem.where.data() + problem.where.size();
  const auto [rest, error] = std::from_chars(problem.where.data() + start.size(), end, index);
  if (error != std::errc{} || rest == end || *rest != ']') return std::nullopt;
  return index;
}

/// Its hosts, paths and methods stay, and are denied: a rule without its credential would let requests pass
/// that the next rule was never meant for.
void close_rule(policy::Rule& rule) {
  rule.action = policy::Action::deny;
  rule.headers.clear();
  rule.env_vars.clear();
  rule.own_env.clear();
  rule.provider = std::monostate{};
  rule.treatment.reset();
}

}  // namespace

store::Outcome<policy::Document> Policies::stored(const store::WorkspaceId& workspace,
                                                  const std::string& box) const {
  auto kept = store_.sandboxes().read(workspace, box, store::Part::policy);
  if (!kept) return store::failed(kept);
  auto document = policy::parse_document(kept->json, policy::Format::json, policy::UnknownFields::tolerate);
  if (!document)
    return store::fail(store::Fault::damaged, fmt::format("the policy of the box {} cannot be read", box));
  std::vector<policy::PlacedValue> values;
  for (store::NamedSecret& secret : kept->secrets)
    values.push_back({std::move(secret.name), std::move(secret.value)});
  policy::put_opaque_values(*document, std::move(values));
  return std::move(*document);
}

store::Outcome<credential::SecretStore> Policies::secrets(const store::WorkspaceId& workspace) const {
  auto kept = store_.secrets().read(workspace);
  if (!kept) return store::failed(kept);
  credential::SecretStore secrets;
  for (store::NamedSecret& secret : *kept)
    if (auto set = secrets.set(std::move(secret.name), std::move(secret.value), secret.revision); !set)
      return store::fail(store::Fault::damaged, set.error().detail);
  return secrets;
}

std::expected<std::shared_ptr<const proxy::Egress>, std::vector<policy::Problem>> Policies::make(
    policy::Document document, const credential::SecretStore& secrets, const store::WorkspaceId& workspace,
    const std::vector<std::string>& tag_values, std::shared_ptr<quota::Ledger> ledger) const {
  auto snapshot = policy::compile(std::move(document),
                                  {.allow_private = settings_.allow_private, .version = next_version()});
  if (!snapshot) return std::unexpected(std::move(snapshot.error()));
  auto injections =
      credential::resolve(**snapshot, secrets,
                          {.kept = std::make_shared<StoredRefreshTokens>(store_.refresh_tokens(), workspace),
                           .identity = settings_.identity,
                           .tag_values = tag_values});
  if (!injections) return std::unexpected(std::move(injections.error()));
  return proxy::make_egress(*snapshot, std::move(*injections), settings_.signer, std::move(ledger));
}

std::expected<NewPolicy, PolicyRefusal> Policies::check(const store::WorkspaceId& workspace,
                                                        const policy::Node* proxy_config,
                                                        const std::vector<std::string>& tag_values,
                                                        const std::string* updates) const {
  // Read twice, as a secret is never copied: once to be put in force, once to be kept.
  const auto read = [&]() -> std::expected<policy::Document, PolicyRefusal> {
    if (!proxy_config) return policy::Document{};
    auto document = policy::read_document(*proxy_config);
    if (!document) return std::unexpected(std::move(document.error()));
    if (!updates) return std::move(*document);
    auto earlier = stored(workspace, *updates);
    if (!earlier) return std::unexpected(std::move(earlier.error()));
    if (auto problems = policy::carry_over(*document, *earlier); !problems.empty())
      return std::unexpected(std::move(problems));
    return std::move(*document);
  };
  auto in_force = read();
  if (!in_force) return std::unexpected(std::move(in_force.error()));
  const auto known = secrets(workspace);
  if (!known) return std::unexpected(known.error());
  std::shared_ptr<quota::Ledger> ledger;
  if (updates) {
    auto found = ledgers_.of(workspace, *updates);
    if (!found) return std::unexpected(std::move(found.error()));
    ledger = std::move(*found);
  }
  auto egress = make(std::move(*in_force), *known, workspace, tag_values, std::move(ledger));
  if (!egress) return std::unexpected(std::move(egress.error()));

  auto kept = read();
  if (!kept) return std::unexpected(std::move(kept.error()));
  store::Document document{policy::print(*kept), {}};
  for (policy::PlacedValue& value : policy::take_opaque_values(*kept))
    document.secrets.push_back({std::move(value.place), std::move(value.value)});
  return NewPolicy{std::move(*egress), std::move(document)};
}

store::Outcome<BoxPolicy> Policies::load(const store::WorkspaceId& workspace, const std::string& box,
                                         const std::vector<std::string>& tag_values) const {
  const auto known = secrets(workspace);
  if (!known) return std::unexpected(known.error());
  const auto ledger = ledgers_.of(workspace, box);
  if (!ledger) return std::unexpected(ledger.error());
  std::set<std::size_t> closed;
  while (true) {
    auto document = stored(workspace, box);
    if (!document) return store::failed(document);
    BoxPolicy out;
    for (const std::size_t index : closed) {
      if (index >= document->rules.size())
        return store::fail(store::Fault::damaged,
                           fmt::format("the policy of the box {} cannot be used", box));
      out.closed_rules.push_back(document->rules[index].name);
      close_rule(document->rules[index]);
    }
    auto egress = make(std::move(*document), *known, workspace, tag_values, *ledger);
    if (egress) {
      out.egress = std::move(*egress);
      return out;
    }
    const std::size_t before = closed.size();
    for (const policy::Problem& problem : egress.error())
      if (const auto rule = rule_of(problem)) closed.insert(*rule);
    if (closed.size() == before)  // What is no rule's cannot be closed: without a policy nothing runs.
      return store::fail(store::Fault::damaged, fmt::format("the policy of the box {} cannot be used: {}",
                                                            box, policy::describe(egress.error(), "")));
  }
}

}  // namespace postern::platform
