#include "credential/jwt.h"

#include <cstdlib>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <vector>

#include "credential/base64.h"
#include "credential/digest.h"
#include "credential/random.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr std::size_t ed25519_key_bytes = 32;

// What cannot fail but for memory, or in an OpenSSL that lacks what its version has.
void must(bool good) {
  if (!good) std::abort();
}

std::unexpected<Error> refuse(std::string detail) {
  ERR_clear_error();  // or the next TLS call of this thread would find it
  return fail(Reason::invalid_configuration, std::move(detail));
}

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, FreeBio>;

struct FreeNumber {
  void operator()(BIGNUM* number) const { BN_free(number); }
};

struct FreeDigest {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

/// Without it OpenSSL would ask for a passphrase on the terminal.
int no_passphrase(char*, int, int, void*) { return -1; }

std::string_view text_of(std::span<const unsigned char> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// base64url of an RSA parameter (RFC 7518 §6.3.1: big-endian, no leading zeros).
std::string number_of(const EVP_PKEY* key, const char* parameter) {
  BIGNUM* found = nullptr;
  must(EVP_PKEY_get_bn_param(key, parameter, &found) == 1);
  const std::unique_ptr<BIGNUM, FreeNumber> number(found);
  std::vector<unsigned char> bytes(static_cast<std::size_t>(BN_num_bytes(found)));
  must(BN_bn2bin(found, bytes.data()) == static_cast<int>(bytes.size()));
  return base64url(text_of(bytes));
}

std::string json_string(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string_view name_of(JwtAlgorithm algorithm) {
  return algorithm == JwtAlgorithm::eddsa ? "EdDSA" : "RS256";
}

void JwtKey::Free::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

JwtKey::JwtKey(Handle key, JwtAlgorithm algorithm) : key_(std::move(key)), algorithm_(algorithm) {
  const Digest thumbprint = sha256("{" + essence() + "}");
  key_id_ = base64url(text_of(thumbprint));
}

Result<JwtKey> JwtKey::from_handle(Handle key) {
  if (EVP_PKEY_is_a(key.get(), "ED25519") == 1) return JwtKey(std::move(key), JwtAlgorithm::eddsa);
  if (EVP_PKEY_is_a(key.get(), "RSA") != 1) return refuse("is neither an RSA key nor an Ed25519 key");
  if (EVP_PKEY_get_bits(key.get()) < rsa_bits_min)
    return refuse(fmt::format("is an RSA key of less than {} bits (RFC 7518 §3.3)", rsa_bits_min));
  return JwtKey(std::move(key), JwtAlgorithm::rs256);
}

JwtKey JwtKey::generate(JwtAlgorithm algorithm) {
  Handle key(algorithm == JwtAlgorithm::eddsa
                 ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")
                 : EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<std::size_t>(rsa_bits_min)));
  must(key != nullptr);
  return {std::move(key), algorithm};
}

Result<JwtKey> JwtKey::from_pem(const Secret& pem) {
  const std::string_view text = pem.unwrap();
  const Bio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  must(bio != nullptr);
  Handle key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (!key) return refuse("is not a private key in PEM (PKCS#8 or PKCS#1) without a passphrase");
  return from_handle(std::move(key));
}

Result<JwtKey> JwtKey::from_ed25519_seed(const Secret& seed) {
  const std::string_view bytes = seed.unwrap();
  if (bytes.size() != ed25519_key_bytes) return refuse("is not a key of 32 bytes");
  Handle key(EVP_PKEY_new_raw_private_key_ex(
      nullptr, "ED25519", nullptr, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
  must(key != nullptr);
  return JwtKey(std::move(key), JwtAlgorithm::eddsa);
}

Secret JwtKey::to_pem() const {
  const Bio bio(BIO_new(BIO_s_secmem()));  // wipes what it held
  must(bio != nullptr &&
       PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1);
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &bytes);
  must(size > 0);
  WipedString pem(static_cast<std::size_t>(size));
  pem.bytes().assign(bytes, static_cast<std::size_t>(size));
  return std::move(pem).seal();
}

/// The members that make the key what it is, in the order of RFC 7638 §3.2, without braces.
std::string JwtKey::essence() const {
  if (algorithm_ == JwtAlgorithm::rs256) {
    return fmt::format(R"("e":"{}","kty":"RSA","n":"{}")", number_of(key_.get(), OSSL_PKEY_PARAM_RSA_E),
                       number_of(key_.get(), OSSL_PKEY_PARAM_RSA_N));
  }
  std::array<unsigned char, ed25519_key_bytes> key;
  std::size_t size = key.size();
  must(EVP_PKEY_get_raw_public_key(key_.get(), key.data(), &size) == 1 && size == key.size());
  return fmt::format(R"("crv":"Ed25519","kty":"OKP","x":"{}")", base64url(text_of(key)));
}

std::string JwtKey::public_jwk() const {
  return fmt::format(R"({{{},"alg":"{}","use":"sig","kid":{}}})", essence(), name_of(algorithm_),
                     json_string(key_id_));
}

Secret JwtKey::mint(std::string_view claims) const {
  return sign_compact(
      fmt::format(R"({{"alg":"{}","kid":{},"typ":"JWT"}})", name_of(algorithm_), json_string(key_id_)),
      claims);
}

Secret JwtKey::sign_compact(std::string_view header, std::string_view payload) const {
  const auto signature_bytes = static_cast<std::size_t>(EVP_PKEY_get_size(key_.get()));
  WipedString token(base64url_size(header.size()) + base64url_size(payload.size()) +
                    base64url_size(signature_bytes) + 2);
  append_base64url(header, token.bytes());
  token.bytes() += '.';
  append_base64url(payload, token.bytes());

  // Ed25519 hashes by itself, and must not be told how.
  const char* digest = algorithm_ == JwtAlgorithm::rs256 ? "SHA256" : nullptr;
  const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
  std::vector<unsigned char> signature(signature_bytes);
  std::size_t size = signature.size();
  must(context != nullptr);
  must(EVP_DigestSignInit_ex(context.get(), nullptr, digest, nullptr, nullptr, key_.get(), nullptr) == 1);
  must(EVP_DigestSign(context.get(), signature.data(), &size,
                      reinterpret_cast<const unsigned char*>(token.view().data()), token.view().size()) == 1);
  signature.resize(size);

  token.bytes() += '.';
  append_base64url(text_of(signature), token.bytes());
  return std::move(token).seal();
}

std::string jwk_set(std::span<const JwtKey* const> keys) {
  std::string set = R"({"keys":[)";
  for (const JwtKey* key : keys) {
    if (key != keys.front()) set += ',';
    set += key->public_jwk();
  }
  return set += "]}";
}

void JwtClaims::name(std::string_view text) {
  if (json_.size() > 1) json_ += ',';
  json_.append(1, '"').append(text).append("\":");
}

JwtClaims& JwtClaims::text(std::string_view name_in, std::string_view value) {
  name(name_in);
  json_ += json_string(value);
  return *this;
}

JwtClaims& JwtClaims::time(std::string_view name_in, std::chrono::sys_seconds value) {
  name(name_in);
  json_ += std::to_string(value.time_since_epoch().count());
  return *this;
}

JwtClaims& JwtClaims::json(std::string_view name_in, std::string_view value) {
  name(name_in);
  json_ += value;
  return *this;
}

std::string random_token_id() {
  std::array<unsigned char, 16> bytes;
  fill_at_random(std::as_writable_bytes(std::span(bytes)));
  return base64url(text_of(bytes));
}

}  // namespace postern::credential
