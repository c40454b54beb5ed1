#include "credential/google_service_account.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <optional>

#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

std::unexpected<Error> refuse(std::string_view what) {
  return fail(Reason::invalid_configuration, fmt::format("the service account's JSON {}", what));
}

/// The member of that name, when it is a string with something in it.
std::string* text_in(nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) return nullptr;
  auto* text = found->get_ptr<std::string*>();
  return text == nullptr || text->empty() ? nullptr : text;
}

/// Taken out of the document, whose memory is not wiped.
std::optional<Secret> take_secret(nlohmann::json& object, const char* name) {
  std::string* text = text_in(object, name);
  if (text == nullptr) return std::nullopt;
  WipedString value(text->size());
  value.bytes() = *text;
  explicit_bzero(text->data(), text->size());
  return std::move(value).seal();
}

}  // namespace

Result<GoogleServiceAccount> parse_google_service_account(const Secret& json) {
  auto document = nlohmann::json::parse(json.unwrap(), nullptr, false);
  if (!document.is_object()) return refuse("is not a JSON object");
  const std::optional<Secret> pem = take_secret(document, "private_key");
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
  if (!pem) return refuse("has no private_key");
  auto key = JwtKey::from_pem(*pem);
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
