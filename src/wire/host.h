#pragma once
// Host names as the WHATWG URL standard reads them (§3.5 host parsing, UTS-46), to one canonical form.
//
// Every name that a sandbox sends (Host, :authority, SNI, DNS question) and every name in a policy goes
// through canonical_host(), so the rest of Postern compares bytes. Where readers of a name could differ, the
// name is refused: what remains is what a browser would make of it, never something else. Stricter than the
// standard: no empty labels, the length limits of DNS (RFC 1035 §2.3.4), and only letters, digits, '-' and
// '_' in labels
// ("*" in an SNI must not become a wildcard certificate, nor '"' or '{' end up in a record).

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "model/host.h"

namespace postern::wire {

/// A host as it stands in a URL, a Host field, an SNI or a DNS question; UTF-8, IPv6 in brackets. IPv4 in any
/// form that a URL may carry ("0x7f.1", "017700000001", full-width digits) becomes a literal.
/// Percent-escapes are refused here (a URL parser decodes them first). One trailing dot is dropped.
/// Errors: Reason::malformed_host.
Result<Host> canonical_host(std::string_view raw);

struct Authority {
  Host host;
  std::optional<std::uint16_t> port;
};

/// `uri-host [ ":" port ]` (RFC 9110 §7.2). Userinfo, an empty host and an empty port are refused, as are
/// port 0 and ports with leading zeros. Errors: Reason::malformed_host.
Result<Authority> parse_authority(std::string_view raw);

/// True for "com", "co.uk", "github.io": names under which anybody may register; also for a single label that
/// the public suffix list does not know. `name` is canonical and not an address.
bool is_public_suffix(std::string_view name);

/// "a.b.example.co.uk" → "example.co.uk"; empty when `name` is itself a public suffix. View into `name`,
/// which is canonical and not an address.
std::string_view registrable_domain(std::string_view name);

}  // namespace postern::wire
