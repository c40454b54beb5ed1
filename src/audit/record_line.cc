#include "audit/record_line.h"

#include "audit/record.h"

namespace postern::audit {

namespace {

constexpr std::size_t time_bytes = std::string_view("2026-01-31T12:34:56.123456Z").size();

/// Takes `"text"` off the front. The view is what stands between the quotes.
std::optional<std::string_view> take_text(std::string_view& rest) {
  if (rest.empty() || rest.front() != '"') return std::nullopt;
  std::size_t end = 1;
  while (true) {
    end = rest.find('"', end);
    if (end == std::string_view::npos) return std::nullopt;
    std::size_t slashes = 0;
    while (rest[end - 1 - slashes] == '\\') ++slashes;
    if (slashes % 2 == 0) break;
    ++end;
  }
  const std::string_view text = rest.substr(1, end - 1);
  rest.remove_prefix(end + 1);
  return text;
}

bool take(std::string_view& rest, std::string_view literal) {
  if (!rest.starts_with(literal)) return false;
  rest.remove_prefix(literal.size());
  return true;
}

std::string_view* place_of(RecordLine& line, std::string_view name) {
  if (name == "time") return &line.time;
  if (name == "sandbox") return &line.sandbox;
  if (name == "workspace") return &line.workspace;
  if (name == "kind") return &line.kind;
  if (name == "phase") return &line.phase;
  if (name == "decision") return &line.decision;
  if (name == "reason") return &line.reason;
  if (name == "rule") return &line.rule;
  if (name == "host") return &line.host;
  return nullptr;
}

bool is_or_any(const std::string& wanted, std::string_view is) { return wanted.empty() || wanted == is; }

}  // namespace

// Everything up to "host" is a text (record.cc).
std::optional<RecordLine> read_record_line(std::string_view line) {
  if (!line.ends_with('}')) return std::nullopt;
  RecordLine out;
  if (!take(line, "{")) return std::nullopt;
  while (true) {
    const auto name = take_text(line);
    if (!name || !take(line, ":")) return std::nullopt;
    const auto value = take_text(line);
    if (!value) return std::nullopt;
    if (std::string_view* place = place_of(out, *name)) *place = *value;
    if (*name == "host") break;
    if (!take(line, ",")) return std::nullopt;
  }
  if (out.time.size() != time_bytes || out.decision.empty() || out.reason.empty()) return std::nullopt;
  return out;
}

LineMatcher::LineMatcher(const LogFilter& filter)
    : since_(filter.since),
      workspace_(json_text(filter.workspace)),
      sandbox_(json_text(filter.sandbox)),
      from_(filter.since ? time_text(*filter.since) : ""),
      to_(filter.until ? time_text(*filter.until) : ""),
      host_(filter.host.starts_with("*.") ? "" : json_text(filter.host)),
      suffix_(filter.host.starts_with("*.") ? json_text(filter.host.substr(1)) : ""),
      decision_(json_text(filter.decision)),
      rule_(json_text(filter.rule)),
      reason_(json_text(filter.reason)) {}

bool LineMatcher::host_matches(std::string_view host) const {
  if (!suffix_.empty()) return host.size() > suffix_.size() && host.ends_with(suffix_);
  return is_or_any(host_, host);
}

bool LineMatcher::matches(std::string_view line) const {
  const auto is = read_record_line(line);
  // What was only about to happen has another record when it is over.
  return is && is->phase != "begin" && is->workspace == workspace_ && is_or_any(sandbox_, is->sandbox) &&
         (from_.empty() || is->time >= from_) && (to_.empty() || is->time < to_) && host_matches(is->host) &&
         is_or_any(decision_, is->decision) && is_or_any(rule_, is->rule) && is_or_any(reason_, is->reason);
}

}  // namespace postern::audit
