#pragma once
// The bytes of postern-agent (agent/main.cc) and postern-rest (rest/main.cc), embedded so that one binary is
// all there is to install.

#include <string_view>

namespace postern::box {

/// Static executables. Static storage.
std::string_view agent_bytes();
std::string_view rest_bytes();

}  // namespace postern::box
