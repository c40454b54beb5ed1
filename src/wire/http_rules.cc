#include "wire/http_rules.h"

#include <limits>

#include "wire/http1.h"
#include "wire/http1_bytes.h"

namespace postern::wire::rules {

std::unexpected<Error> refuse_request(Reason reason, const char* detail) {
  return fail(reason, detail, Side::sandbox);
}

std::unexpected<Error> malformed(const char* detail) {
  return refuse_request(Reason::malformed_request, detail);
}

std::unexpected<Error> malformed_response(const char* detail) {
  return fail(Reason::origin_malformed_response, detail, Side::origin);
}

std::optional<std::uint64_t> read_length(std::string_view text) {
  constexpr std::uint64_t max = std::numeric_limits<std::int64_t>::max();
  if (text.empty() || text.size() > std::numeric_limits<std::uint64_t>::digits10) return std::nullopt;
  std::uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (value > max) return std::nullopt;
  return value;
}

Result<void> judge_method(std::string_view method) {
  switch (method.size()) {
    case 3:  // RFC 9113 §11.6 reserves it for the HTTP/2 preface.
      if (same_name(method, "PRI")) return malformed("PRI is no method");
      break;
    case 4:
      if (same_name(method, "HEAD") && method != "HEAD") return malformed("HEAD in lower case");
      break;
    case 5:
      if (same_name(method, "TRACE")) return refuse_request(Reason::method_not_allowed, "TRACE");
      break;
    case 7:
      if (same_name(method, "CONNECT")) return refuse_request(Reason::method_not_allowed, "CONNECT");
      break;
    default: break;
  }
  return {};
}

bool is_host_value(std::string_view value) { return !value.empty() && http1::all(value, http1::host_byte); }

}  // namespace postern::wire::rules
