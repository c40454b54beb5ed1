#include "proxy/metadata_server.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "policy/provider_reader.h"
#include "wire/http1.h"

namespace postern::proxy {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view json_type = "application/json";
constexpr int token_seconds = 3599;

bool has_field(std::span<const HeaderField> fields, std::string_view name) {
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, name)) return true;
  return false;
}

/// Once, and with that value: a page in a browser, or a server that is made to fetch a URL, cannot say it.
bool says(std::span<const HeaderField> fields, std::string_view name, std::string_view value) {
  bool said = false;
  for (const HeaderField& field : fields) {
    if (!wire::same_name(field.name, name)) continue;
    if (said || !wire::same_name(field.value, value)) return false;
    said = true;
  }
  return said;
}

bool is_recursive(std::string_view query) {
  for (query.remove_prefix(query.empty() ? 0 : 1); !query.empty();) {
    const std::string_view parameter = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(parameter.size() + 1, query.size()));
    if (wire::same_name(parameter, "recursive=true")) return true;
  }
  return false;
}

MetadataAnswer text(std::string_view body) { return {200, "application/text", std::string(body)}; }
MetadataAnswer json(const Json& body) {
  return {200, json_type, body.dump(-1, ' ', true, Json::error_handler_t::replace)};
}
MetadataAnswer refused(int status, std::string_view why) { return {status, "text/plain", std::string(why)}; }

/// What came through a proxy was not meant for it, as the clouds' own have it.
std::optional<MetadataAnswer> refuse_others(const MetadataQuestion& question) {
  if (question.method != "GET" && question.method != "HEAD") return refused(405, "only GET and HEAD\n");
  if (has_field(question.fields, "x-forwarded-for")) return refused(403, "X-Forwarded-For is not accepted\n");
  return std::nullopt;
}

bool take(std::string_view& path, std::string_view prefix) {
  if (!path.starts_with(prefix)) return false;
  path.remove_prefix(prefix.size());
  return true;
}

/// A federated identity has no address; libraries want one, and ask below it.
std::string_view email_of(const credential::GoogleIdentity& identity) {
  return identity.client_email.empty() ? std::string_view("default") : identity.client_email;
}

Json account(const credential::GoogleIdentity& identity) {
  return {{"aliases", Json::array({"default"})}, {"email", email_of(identity)}, {"scopes", identity.scopes}};
}

/// Below service-accounts/NAME.
MetadataAnswer answer_account(const credential::GoogleIdentity& identity, std::string_view what,
                              bool recursive) {
  if (what.empty() || what == "/")
    return recursive ? json(account(identity)) : text("aliases\nemail\nscopes\ntoken\n");
  if (what == "/aliases") return text("default\n");
  if (what == "/email") return text(email_of(identity));
  if (what == "/scopes") return text(fmt::format("{}\n", fmt::join(identity.scopes, "\n")));
  if (what == "/token")
    return json({{"access_token", policy::gcp_placeholder_token},
                 {"expires_in", token_seconds},
                 {"token_type", "Bearer"}});
  return {};
}

MetadataAnswer answer_instance(const credential::GoogleIdentity& identity, std::string_view path,
                               bool recursive) {
  if (path.empty() || path == "/") {
    if (!recursive) return text("service-accounts/\n");
    return json({{"serviceAccounts",
                  {{"default", account(identity)}, {std::string(email_of(identity)), account(identity)}}}});
  }
  if (!take(path, "/service-accounts")) return {};
  if (path.empty() || path == "/") {
    if (!recursive) return text(fmt::format("default/\n{}/\n", email_of(identity)));
    return json({{"default", account(identity)}, {std::string(email_of(identity)), account(identity)}});
  }
  path.remove_prefix(1);
  const std::string_view name = path.substr(0, path.find('/'));
  if (name != "default" && name != email_of(identity)) return {};
  return answer_account(identity, path.substr(name.size()), recursive);
}

}  // namespace

std::uint32_t metadata_rule_for(const policy::MetadataRules& rules, std::string_view path) {
  const bool azure = rules.google == policy::no_rule || path.starts_with("/metadata/");
  return azure && rules.azure != policy::no_rule ? rules.azure : rules.google;
}

MetadataAnswer answer_google_metadata(const credential::GoogleIdentity& identity,
                                      const MetadataQuestion& question) {
  if (auto refusal = refuse_others(question)) return std::move(*refusal);
  std::string_view path = question.path;
  if (path == "/")
    return text("computeMetadata/\n");  // Libraries look for the field in the answer, and send none.
  if (!says(question.fields, "metadata-flavor", "google"))
    return refused(403, "Missing required header: Metadata-Flavor: Google\n");
  const bool recursive = is_recursive(question.query);
  if (path == "/computeMetadata" || path == "/computeMetadata/") return text("v1/\n");
  if (!take(path, "/computeMetadata/v1")) return {};
  if (path.empty() || path == "/") return text("instance/\nproject/\nuniverse/\n");
  if (path == "/project" || path == "/project/") {
    if (recursive) return json({{"projectId", identity.project_id}});
    return text("project-id\n");
  }
  if (path == "/project/project-id" && !identity.project_id.empty()) return text(identity.project_id);
  if (path == "/universe" || path == "/universe/") return text("universe-domain\n");
  if (path == "/universe/universe-domain") return text("googleapis.com");
  if (take(path, "/instance") && (path.empty() || path.starts_with('/')))
    return answer_instance(identity, path, recursive);
  return {};
}

MetadataAnswer answer_azure_metadata(const MetadataQuestion& question, WallTime now) {
  if (auto refusal = refuse_others(question)) return std::move(*refusal);
  if (!says(question.fields, "metadata", "true"))
    return {400, json_type,
            R"({"error":"invalid_request","error_description":"Required metadata header not specified"})"};
  if (question.path != "/metadata/identity/oauth2/token") return {};
  const auto ends = std::chrono::floor<std::chrono::seconds>(now) + std::chrono::seconds(token_seconds);
  // As Azure has it: numbers in quotes.
  return json({{"access_token", policy::azure_placeholder_token},
               {"expires_in", fmt::format("{}", token_seconds)},
               {"expires_on", fmt::format("{}", ends.time_since_epoch().count())},
               {"token_type", "Bearer"}});
}

}  // namespace postern::proxy
