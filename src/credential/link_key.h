#pragma once
// Links that carry their own permission: a payload and an HMAC-SHA256 of it, which nobody can make or change
// without the server's key.

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/secret.h"
#include "credential/jwt.h"

namespace postern::credential {

inline constexpr std::size_t link_token_bytes_max = 8 * 1024;  // shorter than what a request line may hold

/// For all threads.
class LinkKey {
 public:
  /// Derived from an Ed25519 key, whose signatures are always the same: the same links are good wherever that
  /// key is loaded, and none of them tells anything about it. Nothing else may be signed with this header.
  explicit LinkKey(const JwtKey& key);
  /// The first of them signs from now on, and what any has signed is good. Not empty.
  void set(std::span<const JwtKey* const> keys);

  /// base64url(payload) "." base64url(mac). `purpose` says what the link is for: it is good for nothing else.
  std::string sign(std::string_view purpose, std::string_view payload) const;
  /// The payload of what sign() made for this purpose. Compared in constant time.
  std::optional<std::string> open(std::string_view purpose, std::string_view token) const;

 private:
  using Keys = std::shared_ptr<const std::vector<Secret>>;
  Keys keys() const;

  mutable std::mutex mutex_;
  Keys keys_;  ///< The signing one first.
};

}  // namespace postern::credential
