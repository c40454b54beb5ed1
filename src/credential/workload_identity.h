#pragma once
// What a sandbox is to a cloud that trusts us: a token that says so, in place of a secret that is kept
// somewhere. The cloud finds our key through the issuer (OpenID Connect Discovery 1.0 §4) and exchanges the
// token for credentials of its own.

#include <chrono>
#include <string>
#include <string_view>

#include "base/secret.h"
#include "credential/jwt.h"
#include "credential/source.h"
#include "policy/document.h"

namespace postern::credential {

inline constexpr std::chrono::seconds identity_token_lifetime{300};  // it is exchanged at once

/// Who signs. Shared by all sources.
struct WorkloadIdentity {
  CurrentKey key;      ///< RS256.
  std::string issuer;  ///< `iss`: https, without a trailing slash.
};

/// `sub`: "workspace:ID", or "workspace:ID:tag:TAG".
std::string identity_subject(std::string_view workspace, const policy::TokenSubject& subject);

/// `tags`: AWS session tags, which go inside the token ("Passing session tags in AWS STS").
Secret identity_token(const WorkloadIdentity& identity, std::string_view subject, std::string_view audience,
                      WallTime now, std::span<const policy::EnvVar> tags = {});

/// What stands at /.well-known/openid-configuration below `issuer`. One line of JSON.
std::string openid_configuration(std::string_view issuer);

}  // namespace postern::credential
