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

/// Of what a problem is about: "rules[12].headers[0]" says 12 of "rules".
std::optional<std::size_t> index_in(const policy::Problem& problem, std::string_view list) {
  if (!problem.where.starts_with(list) || !problem.where.substr(list.size()).starts_with('['))
    return std::nullopt;
  std::size_t index = 0;
  const char* end = problem.where.data() + problem.where.size();
  const auto [rest, error] = std::from_chars(problem.where.data() + list.size() + 1, end, index);
  if (error != std::errc{} || rest == end || *rest != ']') return std::nullopt;
  return index;
}

void move_to(policy::Problem& problem, std::string_view list, std::size_t index) {
  problem.where = fmt::format("{}[{}{}", list, index, problem.where.substr(problem.where.find(']')));
}

/// Rules of a caller's that would pass for the operator's.
std::vector<policy::Problem> reserved_names(const policy::Document& document) {
  std::vector<policy::Problem> problems;
  for (std::size_t i = 0; i < document.rules.size() && problems.size() < policy::problems_max; ++i)
    if (document.rules[i].name.starts_with(operator_prefix))
      problems.push_back({fmt::format("rules[{}].name", i), document.rules[i].at,
                          fmt::format("begins with {}, as only rules of the operator do", operator_prefix)});
  return problems;
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
    LayeredPolicy policy, const credential::SecretStore& secrets, const store::WorkspaceId& workspace,
    const std::vector<std::string>& tag_values, std::shared_ptr<quota::Ledger> ledger) const {
  auto snapshot = policy::compile(
      std::move(policy.document),
      {.deny = policy.deny, .allow_private = settings_.allow_private, .version = next_version()});
  if (!snapshot) return std::unexpected(std::move(snapshot.error()));
  auto injections =
      credential::resolve(**snapshot, secrets,
                          {.kept = std::make_shared<StoredRefreshTokens>(store_.refresh_tokens(), workspace),
                           .identity = settings_.identity,
                           .tag_values = tag_values});
  if (!injections) return std::unexpected(std::move(injections.error()));
  return proxy::make_egress(*snapshot, std::move(*injections), settings_.signer, std::move(ledger));
}

void Policies::use(std::shared_ptr<const OperatorPolicies> operators) {
  const std::lock_guard lock(mutex_);
  operators_ = std::move(operators);
  reported_.clear();
}

std::shared_ptr<const OperatorPolicies> Policies::operators() const {
  const std::lock_guard lock(mutex_);
  return operators_;
}

/// What came of a policy together with the operator's.
struct Policies::Attempt {
  std::shared_ptr<const proxy::Egress> egress;  ///< nullptr: it is in the way
  bool again = false;                           ///< of the operator's rules, which were closed;
  std::vector<policy::Problem> problems;        ///< or of these, as places of the sandbox's own document.
  std::size_t operator_rules = 0;
};

/// `closed`: rules of the operator's that cannot be used in this workspace deny, as with a secret that is not
/// there: nobody's sandbox is refused for them, and nothing passes that they were meant for.
Policies::Attempt Policies::attempt(policy::Document own, const OperatorPolicies& operators,
                                    const store::WorkspaceId& workspace,
                                    const std::vector<std::string>& tag_values,
                                    credential::SecretStore& secrets,
                                    const std::shared_ptr<quota::Ledger>& ledger,
                                    std::set<std::size_t>& closed) const {
  LayeredPolicy layered = operators.put_before(std::move(own), workspace, secrets);
  const std::size_t rules_before = layered.rules_before, callbacks_before = layered.callbacks_before;
  Attempt out;
  out.operator_rules = rules_before;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < rules_before; ++i) names.push_back(layered.document.rules[i].name);
  for (const std::size_t index : closed)
    if (index < rules_before) close_rule(layered.document.rules[index]);
  auto egress = make(std::move(layered), secrets, workspace, tag_values, ledger);
  if (egress) {
    out.egress = std::move(*egress);
    return out;
  }
  for (policy::Problem& problem : egress.error()) {
    const auto rule = index_in(problem, "rules");
    if (rule && *rule < rules_before) {
      out.again = closed.insert(*rule).second || out.again;
      report_once(fmt::format("the rule {} denies in the workspace {}: {}", names[*rule], workspace.text,
                              problem.message));
      continue;
    }
    if (rule) move_to(problem, "rules", *rule - rules_before);
    if (const auto callback = index_in(problem, "callbacks")) {
      if (*callback < callbacks_before) {
        report_once(fmt::format("the operator's callbacks[{}]: {}", *callback, problem.message));
        continue;
      }
      move_to(problem, "callbacks", *callback - callbacks_before);
    }
    if (problem.where.starts_with("--deny"))
      problem.where = "access_control";  // Too many with the operator's.
    out.problems.push_back(std::move(problem));
  }
  return out;
}

/// What is wrong for an hour is one complaint.
void Policies::report_once(const std::string& what) const {
  if (!settings_.report) return;
  constexpr std::size_t reported_max = 1'000;
  {
    const std::lock_guard lock(mutex_);
    if (reported_.size() >= reported_max) reported_.clear();
    if (!reported_.insert(what).second) return;
  }
  settings_.report(what);
}

std::expected<NewPolicy, PolicyRefusal> Policies::check(const store::WorkspaceId& workspace,
                                                        const policy::Node* proxy_config,
                                                        const std::vector<std::string>& tag_values,
                                                        const std::string* updates) const {
  // Read more than once, as a secret is never copied: to be put in force, and to be kept.
  const auto read = [&]() -> std::expected<policy::Document, PolicyRefusal> {
    if (!proxy_config) return policy::Document{};
    auto document = policy::read_document(*proxy_config);
    if (!document) return std::unexpected(std::move(document.error()));
    if (auto problems = reserved_names(*document); !problems.empty())
      return std::unexpected(std::move(problems));
    if (!updates) return std::move(*document);
    auto earlier = stored(workspace, *updates);
    if (!earlier) return std::unexpected(std::move(earlier.error()));
    if (auto problems = policy::carry_over(*document, *earlier); !problems.empty())
      return std::unexpected(std::move(problems));
    return std::move(*document);
  };
  auto known = secrets(workspace);
  if (!known) return std::unexpected(known.error());
  std::shared_ptr<quota::Ledger> ledger;
  if (updates) {
    auto found = ledgers_.of(workspace, *updates);
    if (!found) return std::unexpected(std::move(found.error()));
    ledger = std::move(*found);
  }
  const auto operators_now = operators();
  std::set<std::size_t> closed;
  std::shared_ptr<const proxy::Egress> in_force;
  while (!in_force) {
    auto own = read();
    if (!own) return std::unexpected(std::move(own.error()));
    Attempt made = attempt(std::move(*own), *operators_now, workspace, tag_values, *known, ledger, closed);
    if (!made.problems.empty()) return std::unexpected(std::move(made.problems));
    in_force = std::move(made.egress);
    if (!in_force && !made.again)
      return std::unexpected(
          store::Failure{store::Fault::unavailable, "the operator's policy cannot be used"});
  }

  auto kept = read();
  if (!kept) return std::unexpected(std::move(kept.error()));
  store::Document document{policy::print(*kept), {}};
  for (policy::PlacedValue& value : policy::take_opaque_values(*kept))
    document.secrets.push_back({std::move(value.place), std::move(value.value)});
  return NewPolicy{std::move(in_force), std::move(document)};
}

store::Outcome<BoxPolicy> Policies::load(const store::WorkspaceId& workspace, const std::string& box,
                                         const std::vector<std::string>& tag_values) const {
  auto known = secrets(workspace);
  if (!known) return std::unexpected(known.error());
  const auto ledger = ledgers_.of(workspace, box);
  if (!ledger) return std::unexpected(ledger.error());
  const auto operators_now = operators();
  std::set<std::size_t> closed, closed_of_operator;
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
    Attempt made = attempt(std::move(*document), *operators_now, workspace, tag_values, *known, *ledger,
                           closed_of_operator);
    if (made.egress) {
      out.egress = std::move(made.egress);
      out.operator_rules = made.operator_rules;
      return out;
    }
    const std::size_t before = closed.size();
    for (const policy::Problem& problem : made.problems)
      if (const auto rule = index_in(problem, "rules")) closed.insert(*rule);
    if (closed.size() == before && !made.again)  // What is no rule's cannot be closed: nothing runs then.
      return store::fail(store::Fault::damaged, fmt::format("the policy of the box {} cannot be used: {}",
                                                            box, policy::describe(made.problems, "")));
  }
}

}  // namespace postern::platform
