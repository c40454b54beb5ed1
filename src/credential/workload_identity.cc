#include "credential/workload_identity.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace postern::credential {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::seconds clock_skew{60};  // theirs may be behind ours

}  // namespace

std::string identity_subject(std::string_view workspace, const policy::TokenSubject& subject) {
  if (subject.tag.empty()) return fmt::format("workspace:{}", workspace);
  return fmt::format("workspace:{}:tag:{}", workspace, subject.tag);
}

Secret identity_token(const WorkloadIdentity& identity, std::string_view subject, std::string_view audience,
                      WallTime now, std::span<const policy::EnvVar> tags) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(now);
  JwtClaims claims;
  claims.text("iss", identity.issuer)
      .text("sub", subject)
      .text("aud", audience)
      .time("iat", seconds)
      .time("nbf", seconds - clock_skew)
      .time("exp", seconds + identity_token_lifetime)
      .text("jti", random_token_id());
  if (!tags.empty()) {
    Json principal = Json::object();
    for (const auto& [key, value] : tags) principal[key] = Json::array({value});
    claims.json("https://aws.amazon.com/tags",
                Json{{"principal_tags", principal}, {"transitive_tag_keys", Json::array()}}.dump());
  }
  return identity.key.mint(std::move(claims).json());
}

std::string openid_configuration(std::string_view issuer) {
  return Json{{"issuer", issuer},
              {"jwks_uri", fmt::format("{}/.well-known/jwks.json", issuer)},
              {"response_types_supported", {"id_token"}},
              {"subject_types_supported", {"public"}},
              {"id_token_signing_alg_values_supported", {"RS256"}},
              {"claims_supported", {"iss", "sub", "aud", "iat", "nbf", "exp", "jti"}}}
      .dump();
}

}  // namespace postern::credential
