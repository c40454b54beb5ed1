#pragma once
// A Google service account, as its JSON key file describes it, and the assertion that is exchanged for an
// access token (RFC 7523; Google's "Using OAuth 2.0 for Server to Server Applications"). Pure: whoever has
// the network sends it to `token_uri`.

#include <chrono>
#include <span>
#include <string>

#include "base/result.h"
#include "base/secret.h"
#include "credential/jwt.h"

namespace postern::credential {

inline constexpr std::chrono::seconds google_assertion_lifetime{3600};  // the longest that Google accepts

struct GoogleServiceAccount {
  std::string client_email;
  std::string project_id;  ///< May be empty.
  std::string token_uri;   ///< https; where the assertion goes, and its audience.
  JwtKey key;              ///< Its key_id() is the file's private_key_id.
};

/// Reads the key file. Errors: invalid_configuration, naming the field and never a value.
Result<GoogleServiceAccount> parse_google_service_account(const Secret& json);

/// The signed assertion for these scopes, good for google_assertion_lifetime from `now`.
Secret google_assertion(const GoogleServiceAccount& account, std::span<const std::string> scopes,
                        std::chrono::sys_seconds now);

/// The body of the request to `token_uri`, application/x-www-form-urlencoded (RFC 7523 §2.1).
Secret google_token_request(const Secret& assertion);

}  // namespace postern::credential
