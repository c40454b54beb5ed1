#include "audit/record.h"

#include <array>
#include <charconv>

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
  constexpr std::string_view digits = "0123456789abcdef";
  out += '"';
  std::size_t plain = 0;  // where the bytes begin that stand for themselves
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool quoted = byte == '"' || byte == '\\';
    if (!quoted && byte >= 0x20 && byte < 0x7f) continue;
    out.append(text, plain, i - plain);
    plain = i + 1;
    if (quoted)
      out.append({'\\', text[i]});
    else
      out.append("\\u00").append({digits[byte >> 4], digits[byte & 15]});
  }
  out.append(text, plain);
  out += '"';
}

void append_name(std::string_view name, std::string& out) { out.append(",\"").append(name).append("\":"); }

void append_field(std::string_view name, std::string_view value, std::string& out) {
  append_name(name, out);
  append_string(value, out);
}

void append_digits(std::uint64_t value, std::string& out) {
  std::array<char, 20> digits;
  out.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr);
}

/// As many digits as asked for, with zeros in front.
void append_padded(std::uint64_t value, int width, std::string& out) {
  std::array<char, 20> digits;
  for (int i = width; i > 0; value /= 10)
    digits[static_cast<std::size_t>(--i)] = static_cast<char>('0' + value % 10);
  out.append(digits.data(), static_cast<std::size_t>(width));
}

void append_number(std::string_view name, std::uint64_t value, std::string& out) {
  append_name(name, out);
  append_digits(value, out);
}

/// "1.234"
void append_milliseconds(std::chrono::microseconds duration, std::string& out) {
  const auto micros = static_cast<std::uint64_t>(std::max<std::int64_t>(duration.count(), 0));
  append_digits(micros / 1000, out);
  out += '.';
  append_padded(micros % 1000, 3, out);
}

/// "2026-01-31T12:34:56.123456Z"
void append_time(std::chrono::system_clock::time_point time, std::string& out) {
  using namespace std::chrono;  // NOLINT(google-build-using-namespace)
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss clock(duration_cast<microseconds>(time - day));
  append_padded(static_cast<std::uint64_t>(static_cast<int>(date.year())), 4, out);
  const auto part = [&out](char before, auto value, int width) {
    out += before;
    append_padded(static_cast<std::uint64_t>(value), width, out);
  };
  part('-', static_cast<unsigned>(date.month()), 2);
  part('-', static_cast<unsigned>(date.day()), 2);
  part('T', clock.hours().count(), 2);
  part(':', clock.minutes().count(), 2);
  part(':', clock.seconds().count(), 2);
  part('.', clock.subseconds().count(), 6);
  out += 'Z';
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
  out += "{\"time\":\"";
  append_time(record.time, out);
  out += '"';
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
  append_name("duration_ms", out);
  append_milliseconds(record.duration, out);
  out += ",\"timings\":{\"dns\":";
  append_milliseconds(record.timings.dns, out);
  append_name("connect", out);
  append_milliseconds(record.timings.connect, out);
  append_name("tls", out);
  append_milliseconds(record.timings.tls, out);
  append_name("first_byte", out);
  append_milliseconds(record.timings.first_byte, out);
  out += '}';
  append_number("policy_version", record.policy_version, out);
  if (!record.detail.empty()) append_field("detail", record.detail, out);
  out += "}\n";
}

}  // namespace postern::audit
