#pragma once
// The keys that tokens of a workspace are signed with. They stay the same from run to run, so that those who
// are asked may keep the public half.

#include <string>

#include "credential/jwt.h"

namespace postern::credential {

/// From `directory`/`file` (mode 0600), or made there. Errors as below.
Result<JwtKey> load_or_create_signing_key(const std::string& directory, const char* file,
                                          JwtAlgorithm algorithm);

/// From `directory`/callback.pem (mode 0600), or made there: Ed25519, for the questions to callbacks. Errors
/// as PrivateDirectory, and invalid_configuration for a file that holds no such key.
Result<JwtKey> load_or_create_callback_key(const std::string& directory);

/// From `directory`/web_identity.pem: RSA, which every cloud takes (credential/workload_identity.h).
Result<JwtKey> load_or_create_identity_key(const std::string& directory);

}  // namespace postern::credential
