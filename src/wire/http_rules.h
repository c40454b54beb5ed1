#pragma once
// What a request or answer may say whatever version carries it (RFC 9110): shared by http1_head.cc and
// http2_head.cc, not for callers outside of wire/.

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"

namespace postern::wire::rules {

std::unexpected<Error> refuse_request(Reason reason, const char* detail);
std::unexpected<Error> malformed(const char* detail);
std::unexpected<Error> malformed_response(const char* detail);

/// RFC 9110 §8.6: digits only. A sign, a list, white space or a value that another parser could wrap around
/// is a smuggling attempt.
std::optional<std::uint64_t> read_length(std::string_view text);

/// Methods that change what the rest of the message means are taken in one spelling only, lest a lenient
/// origin reads `trace` as TRACE, or leaves out the body that we expect after `head`.
Result<void> judge_method(std::string_view method);

bool is_host_value(std::string_view value);

}  // namespace postern::wire::rules
