#include "control/errors.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "credential/random.h"

namespace postern::control {

namespace {

using nlohmann::json;

// What a caller sent may be quoted in a message and need not be UTF-8.
std::string written(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// "[2]" → 2. Only what a list's index looks like: a key may hold brackets too.
std::optional<std::size_t> read_index(std::string_view text) {
  std::size_t index = 0;
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const auto [stopped, failed] = std::from_chars(begin, end, index);
  if (failed != std::errc() || stopped != end) return std::nullopt;
  return index;
}

void append_step(std::string_view step, json& loc) {
  const std::size_t bracket = step.find('[');
  if (const std::string_view key = step.substr(0, bracket); !key.empty()) loc.push_back(key);
  while (bracket != std::string_view::npos && !step.empty()) {
    const std::size_t open = step.find('[');
    const std::size_t close = step.find(']', open);
    if (open == std::string_view::npos || close == std::string_view::npos) return;
    const std::string_view inside = step.substr(open + 1, close - open - 1);
    if (const auto index = read_index(inside)) {
      loc.push_back(*index);
    } else {
      loc.push_back(inside);
    }
    step.remove_prefix(close + 1);
  }
}

json location(std::string_view document, std::string_view where) {
  json loc = json::array({"body"});
  if (!document.empty()) loc.push_back(document);
  while (!where.empty()) {
    const std::string_view step = where.substr(0, where.find('.'));
    append_step(step, loc);
    where.remove_prefix(std::min(where.size(), step.size() + 1));
  }
  return loc;
}

json entry(json loc, std::string_view message) {
  return {{"loc", std::move(loc)}, {"msg", message}, {"type", "value_error"}};
}

ApiError simple(int status, std::string_view type, std::string message) {
  return {status, std::string(type), std::move(message), {}, {}};
}

}  // namespace

Response to_response(const ApiError& error) {
  json detail{{"error", error.type}, {"message", error.message}};
  if (!error.error_id.empty()) detail["error_id"] = error.error_id;
  Response response = json_response(error.status, written(json{{"detail", std::move(detail)}}));
  response.fields.insert(response.fields.end(), error.fields.begin(), error.fields.end());
  return response;
}

ApiError bad_request(std::string message) { return simple(400, "BadRequest", std::move(message)); }

ApiError unauthorized() {
  return simple(401, "Unauthorized",
                "This needs a valid API key: X-Api-Key, X-Service-Key, or Authorization: Bearer with "
                "X-Tenant-Id.");
}

ApiError forbidden(std::string message) { return simple(403, "Forbidden", std::move(message)); }
ApiError not_found(std::string message) { return simple(404, "NotFound", std::move(message)); }

ApiError method_not_allowed(std::string_view allow) {
  ApiError error = simple(405, "MethodNotAllowed", "This path does not answer that method.");
  error.fields.push_back({"Allow", std::string(allow)});
  return error;
}

ApiError too_large(std::string message) { return simple(413, "PayloadTooLarge", std::move(message)); }
ApiError timed_out(std::string message) { return simple(408, "RequestTimeout", std::move(message)); }

ApiError overloaded(std::string message) {
  ApiError error = simple(503, "Overloaded", std::move(message));
  error.fields.push_back({"Retry-After", "1"});
  return error;
}

ApiError internal_error() {
  ApiError error = simple(500, "InternalError", "This went wrong inside of Postern. Its log says more.");
  error.error_id = credential::random_uuid();
  return error;
}

ApiError from_error(const Error& error) {
  switch (error.reason) {
    case Reason::overloaded: return overloaded("Too much is going on. Try again soon.");
    case Reason::shutting_down: return overloaded("The server is stopping. Try again soon.");
    case Reason::head_too_large: return simple(431, "HeadTooLarge", error.detail);
    case Reason::body_too_large: return too_large(error.detail);
    case Reason::method_not_allowed: return simple(405, "MethodNotAllowed", error.detail);
    case Reason::expectation_failed: return simple(417, "ExpectationFailed", error.detail);
    case Reason::malformed_request:
    case Reason::malformed_host: return bad_request(error.detail);
    default: return internal_error();
  }
}

Response validation_response(const std::vector<policy::Problem>& problems, std::string_view document) {
  json list = json::array();
  for (const policy::Problem& problem : problems)
    list.push_back(entry(location(document, problem.where), problem.message));
  return json_response(422, written(json{{"detail", std::move(list)}}));
}

Response validation_response(std::string_view field, std::string_view message) {
  return json_response(422, written(json{{"detail", json::array({entry(location({}, field), message)})}}));
}

}  // namespace postern::control
