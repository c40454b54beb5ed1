#pragma once
// The small languages inside a policy: destinations, rule hosts, paths, and credential templates. Each parser
// answers a value in canonical form or a sentence that says what is accepted. Hosts and paths are made
// canonical by wire/ and nowhere else: what is matched must be what is sent.

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/address.h"

namespace postern::wire {
struct LenientPath;
}

namespace postern::policy {

inline constexpr std::size_t pattern_bytes_max = 1024;  // a host name has 253; regular expressions need room

/// One entry of `access_control`, of --allow or of --deny.
struct DestinationPattern {
  enum class Form : std::uint8_t {
    everything,  ///< `*`: every host name
    host,        ///< one name or one literal address
    subdomains,  ///< `*.host`: any depth, never the apex
    network,     ///< CIDR; literal addresses only
    regex,       ///< `~regex`, against the whole host name
  };
  Form form = Form::host;
  std::string text;  ///< Form::host, subdomains: the canonical name; regex: its source without `~`
  std::optional<Cidr> network;
  std::optional<std::uint16_t> port;  ///< nullopt: every port
};
std::expected<DestinationPattern, std::string> parse_destination_pattern(std::string_view text);

/// One entry of a rule's `match_hosts`.
struct HostPattern {
  std::string host;         ///< Canonical, without `*.`.
  bool subdomains = false;  ///< `*.` stood in front.
};
std::expected<HostPattern, std::string> parse_host_pattern(std::string_view text);

/// One entry of a rule's `match_paths`.
struct PathPattern {
  enum class Form : std::uint8_t { any, exact, prefix, suffix };
  Form form = Form::any;
  std::string text;  ///< Form::prefix ends in '/', so that /v1/* never means /v10.
  /// With the escapes of reserved characters decoded; empty when that is `text`.
  std::string decoded;
  /// `path` is canonical and without a query (wire/path.h).
  bool matches(std::string_view path) const;
  /// For rules that deny: also when a lenient server reads `path` as one that matches. `lenient` is of `path`
  /// (wire::lenient_path), nullptr when there is only the strict reading. A slash at the end makes no
  /// difference.
  bool matches_leniently(std::string_view path, const wire::LenientPath* lenient) const;
};
std::expected<PathPattern, std::string> parse_path_pattern(std::string_view text);

/// `Bearer {OPENAI_API_KEY}`: text and the names of secrets in turn. `{{` and `}}` are literal braces.
struct Template {
  struct Piece {
    bool is_key = false;
    std::string text;  ///< Literal text, or the secret's name.
  };
  std::vector<Piece> pieces;
};
/// The message never quotes the template: a credential may have been pasted into it.
std::expected<Template, std::string> parse_template(std::string_view text);

/// A name for a secret or an environment variable: [A-Za-z_][A-Za-z0-9_]*
bool is_variable_name(std::string_view name);

}  // namespace postern::policy
