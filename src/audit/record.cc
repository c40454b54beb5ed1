#include "audit/record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <iterator>

namespace postern::audit {

namespace {

std::string_view token(Kind kind) {
  switch (kind) {
    case Kind::http: return "http";
    case Kind::tls: return "tls";
    case Kind::tcp: return "tcp";
    case Kind::dns: return "dns";
  }
  return "http";
}

// RFC 8259 §7. Bytes that are not UTF-8 cannot come here: hosts and paths are canonical ASCII, the rest is
// ours; a method or path that is not is escaped byte by byte all the same.
void append_string(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  out += '"';
}

void append_field(std::string_view name, std::string_view value, std::string& out) {
  out += ",\"";
  out += name;
  out += "\":";
  append_string(value, out);
}

void append_number(std::string_view name, std::uint64_t value, std::string& out) {
  fmt::format_to(std::back_inserter(out), ",\"{}\":{}", name, value);
}

double milliseconds(std::chrono::microseconds duration) {
  return static_cast<double>(duration.count()) / 1000.0;
}

}  // namespace

void Record::clear() {
  // Long ones are the exception: records are many, and kept.
  if (path.capacity() > 512) std::string().swap(path);
  if (detail.capacity() > 512) std::string().swap(detail);
  sandbox.reset();
  workspace.reset();
  policy.reset();
  kind = Kind::http;
  reason = Reason::abandoned;
  rule = scheme = protocol = {};
  method.clear();
  host.clear();
  port = 0;
  path.clear();
  status = 0;
  intercepted = false;
  origin_address.clear();
  credentials.clear();
  request_bytes = response_bytes = policy_version = 0;
  duration = {};
  timings = {};
  detail.clear();
}

void append_json(const Record& record, std::string& out) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(record.time);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(record.time - seconds).count();
  fmt::format_to(std::back_inserter(out), "{{\"time\":\"{:%Y-%m-%dT%H:%M:%S}.{:06}Z\"",
                 fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)), micros);
  append_field("sandbox", record.sandbox ? *record.sandbox : "", out);
  append_field("workspace", record.workspace ? *record.workspace : "", out);
  append_field("kind", token(record.kind), out);
  append_field("decision", postern::token(decision_of(record.reason)), out);
  append_field("reason", postern::token(record.reason), out);
  if (!record.rule.empty()) append_field("rule", record.rule, out);
  if (!record.method.empty()) append_field("method", record.method, out);
  if (!record.scheme.empty()) append_field("scheme", record.scheme, out);
  append_field("host", record.host, out);
  append_number("port", record.port, out);
  if (!record.path.empty()) append_field("path", record.path, out);
  if (record.status != 0) append_number("status", static_cast<std::uint64_t>(record.status), out);
  if (!record.protocol.empty()) append_field("protocol", record.protocol, out);
  out += record.intercepted ? ",\"intercepted\":true" : ",\"intercepted\":false";
  if (!record.origin_address.empty()) append_field("origin_address", record.origin_address, out);
  out += ",\"credentials\":[";
  for (std::size_t i = 0; i < record.credentials.size(); ++i) {
    out += i ? ",{\"header\":" : "{\"header\":";
    append_string(record.credentials[i].header, out);
    append_field("source", record.credentials[i].source, out);
    out += '}';
  }
  out += ']';
  append_number("request_bytes", record.request_bytes, out);
  append_number("response_bytes", record.response_bytes, out);
  fmt::format_to(std::back_inserter(out),
                 ",\"duration_ms\":{:.3f},\"timings\":{{\"dns\":{:.3f},\"connect\":{:.3f},\"tls\":{:.3f},"
                 "\"first_byte\":{:.3f}}}",
                 milliseconds(record.duration), milliseconds(record.timings.dns),
                 milliseconds(record.timings.connect), milliseconds(record.timings.tls),
                 milliseconds(record.timings.first_byte));
  append_number("policy_version", record.policy_version, out);
  if (!record.detail.empty()) append_field("detail", record.detail, out);
  out += "}\n";
}

}  // namespace postern::audit
