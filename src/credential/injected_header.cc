#include "credential/injected_header.h"

#include <fmt/format.h>

#include "credential/wiped_string.h"
#include "policy/document.h"
#include "wire/http1.h"

namespace postern::credential {

void append_header_line(const InjectedHeader& header, std::string& out) { out += header.line_.unwrap(); }

void append_header_value(const InjectedHeader& header, std::string& out) {
  std::string_view value = header.line_.unwrap();
  value.remove_prefix(header.name.size() + std::string_view(": ").size());
  value.remove_suffix(std::string_view("\r\n").size());
  out += value;
}

std::size_t line_size(const InjectedHeader& header) { return header.line_.unwrap().size(); }

std::string_view source_of(const InjectedHeader& header) { return header.source_; }

namespace {

SecretSpan span_of(std::string_view part, std::string_view value) {
  return {static_cast<std::uint32_t>(part.data() - value.data()), static_cast<std::uint32_t>(part.size())};
}

/// "Bearer abc" is secret behind the blank; "a=1; b=2" behind each equals sign.
SecretSpans likely_secrets(std::string_view name, std::string_view value) {
  SecretSpans out;
  if (wire::same_name(name, "cookie")) {
    for (std::string_view rest = value; !rest.empty();) {
      std::string_view pair = rest.substr(0, rest.find(';'));
      rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
      pair.remove_prefix(std::min(pair.size(), pair.find('=') + 1));
      out.push_back(span_of(pair, value));
    }
    return out;
  }
  const std::size_t blank = value.find(' ');
  const bool scheme = blank != std::string_view::npos && blank > 0 &&
                      value.find(' ', blank + 1) == std::string_view::npos &&
                      wire::is_field_name(value.substr(0, blank));
  out.push_back(span_of(scheme ? value.substr(blank + 1) : value, value));
  return out;
}

}  // namespace

std::expected<InjectedHeader, std::string> make_header(std::string_view name, std::string source,
                                                       std::string_view value,
                                                       const std::optional<SecretSpans>& secrets) {
  if (!wire::is_field_value(value)) {
    return std::unexpected(fmt::format(
        "the value for {} ({}) holds CR, LF, NUL or another control character, which no header can", name,
        source));
  }
  if (value.size() > policy::header_value_bytes_max) {
    return std::unexpected(fmt::format("the value for {} ({}) is longer than {} bytes", name, source,
                                       policy::header_value_bytes_max));
  }
  WipedString line(name.size() + value.size() + 4);
  line.bytes().append(name).append(": ").append(value).append("\r\n");
  InjectedHeader header;
  header.name = name;
  header.source_ = std::move(source);
  header.line_ = std::move(line).seal();
  header.secrets_ = secrets ? *secrets : likely_secrets(name, value);
  return header;
}

}  // namespace postern::credential
