#pragma once
// `postern sandbox cp`: one file into a sandbox or out of it, streamed.

#include <string>

#include "cli/api_client.h"

namespace postern::cli {

/// One of them is "NAME:PATH", the other a file here, or "-".
Asked<void> copy(const ServerOptions& server, const std::string& from, const std::string& to);

}  // namespace postern::cli
