#pragma once
// JSON Web Tokens (RFC 7519) in compact form (RFC 7515 §3.1), minted and never read: RS256 for those who
// exchange one for an access token (GCP, GitHub Apps), EdDSA (RFC 8037) for our own callbacks, whose
// receivers find the public key in a JWK set. No I/O; time comes in with the claims.

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/secret.h"

struct evp_pkey_st;

namespace postern::credential {

inline constexpr int rsa_bits_min = 2048;  // RFC 7518 §3.3

enum class JwtAlgorithm : std::uint8_t { rs256, eddsa };

/// "RS256" or "EdDSA". Static storage.
std::string_view name_of(JwtAlgorithm algorithm);

/// A private key that signs tokens. OpenSSL holds it and wipes it at the end. The const functions may be
/// called by several threads at once.
class JwtKey {
 public:
  /// A new key, from the operating system's random numbers: Ed25519, or RSA of rsa_bits_min, which takes a
  /// tenth of a second.
  static JwtKey generate(JwtAlgorithm algorithm);
  /// PKCS#8 or PKCS#1, without a passphrase: an RSA key of at least rsa_bits_min, or an Ed25519 key. Errors:
  /// invalid_configuration, in words that hold nothing of the key.
  static Result<JwtKey> from_pem(const Secret& pem);
  /// The 32 bytes of RFC 8032 §5.1.5 that an Ed25519 key is made of ("d" of RFC 8037).
  static Result<JwtKey> from_ed25519_seed(const Secret& seed);

  /// PKCS#8, to keep a generated key: from_pem() reads it.
  Secret to_pem() const;

  JwtAlgorithm algorithm() const { return algorithm_; }
  /// What the header's `kid` says. Unless set, the key's thumbprint (RFC 7638, base64url SHA-256), which is
  /// the same wherever the same key is loaded.
  const std::string& key_id() const { return key_id_; }
  void set_key_id(std::string key_id) { key_id_ = std::move(key_id); }

  /// The public key as a JWK with `alg`, `use` and `kid` (RFC 7517 §4). One line of JSON.
  std::string public_jwk() const;

  /// A token with {"alg","kid","typ":"JWT"} as its header. `claims`: a JSON object, see JwtClaims. About 30
  /// µs with Ed25519, 700 µs with RSA of 2048 bits.
  Secret mint(std::string_view claims) const;
  /// The same for any header and payload, as they are (RFC 7515 §7.1).
  Secret sign_compact(std::string_view header, std::string_view payload) const;

 private:
  struct Free {
    void operator()(evp_pkey_st* key) const;
  };
  using Handle = std::unique_ptr<evp_pkey_st, Free>;
  JwtKey(Handle key, JwtAlgorithm algorithm);
  static Result<JwtKey> from_handle(Handle key);
  std::string essence() const;

  Handle key_;
  JwtAlgorithm algorithm_;
  std::string key_id_;
};

/// The key that is signed with now. It may give way to another while others use it, on any thread.
class CurrentKey {
 public:
  CurrentKey(JwtKey key) : key_(std::make_shared<const JwtKey>(std::move(key))) {}
  explicit CurrentKey(std::shared_ptr<const JwtKey> key) : key_(std::move(key)) {}

  std::shared_ptr<const JwtKey> get() const {
    const std::lock_guard lock(mutex_);
    return key_;
  }
  void set(std::shared_ptr<const JwtKey> key) {
    const std::lock_guard lock(mutex_);
    key_.swap(key);
  }
  Secret mint(std::string_view claims) const { return get()->mint(claims); }
  std::string key_id() const { return get()->key_id(); }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const JwtKey> key_;
};

/// {"keys": [...]} (RFC 7517 §5), for /.well-known/jwks.json: one line, without a line end.
std::string jwk_set(std::span<const JwtKey* const> keys);

/// Writes a JSON object of claims, in the order in which they are given. Names are literals without anything
/// to escape.
class JwtClaims {
 public:
  /// Bytes that are not UTF-8 become U+FFFD.
  JwtClaims& text(std::string_view name, std::string_view value);
  /// Seconds since 1970 (NumericDate, RFC 7519 §2).
  JwtClaims& time(std::string_view name, std::chrono::sys_seconds value);
  /// `value`: JSON.
  JwtClaims& json(std::string_view name, std::string_view value);
  std::string json() && { return std::move(json_ += '}'); }

 private:
  void name(std::string_view text);
  std::string json_ = "{";
};

/// For `jti`: 128 random bits in base64url.
std::string random_token_id();

}  // namespace postern::credential
