// Paths of the API: whatever matches is a name that can be written again, and then matches the same way; no
// decoded byte becomes structure. Queries: what is taken apart is text.

#include <cstdint>
#include <cstdlib>
#include <fmt/format.h>
#include <string>
#include <string_view>

#include "base/utf8.h"
#include "control/router.h"

namespace {

using namespace postern::control;

void require(bool condition) {
  if (!condition) std::abort();
}

Router make_router() {
  const Handler nothing = [](const std::shared_ptr<Call>&) {};
  Router router;
  for (const char* prefix : {"/v2/sandboxes", "/api/v2/sandboxes"})
    router.mount(prefix, {{"GET", "/boxes", nothing},
                          {"GET", "/boxes/{name}", nothing},
                          {"GET", "/boxes/{name}/status", nothing},
                          {"GET", "/{box}/{other}", nothing}});
  return router;
}

/// The pattern with the parameters in it, every byte escaped.
std::string written(const Router::Match& match) {
  std::string path(match.pattern);
  for (const Field& parameter : match.parameters) {
    std::string escaped;
    for (const char c : parameter.value) escaped += fmt::format("%{:02x}", static_cast<unsigned char>(c));
    const std::string name = fmt::format("{{{}}}", parameter.name);
    path.replace(path.find(name), name.size(), escaped);
  }
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Router router = make_router();
  const std::string_view input(reinterpret_cast<const char*>(data), size);

  const auto found = router.find("GET", input);
  if (const auto* match = std::get_if<Router::Match>(&found)) {
    for (const Field& parameter : match->parameters) {
      require(!parameter.value.empty() && postern::is_utf8(parameter.value));
      require(parameter.value != "." && parameter.value != "..");
      require(parameter.value.find('\0') == std::string::npos);
    }
    const std::string path = written(*match);
    const auto again = router.find("GET", path);
    const auto* same = std::get_if<Router::Match>(&again);
    require(same != nullptr && same->pattern == match->pattern && same->parameters == match->parameters);
  }

  if (const auto query = parse_query(input))
    for (const Field& field : *query) require(postern::is_utf8(field.name) && postern::is_utf8(field.value));
  return 0;
}
