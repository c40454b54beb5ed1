// The heads of HTTP/2: what is accepted is, written as HTTP/1.1, read as the same by the strict parser, and
// what is refused there is not accepted here. The input is lines: method, scheme, authority, path, protocol,
// then "name: value" for each field; byte 0 says whether there is TLS, a body, and which head it is.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "wire/http1.h"
#include "wire/http2_head.h"
#include "wire/http_writer.h"

namespace {

using namespace postern;
using namespace postern::wire;

void require(bool condition) {
  if (!condition) std::abort();
}

std::string_view next_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

// Around a value, HTTP/1.1 has white space that is not part of it (nghttp2 refuses it: RFC 9113 §8.2.1).
std::string_view trimmed(std::string_view value) {
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
  return value;
}

void check_fields(std::span<const HeaderField> fields) {
  std::size_t lengths = 0;
  for (const HeaderField& field : fields) {
    require(is_field_name(field.name) && is_field_value(field.value));
    require(!same_name(field.name, "transfer-encoding") && !same_name(field.name, "connection"));
    if (same_name(field.name, "content-length")) ++lengths;
  }
  require(lengths <= 1);
}

void request(const PseudoFields& pseudo, std::vector<HeaderField>& fields, bool tls, bool ends) {
  RequestHead out;
  const bool accepted = http2_request_head(pseudo, fields, tls, ends, out).has_value();
  if (!accepted) return;
  check_fields(out.fields);
  require(out.target == "*" || out.target.front() == '/');
  require(!out.authority.empty());
  require(out.framing != BodyFraming::until_close);
  require(out.upgrade.empty() == out.protocol.empty());

  std::string text;
  HeadWriter writer(text);
  writer.request_line(out.method, out.target);
  writer.field("Host", out.authority);
  for (const HeaderField& field : out.fields)
    if (!same_name(field.name, "host")) writer.field(field.name, field.value);
  if (out.framing == BodyFraming::chunked) writer.chunked();
  if (!out.upgrade.empty()) {
    writer.field("Connection", "upgrade");
    writer.field("Upgrade", out.upgrade);
  }
  require(writer.end());
  std::vector<HeaderField> storage;
  RequestHead again;
  // More fields than a head of HTTP/1.1 may have are refused before this, in the session.
  if (fields.size() + 3 > head_fields_max || text.size() > head_bytes_max) return;
  require(parse_request_head(text, storage, again).has_value());
  require(again.method == out.method && again.target == out.target && again.authority == out.authority);
  require(again.framing == out.framing && again.content_length == out.content_length);
  require(again.expects_continue == out.expects_continue && again.upgrade == out.upgrade);
  for (const HeaderField& field : again.fields) require(field.value == trimmed(field.value));
}

void response(int status, std::vector<HeaderField>& fields, std::string_view method, bool ends) {
  ResponseHead out;
  if (!http2_response_head(status, fields, method, ends, out)) return;
  check_fields(out.fields);
  std::string text;
  HeadWriter writer(text);
  writer.status_line(out.status, "");
  for (const HeaderField& field : out.fields) writer.field(field.name, field.value);
  if (out.framing == BodyFraming::chunked) writer.chunked();
  bool says_length = false;
  for (const HeaderField& field : out.fields)
    says_length = says_length || same_name(field.name, "content-length");
  if (out.framing == BodyFraming::length && !says_length) writer.content_length(out.content_length);
  require(writer.end());
  std::vector<HeaderField> storage;
  ResponseHead again;
  if (fields.size() + 1 > head_fields_max || text.size() > head_bytes_max) return;
  require(parse_response_head(text, method, storage, again).has_value());
  require(again.status == out.status && again.framing == out.framing);
  require(again.content_length == out.content_length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string copy(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::string_view text = copy;
  const bool tls = data[0] & 1;
  const bool ends = data[0] & 2;
  PseudoFields pseudo;
  pseudo.method = next_line(text);
  pseudo.scheme = next_line(text);
  pseudo.authority = next_line(text);
  pseudo.path = next_line(text);
  pseudo.protocol = next_line(text);
  pseudo.has_authority = (data[0] & 4) == 0;
  std::vector<HeaderField> fields;
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const std::size_t colon = line.find(": ");
    fields.push_back({line.substr(0, colon), colon == std::string_view::npos ? "" : line.substr(colon + 2)});
  }
  if (data[0] & 8)
    response(std::atoi(std::string(pseudo.path).c_str()), fields, pseudo.method, ends);
  else
    request(pseudo, fields, tls, ends);
  return 0;
}
