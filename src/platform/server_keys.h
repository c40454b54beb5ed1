#pragma once
// The keys that the server signs with, kept sealed in its store: one for questions to callbacks (Ed25519),
// one for workload identities (RSA). What they have signed is verified by whoever reads the published halves.

#include <memory>
#include <string>

#include "base/clock.h"
#include "credential/callback.h"
#include "credential/link_key.h"
#include "credential/workload_identity.h"
#include "store/store.h"

namespace postern::platform {

class ServerKeys {
 public:
  /// Made and kept where there are none yet. Nothing of a sealed store can be read: then there are no keys,
  /// and what would be signed is refused. `issuer`: the server's origin, without a trailing slash.
  static store::Outcome<std::unique_ptr<ServerKeys>> load(store::Store& store, const Clock& clock,
                                                          const std::string& issuer);

  /// nullptr in a sealed server.
  const std::shared_ptr<const credential::CallbackSigner>& signer() const { return signer_; }
  /// nullptr unless the issuer is https: no cloud asks any other for keys.
  const std::shared_ptr<const credential::WorkloadIdentity>& identity() const { return identity_; }
  /// What links of this server are signed with; nullptr in a sealed server.
  const std::shared_ptr<const credential::LinkKey>& links() const { return links_; }
  /// The public halves, of retired keys too as long as what they signed may be about (RFC 7517 §5).
  const std::string& jwk_set() const { return jwk_set_; }

 private:
  std::shared_ptr<const credential::CallbackSigner> signer_;
  std::shared_ptr<const credential::WorkloadIdentity> identity_;
  std::shared_ptr<const credential::LinkKey> links_;
  std::string jwk_set_ = R"({"keys":[]})";
};

}  // namespace postern::platform
