#include "audit/otlp.h"

#include <array>
#include <charconv>
#include <chrono>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

namespace postern::audit {

namespace {

using Json = nlohmann::ordered_json;

/// OpenTelemetry's names for what has one (semantic conventions 1.2x: HTTP, URL, server, network).
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> conventions{
    {{"method", "http.request.method"},
     {"status", "http.response.status_code"},
     {"scheme", "url.scheme"},
     {"path", "url.path"},
     {"host", "server.address"},
     {"port", "server.port"},
     {"detail", "error.message"}}};

std::string attribute_name(std::string_view field) {
  for (const auto& [ours, theirs] : conventions)
    if (ours == field) return std::string(theirs);
  return fmt::format("postern.{}", field);
}

/// {"name": value}, whatever the value is.
Json object_of(const char* name, Json value) {
  Json out = Json::object();
  out[name] = std::move(value);
  return out;
}

/// AnyValue. 64-bit integers are texts in protobuf's JSON.
Json any_value(const Json& value) {
  if (value.is_string()) return object_of("stringValue", value);
  if (value.is_boolean()) return object_of("boolValue", value);
  if (value.is_number_float()) return object_of("doubleValue", value);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{INT64_MAX})
    return object_of("stringValue", value.dump());
  if (value.is_number()) return object_of("intValue", value.dump());
  Json values = Json::array();
  if (value.is_array()) {
    for (const Json& one : value) values.push_back(any_value(one));
    return object_of("arrayValue", object_of("values", std::move(values)));
  }
  if (!value.is_object()) return Json::object();
  for (const auto& [name, one] : value.items()) {
    Json pair = object_of("key", name);
    pair["value"] = any_value(one);
    values.push_back(std::move(pair));
  }
  return object_of("kvlistValue", object_of("values", std::move(values)));
}

void add_attribute(Json& to, std::string_view name, const Json& value) {
  Json one = object_of("key", name);
  one["value"] = any_value(value);
  to.push_back(std::move(one));
}

std::string text_of(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// Of "2026-01-31T12:34:56.123456Z".
std::optional<std::uint64_t> nanoseconds_of(std::string_view time) {
  using namespace std::chrono;  // NOLINT(google-build-using-namespace)
  const auto number = [&time](std::size_t at, std::size_t digits) {
    unsigned value = 0;
    if (time.size() < at + digits) return 0U;
    std::from_chars(time.data() + at, time.data() + at + digits, value);
    return value;
  };
  if (time.size() != 27 || time.back() != 'Z') return std::nullopt;
  const year_month_day date{year(static_cast<int>(number(0, 4))), month(number(5, 2)), day(number(8, 2))};
  if (!date.ok()) return std::nullopt;
  const auto at = sys_days(date) + hours(number(11, 2)) + minutes(number(14, 2)) + seconds(number(17, 2)) +
                  microseconds(number(20, 6));
  const auto since = duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
  return since < 0 ? 0 : static_cast<std::uint64_t>(since);
}

struct Severity {
  int number;
  const char* text;
};

Severity severity_of(std::string_view decision) {
  if (decision == "denied") return {13, "WARN"};
  if (decision == "failed") return {17, "ERROR"};
  return {9, "INFO"};
}

std::string sentence(const Json& record) {
  std::string what = text_of(record, "method");
  if (what.empty()) what = text_of(record, "kind");
  return fmt::format("{} {}{}: {}", what, text_of(record, "host"), text_of(record, "path"),
                     text_of(record, "reason"));
}

std::optional<Json> log_record(const std::string& line) {
  const Json record = Json::parse(line, nullptr, false);
  if (!record.is_object()) return std::nullopt;
  const auto time = nanoseconds_of(text_of(record, "time"));
  if (!time) return std::nullopt;
  const Severity severity = severity_of(text_of(record, "decision"));
  Json out = object_of("timeUnixNano", std::to_string(*time));
  out["severityNumber"] = severity.number;
  out["severityText"] = severity.text;
  out["body"] = any_value(sentence(record));
  Json& attributes = out["attributes"] = Json::array();
  for (const auto& [name, value] : record.items())
    if (name != "time") add_attribute(attributes, attribute_name(name), value);
  return out;
}

}  // namespace

std::string otlp_request(std::span<const std::string> lines, const OtlpResource& resource) {
  Json records = Json::array();
  for (const std::string& line : lines)
    if (auto record = log_record(line)) records.push_back(std::move(*record));
  Json attributes = Json::array();
  add_attribute(attributes, "service.name", "postern");
  add_attribute(attributes, "service.version", resource.service_version);
  add_attribute(attributes, "host.name", resource.host_name);
  Json scope = object_of("scope", object_of("name", "postern.audit"));
  scope["logRecords"] = std::move(records);
  Json logs = object_of("resource", object_of("attributes", std::move(attributes)));
  logs["scopeLogs"] = Json::array();
  logs["scopeLogs"].push_back(std::move(scope));
  Json request = object_of("resourceLogs", Json::array());
  request["resourceLogs"].push_back(std::move(logs));
  return request.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::uint64_t otlp_rejected(std::string_view answer) {
  const Json said = Json::parse(answer, nullptr, false);
  const auto partial = said.is_object() ? said.find("partialSuccess") : said.end();
  if (!said.is_object() || partial == said.end() || !partial->is_object()) return 0;
  const auto rejected = partial->find("rejectedLogRecords");
  if (rejected == partial->end()) return 0;
  if (rejected->is_number_unsigned()) return rejected->get<std::uint64_t>();
  std::uint64_t count = 0;  // int64 is a text in protobuf's JSON
  if (rejected->is_string()) {
    const auto& text = rejected->get_ref<const std::string&>();
    std::from_chars(text.data(), text.data() + text.size(), count);
  }
  return count;
}

}  // namespace postern::audit
