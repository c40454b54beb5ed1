#include "policy/decide.h"

#include <array>
#include <optional>
#include <span>

#include "wire/http1.h"
#include "wire/path.h"

namespace postern::policy {

namespace {

constexpr std::uint16_t http_port = 80;
constexpr std::uint16_t https_port = 443;

/// Literal addresses have no name to check a certificate or a rule against: only plain HTTP on port 80 is
/// judged.
std::optional<Reason> refuse_literal(const Snapshot& snapshot, const Destination& destination) {
  if (!destination.host.literal) return std::nullopt;
  if (destination.transport != Transport::http || destination.port != http_port)
    return Reason::literal_address;
  if (!snapshot.may_reach_address(*destination.host.literal)) return Reason::private_address;
  return std::nullopt;
}

Reason judge(const Snapshot& snapshot, const Destination& destination) {
  const auto& [host, port, transport] = destination;
  if (const auto reason = refuse_literal(snapshot, destination)) return *reason;
  if (snapshot.denied().contains(host, port)) return Reason::in_deny_list;
  if (snapshot.allowed() != nullptr && !snapshot.allowed()->contains(host, port))
    return Reason::not_in_allow_list;
  if (port == http_port && transport != Transport::http) return Reason::protocol_not_allowed;
  if (port == https_port && transport != Transport::tls) return Reason::protocol_not_allowed;
  return Reason::allowed;
}

bool equal_ignoring_case(std::string_view upper, std::string_view text) {
  return std::ranges::equal(upper, text,
                            [](char a, char b) { return a == (b >= 'a' && b <= 'z' ? b - 'a' + 'A' : b); });
}

/// An allowing rule wants exactly its methods, and every override among them too. A denying rule also takes
/// the lower-case form and any override: what was closed stays closed at an origin that is lenient.
bool matches_method(const Rule& rule, const RequestFacts& facts) {
  if (rule.match_methods.empty()) return true;
  const bool deny = rule.action == Action::deny;
  const auto listed = [&](std::string_view method) {
    return std::ranges::any_of(rule.match_methods, [&](const std::string& known) {
      return deny ? equal_ignoring_case(known, method) : known == method;
    });
  };
  if (listed(facts.method) == deny) return deny;
  for (const HeaderField& field : facts.fields) {
    if (is_method_override(field.name) && listed(field.value) == deny) return deny;
  }
  return !deny;
}

/// An allowing rule wants exactly its paths. A denying rule also takes what a lenient origin would read as
/// one of them ("//admin", "/admin;x", "/admin/"), as with methods.
bool matches_path(const Rule& rule, const RequestFacts& facts, const wire::LenientPath* lenient) {
  if (rule.match_paths.empty()) return true;
  if (rule.action == Action::allow) {
    return std::ranges::any_of(rule.match_paths,
                               [&](const Rule::MatchPath& path) { return path.pattern.matches(facts.path); });
  }
  return std::ranges::any_of(rule.match_paths, [&](const Rule::MatchPath& path) {
    return path.pattern.matches_leniently(facts.path, lenient);
  });
}

/// With several fields of the name, origins differ in which one counts: an allowing rule wants all of them to
/// have the value, a denying one is content with any.
bool matches_headers(const Rule& rule, const RequestFacts& facts) {
  return std::ranges::all_of(rule.match_headers, [&](const HeaderCondition& wanted) {
    bool some = false;
    bool all = true;
    for (const HeaderField& field : facts.fields) {
      if (!wire::same_name(field.name, wanted.name)) continue;
      const bool equal = field.value == wanted.value;
      some = some || equal;
      all = all && equal;
    }
    return some && (all || rule.action == Action::deny);
  });
}

/// With many operations in one request, as with many fields of one name.
bool matches_operations(const Rule& rule, const RequestFacts& facts) {
  if (rule.match_operations.empty()) return true;
  const bool deny = rule.action == Action::deny;
  const Operations& operations = *facts.operations;
  if (!operations) return deny;
  const auto listed = [&rule](const transform::Operation& operation) {
    return std::ranges::any_of(rule.match_operations,
                               [&](const auto& pattern) { return pattern.matches(operation); });
  };
  return deny ? std::ranges::any_of(*operations, listed) : std::ranges::all_of(*operations, listed);
}

bool matches(const Rule& rule, const RequestFacts& facts, const wire::LenientPath* lenient) {
  return matches_method(rule, facts) && matches_path(rule, facts, lenient) && matches_headers(rule, facts);
}

/// Every form of the path that some pattern may be compared with (PathPattern::matches_leniently).
class Readings {
 public:
  Readings(std::string_view path, const wire::LenientPath* lenient) {
    add(path);
    if (!lenient) return;
    add(lenient->decoded);
    add(lenient->bare);
  }
  std::span<const std::string_view> all() const { return {readings_.data(), count_}; }

 private:
  void add(std::string_view path) {
    readings_[count_++] = path;
    if (path.size() > 1 && path.ends_with('/')) readings_[count_++] = path.substr(0, path.size() - 1);
  }
  std::array<std::string_view, 6> readings_;
  std::size_t count_ = 0;
};

Reason outcome(const Snapshot& snapshot, const Rule& rule, bool tls) {
  if (rule.action == Action::deny) return Reason::denied_by_rule;
  if (!tls && rule.injects_credential() &&
      (rule.signs() || snapshot.plaintext_credentials() == PlaintextCredentials::refuse)) {
    return Reason::plaintext_credential;
  }
  return Reason::allowed;
}

}  // namespace

DestinationVerdict judge_destination(const Snapshot& snapshot, const Destination& destination) {
  DestinationVerdict verdict{.reason = judge(snapshot, destination)};
  if (verdict.reason != Reason::allowed) {
    verdict.allowed_hint = snapshot.allowed_hint();
    return verdict;
  }
  const CoveringRules rules = snapshot.rule_index().covering(destination.host);
  verdict.intercept = !rules.empty() || snapshot.callback_for(destination.host) != no_rule;
  verdict.denies_some = rules.denies();
  verdict.judges_paths = rules.judges_paths();
  return verdict;
}

bool may_resolve(const Snapshot& snapshot, const Host& host) {
  if (host.literal) return false;  // an address is not a question
  if (snapshot.denied().contains_every_port(host)) return false;
  return snapshot.allowed() == nullptr || snapshot.allowed()->contains_some_port(host);
}

bool is_sent_elsewhere(const Snapshot& snapshot, const Host& host) {
  CoveringRules rules = snapshot.rule_index().covering(host);
  for (std::uint32_t number = rules.next(); number != no_rule; number = rules.next())
    if (snapshot.rules()[number].rewrite()) return true;
  return false;
}

bool answers_as_metadata(const Snapshot& snapshot, const Host& host, std::uint16_t port, bool tls) {
  const MetadataRules& rules = snapshot.metadata_rules();
  const bool google = rules.google != no_rule;
  if ((!google && rules.azure == no_rule) || tls || port != http_port) return false;
  const bool ours = host.literal ? *host.literal == IpAddress::v4(metadata_address)
                                 : google && host.name == "metadata.google.internal";
  return ours && !snapshot.denied().contains(host, port);
}

namespace {

/// A rule that matches, or that might when the operations are known.
struct Match {
  std::uint32_t number = no_rule;
  bool wants_operations = false;
};

/// The first one that is not `passed_over`.
template <class PassedOver>
Match first_match(const Snapshot& snapshot, CoveringRules& rules, const RequestFacts& facts,
                  PassedOver passed_over) {
  std::optional<wire::LenientPath> lenient;
  if (rules.denies()) lenient = wire::lenient_path(facts.path);
  const wire::LenientPath* const leniently = lenient ? &*lenient : nullptr;
  const Readings readings(facts.path, leniently);
  rules.keep_for({.method = facts.method, .fields = facts.fields, .readings = readings.all()});
  for (std::uint32_t number = rules.next(); number != no_rule; number = rules.next()) {
    const Rule& rule = snapshot.rules()[number];
    if (passed_over(rule) || !matches(rule, facts, leniently)) continue;
    if (!rule.match_operations.empty() && !facts.operations) return {number, true};
    if (matches_operations(rule, facts)) return {number, false};
  }
  return {};
}

/// Static headers win over a callback; a rule that only allows has none.
void look_for_callback(const Snapshot& snapshot, const RequestFacts& facts, Verdict& verdict) {
  if (verdict.reason != Reason::allowed || snapshot.callbacks().empty() ||
      (verdict.rule && verdict.rule->has_headers()))
    return;
  verdict.callback_index = snapshot.callback_for(facts.host);
  if (verdict.callback_index != no_rule && !facts.tls &&
      snapshot.plaintext_credentials() == PlaintextCredentials::refuse)
    verdict.reason = Reason::plaintext_credential;
}

}  // namespace

Verdict decide(const Snapshot& snapshot, const RequestFacts& facts) {
  Verdict verdict{
      .reason = judge(snapshot, {facts.host, facts.port, facts.tls ? Transport::tls : Transport::http})};
  if (verdict.reason != Reason::allowed) return verdict;
  CoveringRules rules = snapshot.rule_index().covering(facts.host);
  verdict.judges_paths = rules.judges_paths();
  const auto [number, wants_operations] =
      first_match(snapshot, rules, facts, [](const Rule&) { return false; });
  if (wants_operations) return {.judges_paths = verdict.judges_paths, .wants_operations = true};
  if (number != no_rule) {
    verdict.rule = &snapshot.rules()[number];
    verdict.rule_index = number;
    // What is sent elsewhere is for the destination's credentials, and its transport (decide_rewritten).
    if (verdict.rule->rewrite() && verdict.rule->action == Action::allow) return verdict;
    verdict.reason = outcome(snapshot, *verdict.rule, facts.tls);
  }
  look_for_callback(snapshot, facts, verdict);
  return verdict;
}

Verdict decide_rewritten(const Snapshot& snapshot, const Rule& rewriting, std::uint32_t rewriting_index,
                         const RequestFacts& facts) {
  Verdict verdict{
      .reason = Reason::allowed, .rule = &rewriting, .rule_index = rewriting_index, .judges_paths = true};
  if (snapshot.denied().contains(facts.host, facts.port)) {
    verdict.reason = Reason::in_deny_list;
    return verdict;
  }
  CoveringRules rules = snapshot.rule_index().covering(facts.host);
  const auto [number, wants_operations] =
      first_match(snapshot, rules, facts, [](const Rule& rule) { return rule.rewrite() != nullptr; });
  if (wants_operations) return {.judges_paths = verdict.judges_paths, .wants_operations = true};
  const Rule* const there = number == no_rule ? nullptr : &snapshot.rules()[number];
  if (there && there->action == Action::deny) {
    verdict.reason = Reason::denied_by_rule;
    return verdict;
  }
  if (there && !rewriting.has_headers()) {
    verdict.rule = there;
    verdict.rule_index = number;
  }
  verdict.reason = outcome(snapshot, *verdict.rule, facts.tls);
  look_for_callback(snapshot, facts, verdict);
  return verdict;
}

}  // namespace postern::policy
