#pragma once
// What the pseudo-header fields and fields of an HTTP/2 head say (RFC 9113 §8.3), as the values that HTTP/1.1
// heads become too. The HTTP/2 layer has already refused what breaks RFC 9113; this is what must not be told
// apart by version: methods, targets, hosts, lengths. Pure.

#include <span>
#include <string_view>

#include "base/result.h"
#include "model/http.h"

namespace postern::wire {

struct PseudoFields {
  std::string_view method, scheme, authority, path;
  std::string_view protocol;  ///< RFC 8441, with CONNECT; empty without it.
  bool has_authority = false;
};

/// `ends`: no body follows. Every view of `out` is one of the arguments'. An extended CONNECT to a WebSocket
/// becomes what it is in HTTP/1.1: a GET with `upgrade`. Errors: malformed_request, malformed_host,
/// method_not_allowed, protocol_not_allowed, expectation_failed.
Result<void> http2_request_head(const PseudoFields& pseudo, std::span<HeaderField> fields, bool tls,
                                bool ends, RequestHead& out);

/// `request_method` decides, with `ends`, whether a body follows. Errors: origin_malformed_response.
Result<void> http2_response_head(int status, std::span<HeaderField> fields, std::string_view request_method,
                                 bool ends, ResponseHead& out);

}  // namespace postern::wire
