#pragma once
// Making the sandbox's programs trust the workspace's CA, each in the way that it looks for one.
//
// The system's bundle alone is enough for most clients (curl, git, Go, Debian's Python, Ruby, ...), so a
// merged bundle (the host's certificates and ours) covers it at every place where this host has one, together
// with the <hash>.0 directory form. The rest is told by environment (Node, vendored certifi, gRPC, Deno,
// cloud SDKs), by a Java key store in place of every JDK's, and by an NSS database of its own for Chromium.
// Variables that replace the roots always name the *merged* bundle: hosts that are passed through untouched
// need the public roots.
//
// Preparing takes some 50 ms (200 ms with NSS) and is done once per CA and state of the host's certificates;
// the result is kept in `cache_directory` under a name derived from both. Later runs only look it up (well
// below a millisecond).

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "sandbox/environment.h"
#include "sandbox/mounts.h"

namespace postern::sandbox {

struct TrustRequest {
  std::string ca_certificate_pem;  ///< The certificate only, never its key.
  std::string cache_directory;     ///< Private to this user; made if it is not there.
};

struct Trust {
  std::vector<MountStep> mounts;      ///< For LaunchSpec::files.
  std::vector<Variable> environment;  ///< For EnvironmentRules::set.
};

/// Errors: a certificate that is none, a cache directory that cannot be written. A host without a bundle is
/// no error: the sandbox then trusts our CA alone.
Result<Trust> prepare_trust(const TrustRequest& request);

/// The host's certificate bundle, or empty. For `doctor`.
std::string host_bundle();

/// A Java key store (JKS, password "changeit") that trusts every certificate of a PEM text. Every JDK
/// since 1.2 reads the format, also under the name of a PKCS #12 store.
Result<std::string> java_key_store(std::string_view pem);

}  // namespace postern::sandbox
