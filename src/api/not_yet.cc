#include "api/not_yet.h"

#include <fmt/format.h>

#include "platform/answer.h"

namespace postern::api {

namespace {

struct Part {
  const char* what;
  const char* method;
  const char* pattern;
};

constexpr Part parts[] = {
    {"registries", "POST", "/registries"},          {"registries", "GET", "/registries"},
    {"registries", "GET", "/registries/{name}"},    {"registries", "PATCH", "/registries/{name}"},
    {"registries", "DELETE", "/registries/{name}"},
};

}  // namespace

std::vector<control::Route> not_yet_routes(Identify identify) {
  std::vector<control::Route> routes;
  for (const Part& part : parts)
    routes.push_back(admitting_route(
        part.method, part.pattern, identify, control::Scope::read_only,
        [what = part.what](const std::shared_ptr<control::Call>& call, const control::Principal&) {
          call->answer(
              platform::api_error(501, "NotImplemented", fmt::format("this server has no {} yet", what)));
        }));
  return routes;
}

}  // namespace postern::api
