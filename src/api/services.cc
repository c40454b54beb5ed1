#include "api/services.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/body.h"
#include "api/service_exchange.h"
#include "control/call.h"
#include "credential/base64.h"
#include "credential/digest.h"
#include "credential/random.h"
#include "platform/answer.h"
#include "wire/http1.h"
#include "wire/url.h"

namespace postern::api {

namespace {

using control::ApiError;
using control::Request;
using control::Response;
using nlohmann::ordered_json;
using platform::BoxSettings;
using platform::ServiceGrant;
using std::chrono::seconds;

constexpr std::string_view purpose = "service";
constexpr std::size_t body_bytes_max = 64 * 1024;
constexpr std::int64_t seconds_default = 600;
constexpr std::int64_t seconds_max = 86'400;
constexpr std::size_t embed_origins_max = 5;
constexpr std::size_t embed_origin_bytes_max = 255;
constexpr std::size_t grants_max = 64;  // of one box: they stand in its settings
constexpr std::size_t page_items_max = 100;

// On a service's host; nothing below it is handed on.
constexpr std::string_view own_paths = "/_postern/";
constexpr std::string_view session_path = "/_postern/session";
constexpr std::string_view embed_path = "/_postern/embed";

/// The token stands behind '#', which no server sees, until it is in a cookie.
constexpr std::string_view embed_script = R"js(
const said = new URLSearchParams(location.hash.slice(1));
const to = said.get('redirect') || '/';
fetch('/_postern/session', {method: 'POST', headers: {'X-Langsmith-Sandbox-Service-Token': said.get('token') || ''}}).then(
  answer => answer.ok ? location.replace(/^\/(?![\/\\])/.test(to) ? to : '/') : document.body.append('This link is not good any more.'));
)js";

ApiError no_token() {
  return platform::api_error(401, "Unauthorized",
                             "This service needs a token of its own, which is valid now.");
}

std::int64_t seconds_of(WallTime at) {
  return std::chrono::duration_cast<seconds>(at.time_since_epoch()).count();
}

std::string written(const ordered_json& document) {
  return document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

bool is_live(const ServiceGrant& grant, WallTime now) { return now < grant.expires_at; }

std::optional<std::uint16_t> read_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

bool is_local(std::string_view host) {
  return host == "localhost" || host.ends_with(".localhost") || host == "127.0.0.1" || host == "::1";
}

/// "https://console.example", as browsers write it: nothing in it means anything to a policy but itself.
std::vector<std::string> read_origins(BodyFields& fields) {
  std::vector<std::string> out;
  const auto texts = fields.list("embed_origins", embed_origins_max).value_or(std::vector<std::string>());
  for (const std::string& text : texts) {
    const auto url = wire::parse_url(text);
    const bool good = url && url->target == "/" && text.size() <= embed_origin_bytes_max &&
                      (url->tls || is_local(url->host.name));
    if (!good)
      fields.note("embed_origins",
                  "must hold origins (for example https://console.example; http on localhost only)");
    else
      out.push_back(url->origin());
  }
  return out;
}

/// Only to a path of the same host.
std::string read_redirect(const Request& request) {
  const std::string* const to = request.query_value("redirect");
  const bool good = to && to->starts_with('/') && !to->starts_with("//") && !to->starts_with("/\\") &&
                    std::ranges::all_of(*to, [](char c) { return c > ' ' && c <= '~'; });
  return good ? *to : "/";
}

/// A session is a browser's: other sites, among them the services of other boxes, may lead to it and do
/// nothing more in its name. What says neither is no browser, or an old one, which says Origin where it
/// matters.
bool is_from_elsewhere(const Request& request) {
  const std::string* const site = request.field("Sec-Fetch-Site");
  if (site != nullptr && *site != "same-origin" && *site != "none") {
    const std::string* const mode = request.field("Sec-Fetch-Mode");
    const bool leads = mode && *mode == "navigate" && (request.method == "GET" || request.method == "HEAD");
    if (!leads) return true;
  }
  const std::string* const origin = request.field("Origin");
  if (origin == nullptr) return false;
  const std::size_t host = origin->find("://");
  return host == std::string::npos ||
         !wire::same_name(std::string_view(*origin).substr(host + 3), request.host);
}

Response page(std::string_view script) {
  const credential::Digest digest = credential::sha256(script);
  std::string hash;
  credential::append_base64({reinterpret_cast<const char*>(digest.data()), digest.size()}, hash);
  Response out;
  out.fields = {{"Content-Type", "text/html; charset=utf-8"},
                {"Content-Security-Policy",
                 fmt::format("default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                             "script-src 'sha256-{}'",
                             hash)},
                {"Referrer-Policy", "no-referrer"},
                {"Cache-Control", "no-store"}};
  out.body = fmt::format("<!doctype html><meta charset=utf-8><title>Service</title><body><script>{}</script>",
                         script);
  return out;
}

}  // namespace

/// What a token says.
struct Services::Claims {
  std::string workspace, grant;
  WallTime end;
  std::vector<std::string> embed_origins;
};

// --- Granting ----------------------------------------------------------------------------------------------

bool Services::by_tls(const Request& request) const { return around_.origin(request).starts_with("https"); }

std::string Services::url_of(const ServicePlace& place, const Request& request) const {
  const auto own = wire::parse_url(around_.origin(request));
  const bool tls = own && own->tls;
  const std::uint16_t usual = tls ? 443 : 80;
  const std::uint16_t port = own ? own->port : usual;
  const std::string host = host_of_service(place, around_.domain);
  return fmt::format("{}://{}{}", tls ? "https" : "http", host,
                     port == usual ? "" : fmt::format(":{}", port));
}

void Services::grant(const CallPointer& call, const control::Principal& caller, BodyFields& fields) const {
  const auto asked_port = fields.integer("port", 1, 65'535);
  if (fields.good() && !asked_port) fields.note("port", "is required");
  const std::int64_t lasts = fields.integer("expires_in_seconds", 1, seconds_max).value_or(seconds_default);
  const std::vector<std::string> embed_origins = read_origins(fields);
  const std::string access = fields.text("access").value_or("");
  const bool login = access == "restricted" || access == "workspace";
  if (!access.empty() && !login && access != "off")
    fields.note("access", "must be restricted, workspace or off");
  if (!fields.good()) return call->answer(fields.refusal());
  if (login)
    return call->answer(platform::api_error(
        501, "NotImplemented",
        "This server has no people who log in. Leave access out: who holds the token is let in."));
  const auto port = static_cast<std::uint16_t>(*asked_port);
  const std::string& name = call->request().parameter("name");
  if (access == "off") {
    auto box = around_.boxes.change_settings({caller.workspace}, name,
                                             [port](BoxSettings& settings) -> std::optional<Response> {
                                               settings.services.erase(port);
                                               return std::nullopt;
                                             });
    if (!box) return call->answer(std::move(box.error()));
    return call->answer(revoked(*box, port, call->request()));
  }
  if (!around_.key) return call->answer(control::overloaded("The server is sealed: it signs no tokens."));

  const WallTime now = std::chrono::floor<seconds>(around_.clock.wall());
  const WallTime end = now + seconds(lasts);
  std::string grant_id;
  auto box = around_.boxes.change_settings(
      {caller.workspace}, name, [&](BoxSettings& settings) -> std::optional<Response> {
        std::erase_if(settings.services, [&](const auto& entry) { return !is_live(entry.second, now); });
        if (!settings.services.contains(port) && settings.services.size() >= grants_max)
          return control::to_response(platform::api_error(
              429, "QuotaExceeded",
              fmt::format("There are service URLs for {} ports of this sandbox.", grants_max)));
        ServiceGrant& grant = settings.services[port];
        if (grant.id.empty()) {
          grant.id = credential::random_uuid();
          grant.created_at = now;
          grant.created_by = caller.key_id;
        }
        grant.expires_at = std::max(grant.expires_at, end);
        grant.embed_origins = embed_origins;
        grant_id = grant.id;
        return std::nullopt;
      });
  if (!box) return call->answer(std::move(box.error()));

  const ServicePlace place{box->id, port};
  const std::string token = around_.key->sign(purpose, written({{"workspace", caller.workspace},
                                                                {"box", box->id},
                                                                {"port", port},
                                                                {"grant", grant_id},
                                                                {"end", seconds_of(end)},
                                                                {"embed", embed_origins}}));
  const std::string own = url_of(place, call->request());
  ordered_json answer = {
      {"service_url", fmt::format("{}{}/", around_.origin(call->request()), path_of_service(place))},
      {"browser_url", fmt::format("{}{}?token={}", own, session_path, token)},
      {"embed_url", fmt::format("{}{}#token={}", own, embed_path, token)},
      {"token", token},
      {"expires_at", date_text(end)}};
  if (!embed_origins.empty()) answer["embed_origins"] = embed_origins;
  Response response = control::json_response(200, written(answer));
  response.fields.push_back({"Cache-Control", "no-store"});
  call->answer(std::move(response));
}

Response Services::revoked(const store::Resource& box, std::uint16_t port, const Request& request) const {
  use_->cut(box.id, port);
  const ServicePlace place{box.id, port};
  return control::json_response(
      200, written({{"access", "off"},
                    {"service_url", fmt::format("{}{}/", around_.origin(request), path_of_service(place))},
                    {"browser_url", url_of(place, request) + "/"}}));
}

void Services::list(const CallPointer& call, const control::Principal& caller) const {
  const Request& request = call->request();
  std::size_t limit = page_items_max;
  if (const std::string* text = request.query_value("page_size")) {
    const auto asked = read_port(*text);
    if (!asked) return call->answer(control::bad_request("the query's 'page_size' must be a number above 0"));
    limit = std::min<std::size_t>(*asked, page_items_max);
  }
  std::uint16_t after = 0;
  if (const std::string* text = request.query_value("cursor"); text && !text->empty()) {
    const auto asked = read_port(*text);
    if (!asked) return call->answer(control::bad_request("the query's 'cursor' is none of this list"));
    after = *asked;
  }
  auto box = around_.boxes.find({caller.workspace}, request.parameter("name"));
  if (!box) return call->answer(std::move(box.error()));
  const BoxSettings settings = platform::settings_from_json(box->settings).value_or(BoxSettings{});
  ordered_json items = ordered_json::array(), next;
  for (const auto& [port, grant] : settings.services) {
    if (port <= after || !is_live(grant, around_.clock.wall())) continue;
    if (items.size() == limit) {
      next = std::to_string(items.back()["port"].get<int>());
      break;
    }
    items.push_back({{"access", "token"},
                     {"port", port},
                     {"created_at", date_text(grant.created_at)},
                     {"created_by", grant.created_by},
                     {"embed_origins", grant.embed_origins},
                     {"expires_at", date_text(grant.expires_at)}});
  }
  call->answer(
      control::json_response(200, written({{"items", std::move(items)}, {"next_cursor", std::move(next)}})));
}

void Services::take_back(const CallPointer& call, const control::Principal& caller) const {
  std::optional<std::uint16_t> port;
  if (const std::string* text = call->request().query_value("port")) {
    port = read_port(*text);
    if (!port) return call->answer(control::bad_request("the query's 'port' must be a port"));
  }
  auto box = around_.boxes.change_settings({caller.workspace}, call->request().parameter("name"),
                                           [&](BoxSettings& settings) -> std::optional<Response> {
                                             if (port)
                                               settings.services.erase(*port);
                                             else
                                               settings.services.clear();
                                             return std::nullopt;
                                           });
  if (!box) return call->answer(std::move(box.error()));
  use_->cut(box->id, port);
  Response nothing;
  nothing.status = 204;
  call->answer(std::move(nothing));
}

std::vector<control::Route> Services::granting_routes(const Identify& identify) const {
  using Method = void (Services::*)(const CallPointer&, const control::Principal&) const;
  const auto route = [&](const char* method, control::Scope scope, Method handler) {
    return admitting_route(method, "/boxes/{name}/service-urls", identify, scope,
                           std::bind_front(handler, this));
  };
  // A token outlives the key that asked for it: reading is not enough.
  return {admitting_route("POST", "/boxes/{name}/service-url", identify, control::Scope::workspace,
                          [this](const CallPointer& call, const control::Principal& caller) {
                            with_body(call, body_bytes_max, [this, call, caller](BodyFields& fields) {
                              grant(call, caller, fields);
                            });
                          }),
          route("GET", control::Scope::read_only, &Services::list),
          route("DELETE", control::Scope::workspace, &Services::take_back)};
}

// --- Serving -----------------------------------------------------------------------------------------------

bool Services::serve(const CallPointer& call) const {
  const Request& request = call->request();
  if (const auto place = service_of_host(request.host, around_.domain)) {
    call->note_route("(service host)");
    serve_host(call, *place);
    return true;
  }
  if (!request.path().starts_with("/services/")) return false;
  call->note_route("/services/{id}/{port}");
  auto target = service_of_target(request.target);
  if (const auto refused = around_.guard.refuse(request))
    call->answer(*refused);
  else if (!target)
    call->answer(control::not_found("There is no such service."));
  else
    serve_path(call, std::move(*target));
  return true;
}

void Services::serve_path(const CallPointer& call, ServiceTarget target) const {
  const Request& request = call->request();
  const std::string* const token = request.field(service_token_field);
  if (!token || control::count_fields(request.fields, service_token_field) != 1)
    return call->answer(no_token());
  const std::string scheme = by_tls(request) ? "https" : "http";
  ServiceWay way{std::move(target.place), std::move(target.rest), scheme, false, {}};
  forward(call, std::move(way), *token);
}

void Services::serve_host(const CallPointer& call, const ServicePlace& place) const {
  const Request& request = call->request();
  if (request.path() == session_path) return begin_session(call, place);
  if (request.path() == embed_path && request.method == "GET") return call->answer(page(embed_script));
  if (request.path().starts_with(own_paths) || !request.target.starts_with('/'))
    return call->answer(control::not_found("There is nothing here."));
  const bool tls = by_tls(request);
  ServiceWay way{place, request.target, tls ? "https" : "http", true, {}};
  if (const std::string* const token = request.field(service_token_field)) {
    if (control::count_fields(request.fields, service_token_field) != 1) return call->answer(no_token());
    return forward(call, std::move(way), *token);
  }
  for (const std::string_view token : session_cookies(request, tls ? service_host_cookie : service_cookie)) {
    if (!read_token(token, place)) continue;
    if (is_from_elsewhere(request))
      return call->answer(control::forbidden("Pages of other origins may not use this service."));
    return forward(call, std::move(way), token);
  }
  call->answer(no_token());
}

/// GET with the token in the query, for a window of its own; POST with the token in a field, by the page at
/// embed_path, for a frame in somebody's page, in which browsers keep cookies apart for each such page.
void Services::begin_session(const CallPointer& call, const ServicePlace& place) const {
  Request& request = call->request();
  const bool framed = request.method == "POST";
  if (!framed && request.method != "GET") return call->answer(control::method_not_allowed("GET, POST"));
  auto query = control::parse_query(request.target);
  if (!query) return call->answer(no_token());
  request.query = std::move(*query);
  const std::string* const token = framed ? request.field(service_token_field) : request.query_value("token");
  const auto claims = token ? read_token(*token, place) : std::nullopt;
  if (!claims) return call->answer(no_token());
  if (auto seat = admit_holder(*claims, place); !seat) return call->answer(std::move(seat.error()));
  const bool tls = by_tls(request);
  const std::int64_t left = seconds_of(claims->end) - seconds_of(around_.clock.wall());
  const std::string_view secure = framed ? "; SameSite=None; Secure; Partitioned"
                                  : tls  ? "; SameSite=Lax; Secure"
                                         : "; SameSite=Lax";
  Response response;
  response.fields = {{"Set-Cookie", fmt::format("{}={}; Path=/; Max-Age={}; HttpOnly{}",
                                                tls ? service_host_cookie : service_cookie, *token,
                                                std::max<std::int64_t>(left, 1), secure)},
                     {"Cache-Control", "no-store"},
                     {"Referrer-Policy", "no-referrer"}};
  response.status = framed ? 204 : 303;
  if (!framed) response.fields.push_back({"Location", read_redirect(request)});
  call->answer(std::move(response));
}

std::optional<Services::Claims> Services::read_token(std::string_view token,
                                                     const ServicePlace& place) const {
  const auto payload = around_.key ? around_.key->open(purpose, token) : std::nullopt;
  if (!payload) return std::nullopt;
  const auto said = nlohmann::json::parse(*payload);  // We wrote it.
  Claims claims{said.at("workspace"), said.at("grant"), WallTime(seconds(said.at("end").get<std::int64_t>())),
                said.at("embed").get<std::vector<std::string>>()};
  const bool here = said.at("box") == place.box && said.at("port") == place.port;
  if (!here || around_.clock.wall() >= claims.end) return std::nullopt;
  return claims;
}

std::expected<std::shared_ptr<ServiceUse::Seat>, Response> Services::admit_holder(
    const Claims& claims, const ServicePlace& place) const {
  auto seat = use_->take(place);
  if (!seat) {
    ApiError error = control::overloaded("Too many connections to services of this sandbox are open.");
    error.status = 429;
    error.type = "TooManyConnections";
    return std::unexpected(control::to_response(error));
  }
  auto box = around_.boxes.find({claims.workspace}, place.box);
  if (!box) return std::unexpected(std::move(box.error()));
  const BoxSettings settings = platform::settings_from_json(box->settings).value_or(BoxSettings{});
  const auto grant = settings.services.find(place.port);
  if (grant == settings.services.end() || grant->second.id != claims.grant)
    return std::unexpected(control::to_response(no_token()));
  return seat;
}

void Services::forward(const CallPointer& call, ServiceWay way, std::string_view token) const {
  const Request& request = call->request();
  const auto claims = read_token(token, way.place);
  if (!claims) return call->answer(no_token());
  if (request.wants_websocket && (request.method != "GET" || request.has_body))
    return call->answer(control::bad_request("A request for a WebSocket is a GET without a body."));
  auto seat = admit_holder(*claims, way.place);
  if (!seat) return call->answer(std::move(seat.error()));
  way.embed_origins = claims->embed_origins;
  auto head = head_for_box(request, way);
  if (!head) return call->answer(control::bad_request("The request cannot be handed on as it is."));
  const control::Principal holder{claims->workspace, control::Scope::read_only, {}};
  call->note_caller(holder.workspace, {});
  const std::string box_id = way.place.box;
  around_.door.with_box(
      holder, box_id,
      [request = ServiceRequest{call, std::move(way), std::move(*head), std::move(*seat)}](auto box) mutable {
        if (!box) return request.call->answer(box.error());
        exchange_with_service(**box, std::move(request));
      });
}

}  // namespace postern::api
