#pragma once
// Heads on their way between a caller and a service in a box, as values: what is handed on, what ends here,
// and what a box may not say in the name of the host that it is reached by. Both sides are hostile to each
// other, and what they write is never copied: only parsed fields are written again.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/message.h"
#include "model/http.h"

namespace postern::api {

inline constexpr std::string_view service_token_field = "X-Langsmith-Sandbox-Service-Token";
/// Of a browser's session. With TLS nobody can set the second for another host (RFC 6265bis §4.1.3.2).
inline constexpr std::string_view service_cookie = "postern-service";
inline constexpr std::string_view service_host_cookie = "__Host-postern-service";

struct ServicePlace {
  std::string box;  ///< Its id.
  std::uint16_t port = 0;
  bool operator==(const ServicePlace&) const = default;
};

/// "3000--ID.`domain`", with a port or without. `domain` is canonical. nullopt: it is no service's host.
std::optional<ServicePlace> service_of_host(std::string_view authority, std::string_view domain);
/// "3000--ID.`domain`"
std::string host_of_service(const ServicePlace& place, std::string_view domain);

struct ServiceTarget {
  ServicePlace place;
  std::string rest;  ///< In origin-form, as the box is asked.
};
/// "/services/ID/3000/rest?query"; nullopt: it is none.
std::optional<ServiceTarget> service_of_target(std::string_view target);
std::string path_of_service(const ServicePlace& place);

/// How a request came and how it goes on.
struct ServiceWay {
  ServicePlace place;
  std::string target;          ///< For the box.
  std::string scheme;          ///< By which callers reach this server.
  bool in_own_origin = false;  ///< By the host form. Else in the API's origin, below path_of_service().
  std::vector<std::string> embed_origins;  ///< Pages that may show it, by the host form.
};

/// The values of our cookie in the request, `name` its name; a few at most.
std::vector<std::string_view> session_cookies(const control::Request& request, std::string_view name);

/// The head that the box gets; one request per connection. nullopt: it cannot be written.
std::optional<std::string> head_for_box(const control::Request& request, const ServiceWay& way);

/// Status and fields that the caller gets. Framing is left to the server; 101 has its fields.
control::Response answer_of_box(const ResponseHead& head, const ServiceWay& way);

}  // namespace postern::api
