#pragma once
// The bytes of postern-agent (agent/main.cc), embedded so that one binary is all there is to install.

#include <string_view>

namespace postern::box {

/// A static executable. Static storage.
std::string_view agent_bytes();

}  // namespace postern::box
