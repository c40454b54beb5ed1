#include "proxy/explain.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <variant>

#include "proxy/refusal.h"
#include "proxy/rewriting.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/path.h"
#include "wire/presigned.h"

namespace postern::proxy {

namespace {

using policy::Transport;

std::unexpected<Error> usage(std::string message) {
  return fail(Reason::invalid_configuration, std::move(message));
}

/// Cuts `target` into scheme, authority and path; the parts are judged by the parsers of wire/.
Result<Question> read_target(std::string_view target) {
  Question question;
  std::string_view rest = target;
  bool request = true;
  if (rest.starts_with("https://")) {
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
    question.transport = Transport::http;
  } else if (rest.find("://") != std::string_view::npos) {
    return usage(fmt::format(
        "'{}': only https:// and http:// have paths to judge; write HOST:PORT for other protocols", target));
  } else {
    request = false;
  }
  rest = rest.substr(0, rest.find('#'));
  const std::size_t end = std::min(rest.find_first_of("/?"), rest.size());
  const std::string_view authority_text = rest.substr(0, end);
  question.path = rest.substr(end);

  auto authority = wire::parse_authority(authority_text);
  if (!authority) return usage(fmt::format("'{}' names no host: {}", target, authority.error().detail));
  // A bare host, with or without a path, is what people type for HTTPS.
  if (!request && (!authority->port || !question.path.empty())) request = true;
  question.host = std::move(authority->host);
  question.port = authority->port.value_or(question.transport == Transport::http ? 80 : 443);
  if (question.port == 0) return usage(fmt::format("'{}': a port is 1 to 65535", target));
  if (!request) {
    question.transport = question.port == 443  ? Transport::tls
                         : question.port == 80 ? Transport::http
                                               : Transport::tcp;
    return question;
  }
  if (!question.path.starts_with('/')) question.path.insert(0, "/");
  if (!wire::is_request_target(question.path)) {
    return usage(
        fmt::format("'{}': write spaces, controls and non-ASCII characters of the path as %XX", target));
  }
  return question;
}

Result<void> read_fields(std::span<const std::string> headers, Question& question) {
  for (const std::string& header : headers) {
    const auto colon = header.find(':');
    const std::string_view name = std::string_view(header).substr(0, colon);
    if (colon == std::string::npos || !wire::is_field_name(name)) {
      return usage("a header is 'name: value'");  // not quoted: it may be a credential
    }
    std::string_view value = std::string_view(header).substr(colon + 1);
    while (value.starts_with(' ') || value.starts_with('\t')) value.remove_prefix(1);
    while (value.ends_with(' ') || value.ends_with('\t')) value.remove_suffix(1);
    if (!wire::is_field_value(value))
      return usage(fmt::format("header {}: the value holds control characters", name));
    question.fields.push_back({name, value});
  }
  return {};
}

Result<void> read_operations(std::span<const std::string> operations, Question& question) {
  if (operations.empty()) return {};
  if (operations.size() > transform::operations_max)
    return usage(fmt::format("a request has at most {} operations", transform::operations_max));
  auto& out = question.operations.emplace();
  for (const std::string& text : operations) {
    const auto space = text.find(' ');
    const bool printable_text =
        std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    if (text.empty() || space == 0 || space + 1 == text.size() || !printable_text ||
        text.size() > transform::operation_bytes_max)
      return usage("an operation is such as 'mutation createIssue', 'tools/call search' or 'tools/list'");
    transform::Operation& operation = out.emplace_back();
    operation.name = text.substr(0, space);
    if (space != std::string::npos) operation.argument = text.substr(space + 1);
  }
  return {};
}

/// Where a rule sends it, and with whose credentials: as Exchange::send_elsewhere() has it.
void follow(const policy::Snapshot& snapshot, const Question& question, const wire::CanonicalPath& path,
            Explanation& answer) {
  if (!path.path.starts_with('/')) {
    answer.reason = Reason::ambiguous_path;
    answer.detail = "only a path can be sent to another host";
    return;
  }
  answer.rewrite = answer.rule->rewrite();
  const std::string there = answer.rewrite->path_prefix + std::string(path.path);
  answer.path = there + std::string(path.query);
  const auto verdict =
      policy::decide_rewritten(snapshot, *answer.rule, answer.rule_index,
                               {.host = answer.rewrite->host,
                                .port = answer.rewrite->port,
                                .tls = answer.rewrite->tls,
                                .method = question.method,
                                .path = there,
                                .fields = question.fields,
                                .operations = question.operations ? &question.operations : nullptr});
  answer.wants_operations = verdict.wants_operations;
  if (answer.wants_operations) return;
  answer.reason = verdict.reason;
  if (verdict.reason != Reason::allowed) answer.detail = "the rule sends it where it may not go";
  answer.credentials = verdict.rule;
  if (verdict.callback_index != policy::no_rule)
    answer.callback = &snapshot.callbacks()[verdict.callback_index];
}

/// Those that a sandbox reads in a record, too.
std::string names_of(const policy::Detectors& detectors) {
  std::vector<std::string_view> names;
  for (std::size_t i = 0; i < detectors.set->size(); ++i) names.push_back(detectors.set->name(i));
  return fmt::format("{}", fmt::join(names, ", "));
}

struct StepClause {
  std::string operator()(const policy::SetHeader& step) const {
    return fmt::format("sets the header {}", step.name);
  }
  std::string operator()(const policy::RemoveHeader& step) const {
    return fmt::format("removes the header {}", step.name);
  }
  std::string operator()(const policy::Redact& step) const {
    return fmt::format("takes out {}", names_of(step.detectors));
  }
  std::string operator()(const policy::Block& step) const {
    return fmt::format("refuses what holds {}", names_of(step.detectors));
  }
  std::string operator()(const policy::Require& step) const {
    std::vector<std::string> wanted;
    if (step.max_body_bytes) wanted.push_back(fmt::format("of at most {} bytes", *step.max_body_bytes));
    if (!step.content_types.empty())
      wanted.push_back(fmt::format("of type {}", fmt::join(step.content_types, " or ")));
    if (step.schema) wanted.emplace_back("that fits a JSON schema");
    return fmt::format("takes only a body {}", fmt::join(wanted, ", "));
  }
};

std::string url_there(const policy::Rewrite& rewrite, std::string_view path) {
  return fmt::format("{}://{}{}", rewrite.tls ? "https" : "http",
                     authority_of({&rewrite.host, rewrite.port, rewrite.tls}), path);
}

constexpr std::string_view say_operations =
    "it depends on the operation in the body, such as 'mutation createIssue': say which";

}  // namespace

Result<Question> read_question(std::string_view target, std::string_view method,
                               std::span<const std::string> headers,
                               std::span<const std::string> operations) {
  auto question = read_target(target);
  if (!question) return question;
  if (!wire::is_field_name(method)) return usage("a method is a word such as GET");
  question->method = method;
  if (auto read = read_fields(headers, *question); !read) return std::unexpected(read.error());
  if (auto read = read_operations(operations, *question); !read) return std::unexpected(read.error());
  return question;
}

Explanation explain(const policy::Snapshot& snapshot, const Question& question) {
  const auto destination =
      policy::judge_destination(snapshot, {question.host, question.port, question.transport});
  Explanation answer{.reason = destination.reason, .intercept = destination.intercept};
  const bool seen = question.transport == Transport::http || destination.intercept;
  if (question.path.empty() || destination.reason != Reason::allowed || !seen) return answer;

  std::string scratch;
  const wire::CanonicalPath path = wire::canonical_path(question.path, scratch);
  if (destination.judges_paths && path.ambiguity != nullptr) {
    answer.reason = Reason::ambiguous_path;
    answer.detail = path.ambiguity;
    return answer;
  }
  const auto verdict =
      policy::decide(snapshot, {.host = question.host,
                                .port = question.port,
                                .tls = question.transport == Transport::tls,
                                .method = question.method,
                                .path = path.path,
                                .fields = question.fields,
                                .operations = question.operations ? &question.operations : nullptr});
  answer.wants_operations = verdict.wants_operations;
  if (answer.wants_operations) return answer;
  answer.reason = verdict.reason;
  answer.rule = verdict.rule;
  answer.rule_index = verdict.rule_index;
  if (verdict.reason == Reason::allowed && verdict.rule && verdict.rule->rewrite()) {
    follow(snapshot, question, path, answer);
    return answer;
  }
  answer.credentials = verdict.rule;
  if (verdict.callback_index != policy::no_rule)
    answer.callback = &snapshot.callbacks()[verdict.callback_index];
  answer.path = verdict.judges_paths ? std::string(path.path) + std::string(path.query) : question.path;
  return answer;
}

std::string sentence(const policy::Snapshot& snapshot, const Question& question, const Explanation& answer) {
  if (answer.wants_operations) return std::string(say_operations);
  const auto body = nlohmann::json::parse(
      refusal_body({.reason = answer.reason,
                    .host = question.host.name,
                    .port = question.port,
                    .rule = answer.rule != nullptr ? answer.rule->name : std::string_view(),
                    .detail = answer.detail,
                    .allowed = snapshot.allowed_hint()}),
      nullptr, /*allow_exceptions=*/false);
  const auto message =
      body.is_object() ? body.value("/error/message"_json_pointer, std::string()) : std::string();
  return message.empty() ? std::string(token(answer.reason)) : message;
}

std::string requested(const Question& question) {
  const std::string host = question.host.literal && !question.host.literal->is_v4()
                               ? "[" + question.host.name + "]"
                               : question.host.name;
  if (question.path.empty()) return fmt::format("{}:{}", host, question.port);
  const bool tls = question.transport == Transport::tls;
  const std::string port = question.port == (tls ? 443 : 80) ? "" : fmt::format(":{}", question.port);
  return fmt::format("{} {}://{}{}{}", question.method, tls ? "https" : "http", host, port, question.path);
}

std::string printable(const wire::Url& url) {
  return url.origin() + url.target.substr(0, url.target.find('?'));
}

std::string sent_to(const Explanation& answer) { return url_there(*answer.rewrite, answer.path); }

std::string described(const policy::Limits& limits) {
  std::vector<std::string> parts;
  const auto add = [&parts](const std::optional<std::uint64_t>& limit, std::string_view what) {
    if (limit) parts.push_back(fmt::format("{} {}", *limit, what));
  };
  add(limits.requests_per_second, "requests a second");
  add(limits.concurrent_requests, "requests at once");
  add(limits.requests_per_day, "requests a day");
  add(limits.request_bytes_per_day, "bytes of requests a day");
  add(limits.tokens_per_day, "tokens of language models a day");
  return fmt::format("at most {}", fmt::join(parts, ", "));
}

std::vector<std::string> treatment_of(const policy::Rule& rule) {
  std::vector<std::string> clauses;
  if (rule.action == policy::Action::deny) return clauses;
  if (const policy::Rewrite* rewrite = rule.rewrite()) {
    clauses.push_back(fmt::format("sends it to {}", url_there(*rewrite, rewrite->path_prefix)));
    if (rewrite->credentials == policy::SentCredentials::keep)
      clauses.emplace_back("with the credentials that it has");
  }
  if (rule.treatment && rule.treatment->transform) {
    const policy::Transform& transform = *rule.treatment->transform;
    for (const policy::RequestStep& step : transform.request)
      clauses.push_back(std::visit(StepClause{}, step));
    if (!transform.scrub_secrets.value_or(true))
      clauses.emplace_back("does not search the answer for the credential");
  }
  if (const policy::Limits* limits = rule.limits()) clauses.push_back(described(*limits));
  return clauses;
}

std::string explanation_json(const policy::Snapshot& snapshot, const Question& question,
                             const Explanation& answer, std::size_t operator_rules) {
  const auto is_operators = [&](const policy::Rule& rule) {
    return static_cast<std::size_t>(&rule - snapshot.rules().data()) < operator_rules;
  };
  const bool allowed = answer.allowed();
  nlohmann::ordered_json json = {{"decision", answer.wants_operations ? "depends"
                                              : allowed               ? "allowed"
                                                                      : "denied"},
                                 {"reason", token(answer.reason)},
                                 {"target", requested(question)},
                                 {"host", question.host.name},
                                 {"port", question.port},
                                 {"transport", question.transport == Transport::tcp   ? "tcp"
                                               : question.transport == Transport::tls ? "tls"
                                                                                      : "http"},
                                 {"intercept", answer.intercept}};
  if (!allowed) json["message"] = sentence(snapshot, question, answer);
  if (answer.wants_operations) {
    json["wants_operations"] = true;
    json["headers"] = nlohmann::ordered_json::array();
    return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
  if (!allowed) {
    json["status"] = http_status_of(answer.reason);
  }
  if (!answer.path.empty()) json["path"] = answer.path;
  if (answer.rule != nullptr) {
    json["rule"] = {{"name", answer.rule->name}};
    if (is_operators(*answer.rule))
      json["rule"]["operator"] = true;
    else
      json["rule"].update({{"index", answer.rule_index - operator_rules}, {"line", answer.rule->at.line}});
    if (const auto type = policy::type_of(answer.rule->provider); !type.empty()) json["rule"]["type"] = type;
    if (allowed)
      if (auto does = treatment_of(*answer.rule); !does.empty()) json["rule"]["does"] = std::move(does);
  }
  if (answer.rewrite) {
    json["rewritten_to"] = fmt::format("{}:{}", answer.rewrite->host.name, answer.rewrite->port);
    json["sent_to"] = sent_to(answer);
  }
  if (answer.credentials && answer.credentials != answer.rule)
    json["credentials_of"] = answer.credentials->name;
  if (allowed && snapshot.limits()) json["sandbox_limits"] = described(*snapshot.limits());
  json["headers"] = nlohmann::ordered_json::array();
  if (allowed && answer.credentials != nullptr && !wire::is_presigned(answer.path)) {
    for (const policy::Header& header : answer.credentials->headers) {
      nlohmann::ordered_json entry = {{"name", header.name}, {"type", token(header.type)}};
      if (header.type == policy::HeaderType::workspace_secret && !is_operators(*answer.credentials))
        entry["template"] = header.text;
      json["headers"].push_back(std::move(entry));
    }
  }
  if (allowed && answer.callback != nullptr) {
    json["callback"] = {{"url", printable(answer.callback->url)},
                        {"ttl_seconds", answer.callback->ttl.count()},
                        {"full_request", answer.callback->full_request},
                        {"line", answer.callback->at.line}};
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace postern::proxy
