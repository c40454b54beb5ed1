#include "credential/aws_canonical.h"

#include <algorithm>
#include <array>

#include "credential/field_order.h"
#include "wire/http1.h"

namespace postern::credential {

namespace {

constexpr std::array<bool, 256> unreserved = [] {
  std::array<bool, 256> table{};
  for (unsigned c = '0'; c <= '9'; ++c) table[c] = true;
  for (unsigned c = 'A'; c <= 'Z'; ++c) table[c] = table[c - 'A' + 'a'] = true;
  for (const char c : {'-', '.', '_', '~'}) table[static_cast<unsigned char>(c)] = true;
  return table;
}();

bool is_unreserved(char c) { return unreserved[static_cast<unsigned char>(c)]; }

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The byte that an escape at the beginning of `text` stands for, or -1.
int escaped_byte(std::string_view text) {
  if (text.size() < 3 || text[0] != '%') return -1;
  const int high = digit_value(text[1]);
  const int low = digit_value(text[2]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void append_escape(char byte, std::string& out) {
  static constexpr char digits[] = "0123456789ABCDEF";
  const auto value = static_cast<unsigned char>(byte);
  const char escape[] = {'%', digits[value >> 4], digits[value & 15]};
  out.append(escape, sizeof escape);
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Without dot segments and empty ones, as the SDKs do it: "/a/./b//../c/" is "/a/c/", and "/a/b/.." is "/a".
std::string normalised(std::string_view path) {
  const bool directory = path.ends_with('/');
  std::vector<std::string_view> segments;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view segment = path.substr(0, end);
    path.remove_prefix(std::min(end + 1, path.size()));
    if (segment.empty() || segment == ".") continue;
    if (segment != "..") {
      segments.push_back(segment);
    } else if (!segments.empty()) {
      segments.pop_back();
    }
  }
  std::string out;
  for (const std::string_view segment : segments) out.append(1, '/').append(segment);
  if (directory || out.empty()) out += '/';
  return out;
}

bool needs_normalising(std::string_view path) {
  return path.find("//") != path.npos || path.find("/.") != path.npos;
}

/// Decoded and encoded again, which is the same for what AWS's own clients send.
void append_component(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (const int byte = escaped_byte(text.substr(i)); byte >= 0) {
      c = static_cast<char>(byte);
      i += 2;
    } else if (c == '+') {
      c = ' ';
    }
    is_unreserved(c) ? void(out += c) : append_escape(c, out);
  }
}

void append_value(std::string_view value, std::string& out) {
  bool space = false;
  for (const char c : aws_trimmed(value)) {
    if (is_space(c)) {
      space = true;
      continue;
    }
    if (space) out += ' ';
    space = false;
    out += c;
  }
}

}  // namespace

void append_canonical_path(std::string_view path, AwsPathRule rule, std::string& out) {
  if (path.empty()) {
    out += '/';
    return;
  }
  std::string scratch;
  if (rule == AwsPathRule::normalised && needs_normalising(path)) path = scratch = normalised(path);
  for (std::size_t i = 0; i < path.size(); ++i) {
    const char c = path[i];
    if (is_unreserved(c) || c == '/') {
      out += c;
      continue;
    }
    const int byte = rule == AwsPathRule::s3 ? escaped_byte(path.substr(i)) : -1;
    if (byte < 0) {
      append_escape(c, out);
      continue;
    }
    i += 2;
    const char decoded = static_cast<char>(byte);
    is_unreserved(decoded) ? void(out += decoded) : append_escape(decoded, out);
  }
}

void read_parameters(std::string_view query, std::vector<AwsParameter>& out) {
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view parameter = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (parameter.empty()) continue;
    const std::size_t equals = std::min(parameter.find('='), parameter.size());
    AwsParameter& read = out.emplace_back();
    append_component(parameter.substr(0, equals), read.name);
    append_component(parameter.substr(std::min(equals + 1, parameter.size())), read.value);
  }
}

void append_canonical_query(std::string_view query, std::string& out) {
  if (query.empty()) return;
  std::vector<AwsParameter> parameters;
  read_parameters(query, parameters);
  append_canonical_query(parameters, out);
}

void append_canonical_query(std::vector<AwsParameter>& parameters, std::string& out) {
  std::ranges::sort(parameters);
  for (const AwsParameter& parameter : parameters) {
    if (&parameter != parameters.data()) out += '&';
    out.append(parameter.name).append(1, '=').append(parameter.value);
  }
}

void append_uri_encoded(std::string_view bytes, std::string& out) {
  for (const char c : bytes) is_unreserved(c) ? void(out += c) : append_escape(c, out);
}

std::string uri_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int byte = escaped_byte(text.substr(i));
    out += byte < 0 ? text[i] : static_cast<char>(byte);
    if (byte >= 0) i += 2;
  }
  return out;
}

std::string_view aws_trimmed(std::string_view value) {
  while (!value.empty() && is_space(value.front())) value.remove_prefix(1);
  while (!value.empty() && is_space(value.back())) value.remove_suffix(1);
  return value;
}

void append_canonical_fields(std::span<HeaderField> fields, std::string& out) {
  sort_by_name(fields);
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (i > 0 && wire::same_name(fields[i].name, fields[i - 1].name)) {
      out.back() = ',';  // over the line end
    } else {
      for (const char c : fields[i].name) out += wire::lower(c);
      out += ':';
    }
    append_value(fields[i].value, out);
    out += '\n';
  }
}

void append_field_names(std::span<const HeaderField> fields, std::string& out) {
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (i > 0 && wire::same_name(fields[i].name, fields[i - 1].name)) continue;
    if (i > 0) out += ';';
    for (const char c : fields[i].name) out += wire::lower(c);
  }
}

}  // namespace postern::credential
