#pragma once
// What a log is signed with (audit/chain.h): a key of its own, used for nothing else, whose public half reads
// signatures anywhere.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "credential/jwt.h"

namespace postern::credential {

/// From `directory`/log.pem (mode 0600), or made there: Ed25519. Errors as load_or_create_callback_key(). Its
/// public half is put beside it as log.jwk.
Result<JwtKey> load_or_create_log_key(const std::string& directory);

/// A compact JWS of `payload`, whose `typ` says that it is a log's.
std::string sign_log(const JwtKey& key, std::string_view payload);

/// Keys whose signatures count.
class LogVerifier {
 public:
  /// `json`: a JWK or a JWK set (RFC 7517) with Ed25519 keys (RFC 8037); keys of other kinds are passed over.
  /// Errors: there is none.
  static Result<LogVerifier> read(std::string_view json);
  LogVerifier(LogVerifier&&) noexcept;
  LogVerifier& operator=(LogVerifier&&) noexcept;
  ~LogVerifier();

  /// The payload of what one of the keys signed. Errors: in words.
  Result<std::string> check(std::string_view token) const;

 private:
  struct Key;
  LogVerifier();
  std::vector<Key> keys_;
};

}  // namespace postern::credential
