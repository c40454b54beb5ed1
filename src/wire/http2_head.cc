#include "wire/http2_head.h"

#include <algorithm>

#include "wire/http1.h"
#include "wire/http_rules.h"

namespace postern::wire {

namespace {

using rules::is_host_value;
using rules::judge_method;
using rules::malformed;
using rules::malformed_response;
using rules::read_length;
using rules::refuse_request;

struct Notes {
  const HeaderField* host = nullptr;
  const HeaderField* length = nullptr;
  unsigned hosts = 0;
  unsigned lengths = 0;
};

/// RFC 9113 §8.2.2: these belong to a connection of HTTP/1.1.
bool belongs_to_http1(std::string_view name) {
  return name == "connection" || name == "keep-alive" || name == "proxy-connection" ||
         name == "transfer-encoding" || name == "upgrade" || name == "http2-settings";
}

const char* read_fields(std::span<const HeaderField> fields, Notes& notes, RequestHead* request) {
  for (const HeaderField& field : fields) {
    if (!is_field_name(field.name) || !is_field_value(field.value)) return "malformed field";
    // RFC 9113 §8.2.1. Names are compared byte by byte from here on.
    if (std::ranges::any_of(field.name, [](char c) { return c >= 'A' && c <= 'Z'; }))
      return "a field name in upper case";
    if (belongs_to_http1(field.name)) return "a field of HTTP/1.1 connections";
    if (field.name == "host") {
      notes.host = &field;
      ++notes.hosts;
    } else if (field.name == "content-length") {
      notes.length = &field;
      ++notes.lengths;
    } else if (request && field.name == "te") {
      if (!same_name(field.value, "trailers")) return "TE other than trailers";
      request->accepts_trailers = true;
    }
  }
  return nullptr;
}

Result<void> judge_authority(const PseudoFields& pseudo, const Notes& notes, RequestHead& out) {
  if (notes.hosts > 1) return refuse_request(Reason::malformed_host, "several Host fields");
  if (!pseudo.has_authority && notes.hosts == 0)
    return refuse_request(Reason::malformed_host, "neither :authority nor Host");
  out.authority = pseudo.has_authority ? pseudo.authority : notes.host->value;
  if (!is_host_value(out.authority)) return refuse_request(Reason::malformed_host, "malformed authority");
  // RFC 9113 §8.3.1: two names would be two verdicts.
  if (pseudo.has_authority && notes.host && !same_name(pseudo.authority, notes.host->value))
    return refuse_request(Reason::malformed_host, ":authority and Host differ");
  return {};
}

Result<void> judge_target(const PseudoFields& pseudo, bool tls, RequestHead& out) {
  if (pseudo.scheme != (tls ? "https" : "http")) return malformed(":scheme is not the connection's");
  if (!is_request_target(pseudo.path)) return malformed("malformed :path");
  out.target = pseudo.path;
  if (out.target.front() == '/') return {};
  if (out.target == "*" && out.method == "OPTIONS") return {};
  return malformed("malformed :path");
}

}  // namespace

Result<void> http2_request_head(const PseudoFields& pseudo, std::span<HeaderField> fields, bool tls,
                                bool ends, RequestHead& out) {
  out = RequestHead{};
  out.fields = fields;
  out.method = pseudo.method;
  // What can be said about the request is said before it is refused: a record needs it.
  const bool extended = pseudo.method == "CONNECT" && !pseudo.protocol.empty();
  if (extended) out.method = "GET";
  Notes notes;
  if (const char* why = read_fields(fields, notes, &out)) return malformed(why);
  if (!is_field_name(out.method) || out.method.size() > method_bytes_max)
    return malformed("malformed method");
  if (auto judged = judge_method(out.method); !judged) return judged;
  if (auto judged = judge_target(pseudo, tls, out); !judged) return judged;
  if (auto judged = judge_authority(pseudo, notes, out); !judged) return judged;
  if (!extended && !pseudo.protocol.empty()) return malformed(":protocol without CONNECT");

  if (notes.lengths > 1) return malformed("several Content-Length fields");
  if (notes.lengths == 1) {
    const auto length = read_length(notes.length->value);
    if (!length) return malformed("malformed Content-Length");
    if (ends && *length != 0) return malformed("a Content-Length without its content");
    out.framing = BodyFraming::length;
    out.content_length = *length;
  } else if (!ends && !extended) {
    out.framing = BodyFraming::chunked;
  }
  if (extended) {
    if (notes.lengths > 0) return malformed("CONNECT with a Content-Length");
    if (pseudo.protocol != "websocket")
      return refuse_request(Reason::protocol_not_allowed, "the :protocol is not websocket");
    out.upgrade = out.protocol = pseudo.protocol;
  }
  for (const HeaderField& field : fields) {
    if (field.name != "expect") continue;
    if (!same_name(field.value, "100-continue"))
      return refuse_request(Reason::expectation_failed, "unknown expectation");
    out.expects_continue = true;
  }
  return {};
}

Result<void> http2_response_head(int status, std::span<HeaderField> fields, std::string_view request_method,
                                 bool ends, ResponseHead& out) {
  out = ResponseHead{};
  out.status = status;
  out.fields = fields;
  Notes notes;
  if (const char* why = read_fields(fields, notes, nullptr)) return malformed_response(why);
  if (status < 100 || status > 999) return malformed_response("malformed :status");
  if (status == 101) return malformed_response("101 in HTTP/2");  // RFC 9113 §8.6
  if (notes.lengths > 1) return malformed_response("several Content-Length fields");
  std::optional<std::uint64_t> length;
  if (notes.lengths == 1) {
    length = read_length(notes.length->value);
    if (!length) return malformed_response("malformed Content-Length");
  }
  const bool no_body = status < 200 || status == 204 || status == 304 || request_method == "HEAD";
  if (no_body) {
    out.framing = BodyFraming::none;
  } else if (length) {
    if (ends && *length != 0) return malformed_response("a Content-Length without its content");
    out.framing = BodyFraming::length;
    out.content_length = *length;
  } else {
    // An empty answer says its length, so that the next hop need not wait for an end.
    out.framing = ends ? BodyFraming::length : BodyFraming::chunked;
  }
  return {};
}

}  // namespace postern::wire
