#include "credential/digest.h"

#include <cstdlib>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

namespace postern::credential {

namespace {

// Neither fails but for memory, or in an OpenSSL without SHA-256, which could not have started TLS either.
void must(bool good) {
  if (!good) std::abort();
}

/// Fetched once: a fetch takes longer than a short digest.
const EVP_MD* sha256_method() {
  static const EVP_MD* const method = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  must(method != nullptr);
  return method;
}

EVP_MAC* hmac_method() {
  static EVP_MAC* const method = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
  must(method != nullptr);
  return method;
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  must(context_ != nullptr && EVP_DigestInit_ex2(context_.get(), sha256_method(), nullptr) == 1);
}

Sha256::~Sha256() = default;

Sha256& Sha256::update(std::string_view bytes) {
  must(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  return *this;
}

Digest Sha256::finish() {
  Digest digest;
  must(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
  must(EVP_DigestInit_ex2(context_.get(), nullptr, nullptr) == 1);  // the same method once more
  return digest;
}

Digest sha256(std::string_view bytes) { return Sha256().update(bytes).finish(); }

void HmacSha256::Free::operator()(evp_mac_ctx_st* context) const { EVP_MAC_CTX_free(context); }

HmacSha256::HmacSha256(std::string_view key) : context_(EVP_MAC_CTX_new(hmac_method())) {
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                   OSSL_PARAM_construct_end()};
  // An empty key is one too, but nullptr would mean none.
  const unsigned char* bytes = key.empty() ? reinterpret_cast<const unsigned char*>("") : bytes_of(key);
  must(context_ != nullptr && EVP_MAC_init(context_.get(), bytes, key.size(), parameters) == 1);
}

HmacSha256::~HmacSha256() = default;

Digest HmacSha256::sign(std::string_view message) {
  Digest digest;
  std::size_t length = 0;
  must(EVP_MAC_update(context_.get(), bytes_of(message), message.size()) == 1);
  must(EVP_MAC_final(context_.get(), digest.data(), &length, digest.size()) == 1 && length == digest.size());
  must(EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1);  // the same key once more
  return digest;
}

void append_hex(std::span<const std::uint8_t> bytes, std::string& out) {
  static constexpr char digits[] = "0123456789abcdef";
  const std::size_t begin = out.size();
  out.resize(begin + bytes.size() * 2);
  char* to = out.data() + begin;
  for (const std::uint8_t byte : bytes) {
    *to++ = digits[byte >> 4];
    *to++ = digits[byte & 15];
  }
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  append_hex(bytes, text);
  return text;
}

}  // namespace postern::credential
