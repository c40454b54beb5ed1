#include "credential/log_signature.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <openssl/evp.h>
#include <optional>

#include "base/private_directory.h"
#include "credential/base64.h"
#include "credential/signing_keys.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr std::size_t seed_bytes = 32;       // RFC 8032 §5.1.5
constexpr std::size_t signature_bytes = 64;  // RFC 8032 §5.1.6

std::string header_of(std::string_view key_id) {
  return fmt::format(R"({{"alg":"EdDSA","kid":{},"typ":"postern-log"}})",
                     nlohmann::json(key_id).dump(-1, ' ', true));
}

/// RFC 7515 §2, strictly.
std::optional<std::string> decode_base64url(std::string_view text) {
  std::string plain(text);
  for (char& c : plain) {
    if (c == '+' || c == '/' || c == '=') return std::nullopt;
    if (c == '-') c = '+';
    if (c == '_') c = '/';
  }
  plain.append((4 - plain.size() % 4) % 4, '=');
  const auto bytes = decode_base64(plain);
  if (!bytes) return std::nullopt;
  return std::string(bytes->unwrap());
}

std::string text_of(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

}  // namespace

Result<JwtKey> load_or_create_log_key(const std::string& directory) {
  auto key = load_or_create_signing_key(directory, "log.pem", JwtAlgorithm::eddsa);
  if (!key) return key;
  auto place = PrivateDirectory::open(directory);
  if (!place) return std::unexpected(std::move(place.error()));
  if (auto written = place->write("log.jwk", key->public_jwk() + "\n"); !written)
    return std::unexpected(std::move(written.error()));
  return key;
}

std::string sign_log(const JwtKey& key, std::string_view payload) {
  // Nothing of it is secret, unlike other tokens.
  return std::string(key.sign_compact(header_of(key.key_id()), payload).unwrap());
}

struct LogVerifier::Key {
  struct Free {
    void operator()(EVP_PKEY* held) const { EVP_PKEY_free(held); }
  };
  std::string start;  ///< Of every token of this key.
  std::unique_ptr<EVP_PKEY, Free> key;
};

LogVerifier::LogVerifier() = default;
LogVerifier::LogVerifier(LogVerifier&&) noexcept = default;
LogVerifier& LogVerifier::operator=(LogVerifier&&) noexcept = default;
LogVerifier::~LogVerifier() = default;

Result<LogVerifier> LogVerifier::read(std::string_view json) {
  LogVerifier out;
  const auto document = nlohmann::json::parse(json, nullptr, false);
  const auto add = [&out](const nlohmann::json& jwk) {
    if (!jwk.is_object() || text_of(jwk, "kty") != "OKP" || text_of(jwk, "crv") != "Ed25519") return;
    const auto point = decode_base64url(text_of(jwk, "x"));
    if (!point || point->size() != seed_bytes) return;
    Key key;
    key.key.reset(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes_of(*point), seed_bytes));
    key.start = base64url(header_of(text_of(jwk, "kid"))) + ".";
    if (key.key) out.keys_.push_back(std::move(key));
  };
  if (document.is_object() && document.contains("keys") && document["keys"].is_array())
    for (const auto& jwk : document["keys"]) add(jwk);
  else
    add(document);
  if (out.keys_.empty())
    return fail(Reason::invalid_configuration,
                "there is no Ed25519 key in it (accepted: a JWK or a JWK set)");
  return out;
}

Result<std::string> LogVerifier::check(std::string_view token) const {
  const std::size_t dot = token.rfind('.');
  for (const Key& key : keys_) {
    if (!token.starts_with(key.start) || dot == std::string_view::npos || dot < key.start.size()) continue;
    const std::string_view said = token.substr(0, dot);
    const auto signature = decode_base64url(token.substr(dot + 1));
    const auto payload = decode_base64url(said.substr(key.start.size()));
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    const bool good = signature && signature->size() == signature_bytes && payload && context &&
                      EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.key.get()) == 1 &&
                      EVP_DigestVerify(context.get(), bytes_of(*signature), signature_bytes, bytes_of(said),
                                       said.size()) == 1;
    if (good) return *payload;
    return fail(Reason::internal, "it was not signed with the key that it names");
  }
  return fail(Reason::internal, "it was signed with another key, or not at all");
}

}  // namespace postern::credential
