#include "proxy/explain.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "proxy/refusal.h"
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

}  // namespace

Result<Question> read_question(std::string_view target, std::string_view method,
                               std::span<const std::string> headers) {
  auto question = read_target(target);
  if (!question) return question;
  if (!wire::is_field_name(method)) return usage("a method is a word such as GET");
  question->method = method;
  if (auto read = read_fields(headers, *question); !read) return std::unexpected(read.error());
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
  const bool tls = question.transport == Transport::tls;
  const auto verdict = policy::decide(
      snapshot, {question.host, question.port, tls, question.method, path.path, question.fields});
  answer.reason = verdict.reason;
  answer.rule = verdict.rule;
  answer.rule_index = verdict.rule_index;
  if (verdict.callback_index != policy::no_rule)
    answer.callback = &snapshot.callbacks()[verdict.callback_index];
  answer.path = verdict.judges_paths ? std::string(path.path) + std::string(path.query) : question.path;
  return answer;
}

std::string sentence(const policy::Snapshot& snapshot, const Question& question, const Explanation& answer) {
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

std::string explanation_json(const policy::Snapshot& snapshot, const Question& question,
                             const Explanation& answer) {
  const bool allowed = answer.reason == Reason::allowed;
  nlohmann::ordered_json json = {{"decision", allowed ? "allowed" : "denied"},
                                 {"reason", token(answer.reason)},
                                 {"target", requested(question)},
                                 {"host", question.host.name},
                                 {"port", question.port},
                                 {"transport", question.transport == Transport::tcp   ? "tcp"
                                               : question.transport == Transport::tls ? "tls"
                                                                                      : "http"},
                                 {"intercept", answer.intercept}};
  if (!allowed) {
    json["message"] = sentence(snapshot, question, answer);
    json["status"] = http_status_of(answer.reason);
  }
  if (!answer.path.empty()) json["path"] = answer.path;
  if (answer.rule != nullptr) {
    json["rule"] = {
        {"name", answer.rule->name}, {"index", answer.rule_index}, {"line", answer.rule->at.line}};
    if (const auto type = policy::type_of(answer.rule->provider); !type.empty()) json["rule"]["type"] = type;
  }
  json["headers"] = nlohmann::ordered_json::array();
  if (allowed && answer.rule != nullptr && !wire::is_presigned(question.path)) {
    for (const policy::Header& header : answer.rule->headers) {
      nlohmann::ordered_json entry = {{"name", header.name}, {"type", token(header.type)}};
      if (header.type == policy::HeaderType::workspace_secret) entry["template"] = header.text;
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
