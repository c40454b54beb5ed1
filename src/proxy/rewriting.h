#pragma once
// A request that a rule sends elsewhere: what of it may go there, and what its answer's references become.

#include <cstdint>
#include <string>
#include <string_view>

#include "model/host.h"
#include "policy/treatment.h"

namespace postern::proxy {

/// Where a request goes, as an origin of the web: scheme, host and port.
struct Destination {
  const Host* host = nullptr;
  std::uint16_t port = 0;
  bool tls = false;

  bool has_default_port() const { return port == (tls ? 443 : 80); }
};

/// As the Host field has it: without a default port, IPv6 in brackets.
std::string authority_of(const Destination& destination);

/// Fields in which clients send credentials: Authorization, Cookie, X-Api-Key and their like. Ignores case.
bool carries_credential(std::string_view field_name);

/// "Bearer redacted": the scheme that was there, without its credential. Static storage.
std::string_view redacted(std::string_view field_name, std::string_view value);

/// A Location of `there` as the sandbox must read it, so that it asks here again: with the scheme, host and
/// port that it named, and without the prefix that was put in front of its path. Empty when it is none of
/// `there`.
std::string mapped_back(std::string_view location, const policy::Rewrite& there, const Destination& asked);

}  // namespace postern::proxy
