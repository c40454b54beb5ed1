#include "api/server_pages.h"

#include <nlohmann/json.hpp>

#include "api/boxes.h"
#include "api/openapi_bytes.h"
#include "control/call.h"

namespace postern::api {

namespace {

using CallPointer = std::shared_ptr<control::Call>;

}  // namespace

std::vector<control::Route> server_pages(store::Store& store, const control::PageGuard& guard,
                                         const platform::ServerKeys& keys, const std::string& issuer) {
  const auto page = [&guard](std::string pattern, std::function<control::Response()> make) {
    return control::Route{"GET", std::move(pattern),
                          [&guard, make = std::move(make)](const CallPointer& call) {
                            if (auto refused = guard.refuse(call->request())) return call->answer(*refused);
                            call->answer(make());
                          }};
  };
  const auto cached = [](std::string document) {
    control::Response response = control::json_response(200, std::move(document));
    response.fields.push_back({"Cache-Control", "max-age=300"});
    return response;
  };
  return {page("/.well-known/jwks.json", [&keys, cached] { return cached(keys.jwk_set()); }),
          page("/.well-known/openid-configuration",
               [issuer, cached] { return cached(credential::openid_configuration(issuer)); }),
          page("/openapi.json", [cached] { return cached(std::string(openapi_bytes())); }),
          page("/health", [] { return control::json_response(200, R"({"status":"ok"})"); }),
          page("/ready", [&store] {
            const bool open = store.seal() == store::Seal::open;
            return control::json_response(open ? 200 : 503,
                                          open ? R"({"status":"ready"})" : R"({"status":"sealed"})");
          })};
}

std::string access_line(const control::AccessRecord& record) {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  const nlohmann::ordered_json line = {{"time", date_text(record.at)},
                                       {"method", record.method},
                                       {"path", record.path},
                                       {"route", record.route},
                                       {"status", record.status},
                                       {"workspace", record.workspace},
                                       {"key", record.key_id},
                                       {"peer", record.peer.to_string()},
                                       {"milliseconds", Milliseconds(record.took).count()},
                                       {"bytes_in", record.bytes_in},
                                       {"bytes_out", record.bytes_out},
                                       {"complete", record.end == control::AccessRecord::End::complete}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace postern::api
