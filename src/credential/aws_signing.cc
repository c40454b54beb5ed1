#include "credential/aws_signing.h"

#include <algorithm>
#include <fmt/format.h>

#include "credential/source.h"
#include "policy/document.h"

namespace postern::credential {

namespace {

class AwsRequestSigner final : public RequestSigner {
 public:
  AwsRequestSigner(AwsSigner& signer, std::shared_ptr<const AwsCredentials> credentials, AwsIntent intent)
      : signer_(signer), credentials_(std::move(credentials)), intent_(std::move(intent)) {}

  bool wants_body_hash() const override { return intent_.payload == AwsPayload::to_be_hashed; }
  bool drops(std::string_view field_name) const override { return AwsSigner::drops(field_name); }
  Result<Signature> sign(const RequestToSign& request, std::string_view body_hash, const Grant* grant,
                         WallTime now) override {
    const auto& credentials = grant ? grant->aws : credentials_;
    if (!credentials) return fail(Reason::credential_unavailable, "there are no credentials for AWS");
    signer_.set_credentials(credentials);
    return signer_.sign(request, intent_, body_hash, now);
  }

 private:
  AwsSigner& signer_;
  const std::shared_ptr<const AwsCredentials> credentials_;
  const AwsIntent intent_;
};

}  // namespace

class AwsRuleSigner final : public Signer {
 public:
  explicit AwsRuleSigner(const AwsSigning& rule)
      : credentials_(rule.credentials_),
        named_hosts_(rule.named_hosts_),
        signer_(credentials_, std::string(policy::aws_placeholder_key_id)) {}

  Result<std::unique_ptr<RequestSigner>> read(const RequestToSign& request) override {
    const auto endpoint = aws_endpoint(request.host);
    if (!endpoint) return nullptr;
    auto intent = signer_.read(request, *endpoint);
    if (!intent) return std::unexpected(std::move(intent.error()));
    if (intent->form == AwsIntent::Form::foreign) return nullptr;
    if (endpoint->customer_code && std::ranges::find(named_hosts_, request.host) == named_hosts_.end()) {
      // A web application like any other.
      if (intent->form == AwsIntent::Form::unsigned_request) return nullptr;
      return fail(Reason::unsignable_request,
                  fmt::format("{} is answered by code of an AWS customer, who would be shown the signature "
                              "and the session token: it is signed for when the rule names it in match_hosts",
                              request.host),
                  Side::sandbox);
    }
    return std::make_unique<AwsRequestSigner>(signer_, credentials_, std::move(*intent));
  }

 private:
  const std::shared_ptr<const AwsCredentials> credentials_;
  const std::vector<std::string> named_hosts_;
  AwsSigner signer_;
};

AwsSigning::AwsSigning(std::shared_ptr<const AwsCredentials> credentials,
                       std::vector<std::string> named_hosts, std::string label)
    : credentials_(std::move(credentials)), named_hosts_(std::move(named_hosts)), label_(std::move(label)) {}

std::unique_ptr<Signer> AwsSigning::make_signer() const { return std::make_unique<AwsRuleSigner>(*this); }

}  // namespace postern::credential
