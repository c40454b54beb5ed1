#include "wire/http1_bytes.h"

#include "wire/http1.h"

namespace postern::wire {

namespace http1 {

namespace {

End refused(const char* why) { return {0, why}; }

}  // namespace

End find_end(std::string_view bytes, std::size_t& scanned, FirstLine first) {
  const char* const begin = bytes.data();
  const char* const end = begin + bytes.size();
  if (scanned > bytes.size()) scanned = 0;  // Other bytes than last time: look at them from the start.
  const char* at = begin + scanned;
  while (at != end) {
    // RFC 9112 §5.2: a line that starts with white space continued the last one, for some parsers.
    const bool line_starts = at == begin || at[-1] == '\n';
    if (line_starts && (*at == ' ' || *at == '\t')) return refused("a line starts with white space");
    at = find_control(at, end);
    scanned = static_cast<std::size_t>(at - begin);
    if (at == end) break;
    if (*at != '\r') return refused(*at == '\n' ? "bare LF" : "control character");
    if (at + 1 == end) break;
    if (at[1] != '\n') return refused("bare CR");
    const bool line_empty = at == begin || at[-1] == '\n';
    const bool may_start = first == FirstLine::may_be_empty && at == begin;
    if (line_empty && first == FirstLine::may_be_empty && scanned == 2) return refused("empty lines");
    at += 2;
    scanned += 2;
    if (line_empty && !may_start) return {scanned, nullptr};
  }
  return {};
}

const char* read_field(const char*& at, const char* end, HeaderField& field) {
  const char* const name = at;
  at = skip(at, end, token_byte);
  if (at == name || at == end || *at != ':') return "malformed field name";
  field.name = {name, static_cast<std::size_t>(at - name)};
  const char* const value = ++at;
  at = find_control(at, end);
  if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return "control character in a field value";
  field.value = trimmed(value, at);
  at += 2;
  return nullptr;
}

}  // namespace http1

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = lower(c);
  return out;
}

bool same_name_of_same_size(std::string_view a, std::string_view b) {
  const char* left = a.data();
  const char* right = b.data();
  for (const char* const end = left + a.size(); left != end; ++left, ++right) {
    if (lower(*left) != lower(*right)) return false;
  }
  return true;
}

bool has_token(std::string_view list, std::string_view token) {
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at != end) {
    const auto* comma = static_cast<const char*>(std::memchr(at, ',', static_cast<std::size_t>(end - at)));
    const char* const stop = comma != nullptr ? comma : end;
    if (same_name(http1::trimmed(at, stop), token)) return true;
    at = comma != nullptr ? comma + 1 : end;
  }
  return false;
}

bool is_field_name(std::string_view name) { return !name.empty() && http1::all(name, http1::token_byte); }

bool is_field_value(std::string_view value) {
  const char* const begin = value.data();
  const char* const end = begin + value.size();
  return http1::find_control(begin, end) == end;
}

bool is_request_target(std::string_view target) {
  return !target.empty() && http1::all(target, http1::target_byte);
}

bool is_hop_by_hop(std::string_view field_name) {
  switch (field_name.size()) {
    case 2: return same_name(field_name, "te");
    case 7: return same_name(field_name, "trailer") || same_name(field_name, "upgrade");
    case 10: return same_name(field_name, "connection") || same_name(field_name, "keep-alive");
    case 14: return same_name(field_name, "http2-settings");
    case 16: return same_name(field_name, "proxy-connection");
    case 17: return same_name(field_name, "transfer-encoding");
    case 18: return same_name(field_name, "proxy-authenticate");
    case 19: return same_name(field_name, "proxy-authorization");
    default: return false;
  }
}

bool nominated(std::span<const HeaderField> fields, std::string_view name) {
  for (const HeaderField& field : fields) {
    if (field.name.size() == 10 && same_name(field.name, "connection") && has_token(field.value, name)) {
      return true;
    }
  }
  return false;
}

}  // namespace postern::wire
