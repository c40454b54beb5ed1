#include "audit/record.h"

#include <charconv>
#include <cstring>
#include <utility>

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

/// A line as it grows, in room that was measured before: what is appended is copied, and never looked for
/// room.
class Line {
 public:
  explicit Line(char* at) : at_(at) {}
  char* end() const { return at_; }

  template <std::size_t size>
  void literal(const char (&text)[size]) {
    std::memcpy(at_, text, size - 1);
    at_ += size - 1;
  }
  /// Between quotes. RFC 8259 §7. Bytes that are not UTF-8 cannot come here: hosts and paths are canonical
  /// ASCII, the rest is ours; a method or path that is not is escaped byte by byte all the same.
  void text(std::string_view value);
  void number(std::uint64_t value) { at_ = std::to_chars(at_, at_ + digits_max, value).ptr; }
  /// As many digits as asked for, with zeros in front.
  template <int width>
  void padded(std::uint64_t value) {
    for (int i = width; i > 0; value /= 10) at_[--i] = static_cast<char>('0' + value % 10);
    at_ += width;
  }
  void milliseconds(std::chrono::microseconds duration);  ///< "1.234"
  void time(std::chrono::system_clock::time_point time);  ///< "2026-01-31T12:34:56.123456Z"

  static constexpr std::size_t digits_max = 20;
  static constexpr std::size_t escaped_max = 6;  ///< Of one byte.

 private:
  void escaped(unsigned char byte);
  char* at_;
};

/// All eight bytes stand for themselves.
bool plain(std::uint64_t bytes) {
  constexpr std::uint64_t ones = 0x0101010101010101, tops = 0x80 * ones;
  const auto has_zero = [](std::uint64_t x) { return (x - ones) & ~x; };
  const std::uint64_t special = has_zero(bytes ^ '"' * ones) | has_zero(bytes ^ '\\' * ones) |
                                has_zero(bytes ^ 0x7f * ones) | ((bytes - 0x20 * ones) & ~bytes) | bytes;
  return (special & tops) == 0;
}

void Line::escaped(unsigned char byte) {
  constexpr std::string_view digits = "0123456789abcdef";
  if (byte == '"' || byte == '\\') {
    *at_++ = '\\';
    *at_++ = static_cast<char>(byte);
  } else if (byte >= 0x20 && byte < 0x7f) {
    *at_++ = static_cast<char>(byte);
  } else {
    literal("\\u00");
    *at_++ = digits[byte >> 4];
    *at_++ = digits[byte & 15];
  }
}

void Line::text(std::string_view value) {
  *at_++ = '"';
  while (value.size() >= 8) {
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, value.data(), 8);
    if (plain(bytes)) {
      std::memcpy(at_, &bytes, 8);
      at_ += 8;
    } else {
      for (const char c : value.substr(0, 8)) escaped(static_cast<unsigned char>(c));
    }
    value.remove_prefix(8);
  }
  for (const char c : value) escaped(static_cast<unsigned char>(c));
  *at_++ = '"';
}

void Line::milliseconds(std::chrono::microseconds duration) {
  const auto micros = static_cast<std::uint64_t>(std::max<std::int64_t>(duration.count(), 0));
  number(micros / 1000);
  *at_++ = '.';
  padded<3>(micros % 1000);
}

void Line::time(std::chrono::system_clock::time_point time) {
  using namespace std::chrono;  // NOLINT(google-build-using-namespace)
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss clock(duration_cast<microseconds>(time - day));
  padded<4>(static_cast<std::uint64_t>(static_cast<int>(date.year())));
  *at_++ = '-';
  padded<2>(static_cast<unsigned>(date.month()));
  *at_++ = '-';
  padded<2>(static_cast<unsigned>(date.day()));
  *at_++ = 'T';
  padded<2>(static_cast<std::uint64_t>(clock.hours().count()));
  *at_++ = ':';
  padded<2>(static_cast<std::uint64_t>(clock.minutes().count()));
  *at_++ = ':';
  padded<2>(static_cast<std::uint64_t>(clock.seconds().count()));
  *at_++ = '.';
  padded<6>(static_cast<std::uint64_t>(clock.subseconds().count()));
  *at_++ = 'Z';
}

/// No line of this record is longer.
std::size_t length_max(const Record& record) {
  constexpr std::size_t names_and_numbers = 1280;  // all names, eleven numbers, and the tokens
  constexpr std::size_t credential_names = 96;     // with a version
  constexpr std::size_t redaction_names = 64;      // with a count
  std::size_t text = record.rule.size() + record.method.size() + record.host.size() + record.path.size() +
                     record.protocol.size() + record.origin_address.size() + record.detail.size() +
                     record.limit.size() + record.rewritten_to.size() + record.operation.size() +
                     record.exchange.size();
  if (record.sandbox) text += record.sandbox->size();
  if (record.workspace) text += record.workspace->size();
  std::size_t length = names_and_numbers;
  for (const auto& credential : record.credentials) {
    text += credential.header.size() + credential.source.size();
    length += credential_names;
  }
  for (const auto& redaction : record.redactions) {
    text += redaction.detector.size();
    length += redaction_names;
  }
  return length + Line::escaped_max * text;
}

void write(const std::vector<Redaction>& redactions, Line& line) {
  line.literal(",\"redactions\":[");
  bool first = true;
  for (const auto& redaction : redactions) {
    if (!std::exchange(first, false)) line.literal(",");
    line.literal("{\"detector\":");
    line.text(redaction.detector);
    line.literal(",\"count\":");
    line.number(redaction.count);
    line.literal("}");
  }
  line.literal("]");
}

void write(const Record& record, Line& line) {
  line.literal("{\"time\":\"");
  line.time(record.time);
  line.literal("\",\"sandbox\":");
  line.text(record.sandbox ? std::string_view(*record.sandbox) : "");
  line.literal(",\"workspace\":");
  line.text(record.workspace ? std::string_view(*record.workspace) : "");
  line.literal(",\"kind\":");
  line.text(token(record.kind));
  if (!record.exchange.empty()) {
    line.literal(",\"exchange\":");
    line.text(record.exchange);
    line.literal(",\"phase\":");
    line.text(record.begins ? "begin" : "end");
  }
  line.literal(",\"decision\":");
  line.text(postern::token(decision_of(record.reason)));
  line.literal(",\"reason\":");
  line.text(postern::token(record.reason));
  const auto unless_empty = [&line](const auto& name, std::string_view value) {
    if (value.empty()) return;
    line.literal(name);
    line.text(value);
  };
  unless_empty(",\"rule\":", record.rule);
  unless_empty(",\"method\":", record.method);
  unless_empty(",\"scheme\":", record.scheme);
  line.literal(",\"host\":");
  line.text(record.host);
  line.literal(",\"port\":");
  line.number(record.port);
  unless_empty(",\"path\":", record.path);
  if (record.status != 0) {
    line.literal(",\"status\":");
    line.number(static_cast<std::uint64_t>(record.status));
  }
  unless_empty(",\"protocol\":", record.protocol);
  if (record.intercepted)
    line.literal(",\"intercepted\":true");
  else
    line.literal(",\"intercepted\":false");
  unless_empty(",\"origin_address\":", record.origin_address);
  line.literal(",\"credentials\":[");
  bool first = true;
  for (const auto& credential : record.credentials) {
    if (!std::exchange(first, false)) line.literal(",");
    line.literal("{\"header\":");
    line.text(credential.header);
    line.literal(",\"source\":");
    line.text(credential.source);
    if (credential.version != 0) {
      line.literal(",\"version\":");
      line.number(credential.version);
    }
    if (credential.cached) line.literal(",\"cached\":true");
    line.literal("}");
  }
  line.literal("],\"request_bytes\":");
  line.number(record.request_bytes);
  line.literal(",\"response_bytes\":");
  line.number(record.response_bytes);
  line.literal(",\"duration_ms\":");
  line.milliseconds(record.duration);
  line.literal(",\"timings\":{\"dns\":");
  line.milliseconds(record.timings.dns);
  line.literal(",\"connect\":");
  line.milliseconds(record.timings.connect);
  line.literal(",\"tls\":");
  line.milliseconds(record.timings.tls);
  line.literal(",\"first_byte\":");
  line.milliseconds(record.timings.first_byte);
  line.literal("},\"policy_version\":");
  line.number(record.policy_version);
  if (!record.redactions.empty()) write(record.redactions, line);
  if (record.scrubbed != 0) {
    line.literal(",\"scrubbed\":");
    line.number(record.scrubbed);
  }
  unless_empty(",\"limit\":", record.limit);
  unless_empty(",\"rewritten_to\":", record.rewritten_to);
  unless_empty(",\"operation\":", record.operation);
  unless_empty(",\"detail\":", record.detail);
  line.literal("}\n");
}

}  // namespace

void Record::clear() {
  // Long ones are the exception: records are many, and kept.
  if (path.capacity() > 512) std::string().swap(path);
  if (detail.capacity() > 512) std::string().swap(detail);
  if (operation.capacity() > 512) std::string().swap(operation);
  sandbox.reset();
  workspace.reset();
  policy.reset();
  kind = Kind::http;
  exchange.clear();
  begins = false;
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
  request_bytes = response_bytes = policy_version = scrubbed = 0;
  duration = {};
  timings = {};
  redactions.clear();
  limit = {};
  rewritten_to.clear();
  operation.clear();
  detail.clear();
}

void append_json(const Record& record, std::string& out) {
  const std::size_t begin = out.size();
  out.resize_and_overwrite(begin + length_max(record), [&record, begin](char* text, std::size_t) {
    Line line(text + begin);
    write(record, line);
    return static_cast<std::size_t>(line.end() - text);
  });
}

std::string time_text(std::chrono::system_clock::time_point time) {
  char text[8 * Line::digits_max];
  Line line(text);
  line.time(time);
  return {text, line.end()};
}

std::string json_text(std::string_view value) {
  std::string out(Line::escaped_max * value.size() + 2, '\0');
  Line line(out.data());
  line.text(value);
  out.resize(static_cast<std::size_t>(line.end() - out.data()));
  return out.substr(1, out.size() - 2);
}

}  // namespace postern::audit
