#pragma once
// The master key of a store whose operator named none: a file beside it. Whoever takes the whole directory
// has both; an operator who minds keeps the key elsewhere.

#include <string>

#include "credential/sealing.h"
#include "credential/secret_reference.h"

namespace postern::credential {

/// From `directory`/master.key (mode 0600), or made there. Errors as PrivateDirectory and
/// MasterKey::from_text().
Result<MasterKey> load_or_create_master_key(const std::string& directory);

/// From where `reference` says: a file, what a command prints, a variable of this process. Before threads
/// start. Errors name the place, and hold nothing of the key.
Result<MasterKey> read_master_key(const SecretReference& reference);

}  // namespace postern::credential
