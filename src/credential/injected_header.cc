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

std::expected<InjectedHeader, std::string> make_header(std::string_view name, std::string source,
                                                       std::string_view value) {
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
  return header;
}

}  // namespace postern::credential
