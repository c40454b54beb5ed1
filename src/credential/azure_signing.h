#pragma once
// Rules of type `azure`: requests to a storage account get a signature over themselves (Shared Key), or the
// account's shared access signature (SAS) in their target.
//
// Azure Storage REST API: "Authorize with Shared Key", versions 2009-09-19 and later, with the form of the
// Table service; "Create an account SAS".

#include <memory>
#include <string>

#include "base/secret.h"
#include "credential/signer.h"

namespace postern::credential {

inline constexpr std::size_t sas_bytes_max = 4 * 1024;  // some 300 in practice

/// Signs with the account's key.
class AzureSharedKey final : public Signing {
 public:
  /// `key`: decoded.
  AzureSharedKey(std::string account, Secret key);
  const std::string& label() const override { return label_; }
  std::unique_ptr<Signer> make_signer() const override;

 private:
  std::string account_;
  Secret key_;
  std::string label_;
};

/// Appends the shared access signature.
class AzureSas final : public Signing {
 public:
  AzureSas(const std::string& account, Secret sas);
  /// The form of a query, with a signature. `text` may begin with '?'.
  static bool is_sas(std::string_view text);

  const std::string& label() const override { return label_; }
  std::unique_ptr<Signer> make_signer() const override;

 private:
  std::shared_ptr<const Secret> sas_;
  std::string label_;
};

}  // namespace postern::credential
