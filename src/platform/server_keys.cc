#include "platform/server_keys.h"

#include <algorithm>
#include <utility>

namespace postern::platform {

namespace {

using credential::JwtAlgorithm;
using credential::JwtKey;
using store::failed;
using store::Outcome;

constexpr JwtAlgorithm algorithms[] = {JwtAlgorithm::eddsa, JwtAlgorithm::rs256};
constexpr std::chrono::minutes look_time{1};

}  // namespace

Outcome<std::unique_ptr<ServerKeys>> ServerKeys::load(store::Store& store, const Clock& clock,
                                                      const std::string& issuer, Times times) {
  std::unique_ptr<ServerKeys> out(new ServerKeys(store, clock, times));
  if (store.seal() != store::Seal::open) return out;
  if (auto read = out->read(); !read) return failed(read);
  for (const JwtAlgorithm algorithm : algorithms)
    if (auto tended = out->tend(algorithm); !tended) return failed(tended);
  out->links_ = std::make_shared<credential::LinkKey>(*out->signing(JwtAlgorithm::eddsa)->key);
  const auto current = [&](JwtAlgorithm algorithm) { return out->signing(algorithm)->key; };
  out->signer_.reset(
      new credential::CallbackSigner{credential::CurrentKey(current(JwtAlgorithm::eddsa)), issuer});
  if (issuer.starts_with("https://"))
    out->identity_.reset(
        new credential::WorkloadIdentity{credential::CurrentKey(current(JwtAlgorithm::rs256)), issuer});
  out->put_in_force();
  return out;
}

Outcome<void> ServerKeys::read() {
  auto stored = store_.signing_keys().read();
  if (!stored) return failed(stored);
  for (store::SigningKeyPair& pair : *stored) {
    auto key = JwtKey::from_pem(pair.pem);
    if (!key) return store::fail(store::Fault::damaged, "a signing key of the store is none");
    kept_.push_back({std::move(pair.key), std::make_shared<const JwtKey>(std::move(*key))});
  }
  return drop_ended();
}

Outcome<void> ServerKeys::make(JwtAlgorithm algorithm) {
  JwtKey fresh = JwtKey::generate(algorithm);
  auto added = store_.signing_keys().add(fresh.key_id(), fresh.to_pem());
  if (!added) return failed(added);
  kept_.push_back({std::move(*added), std::make_shared<const JwtKey>(std::move(fresh))});
  return {};
}

std::vector<const ServerKeys::Kept*> ServerKeys::of(JwtAlgorithm algorithm) const {
  std::vector<const Kept*> out;
  for (const Kept& kept : kept_)
    if (kept.key->algorithm() == algorithm) out.push_back(&kept);
  return out;
}

/// The newest that has been published for long enough; else the oldest that has no end, which everybody knows
/// or, in a new server, nobody can know before.
const ServerKeys::Kept* ServerKeys::signing(JwtAlgorithm algorithm) const {
  const Kept* found = nullptr;
  for (const Kept* kept : of(algorithm)) {
    if (kept->record.not_after) continue;
    if (!found || kept->record.created_at + lead <= clock_.wall()) found = kept;
  }
  return found;
}

Outcome<void> ServerKeys::tend(JwtAlgorithm algorithm) {
  const WallTime now = clock_.wall();
  const Kept* newest = nullptr;
  for (const Kept* kept : of(algorithm))
    if (!kept->record.not_after) newest = kept;
  if (!newest || now >= newest->record.created_at + times_.lifetime)
    if (auto made = make(algorithm); !made) return made;
  const Kept* const current = signing(algorithm);
  for (Kept& kept : kept_) {
    if (&kept == current) break;  // Those after it are successors.
    if (kept.key->algorithm() != algorithm || kept.record.not_after) continue;
    const auto more = algorithm == JwtAlgorithm::eddsa ? times_.links : std::chrono::seconds(0);
    const WallTime end = now + std::max<std::chrono::seconds>(more, published_after);
    if (auto expired = store_.signing_keys().expire(kept.record.id, end); !expired) return expired;
    kept.record.not_after = end;
  }
  return {};
}

Outcome<void> ServerKeys::drop_ended() {
  for (auto kept = kept_.begin(); kept != kept_.end();) {
    if (!kept->record.not_after || *kept->record.not_after > clock_.wall()) {
      ++kept;
      continue;
    }
    if (auto removed = store_.signing_keys().remove(kept->record.id); !removed) return failed(removed);
    kept = kept_.erase(kept);
  }
  return {};
}

/// An old one is, from the moment in which its successor signed.
bool ServerKeys::is_published(const Kept& kept) const {
  if (!kept.record.not_after) return true;
  const auto all = of(kept.key->algorithm());
  const auto after = std::ranges::find_if(
      all, [&](const Kept* other) { return other->record.created_at > kept.record.created_at; });
  return after == all.end() || clock_.wall() < (*after)->record.created_at + lead + published_after;
}

void ServerKeys::put_in_force() {
  const Kept* const asking = signing(JwtAlgorithm::eddsa);
  signer_->key.set(asking->key);
  if (identity_) identity_->key.set(signing(JwtAlgorithm::rs256)->key);
  std::vector<const JwtKey*> linking = {asking->key.get()}, published;
  for (const Kept& kept : kept_) {
    if (kept.key->algorithm() == JwtAlgorithm::eddsa && &kept != asking) linking.push_back(kept.key.get());
    if (is_published(kept)) published.push_back(kept.key.get());
  }
  links_->set(linking);
  std::string set = credential::jwk_set(published);
  const std::lock_guard lock(mutex_);
  jwk_set_ = std::move(set);
}

Outcome<void> ServerKeys::tend() {
  if (!signer_ || clock_.now() < next_look_) return {};
  next_look_ = clock_.now() + look_time;
  if (auto dropped = drop_ended(); !dropped) return dropped;
  for (const JwtAlgorithm algorithm : algorithms)
    if (auto tended = tend(algorithm); !tended) return tended;
  put_in_force();
  return {};
}

}  // namespace postern::platform
