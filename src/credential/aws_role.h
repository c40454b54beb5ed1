#pragma once
// A rule of type `aws` with a role: AWS's Security Token Service gives an hour's keys for a token that says
// who the sandbox is.
//
// AWS STS API reference: AssumeRoleWithWebIdentity; "Common errors".

#include <memory>
#include <string>
#include <string_view>

#include "credential/aws_sigv4.h"
#include "credential/source.h"
#include "credential/workload_identity.h"
#include "policy/document.h"

namespace postern::credential {

inline constexpr std::size_t sts_answer_bytes_max = 64 * 1024;     // some 2 KiB in practice
inline constexpr std::chrono::seconds aws_session_lifetime{3600};  // the longest that every role allows

struct AssumedRole {
  std::shared_ptr<const AwsCredentials> credentials;
  std::chrono::sys_seconds expires;
};
/// Errors: credential_unavailable, in words that quote nothing of the answer but the error's code.
Result<AssumedRole> read_sts_answer(int status, std::string_view body);

class AwsRoleSource final : public KeptSource {
 public:
  /// `identity`: nullptr where nobody signs; then there are no credentials.
  AwsRoleSource(policy::AwsRole role, std::shared_ptr<const WorkloadIdentity> identity);
  io::Task<Result<Grant>> ask(Caller& caller, const Subject& subject, const ShownRequest* request,
                              TimePoint deadline) const override;

 private:
  Secret question(const Subject& subject, WallTime now) const;

  policy::AwsRole role_;
  std::shared_ptr<const WorkloadIdentity> identity_;
  wire::Url url_;
};

}  // namespace postern::credential
