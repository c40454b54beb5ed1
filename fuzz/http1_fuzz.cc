// HTTP/1.1: whatever the bytes and wherever they are split, what is read stays the same, nothing is read that
// was not there, and what is accepted can be written and read again. Byte 0 chooses the message and byte 1
// where the rest is split.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "wire/http1.h"
#include "wire/http_writer.h"

namespace {

using namespace postern;
using namespace postern::wire;

void require(bool condition) {
  if (!condition) std::abort();
}

bool lies_in(std::string_view part, std::string_view whole) {
  return part.empty() ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

/// The head's length however its bytes arrive; 0 when it is incomplete or refused.
std::size_t scan(std::string_view bytes, std::size_t split) {
  HeadScanner whole;
  const Result<std::size_t> expected = whole.scan(bytes);
  HeadScanner pieces;
  Result<std::size_t> found = pieces.scan(bytes.substr(0, split));
  if (found && *found == 0) found = pieces.scan(bytes);
  require(found.has_value() == expected.has_value());
  if (!found) {
    require(found.error().reason == expected.error().reason);
    return 0;
  }
  require(*found == *expected && *found <= bytes.size() && *found <= head_bytes_max);
  return *found;
}

void check_fields(std::span<const HeaderField> fields, std::string_view head) {
  require(fields.size() <= head_fields_max);
  for (const HeaderField& field : fields) {
    require(is_field_name(field.name) && is_field_value(field.value));
    require(lies_in(field.name, head) && lies_in(field.value, head));
    require(field.value.empty() || (field.value.front() != ' ' && field.value.back() != '\t'));
  }
}

/// A lone length decides: what any other parser could take for a length agrees with the framing.
void check_framing(std::span<const HeaderField> fields, BodyFraming framing, std::uint64_t length) {
  std::size_t lengths = 0;
  std::size_t codings = 0;
  for (const HeaderField& field : fields) {
    if (same_name(field.name, "content-length")) ++lengths;
    if (same_name(field.name, "transfer-encoding")) ++codings;
  }
  require(lengths + codings <= 1);
  if (framing == BodyFraming::length) require(lengths == 1 && length <= INT64_MAX);
  if (framing == BodyFraming::chunked) require(codings == 1);
}

void check_same_fields(std::span<const HeaderField> a, std::span<const HeaderField> b) {
  require(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) require(a[i].name == b[i].name && a[i].value == b[i].value);
}

void request(std::string_view head) {
  std::vector<HeaderField> storage;
  RequestHead out;
  if (!parse_request_head(head, storage, out)) return;
  check_fields(out.fields, head);
  check_framing(out.fields, out.framing, out.content_length);
  require(lies_in(out.method, head) && lies_in(out.authority, head) && lies_in(out.upgrade, head));
  require(out.framing != BodyFraming::until_close);
  require(out.target == "*" || out.target.front() == '/');
  require(out.minor_version == 0 || !out.authority.empty());

  std::string again;
  HeadWriter writer(again);
  writer.request_line(out.method, out.target);
  for (const HeaderField& field : out.fields) writer.field(field.name, field.value);
  require(writer.end());
  std::vector<HeaderField> other_storage;
  RequestHead other;
  // An HTTP/1.0 request may lack what HTTP/1.1, which we write, asks for.
  if (!parse_request_head(again, other_storage, other)) return require(out.minor_version == 0);
  require(other.method == out.method && other.target == out.target && other.framing == out.framing);
  require(other.content_length == out.content_length);
  check_same_fields(other.fields, out.fields);
}

void response(std::string_view head, std::string_view request_method) {
  std::vector<HeaderField> storage;
  ResponseHead out;
  if (!parse_response_head(head, request_method, storage, out)) return;
  check_fields(out.fields, head);
  check_framing(out.fields, out.framing, out.content_length);
  require(lies_in(out.reason_phrase, head) && lies_in(out.upgrade, head));
  require(out.status >= 100 && out.status <= 999);
  require(out.framing != BodyFraming::until_close || !out.keep_alive);
  require(out.status == 101 || out.upgrade.empty());
  if (request_method == "HEAD") require(out.framing == BodyFraming::none);

  std::string again;
  HeadWriter writer(again);
  writer.status_line(out.status, out.reason_phrase);
  for (const HeaderField& field : out.fields) writer.field(field.name, field.value);
  require(writer.end());
  std::vector<HeaderField> other_storage;
  ResponseHead other;
  require(parse_response_head(again, request_method, other_storage, other).has_value());
  require(other.status == out.status && other.reason_phrase == out.reason_phrase);
  require(other.framing == out.framing && other.content_length == out.content_length);
  check_same_fields(other.fields, out.fields);
}

struct Body {
  std::string data;
  std::size_t consumed = 0;
  bool finished = false;
  bool refused = false;
  std::string trailers;
  bool operator==(const Body&) const = default;
};

Body decode(std::string_view bytes, std::size_t piece) {
  ChunkDecoder decoder;
  Body body;
  while (!body.finished && body.consumed < bytes.size()) {
    std::string_view input = bytes.substr(body.consumed, piece);
    const Result<ChunkDecoder::Step> step = decoder.step(input);
    if (!step) {
      body.refused = true;
      body.consumed = 0;
      return body;
    }
    require(step->consumed > 0 && step->consumed <= input.size() && lies_in(step->data, input));
    body.data += step->data;
    body.consumed += step->consumed;
    body.finished = step->finished;
  }
  require(decoder.trailers().empty() || body.finished);
  for (const HeaderField& field : decoder.trailers()) {
    require(is_field_name(field.name) && is_field_value(field.value) && !is_hop_by_hop(field.name));
    body.trailers.append(field.name).append(":").append(field.value).append("\n");
  }
  return body;
}

void chunks(std::string_view bytes, std::size_t piece) {
  const Body whole = decode(bytes, std::string_view::npos);
  require(decode(bytes, piece) == whole);
  require(decode(bytes, 1) == whole);
  if (whole.refused) return;
  // Bytes behind the end change nothing; without its last byte a body is not finished.
  if (whole.finished) {
    require(decode(bytes.substr(0, whole.consumed), piece) == whole);
    require(!decode(bytes.substr(0, whole.consumed - 1), piece).finished);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t split = bytes.empty() ? 0 : data[1] % bytes.size() + 1;
  const std::size_t length = scan(bytes, std::min(split, bytes.size()));
  switch (data[0] % 4) {
    case 0: request(length > 0 ? std::string_view(bytes).substr(0, length) : bytes); break;
    case 1: response(length > 0 ? std::string_view(bytes).substr(0, length) : bytes, "GET"); break;
    case 2: response(length > 0 ? std::string_view(bytes).substr(0, length) : bytes, "HEAD"); break;
    default: chunks(bytes, split); break;
  }
  return 0;
}
