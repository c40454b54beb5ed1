#pragma once
// The workspace's certificate authority: the one key whose certificates the sandbox trusts, and nobody else
// does.
//
// It lives in one file, `ca.pem`, key and certificate together, so that no crash can leave one without the
// other. A thief of that file can impersonate every origin to every sandbox of this workspace (threat 81), so
// a file or directory that anybody else could read or replace is refused and not mended: it may have been
// read already. Made once per process at start-up; immutable afterwards, so loops may share it.

#include <chrono>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"

struct x509_st;
struct evp_pkey_st;

namespace postern::tls {

struct CertificateFree {
  void operator()(x509_st* certificate) const;
};
struct KeyFree {
  void operator()(evp_pkey_st* key) const;
};
using CertificatePtr = std::unique_ptr<x509_st, CertificateFree>;
using KeyPtr = std::unique_ptr<evp_pkey_st, KeyFree>;

/// Certificates begin a day early: a sandbox's clock may be behind ours.
inline constexpr std::chrono::hours certificate_backdating{24};
inline constexpr std::chrono::hours ca_lifetime{24 * 3650};

class WorkspaceCa {
 public:
  /// Reads `directory`/ca.pem, or makes it (and the directory, mode 0700) when it is absent or its
  /// certificate has expired; only then. Processes that start at once agree on one CA: a lock file orders
  /// them. Errors: invalid_configuration, with a sentence, for a file or directory of another owner, open to
  /// others, or a symbolic link; for a key that is not the certificate's; for a certificate that is no CA's
  /// or begins in the future (a wrong clock must not cost the workspace its CA). internal for failing I/O.
  static Result<WorkspaceCa> load_or_create(const std::string& directory,
                                            WallTime now = std::chrono::system_clock::now());

  /// What sandboxes are told to trust. No key in it.
  const std::string& certificate_pem() const { return certificate_pem_; }
  /// SHA-256 of the certificate as `openssl x509 -fingerprint -sha256` prints it: "AB:CD:…".
  const std::string& fingerprint() const { return fingerprint_; }
  WallTime not_after() const { return not_after_; }

  /// Both stay valid while this lives.
  x509_st* certificate() const { return certificate_.get(); }
  evp_pkey_st* key() const { return key_.get(); }

 private:
  WorkspaceCa() = default;
  static Result<WorkspaceCa> from_parts(KeyPtr key, CertificatePtr certificate);
  static Result<WorkspaceCa> generate(WallTime now);
  static Result<WorkspaceCa> from_pem(const std::string& pem);
  Result<std::string> private_pem() const;

  KeyPtr key_;
  CertificatePtr certificate_;
  std::string certificate_pem_;
  std::string fingerprint_;
  WallTime not_before_;
  WallTime not_after_;
};

}  // namespace postern::tls
