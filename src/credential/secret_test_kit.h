#pragma once
// What a test in another room may know of a secret.

#include <string>

#include "base/secret.h"

namespace postern::credential {

inline std::string revealed(const Secret& secret) { return std::string(secret.unwrap()); }

}  // namespace postern::credential
