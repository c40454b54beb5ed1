#pragma once
// The key with which callbacks are asked. It stays the same from run to run, so that those who are asked may
// keep its public half.

#include <string>

#include "credential/jwt.h"

namespace postern::credential {

/// From `directory`/callback.pem (mode 0600), or made there. Errors as PrivateDirectory, and
/// invalid_configuration for a file that holds no Ed25519 key.
Result<JwtKey> load_or_create_callback_key(const std::string& directory);

}  // namespace postern::credential
