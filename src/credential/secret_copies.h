#pragma once
// One value under another key: what a policy of the operator's needs stands in one store with the secrets of
// each workspace, under keys that no template can name.

#include <string>

#include "credential/secret_store.h"

namespace postern::credential {

/// What `from` has under `key`, in `into` under `as`. Errors: it has none.
Result<void> copy_secret(const SecretStore& from, const std::string& key, const std::string& as,
                         SecretStore& into);
/// The same of a value that is in no store. Errors: it is empty, or longer than a store takes.
Result<void> keep_secret(const Secret& value, const std::string& as, SecretStore& into);

}  // namespace postern::credential
