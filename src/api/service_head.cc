#include "api/service_head.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "credential/api_key.h"
#include "store/checks.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/http_writer.h"

namespace postern::api {

namespace {

constexpr std::string_view path_prefix = "/services/";
constexpr std::size_t cookies_tried_max = 4;

/// A page in the API's origin gets none of it: it runs in one of its own, without a name.
constexpr std::string_view opaque_origin =
    "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts; frame-ancestors 'none'";

/// As gateways of web applications read it (RFC 3875 §4.1.18): '-' and '_' are the same.
std::string plain_name(std::string_view name) {
  std::string out = wire::lower(name);
  std::ranges::replace(out, '_', '-');
  return out;
}

/// Keys and what only we say, or what is about the connection and not about the request.
bool is_kept_from_box(std::string_view field) {
  static constexpr std::array names = {"x-langsmith-sandbox-service-token",
                                       "x-api-key",
                                       "x-service-key",
                                       "x-tenant-id",
                                       "forwarded",
                                       "x-real-ip",
                                       "content-length",
                                       "expect",
                                       "host",
                                       "via"};
  const std::string name = plain_name(field);
  return std::ranges::find(names, name) != names.end() || name.starts_with("x-forwarded-") ||
         name.starts_with("x-langsmith-user-");
}

/// What would speak for a whole host, or for longer than an answer; and what the server writes itself.
bool is_kept_from_caller(std::string_view field) {
  static constexpr std::array names = {"alt-svc",
                                       "clear-site-data",
                                       "content-length",
                                       "date",
                                       "nel",
                                       "public-key-pins",
                                       "public-key-pins-report-only",
                                       "report-to",
                                       "reporting-endpoints",
                                       "service-worker-allowed",
                                       "set-cookie2",
                                       "strict-transport-security",
                                       "x-content-type-options"};
  const std::string name = wire::lower(field);
  return std::ranges::find(names, name) != names.end();
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// Each of "a; b; c".
template <class Each>
void each_part(std::string_view text, Each each) {
  while (true) {
    const std::size_t end = std::min(text.find(';'), text.size());
    each(trimmed(text.substr(0, end)));
    if (end == text.size()) return;
    text.remove_prefix(end + 1);
  }
}

std::string_view name_of_cookie(std::string_view cookie) {
  return trimmed(cookie.substr(0, cookie.find('=')));
}
bool is_session(std::string_view cookie) {
  const std::string_view name = name_of_cookie(cookie);
  return wire::same_name(name, service_cookie) || wire::same_name(name, service_host_cookie);
}

std::string other_cookies(std::string_view cookies) {
  std::string out;
  each_part(cookies, [&](std::string_view cookie) {
    if (cookie.empty() || is_session(cookie)) return;
    if (!out.empty()) out += "; ";
    out += cookie;
  });
  return out;
}

/// A key of ours that a client shows everywhere is not shown to a box; what a service asks for is.
bool holds_api_key(std::string_view authorization) {
  const std::size_t space = authorization.rfind(' ');
  return credential::read_api_key(authorization.substr(space == std::string_view::npos ? 0 : space + 1))
      .has_value();
}

/// For this host alone, and in the API's origin below the service's path alone; empty: not at all.
std::string confined_cookie(std::string_view cookie, const ServiceWay& way) {
  std::string out;
  std::string path = "/";
  each_part(cookie, [&](std::string_view part) {
    const std::string_view name = name_of_cookie(part);
    if (!out.empty() && wire::same_name(name, "Domain")) return;
    if (!out.empty() && wire::same_name(name, "Path")) {
      const std::size_t equals = part.find('=');
      const std::string_view value =
          equals == std::string_view::npos ? std::string_view() : trimmed(part.substr(equals + 1));
      if (value.starts_with('/')) path = value;
      if (way.in_own_origin) out += fmt::format("; Path={}", path);
      return;
    }
    if (!out.empty()) out += "; ";
    out += part;
  });
  if (is_session(cookie.substr(0, cookie.find(';'))) || out.empty()) return {};
  if (!way.in_own_origin) out += fmt::format("; Path={}{}", path_of_service(way.place), path);
  return out;
}

/// Of an absolute path, which the box means below its own root.
std::string placed_location(std::string_view location, const ServiceWay& way) {
  const bool path = location.starts_with('/') && !location.starts_with("//") && !location.starts_with("/\\");
  return path && !way.in_own_origin ? path_of_service(way.place) + std::string(location)
                                    : std::string(location);
}

std::string framing_policy(const std::vector<std::string>& origins) {
  return origins.empty() ? "frame-ancestors 'self'"
                         : fmt::format("frame-ancestors 'self' {}", fmt::join(origins, " "));
}

std::vector<HeaderField> views_of(const control::Fields& fields) {
  std::vector<HeaderField> out;
  out.reserve(fields.size());
  for (const control::Field& field : fields) out.push_back({field.name, field.value});
  return out;
}

std::optional<ServicePlace> read_place(std::string_view box, std::string_view port) {
  ServicePlace place{std::string(box), 0};
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), place.port);
  const bool whole = error == std::errc{} && end == port.data() + port.size();
  if (!whole || place.port == 0 || port.starts_with('0') || !store::looks_like_uuid(box)) return std::nullopt;
  return place;
}

}  // namespace

std::optional<ServicePlace> service_of_host(std::string_view authority, std::string_view domain) {
  const auto parsed = wire::parse_authority(authority);
  if (!parsed || parsed->host.literal) return std::nullopt;
  const std::string_view name = parsed->host.name;
  const std::size_t dot = name.find('.'), dashes = name.find("--");
  if (dot == std::string_view::npos || dashes >= dot || name.substr(dot + 1) != domain) return std::nullopt;
  return read_place(name.substr(dashes + 2, dot - dashes - 2), name.substr(0, dashes));
}

std::string host_of_service(const ServicePlace& place, std::string_view domain) {
  return fmt::format("{}--{}.{}", place.port, place.box, domain);
}

std::optional<ServiceTarget> service_of_target(std::string_view target) {
  if (!target.starts_with(path_prefix)) return std::nullopt;
  target.remove_prefix(path_prefix.size());
  const std::size_t slash = target.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::string_view box = target.substr(0, slash);
  target.remove_prefix(slash + 1);
  const std::size_t end = std::min(target.find_first_of("/?"), target.size());
  auto place = read_place(box, target.substr(0, end));
  if (!place) return std::nullopt;
  std::string rest(target.substr(end));
  if (!rest.starts_with('/')) rest.insert(0, 1, '/');
  return ServiceTarget{std::move(*place), std::move(rest)};
}

std::string path_of_service(const ServicePlace& place) {
  return fmt::format("{}{}/{}", path_prefix, place.box, place.port);
}

std::vector<std::string_view> session_cookies(const control::Request& request, std::string_view name) {
  std::vector<std::string_view> out;
  for (const control::Field& field : request.fields)
    if (wire::same_name(field.name, "Cookie"))
      each_part(field.value, [&](std::string_view cookie) {
        const std::size_t equals = cookie.find('=');
        if (name_of_cookie(cookie) == name && equals != std::string_view::npos &&
            out.size() < cookies_tried_max)
          out.push_back(trimmed(cookie.substr(equals + 1)));
      });
  return out;
}

std::optional<std::string> head_for_box(const control::Request& request, const ServiceWay& way) {
  std::string out;
  wire::HeadWriter writer(out);
  writer.request_line(request.method, way.target);
  writer.field("Host", request.host);
  const auto views = views_of(request.fields);
  for (const control::Field& field : request.fields) {
    if (wire::is_hop_by_hop(field.name) || wire::nominated(views, field.name) || is_kept_from_box(field.name))
      continue;
    const std::string name = plain_name(field.name);
    if (name == "authorization" && holds_api_key(field.value)) continue;
    if (name != "cookie") {
      writer.field(field.name, field.value);
    } else if (const std::string cookies = other_cookies(field.value); !cookies.empty()) {
      writer.field(field.name, cookies);
    }
  }
  writer.field("X-Forwarded-Host", request.host);
  writer.field("X-Forwarded-Proto", way.scheme);
  if (!way.in_own_origin) writer.field("X-Forwarded-Prefix", path_of_service(way.place));
  if (request.wants_websocket) {
    writer.field("Upgrade", "websocket");
    writer.field("Connection", "Upgrade");
  } else {
    if (request.body_size)
      writer.content_length(*request.body_size);
    else if (request.has_body)
      writer.chunked();
    else if (request.method != "GET" && request.method != "HEAD")
      writer.content_length(0);
    writer.field("Connection", "close");
  }
  if (!writer.end()) return std::nullopt;
  return out;
}

control::Response answer_of_box(const ResponseHead& head, const ServiceWay& way) {
  control::Response out;
  out.status = head.status;
  for (const HeaderField& field : head.fields) {
    if (wire::is_hop_by_hop(field.name) || wire::nominated(head.fields, field.name) ||
        is_kept_from_caller(field.name))
      continue;
    std::string value(field.value);
    if (wire::same_name(field.name, "Set-Cookie")) {
      value = confined_cookie(value, way);
      if (value.empty()) continue;
    } else if (wire::same_name(field.name, "Location") || wire::same_name(field.name, "Content-Location")) {
      value = placed_location(value, way);
    }
    out.fields.push_back({std::string(field.name), std::move(value)});
  }
  if (head.status == 101) {
    out.fields.push_back({"Upgrade", "websocket"});
    out.fields.push_back({"Connection", "Upgrade"});
    return out;
  }
  // Besides what the box says itself: what both allow is allowed.
  out.fields.push_back({"Content-Security-Policy",
                        way.in_own_origin ? framing_policy(way.embed_origins) : std::string(opaque_origin)});
  return out;
}

}  // namespace postern::api
