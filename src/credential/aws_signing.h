#pragma once
// Rules of type `aws`: which requests to AWS are signed, and with whose credentials.

#include <memory>
#include <string>
#include <vector>

#include "credential/aws_sigv4.h"
#include "credential/signer.h"

namespace postern::credential {

class AwsSigning final : public Signing {
 public:
  /// `credentials`: nullptr where they are asked for, and come with a grant. `named_hosts`: the hosts that
  /// the rule names by themselves. Only those of them that AWS's customers answer for are signed for: whoever
  /// runs one is shown the session token.
  AwsSigning(std::shared_ptr<const AwsCredentials> credentials, std::vector<std::string> named_hosts,
             std::string label);

  const std::string& label() const override { return label_; }
  std::unique_ptr<Signer> make_signer() const override;

 private:
  friend class AwsRuleSigner;
  std::shared_ptr<const AwsCredentials> credentials_;
  std::vector<std::string> named_hosts_;
  std::string label_;
};

}  // namespace postern::credential
