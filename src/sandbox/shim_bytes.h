#pragma once
// The bytes of postern-launch (shim/main.cc), embedded so that one binary is all there is to install.

#include <string_view>

namespace postern::sandbox {

/// A static executable. Static storage.
std::string_view shim_bytes();

}  // namespace postern::sandbox
