#pragma once
// Who asks: the keys of the store behind the questions of control/auth.h.

#include "api/door.h"
#include "control/auth.h"
#include "store/store.h"

namespace postern::api {

class StoredKeys final : public control::KeyLookup {
 public:
  /// `store` outlives it.
  explicit StoredKeys(store::Store& store) : store_(store) {}
  Result<std::optional<control::Principal>> find(const credential::ApiKeyProof& proof) const override;

 private:
  store::Store& store_;
};

/// Both outlive it.
Identify identify_by(const control::PageGuard& guard, const control::KeyLookup& keys);

}  // namespace postern::api
