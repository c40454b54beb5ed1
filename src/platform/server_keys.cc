#include "platform/server_keys.h"

#include <optional>
#include <vector>

namespace postern::platform {

namespace {

using credential::JwtAlgorithm;
using credential::JwtKey;

}  // namespace

store::Outcome<std::unique_ptr<ServerKeys>> ServerKeys::load(store::Store& store, const Clock& clock,
                                                             const std::string& issuer) {
  auto out = std::make_unique<ServerKeys>();
  if (store.seal() != store::Seal::open) return out;
  auto kept = store.signing_keys().read();
  if (!kept) return store::failed(kept);
  std::vector<JwtKey> published;
  std::optional<JwtKey> newest[2];  // by algorithm; the newest that has no end
  for (store::SigningKeyPair& pair : *kept) {
    if (pair.key.not_after && *pair.key.not_after <= clock.wall()) continue;
    auto key = JwtKey::from_pem(pair.pem);
    auto again = JwtKey::from_pem(pair.pem);
    if (!key || !again) return store::fail(store::Fault::damaged, "a signing key of the store is none");
    published.push_back(std::move(*key));
    if (!pair.key.not_after) newest[static_cast<std::size_t>(again->algorithm())] = std::move(*again);
  }
  for (const JwtAlgorithm algorithm : {JwtAlgorithm::eddsa, JwtAlgorithm::rs256}) {
    auto& key = newest[static_cast<std::size_t>(algorithm)];
    if (key) continue;
    JwtKey fresh = JwtKey::generate(algorithm);
    if (auto added = store.signing_keys().add(fresh.key_id(), fresh.to_pem()); !added)
      return store::failed(added);
    auto again = JwtKey::from_pem(fresh.to_pem());
    if (!again) return store::fail(store::Fault::damaged, "a signing key could not be made");
    published.push_back(std::move(*again));
    key = std::move(fresh);
  }
  std::vector<const JwtKey*> all;
  for (const JwtKey& key : published) all.push_back(&key);
  out->jwk_set_ = credential::jwk_set(all);
  auto& callback_key = newest[static_cast<std::size_t>(JwtAlgorithm::eddsa)];
  auto& identity_key = newest[static_cast<std::size_t>(JwtAlgorithm::rs256)];
  out->links_ = std::make_shared<const credential::LinkKey>(*callback_key);
  out->signer_ = std::make_shared<const credential::CallbackSigner>(std::move(*callback_key), issuer);
  if (issuer.starts_with("https://"))
    out->identity_ = std::make_shared<const credential::WorkloadIdentity>(std::move(*identity_key), issuer);
  return out;
}

}  // namespace postern::platform
