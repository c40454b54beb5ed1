#pragma once
// The keys that the server signs with, kept sealed in its store: one for questions to callbacks (Ed25519),
// from which that of links is derived, and one for workload identities (RSA). What they have signed is
// verified by whoever reads the published halves, so a key is known before it signs and for a while after:
//
//   made       published at once (RFC 7517 §5)
//   lead       it signs, and the one before it does not any more
//   published  afterwards, until all that the old one signed is over
//   kept       until its links end
//
// All of that follows from the store, so that a server that is started again goes on where it was.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "credential/callback.h"
#include "credential/link_key.h"
#include "credential/workload_identity.h"
#include "store/store.h"

namespace postern::platform {

class ServerKeys {
 public:
  /// Between the publication of a successor and its first signature: longer than caches of the key set live,
  /// which the set itself asks to be 300 s.
  static constexpr std::chrono::hours lead{24};
  /// An old key stays published for so long: its callbacks' tokens live for 5 minutes, as do those of
  /// identities, which clouds may look at again within the hour of what they were exchanged for.
  static constexpr std::chrono::hours published_after{2};

  struct Times {
    std::chrono::seconds lifetime = std::chrono::days(90);  ///< Of a key, when it gets a successor.
    std::chrono::seconds links = std::chrono::days(90);     ///< For which the links of an old key are good.
  };

  /// Made and kept where there are none yet. Nothing of a sealed store can be read: then there are no keys,
  /// and what would be signed is refused. `issuer`: the server's origin, without a trailing slash. Store and
  /// clock outlive it.
  static store::Outcome<std::unique_ptr<ServerKeys>> load(store::Store& store, const Clock& clock,
                                                          const std::string& issuer, Times times);
  static store::Outcome<std::unique_ptr<ServerKeys>> load(store::Store& store, const Clock& clock,
                                                          const std::string& issuer) {
    return load(store, clock, issuer, Times{});
  }

  /// Makes successors, lets them sign, and drops what is over, each in its time. Cheap when there is nothing
  /// to do: once a second or so, from one thread. An error leaves the keys as they were, for the next time.
  store::Outcome<void> tend();

  /// nullptr in a sealed server. The same for as long as this lives, whichever key it signs with.
  std::shared_ptr<const credential::CallbackSigner> signer() const { return signer_; }
  /// nullptr unless the issuer is https: no cloud asks any other for keys.
  std::shared_ptr<const credential::WorkloadIdentity> identity() const { return identity_; }
  /// What links of this server are signed with; nullptr in a sealed server.
  std::shared_ptr<const credential::LinkKey> links() const { return links_; }
  /// The public halves. On any thread.
  std::string jwk_set() const {
    const std::lock_guard lock(mutex_);
    return jwk_set_;
  }

 private:
  struct Kept {
    store::SigningKey record;
    std::shared_ptr<const credential::JwtKey> key;
  };

  ServerKeys(store::Store& store, const Clock& clock, Times times)
      : store_(store), clock_(clock), times_(times) {}

  store::Outcome<void> read();
  store::Outcome<void> make(credential::JwtAlgorithm algorithm);
  store::Outcome<void> tend(credential::JwtAlgorithm algorithm);
  store::Outcome<void> drop_ended();
  std::vector<const Kept*> of(credential::JwtAlgorithm algorithm) const;
  const Kept* signing(credential::JwtAlgorithm algorithm) const;
  bool is_published(const Kept& kept) const;
  void put_in_force();

  store::Store& store_;
  const Clock& clock_;
  const Times times_;
  std::vector<Kept> kept_;  ///< Oldest first.
  TimePoint next_look_{};
  std::shared_ptr<credential::CallbackSigner> signer_;
  std::shared_ptr<credential::WorkloadIdentity> identity_;
  std::shared_ptr<credential::LinkKey> links_;
  mutable std::mutex mutex_;
  std::string jwk_set_ = R"({"keys":[]})";
};

}  // namespace postern::platform
