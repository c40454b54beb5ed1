#pragma once
// Keys with which callers of the API say who they are: "postern_ID_SECRET", where ID (16 hexadecimal digits)
// is public and SECRET is 256 random bits in base64url. The first word lets scanners of leaked secrets know
// one by its look.
//
// What is kept of a key is its SHA-256. Slow hashes are for passwords, which people choose and others guess;
// nobody guesses 256 random bits, and every request would pay for it.

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/secret.h"
#include "credential/digest.h"

namespace postern::credential {

/// What is known of a key without it.
struct ApiKeyProof {
  std::string id;
  Digest digest;  ///< SHA-256 of the whole key.
};

struct NewApiKey {
  Secret text;
  ApiKeyProof proof;
};

NewApiKey make_api_key();

/// Writes the key and a line end to a descriptor: once, to whoever is to have it. Errors: internal.
Result<void> hand_over(const NewApiKey& key, int descriptor);

/// What a caller sent; nullopt when it has not the form of a key.
std::optional<ApiKeyProof> read_api_key(std::string_view text);

/// Takes as long whatever they are.
bool same_digest(const Digest& one, const Digest& other);

}  // namespace postern::credential
