#include "policy/treatment_reader.h"

#include <array>
#include <charconv>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/path.h"

namespace postern::policy {

namespace {

constexpr std::array<std::string_view, 6> rewrite_fields = {"host",        "port",        "scheme",
                                                            "path_prefix", "host_header", "credentials"};
constexpr std::array<std::string_view, 2> transform_fields = {"request", "response"};
constexpr std::array<std::string_view, 1> response_fields = {"scrub_secrets"};
constexpr std::array<std::string_view, 2> set_header_fields = {"name", "value"};
constexpr std::array<std::string_view, 5> step_names = {"set_header", "remove_header", "redact", "block",
                                                        "require"};
constexpr std::array<std::string_view, 2> pattern_fields = {"pattern", "replace"};
constexpr std::array<std::string_view, 3> require_fields = {"max_body_bytes", "content_types", "json_schema"};
constexpr std::array<std::string_view, 5> limit_fields = {"requests_per_second", "concurrent_requests",
                                                          "requests_per_day", "request_bytes_per_day",
                                                          "tokens_per_day"};
// What is held to a schema is held in memory until it is whole.
constexpr std::uint64_t checked_body_bytes_max = 16 * MiB;
constexpr std::array<Variable, 3> variables = {Variable::sandbox_name, Variable::workspace_id,
                                               Variable::rule_name};

using Pieces = std::vector<std::variant<std::string, Variable>>;

/// `{sandbox.name}`; `{{` and `}}` are literal braces. Nothing of the text is quoted: it may be a credential.
std::expected<Pieces, std::string> parse_value(std::string_view text) {
  Pieces out;
  std::string literal;
  const auto end_literal = [&] {
    if (!literal.empty()) out.emplace_back(std::exchange(literal, {}));
  };
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c != '{' && c != '}') {
      literal += c;
      continue;
    }
    if (text.substr(at).starts_with(std::string(2, c))) {
      literal += c;
      ++at;
      continue;
    }
    const std::size_t end = text.find('}', at);
    const std::string_view name =
        c == '{' && end != std::string_view::npos ? text.substr(at + 1, end - at - 1) : std::string_view();
    const auto* known =
        std::ranges::find_if(variables, [name](Variable variable) { return token(variable) == name; });
    if (known == variables.end())
      return std::unexpected(
          "has a brace that begins no variable (accepted: {sandbox.name}, {workspace.id}, {rule.name}, and "
          "{{ }} for braces)");
    end_literal();
    out.emplace_back(*known);
    at = end;
  }
  end_literal();
  return out;
}

/// A part of the document as JSON again.
nlohmann::ordered_json json_of(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null: return nullptr;
    case Node::Kind::boolean: return node.truth;
    case Node::Kind::string: return node.text;
    case Node::Kind::number: {
      auto number = nlohmann::ordered_json::parse(node.text, nullptr, false);
      return number.is_discarded() ? nlohmann::ordered_json(node.text) : number;
    }
    case Node::Kind::sequence: {
      auto list = nlohmann::ordered_json::array();
      for (const Node& item : node.items) list.push_back(json_of(item));
      return list;
    }
    case Node::Kind::mapping: {
      auto object = nlohmann::ordered_json::object();
      for (const Member& member : node.members) object[member.key] = json_of(member.value);
      return object;
    }
  }
  return nullptr;
}

/// "application/json", "text/*"
bool is_media_range(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos || !wire::is_field_name(text.substr(0, slash))) return false;
  return text.substr(slash + 1) == "*" ||
         (wire::is_field_name(text.substr(slash + 1)) && !text.contains('*'));
}

}  // namespace

std::string_view token(SentCredentials what) {
  switch (what) {
    case SentCredentials::strip: return "strip";
    case SentCredentials::redact: return "redact";
    case SentCredentials::keep: return "keep";
  }
  return "strip";
}

std::string_view token(Variable variable) {
  switch (variable) {
    case Variable::sandbox_name: return "sandbox.name";
    case Variable::workspace_id: return "workspace.id";
    case Variable::rule_name: return "rule.name";
  }
  return "rule.name";
}

void TreatmentReader::read_treatment(const Node& node, const std::string& where, Rule& out) {
  const Node* rewrite = find(node, "rewrite");
  const Node* transform = find(node, "transform");
  const Node* limits = find(node, "limits");
  if (!rewrite && !transform && !limits) return;
  auto treatment = std::make_unique<Treatment>();
  if (out.action == Action::deny)
    for (const std::string_view key : {"rewrite", "transform", "limits"})
      if (const Node* part = find(node, key))
        fail(child(where, key), part->at, "a rule whose action is deny sends nothing: leave it out");
  if (rewrite && expect(*rewrite, child(where, "rewrite"), Node::Kind::mapping))
    read_rewrite(*rewrite, child(where, "rewrite"), treatment->rewrite.emplace());
  if (transform && expect(*transform, child(where, "transform"), Node::Kind::mapping))
    read_transform(*transform, child(where, "transform"), out, treatment->transform.emplace());
  read_limits(node, where, treatment->limits);
  out.treatment = std::move(treatment);
}

void TreatmentReader::read_limits(const Node& node, const std::string& where, std::optional<Limits>& out) {
  const Node* limits = find(node, "limits");
  const std::string place = child(where, "limits");
  if (!limits || !expect(*limits, place, Node::Kind::mapping)) return;
  check_fields(*limits, place, limit_fields);
  Limits read;
  // Above, arithmetic with them would not be safe; nobody counts that far in a day.
  constexpr std::uint64_t most = 1'000'000'000'000'000;
  read.requests_per_second = read_number(*limits, place, "requests_per_second", 1, 1'000'000);
  read.concurrent_requests = read_number(*limits, place, "concurrent_requests", 1, 1'000'000);
  read.requests_per_day = read_number(*limits, place, "requests_per_day", 0, most);
  read.request_bytes_per_day = read_number(*limits, place, "request_bytes_per_day", 0, most);
  read.tokens_per_day = read_number(*limits, place, "tokens_per_day", 0, most);
  if (std::ranges::none_of(limit_fields, [&](std::string_view key) { return limits->find(key) != nullptr; }))
    return fail(place, limits->at,
                fmt::format("limits nothing: at least one of {} is needed", fmt::join(limit_fields, ", ")));
  out = read;
}

void TreatmentReader::read_match_operations(const Node& node, const std::string& where, Rule& out) {
  read_strings(node, where, "match_operations", rule_entries_max,
               [&](const Node& item, const std::string& place) {
                 auto pattern = transform::OperationPattern::parse(item.text);
                 if (!pattern) return fail(place, item.at, pattern.error());
                 out.match_operations.push_back(std::move(*pattern));
               });
}

std::optional<std::uint64_t> TreatmentReader::read_number(const Node& mapping, const std::string& where,
                                                          std::string_view key, std::uint64_t least,
                                                          std::uint64_t most) {
  const Node* node = find(mapping, key);
  const std::string place = child(where, key);
  if (!node || !expect(*node, place, Node::Kind::number)) return std::nullopt;
  std::uint64_t value = 0;
  const char* const end = node->text.data() + node->text.size();
  const auto read = std::from_chars(node->text.data(), end, value);
  if (read.ec == std::errc() && read.ptr == end && value >= least && value <= most) return value;
  fail(place, node->at,
       fmt::format("{} is not accepted: a whole number from {} to {}", in_quotes(node->text), least, most));
  return std::nullopt;
}

void TreatmentReader::read_rewrite(const Node& node, const std::string& where, Rewrite& out) {
  out.at = node.at;
  check_fields(node, where, rewrite_fields);
  if (const Node* host = require_string(node, where, "host", "a rewrite needs a 'host', where to send it")) {
    auto canonical = wire::canonical_host(host->text);
    if (!canonical || canonical->literal)
      fail(child(where, "host"), host->at,
           canonical ? "is an address: a certificate is checked by name, so give the host's name"
                     : canonical.error().detail);
    else
      out.host = std::move(*canonical);
  }
  const auto one_of = [&](std::string_view key, Names accepted) -> std::size_t {
    const Node* text = read_string(node, where, key);
    if (!text) return 0;
    const auto found = std::ranges::find(accepted, text->text);
    if (found != accepted.end()) return static_cast<std::size_t>(found - accepted.begin());
    fail(child(where, key), text->at,
         fmt::format("{} is not accepted here (accepted: {})", in_quotes(text->text),
                     fmt::join(accepted, ", ")));
    return 0;
  };
  constexpr std::array<std::string_view, 2> schemes = {"https", "http"};
  constexpr std::array<std::string_view, 2> host_headers = {"rewrite", "preserve"};
  constexpr std::array<std::string_view, 3> credentials = {"strip", "redact", "keep"};
  out.tls = one_of("scheme", schemes) == 0;
  out.preserve_host = one_of("host_header", host_headers) == 1;
  out.credentials = static_cast<SentCredentials>(one_of("credentials", credentials));
  out.port =
      static_cast<std::uint16_t>(read_number(node, where, "port", 1, 65535).value_or(out.tls ? 443 : 80));
  if (const Node* prefix = read_string(node, where, "path_prefix")) {
    std::string scratch;
    std::string_view text = prefix->text;
    if (text.ends_with('/')) text.remove_suffix(1);
    const wire::CanonicalPath path = wire::canonical_path(text, scratch);
    if (!text.empty() && (!text.starts_with('/') || path.ambiguity || !path.query.empty()))
      fail(child(where, "path_prefix"), prefix->at, "is not a path such as /npm");
    else
      out.path_prefix = path.path;
  }
}

void TreatmentReader::read_transform(const Node& node, const std::string& where, const Rule& rule,
                                     Transform& out) {
  check_fields(node, where, transform_fields);
  read_list(node, where, "request", transform_steps_max, [&](const Node& item, const std::string& place) {
    if (expect(item, place, Node::Kind::mapping)) read_step(item, place, rule, out);
  });
  const Node* response = find(node, "response");
  const std::string place = child(where, "response");
  if (!response || !expect(*response, place, Node::Kind::mapping)) return;
  check_fields(*response, place, response_fields);
  if (find(*response, "scrub_secrets"))
    out.scrub_secrets = read_flag(*response, place, "scrub_secrets", true);
}

void TreatmentReader::read_step(const Node& item, const std::string& where, const Rule& rule,
                                Transform& out) {
  // A step that is not understood is never passed over, whoever wrote it: what it was to hide would be sent.
  if (item.members.size() != 1 || !contains(step_names, item.members.front().key))
    return fail(where, item.at,
                fmt::format("is no step: exactly one of {} is accepted", fmt::join(step_names, ", ")));
  const Member& step = item.members.front();
  const std::string place = child(where, step.key);
  if (step.key == "set_header") {
    if (expect(step.value, place, Node::Kind::mapping)) read_set_header(step.value, place, rule, out);
  } else if (step.key == "redact") {
    read_detectors(step.value, place, std::get<Redact>(out.request.emplace_back(Redact())).detectors);
  } else if (step.key == "block") {
    read_detectors(step.value, place, std::get<Block>(out.request.emplace_back(Block())).detectors);
  } else if (step.key == "require") {
    if (expect(step.value, place, Node::Kind::mapping))
      read_require(step.value, place, std::get<Require>(out.request.emplace_back(Require())));
  } else if (expect(step.value, place, Node::Kind::string) && settable(step.value, place, rule)) {
    out.request.emplace_back(RemoveHeader{step.value.text});
  }
}

bool TreatmentReader::settable(const Node& name, const std::string& where, const Rule& rule) {
  if (!wire::is_field_name(name.text) || name.text.size() > header_name_bytes_max) {
    fail(where, name.at, "is not a header name");
    return false;
  }
  if (is_reserved_header(name.text)) {
    fail(where, name.at,
         fmt::format("{} belongs to the connection and cannot be changed", in_quotes(name.text)));
    return false;
  }
  for (const Header& header : rule.headers)
    if (wire::same_name(header.name, name.text)) {
      fail(where, name.at,
           fmt::format("{} is among the rule's own 'headers', which replace whatever was sent",
                       in_quotes(name.text)));
      return false;
    }
  return true;
}

void TreatmentReader::read_set_header(const Node& node, const std::string& where, const Rule& rule,
                                      Transform& out) {
  check_fields(node, where, set_header_fields);
  const Node* name = require_string(node, where, "name", "set_header needs a 'name'");
  const Node* value = require_string(node, where, "value", "set_header needs a 'value'");
  if (!name || !value || !settable(*name, child(where, "name"), rule)) return;
  const std::string place = child(where, "value");
  if (value->text.size() > header_value_bytes_max || !wire::is_field_value(value->text))
    return fail(place, value->at, "is longer than a header may be, or holds control characters");
  auto pieces = parse_value(value->text);
  if (!pieces) return fail(place, value->at, pieces.error());
  out.request.emplace_back(SetHeader{name->text, value->text, std::move(*pieces)});
}

/// A built-in one by its name, or a pattern.
std::optional<transform::DetectorSpec> TreatmentReader::read_detector(const Node& node,
                                                                      const std::string& where) {
  if (node.kind == Node::Kind::string) return transform::DetectorSpec{.name = node.text};
  if (!expect(node, where, Node::Kind::mapping) || !all_known(node, where, pattern_fields))
    return std::nullopt;
  const Node* pattern = require_string(node, where, "pattern", "it needs a 'pattern'");
  if (!pattern) return std::nullopt;
  transform::DetectorSpec out{.name = "pattern", .pattern = pattern->text};
  if (const Node* replace = read_string(node, where, "replace")) out.replace = replace->text;
  return out;
}

void TreatmentReader::read_detectors(const Node& node, const std::string& where, Detectors& out) {
  if (!expect(node, where, Node::Kind::sequence)) return;
  const std::size_t problems = problems_.size();
  for (std::size_t i = 0; i < node.items.size(); ++i)
    if (auto spec = read_detector(node.items[i], child(where, i))) out.specs.push_back(std::move(*spec));
  if (problems_.size() != problems) return;
  auto set = transform::DetectorSet::compile(out.specs);
  if (set) {
    out.set = std::move(*set);
    return;
  }
  for (const transform::DetectorComplaint& complaint : set.error()) {
    const bool of_item = complaint.index < node.items.size();
    fail(of_item ? child(where, complaint.index) : where, of_item ? node.items[complaint.index].at : node.at,
         complaint.sentence);
  }
}

/// As with steps: a condition that is not understood is never passed over.
bool TreatmentReader::all_known(const Node& node, const std::string& where, Names names) {
  const std::size_t problems = problems_.size();
  check_fields(node, where, names);
  for (const Member& member : node.members)
    if (!contains(names, member.key) && problems_.size() == problems)
      fail(child(where, member.key), member.at,
           fmt::format("is not known (accepted: {})", fmt::join(names, ", ")));
  return problems_.size() == problems;
}

void TreatmentReader::read_require(const Node& node, const std::string& where, Require& out) {
  if (!all_known(node, where, require_fields)) return;
  out.max_body_bytes = read_number(node, where, "max_body_bytes", 0, std::uint64_t{1} << 40);
  read_strings(
      node, where, "content_types", rule_entries_max, [&](const Node& item, const std::string& place) {
        std::string lower = wire::lower(item.text);
        if (!is_media_range(lower))
          return fail(
              place, item.at,
              fmt::format("{} is no media type such as application/json or text/*", in_quotes(item.text)));
        out.content_types.push_back(std::move(lower));
      });
  if (const Node* schema = find(node, "json_schema")) read_schema(*schema, child(where, "json_schema"), out);
  if (out.schema && out.max_body_bytes.value_or(0) > checked_body_bytes_max)
    fail(child(where, "max_body_bytes"), node.find("max_body_bytes")->at,
         "a body that is held to a json_schema may have at most 16777216 bytes");
}

void TreatmentReader::read_schema(const Node& node, const std::string& where, Require& out) {
  if (node.kind != Node::Kind::boolean && !expect(node, where, Node::Kind::mapping)) return;
  out.schema_text = json_of(node).dump();
  auto schema = transform::BodySchema::compile(out.schema_text);
  if (schema)
    out.schema = std::move(*schema);
  else
    fail(where, node.at, schema.error());
}

}  // namespace postern::policy
