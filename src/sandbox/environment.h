#pragma once
// The environment of the sandboxed program: the caller's, without what opens doors.
//
// Dropped from the caller's environment, unless the name is in `keep` (`--env NAME`):
//   names that usually hold a credential   *_API_KEY *_TOKEN *_SECRET* *PASSWORD* *_CREDENTIALS, ... (see
//   .cc) values that look like one              ghp_..., sk-..., AKIA..., a private key, a URL with
//   user:password@ agents' sockets                        SSH_AUTH_SOCK, GPG_AGENT_INFO, DBUS_*, DOCKER_HOST,
//   DISPLAY, ... proxies                                HTTP_PROXY and its family, in both cases: there is
//   nothing to reach places that the sandbox has not        TMPDIR, TMP, TEMP
// Dropped whatever `keep` says: a value that contains one of Postern's secrets.

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace postern::sandbox {

using Variable = std::pair<std::string, std::string>;

struct EnvironmentRules {
  std::vector<std::string> keep;  ///< Names given by the user: passed although they look like a credential.
  /// Whether a value contains one of Postern's secrets. Empty: none does.
  std::function<bool(std::string_view value)> holds_secret;
  std::vector<Variable> set;  ///< Added last, over the caller's; of equal names the later wins.
};

/// `caller` is an environ block: "NAME=value" strings. Order kept, one entry per name.
std::vector<Variable> program_environment(std::span<const char* const> caller, const EnvironmentRules& rules);

/// Whether a variable of this name is a credential by convention.
bool names_a_credential(std::string_view name);

/// Whether this value has the form of a well-known kind of credential.
bool looks_like_a_credential(std::string_view value);

}  // namespace postern::sandbox
