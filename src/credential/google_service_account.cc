#include "credential/google_service_account.h"

#include <fmt/format.h>

#include "credential/wiped_string.h"
#include "policy/tree.h"

namespace postern::credential {

namespace {

std::unexpected<Error> refuse(std::string_view what) {
  return fail(Reason::invalid_configuration, fmt::format("the service account's JSON {}", what));
}

/// The member of that name, when it is a string with something in it.
const std::string* text_in(const policy::Node& object, std::string_view name) {
  const policy::Node* found = object.find(name);
  return found && found->kind == policy::Node::Kind::string && !found->text.empty() ? &found->text : nullptr;
}

}  // namespace

Result<GoogleServiceAccount> parse_google_service_account(const Secret& json) {
  // The reader of policies: its tree is wiped.
  const auto tree = policy::read_tree(json.unwrap(), policy::Format::json);
  if (!tree || tree->kind != policy::Node::Kind::mapping) return refuse("is not a JSON object");
  const policy::Node& document = *tree;
  const std::string* type = text_in(document, "type");
  if (type == nullptr || *type != "service_account")
    return refuse(
        R"(does not say "type": "service_account": other kinds of credentials cannot be used here)");
  const std::string* email = text_in(document, "client_email");
  if (email == nullptr) return refuse("has no client_email");
  const std::string* key_id = text_in(document, "private_key_id");
  if (key_id == nullptr) return refuse("has no private_key_id");
  const std::string* token_uri = text_in(document, "token_uri");
  if (token_uri == nullptr) return refuse("has no token_uri");
  if (!token_uri->starts_with("https://")) return refuse("has a token_uri that is not https");
  const std::string* pem = text_in(document, "private_key");
  if (pem == nullptr) return refuse("has no private_key");
  WipedString copy(pem->size());
  copy.bytes() = *pem;
  auto key = JwtKey::from_pem(std::move(copy).seal());
  if (!key) return refuse("has a private_key that " + key.error().detail);
  if (key->algorithm() != JwtAlgorithm::rs256) return refuse("has a private_key that is no RSA key");
  key->set_key_id(*key_id);
  const std::string* project = text_in(document, "project_id");
  return GoogleServiceAccount{*email, project == nullptr ? std::string() : *project, *token_uri,
                              std::move(*key)};
}

Secret google_assertion(const GoogleServiceAccount& account, std::span<const std::string> scopes,
                        std::chrono::sys_seconds now) {
  JwtClaims claims;
  claims.text("iss", account.client_email)
      .text("scope", fmt::format("{}", fmt::join(scopes, " ")))
      .text("aud", account.token_uri)
      .time("iat", now)
      .time("exp", now + google_assertion_lifetime);
  return account.key.mint(std::move(claims).json());
}

Secret google_token_request(const Secret& assertion) {
  // Neither needs escaping: the token is base64url with dots.
  constexpr std::string_view grant =
      "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
  WipedString body(grant.size() + assertion.unwrap().size());
  body.bytes().append(grant).append(assertion.unwrap());
  return std::move(body).seal();
}

}  // namespace postern::credential
