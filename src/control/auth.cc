#include "control/auth.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "wire/host.h"
#include "wire/http1.h"
#include "wire/prefix.h"

namespace postern::control {

namespace {

constexpr std::array<std::string_view, 3> secret_fields = {"X-Api-Key", "X-Service-Key", "Authorization"};

void wipe_keys(Fields& fields) {
  for (Field& field : fields) {
    const auto named = [&](std::string_view name) { return wire::same_name(field.name, name); };
    if (std::ranges::none_of(secret_fields, named)) continue;
    explicit_bzero(field.value.data(), field.value.size());
    field.value.clear();
  }
}

/// RFC 6750 §2.1: the scheme in any case, one space or more.
std::string_view bearer_token(std::string_view value) {
  constexpr std::string_view scheme = "bearer ";
  if (!wire::starts_with_ignoring_case(value, scheme)) return {};
  value.remove_prefix(scheme.size());
  value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
  return value;
}

/// Empty when there is none, or when it is not clear which one is meant. A view into the request.
std::string_view presented_key(const Request& request) {
  for (const std::string_view name : secret_fields) {
    const std::string* const value = request.field(name);
    if (value == nullptr) continue;
    if (count_fields(request.fields, name) > 1) return {};
    if (name != "Authorization") return *value;
    return request.field("X-Tenant-Id") != nullptr ? bearer_token(*value) : std::string_view();
  }
  return {};
}

std::expected<Principal, ApiError> identify(const Request& request, const KeyLookup& keys) {
  const std::string_view text = presented_key(request);
  const auto proof = credential::read_api_key(text);
  if (!proof) return std::unexpected(unauthorized());
  auto known = keys.find(*proof);
  if (!known) return std::unexpected(overloaded("Keys cannot be looked up right now. Try again soon."));
  if (!*known) return std::unexpected(unauthorized());
  return std::move(**known);
}

}  // namespace

std::expected<Principal, ApiError> authenticate(Request& request, const KeyLookup& keys) {
  auto principal = identify(request, keys);
  wipe_keys(request.fields);
  if (!principal) return principal;
  const std::string* const tenant = request.field("X-Tenant-Id");
  if (tenant == nullptr || *tenant == principal->workspace) return principal;
  if (principal->scope != Scope::admin || tenant->empty() || count_fields(request.fields, "X-Tenant-Id") > 1)
    return std::unexpected(forbidden("This key is for another workspace than X-Tenant-Id says."));
  principal->workspace = *tenant;
  return principal;
}

std::optional<ApiError> require(const Principal& principal, Scope scope) {
  if (principal.scope >= scope) return std::nullopt;
  return forbidden(scope == Scope::admin ? "This needs an API key with the scope admin."
                                         : "This API key may only read.");
}

bool PageGuard::is_ours(std::string_view authority) const {
  const auto parsed = wire::parse_authority(authority);
  if (!parsed) return false;
  const Host& host = parsed->host;
  if (host.literal || host.name == "localhost" || host.name.ends_with(".localhost")) return true;
  return std::ranges::find(hosts_, host.name) != hosts_.end();
}

std::optional<ApiError> PageGuard::refuse(const Request& request) const {
  if (!is_ours(request.host)) {
    ApiError error = forbidden("This server is not known by the name in Host. Its operator can allow it.");
    error.status = 421;
    error.type = "MisdirectedRequest";
    return error;
  }
  const auto page = [] {
    return forbidden("Web pages may not call this API unless its operator allows it.");
  };
  if (const std::string* origin = request.field("Origin")) {
    const bool allowed =
        count_fields(request.fields, "Origin") == 1 && std::ranges::find(origins_, *origin) != origins_.end();
    if (!allowed) return page();
    return std::nullopt;
  }
  // Who types the address into a browser is nobody's page ("none"); the rest of what browsers say is.
  const std::string* const site = request.field("Sec-Fetch-Site");
  if (site != nullptr && *site != "none" && *site != "same-origin") return page();
  return std::nullopt;
}

}  // namespace postern::control
