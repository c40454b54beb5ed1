#include "api/identity.h"

namespace postern::api {

namespace {

control::Scope scope_of(store::Scope scope) {
  switch (scope) {
    case store::Scope::admin: return control::Scope::admin;
    case store::Scope::workspace: return control::Scope::workspace;
    case store::Scope::read_only: return control::Scope::read_only;
  }
  return control::Scope::read_only;
}

}  // namespace

Result<std::optional<control::Principal>> StoredKeys::find(const credential::ApiKeyProof& proof) const {
  auto key = store_.api_keys().authenticate(proof);
  if (!key) {
    if (key.error().fault == store::Fault::not_found) return std::nullopt;
    return fail(Reason::internal, key.error().detail);
  }
  (void)store_.api_keys().note_use(*key);  // When it fails, a date is missing.
  return control::Principal{key->workspace.text, scope_of(key->scope), key->id};
}

Identify identify_by(const control::PageGuard& guard, const control::KeyLookup& keys) {
  return [&guard, &keys](control::Request& request) -> std::expected<control::Principal, control::ApiError> {
    if (auto refused = guard.refuse(request)) return std::unexpected(std::move(*refused));
    return control::authenticate(request, keys);
  };
}

}  // namespace postern::api
