#include "policy/pattern.h"

#include <algorithm>
#include <fmt/format.h>

#include "policy/host_regexes.h"
#include "policy/problem.h"
#include "wire/host.h"
#include "wire/path.h"

namespace postern::policy {

namespace {

constexpr const char* destination_forms =
    "host, host:PORT, *.example.com, *.example.com:PORT, *, *:PORT, ~regex, 1.2.3.4, 1.2.3.4:PORT, "
    "[::1]:PORT, "
    "10.0.0.0/8";
constexpr const char* host_forms =
    "a host such as api.github.com, or *. before a registrable domain such as *.github.com";
constexpr const char* path_forms = "/exact, /prefix/*, */suffix, *";

std::unexpected<std::string> refuse(std::string message) { return std::unexpected(std::move(message)); }

std::unexpected<std::string> not_a_destination(std::string_view text, std::string_view why) {
  return refuse(
      fmt::format("{} is not a destination: {} (accepted: {})", in_quotes(text), why, destination_forms));
}

std::unexpected<std::string> not_a_host(std::string_view text, std::string_view why) {
  return refuse(
      fmt::format("{} cannot be a rule's host: {} (accepted: {})", in_quotes(text), why, host_forms));
}

std::unexpected<std::string> not_a_path(std::string_view text, std::string_view why) {
  return refuse(fmt::format("{} is not a path pattern: {} (accepted: {})", in_quotes(text), why, path_forms));
}

/// The common slips, told apart so that the message helps; empty when there is none.
std::string_view slip_in_host(std::string_view text) {
  if (text.find("://") != std::string_view::npos) return "leave the scheme out";
  if (text.find('@') != std::string_view::npos) return "leave the user name out";
  if (text.find_first_of("/?#") != std::string_view::npos) return "leave the path out";
  return {};
}

/// 010.1.1.1 means 8.1.1.1 to a URL parser and something else to its reader: only the plain spelling is
/// taken.
bool is_plain_spelling(const Host& host, std::string_view raw) {
  if (!host.literal || !host.literal->is_v4()) return true;
  return raw == host.name;
}

std::expected<DestinationPattern, std::string> parse_network(std::string_view text) {
  DestinationPattern out{.form = DestinationPattern::Form::network};
  out.network = Cidr::parse(text);
  if (out.network) return out;
  const auto slash = text.find('/');
  if (IpAddress::parse(text.substr(0, slash))) {
    if (text.find(':', slash) != std::string_view::npos)
      return not_a_destination(text, "a network takes no port");
    return not_a_destination(text, "the network's prefix length is wrong, or address bits behind it are set");
  }
  const std::string_view slip = slip_in_host(text);
  return not_a_destination(text, slip);
}

std::expected<DestinationPattern, std::string> parse_regex(std::string_view text) {
  const std::string_view source = text.substr(1);
  if (auto error = HostRegexes::check(source)) {
    return not_a_destination(text, "the regular expression is broken: " + *error);
  }
  return DestinationPattern{.form = DestinationPattern::Form::regex, .text = std::string(source)};
}

/// `*` and `*:PORT`, without the star.
std::expected<DestinationPattern, std::string> parse_everything(std::string_view text) {
  DestinationPattern out{.form = DestinationPattern::Form::everything};
  if (text == "*") return out;
  // The port is read behind a stand-in host, by the one parser that reads ports.
  const auto authority = wire::parse_authority("any" + std::string(text.substr(1)));
  if (!authority) return not_a_destination(text, authority.error().detail);
  if (!authority->port || *authority->port == 0) return not_a_destination(text, "a port is 1 to 65535");
  out.port = authority->port;
  return out;
}

}  // namespace

std::expected<DestinationPattern, std::string> parse_destination_pattern(std::string_view text) {
  if (text.empty()) return not_a_destination(text, "it is empty");
  if (text.size() > pattern_bytes_max) {
    return not_a_destination(text, fmt::format("longer than {} bytes", pattern_bytes_max));
  }
  if (text.front() == '~') return parse_regex(text);
  if (text.find('/') != std::string_view::npos) return parse_network(text);
  if (text == "*" || text.starts_with("*:")) return parse_everything(text);

  const bool subdomains = text.starts_with("*.");
  const std::string_view body = subdomains ? text.substr(2) : text;
  if (const auto slip = slip_in_host(body); !slip.empty()) return not_a_destination(text, slip);
  if (body.find('*') != std::string_view::npos)
    return not_a_destination(text, "a star stands only for whole leading labels");
  if (IpAddress::parse(body).has_value() && body.find(':') != std::string_view::npos) {
    return not_a_destination(text, "an IPv6 address stands in brackets");
  }
  const auto authority = wire::parse_authority(body);
  if (!authority) return not_a_destination(text, authority.error().detail);
  const auto& [host, port] = *authority;
  if (port && *port == 0) return not_a_destination(text, "a port is 1 to 65535");
  if (host.literal && subdomains) return not_a_destination(text, "an address has no subdomains");
  if (!is_plain_spelling(host, body.substr(0, body.find(':')))) {
    return not_a_destination(text, fmt::format("write the address as {}", host.name));
  }
  return DestinationPattern{
      .form = subdomains ? DestinationPattern::Form::subdomains : DestinationPattern::Form::host,
      .text = host.name,
      .port = port};
}

std::expected<HostPattern, std::string> parse_host_pattern(std::string_view text) {
  if (text.empty()) return not_a_host(text, "it is empty");
  if (text.size() > pattern_bytes_max)
    return not_a_host(text, fmt::format("longer than {} bytes", pattern_bytes_max));
  if (text == "*" || text == "*.")
    return not_a_host(text, "a credential for every host is a leaked credential");
  const bool subdomains = text.starts_with("*.");
  const std::string_view body = subdomains ? text.substr(2) : text;
  if (const auto slip = slip_in_host(body); !slip.empty()) return not_a_host(text, slip);
  if (body.find('*') != std::string_view::npos)
    return not_a_host(text, "a star stands only for whole leading labels");

  const auto authority = wire::parse_authority(body);
  if (!authority) {
    // Brackets missing around IPv6 look like a port to the parser; both slips end here.
    return not_a_host(text, authority.error().detail);
  }
  if (authority->port) return not_a_host(text, "leave the port out: a rule holds for every port");
  const Host& host = authority->host;
  if (!is_plain_spelling(host, body))
    return not_a_host(text, fmt::format("write the address as {}", host.name));
  if (subdomains && host.literal) return not_a_host(text, "an address has no subdomains");
  if (subdomains && wire::registrable_domain(host.name).empty()) {
    return not_a_host(text, fmt::format("anybody may register a name under {}", host.name));
  }
  return HostPattern{host.name, subdomains};
}

namespace {

bool matches_form(PathPattern::Form form, std::string_view text, std::string_view path) {
  switch (form) {
    case PathPattern::Form::any: return true;
    case PathPattern::Form::exact: return path == text;
    case PathPattern::Form::prefix: return path.starts_with(text);
    case PathPattern::Form::suffix: return path.ends_with(text);
  }
  return false;
}

}  // namespace

bool PathPattern::matches(std::string_view path) const { return matches_form(form, text, path); }

bool PathPattern::matches_leniently(std::string_view path, const wire::LenientPath* lenient) const {
  const auto hits = [this](std::string_view reading) {
    return matches_form(form, text, reading) || (!decoded.empty() && matches_form(form, decoded, reading));
  };
  const auto read_as = [&hits](std::string_view reading) {
    return hits(reading) ||
           (reading.size() > 1 && reading.ends_with('/') && hits(reading.substr(0, reading.size() - 1)));
  };
  return read_as(path) || (lenient != nullptr && (read_as(lenient->decoded) || read_as(lenient->bare)));
}

namespace {

/// An empty segment or a parameter in a pattern is meant, so only escapes are looked at.
PathPattern make_path_pattern(PathPattern::Form form, std::string text) {
  std::string decoded = wire::decode_reserved(text);
  if (decoded == text) decoded.clear();
  return {form, std::move(text), std::move(decoded)};
}

/// The canonical form of a pattern's fixed part, which begins with '/'. A part that no canonical path can
/// contain is refused: a rule that never matches is a hole when it denies.
std::expected<std::string, std::string> canonical_part(std::string_view text, std::string_view part) {
  if (part.find_first_of("?#") != std::string_view::npos)
    return not_a_path(text, "the query is not matched: leave it out");
  if (part.find('*') != std::string_view::npos) {
    return not_a_path(text,
                      "a star stands alone, at the beginning, or last behind a slash (a literal one is %2A)");
  }
  for (const char c : part) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte >= 0x7f) return not_a_path(text, "write spaces, controls and non-ASCII as %XX");
  }
  std::string scratch;
  const wire::CanonicalPath canonical = wire::canonical_path(part, scratch);
  if (canonical.ambiguity != nullptr) {
    return not_a_path(text,
                      fmt::format("requests with such a path are always refused ({})", canonical.ambiguity));
  }
  const std::string segments = std::string(part) + "/";
  if (segments.find("/./") != std::string::npos || segments.find("/../") != std::string::npos) {
    return not_a_path(text, "it has dot segments");
  }
  return std::string(canonical.path);
}

}  // namespace

std::expected<PathPattern, std::string> parse_path_pattern(std::string_view text) {
  using Form = PathPattern::Form;
  if (text.empty()) return not_a_path(text, "it is empty");
  if (text.size() > pattern_bytes_max)
    return not_a_path(text, fmt::format("longer than {} bytes", pattern_bytes_max));
  if (text == "*" || text == "/*" || text == "/**")
    return make_path_pattern(text == "*" ? Form::any : Form::prefix, "/");
  if (text.front() == '*') {
    const std::string_view tail = text.substr(1);
    // "*.json" has no slash of its own; one is lent to it while it is made canonical.
    const bool lend = !tail.starts_with('/');
    auto part = canonical_part(text, lend ? "/" + std::string(tail) : std::string(tail));
    if (!part) return refuse(part.error());
    return make_path_pattern(Form::suffix, lend ? part->substr(1) : *part);
  }
  if (text.front() != '/') return not_a_path(text, "it begins with neither / nor *");
  std::string_view body = text;
  if (body.ends_with("/**")) {
    body.remove_suffix(2);
  } else if (body.ends_with("/*")) {
    body.remove_suffix(1);
  }
  auto part = canonical_part(text, body);
  if (!part) return refuse(part.error());
  return make_path_pattern(body.size() == text.size() ? Form::exact : Form::prefix, *part);
}

bool is_variable_name(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; };
  if (name.empty() || !letter(name.front())) return false;
  return std::ranges::all_of(name, [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::expected<Template, std::string> parse_template(std::string_view text) {
  Template out;
  std::string literal;
  const auto flush = [&] {
    if (!literal.empty()) out.pieces.push_back({false, std::exchange(literal, {})});
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      literal += c;
      continue;
    }
    if (i + 1 < text.size() && text[i + 1] == c) {
      literal += c;
      ++i;
      continue;
    }
    if (c == '}') return refuse(fmt::format("a lone }} at byte {} (a literal brace is written }}}})", i + 1));
    const auto close = text.find('}', i);
    if (close == std::string_view::npos) {
      return refuse(
          fmt::format("the {{ at byte {} is never closed (a literal brace is written {{{{)", i + 1));
    }
    const std::string_view key = text.substr(i + 1, close - i - 1);
    if (!is_variable_name(key)) {
      return refuse(
          fmt::format("the {{...}} at byte {} does not hold a secret's name (accepted: letters, digits and "
                      "_, not beginning with a "
                      "digit; a literal brace is written {{{{)",
                      i + 1));
    }
    flush();
    out.pieces.push_back({true, std::string(key)});
    i = close;
  }
  flush();
  return out;
}

}  // namespace postern::policy
