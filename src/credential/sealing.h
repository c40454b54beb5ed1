#pragma once
// Values at rest. A master key, which is never stored, wraps data keys; a data key seals values. Both with
// XChaCha20-Poly1305 (libsodium), whose nonces are long enough to be drawn at random for as long as anybody
// likes (docs/decisions/0016). Pure, but for the random numbers; the const functions may be called by
// several threads at once.
//
// Forms, by their first byte:
//   sealed value   1 · nonce (24) · ciphertext · tag (16)
//   wrapped key    1 · fingerprint of the master key (16) · nonce (24) · ciphertext (32) · tag (16)

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/secret.h"

namespace postern::credential {

/// What a sealed value is and where it belongs, which it is bound to: in any other place it does not open.
struct SealedPlace {
  std::string_view purpose;    ///< "workspace secret", "signing key"...
  std::string_view workspace;  ///< Empty for what belongs to the whole server.
  std::string_view name;
  std::uint64_t version = 0;
};

enum class OpenFault : std::uint8_t {
  other_key,  ///< Wrapped by another master key than this one.
  damaged,    ///< Changed, moved from its place, or in a form that this program does not know.
};

class DataKey {
 public:
  static constexpr std::size_t overhead_bytes = 1 + 24 + 16;  ///< Of a sealed value, beyond the value's own.

  static DataKey generate();

  std::string seal(const Secret& value, const SealedPlace& place) const;
  std::expected<Secret, OpenFault> open(std::string_view sealed, const SealedPlace& place) const;

 private:
  friend class MasterKey;
  explicit DataKey(Secret&& key) : key_(std::move(key)) {}
  Secret key_;
};

class MasterKey {
 public:
  static constexpr std::size_t key_bytes = 32;

  static MasterKey generate();
  /// 64 hexadecimal digits, or base64 (RFC 4648 §4) of 32 bytes, with or without a line end: what `openssl
  /// rand -hex 32` and `openssl rand -base64 32` print. Errors: invalid_configuration, in words that hold
  /// nothing of the text.
  static Result<MasterKey> from_text(const Secret& text);
  /// Base64, as from_text() reads it.
  Secret to_text() const;

  /// Tells one key from another and nothing more: 32 hexadecimal digits, which may be shown.
  const std::string& fingerprint() const { return fingerprint_; }

  /// `owner`: whose data key it is, which it is bound to.
  std::string wrap(const DataKey& key, std::string_view owner) const;
  std::expected<DataKey, OpenFault> open(std::string_view wrapped, std::string_view owner) const;

 private:
  explicit MasterKey(Secret&& key);
  Secret wrapping_key_;
  Secret key_;
  std::string fingerprint_;
};

}  // namespace postern::credential
