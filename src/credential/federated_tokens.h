#pragma once
// Access tokens for a token of ours: Google's workload identity federation (RFC 8693; IAM Credentials API:
// generateAccessToken), and Entra's client credentials with a client assertion (RFC 7523 §2.2).

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "credential/source.h"
#include "credential/token_endpoint.h"
#include "credential/workload_identity.h"
#include "policy/document.h"

namespace postern::credential {

class GoogleFederationSource final : public KeptSource {
 public:
  /// `identity`: nullptr where nobody signs; then there is no token.
  GoogleFederationSource(policy::GcpFederation settings, std::vector<std::string> scopes,
                         std::shared_ptr<const WorkloadIdentity> identity);
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  Secret exchange_question(const Subject& subject, WallTime now) const;
  io::Task<Result<TokenAnswer>> impersonate(Caller& caller, const Secret& federated,
                                            TimePoint deadline) const;

  policy::GcpFederation settings_;
  std::vector<std::string> scopes_;
  std::shared_ptr<const WorkloadIdentity> identity_;
  wire::Url exchange_url_;
  std::optional<wire::Url> impersonation_url_;
  std::string impersonation_body_;
};

class AzureFederationSource final : public KeptSource {
 public:
  /// `identity`: as above.
  AzureFederationSource(policy::AzureFederation settings, std::shared_ptr<const WorkloadIdentity> identity);
  bool per_destination() const override { return true; }
  /// One token for all hosts of a resource.
  std::string_view family_of(std::string_view host) const override;
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  policy::AzureFederation settings_;
  std::shared_ptr<const WorkloadIdentity> identity_;
  wire::Url url_;
};

}  // namespace postern::credential
