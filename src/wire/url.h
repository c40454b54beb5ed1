#pragma once
// An absolute http(s) URL as configuration names it: a callback, a token endpoint. Strict, and taken apart
// once; requests themselves never carry one.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/host.h"

namespace postern::wire {

inline constexpr std::size_t url_bytes_max = 2048;

struct Url {
  bool tls = true;
  Host host;  ///< Canonical (wire/host.h).
  std::uint16_t port = 443;
  std::string target;  ///< Origin-form: "/path?query".
  std::string text;    ///< Byte for byte as configured.

  /// "https://host:port" without a default port: what the web calls the origin.
  std::string origin() const;
  /// As the Host field has it: without a default port, IPv6 in brackets.
  std::string authority() const;
};

/// RFC 3986 §4.3 with the schemes http and https. Refused: userinfo, a fragment, an empty host, port 0, and
/// characters that a request target cannot hold. The message never quotes the text: a URL may hold a token.
/// Errors: invalid_configuration.
Result<Url> parse_url(std::string_view text);

}  // namespace postern::wire
