#include "api/explain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "api/body.h"
#include "base/units.h"
#include "proxy/explain.h"

namespace postern::api {

namespace {

using control::Call;
using control::Principal;
using control::Scope;
using CallPointer = std::shared_ptr<Call>;

constexpr std::size_t body_bytes_max = 256 * KiB;
constexpr std::size_t rules_told_max = 200;  // a text for somebody to read

std::string hosts_of(const policy::Rule& rule) {
  std::vector<std::string_view> hosts;
  for (const auto& host : rule.match_hosts) hosts.push_back(host.text);
  return fmt::format("{}", fmt::join(hosts, ", "));
}

std::string what_it_does(const policy::Rule& rule) {
  if (rule.action == policy::Action::deny) return "is refused";
  std::string out = rule.injects_credential() ? "gets a credential on the way; send none, or any placeholder"
                                              : "is allowed";
  if (const auto does = proxy::treatment_of(rule); !does.empty())
    out += fmt::format("; the rule {}", fmt::join(does, "; "));
  return out;
}

std::string rule_line(const policy::Rule& rule) {
  std::string line = "- " + hosts_of(rule);
  if (!rule.match_methods.empty()) line += fmt::format(" {}", fmt::join(rule.match_methods, ", "));
  std::vector<std::string_view> paths;
  for (const auto& path : rule.match_paths) paths.push_back(path.text);
  if (!paths.empty()) line += fmt::format(" {}", fmt::join(paths, ", "));
  if (!rule.match_operations.empty()) {
    std::vector<std::string_view> operations;
    for (const auto& operation : rule.match_operations) operations.push_back(operation.text);
    line += fmt::format(" with the operation {}", fmt::join(operations, " or "));
  }
  line += ": " + what_it_does(rule);
  if (!rule.description.empty()) line += fmt::format(" ({})", rule.description);
  return line + "\n";
}

class Handlers : public std::enable_shared_from_this<Handlers> {
 public:
  Handlers(platform::Boxes& boxes, const platform::Policies& policies, Identify identify)
      : boxes_(boxes), policies_(policies), identify_(std::move(identify)) {}

  std::vector<control::Route> routes() {
    const auto self = shared_from_this();
    return {admitting_route("POST", "/boxes/{name}/explain", identify_, Scope::read_only,
                            std::bind_front(&Handlers::explain, self)),
            admitting_route("GET", "/boxes/{name}/capabilities", identify_, Scope::read_only,
                            std::bind_front(&Handlers::capabilities, self))};
  }

 private:
  /// nullptr: the call was answered.
  std::shared_ptr<const policy::Snapshot> snapshot_for(const CallPointer& call, const Principal& caller,
                                                       std::size_t* operator_rules = nullptr) {
    const store::WorkspaceId workspace{caller.workspace};
    auto box = boxes_.find(workspace, call->request().parameter("name"));
    if (!box) {
      call->answer(std::move(box.error()));
      return nullptr;
    }
    const auto settings = platform::settings_from_json(box->settings).value_or(platform::BoxSettings{});
    const auto policy = policies_.load(workspace, box->id, settings.tag_values);
    if (policy && operator_rules) *operator_rules = policy->operator_rules;
    if (policy) return policy->egress->snapshot;
    call->answer(platform::to_api_error(policy.error()));
    return nullptr;
  }

  void capabilities(const CallPointer& call, const Principal& caller) {
    const auto snapshot = snapshot_for(call, caller);
    if (!snapshot) return;
    const nlohmann::ordered_json out = {{"description", snapshot->description()},
                                        {"text", capabilities_text(*snapshot)}};
    call->answer(control::json_response(
        200, out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)));
  }

  void explain(const CallPointer& call, const Principal& caller) {
    with_body(call, body_bytes_max, [self = shared_from_this(), call, caller](BodyFields& fields) {
      const auto url = fields.text("url", 64 * KiB);
      const auto method = fields.text("method", 64).value_or("GET");
      const auto headers = fields.strings("headers", 256);
      const auto operations = fields.list("operations", 1000);
      if (!url && fields.good()) fields.note("url", "is required");
      if (!fields.good()) return call->answer(fields.refusal());
      std::vector<std::string> lines;
      if (headers)
        for (const auto& [name, value] : *headers) lines.push_back(name + ": " + value);
      const auto question =
          proxy::read_question(*url, method, lines, operations.value_or(std::vector<std::string>{}));
      if (!question) return call->answer(control::validation_response("url", question.error().detail));
      std::size_t operator_rules = 0;
      const auto snapshot = self->snapshot_for(call, caller, &operator_rules);
      if (!snapshot) return;
      const auto answer = proxy::explain(*snapshot, *question);
      call->answer(
          control::json_response(200, proxy::explanation_json(*snapshot, *question, answer, operator_rules)));
    });
  }

  platform::Boxes& boxes_;
  const platform::Policies& policies_;
  const Identify identify_;
};

}  // namespace

std::string capabilities_text(const policy::Snapshot& snapshot) {
  std::string out;
  if (!snapshot.description().empty()) out += snapshot.description() + "\n\n";
  out += fmt::format("Reachable over the network: {}.\n",
                     snapshot.allowed() ? snapshot.allowed_hint() : "every public host, on every TCP port");
  std::string rules;
  std::size_t told = 0, all = 0;
  for (const policy::Rule& rule : snapshot.rules()) {
    if (!rule.enabled) continue;
    if (++all > rules_told_max) continue;
    rules += rule_line(rule);
    ++told;
  }
  if (told > 0) out += "\nBy rule, where the first that fits counts:\n" + rules;
  if (all > told) out += fmt::format("- and {} more\n", all - told);
  if (snapshot.limits()) out += fmt::format("\nAll together: {}.\n", proxy::described(*snapshot.limits()));
  out +=
      "\nPrivate networks and the clouds' metadata addresses are never reachable. There is no UDP but DNS, "
      "and no "
      "ICMP. A request that is refused is answered with a reason in X-Postern-Reason and in its JSON body.\n";
  return out;
}

std::vector<control::Route> explain_routes(platform::Boxes& boxes, const platform::Policies& policies,
                                           Identify identify) {
  return std::make_shared<Handlers>(boxes, policies, std::move(identify))->routes();
}

}  // namespace postern::api
