#pragma once
// A file that holds one secret, or several.

#include <string>

#include "base/result.h"
#include "base/secret.h"
#include "credential/wiped_string.h"

namespace postern::credential {

/// All of it. Errors: invalid_configuration, "PATH: cannot be read: ...", also for more than `bytes_max`.
Result<WipedString> read_whole_file(const std::string& path, std::size_t bytes_max);

/// Without the line end behind it.
Result<Secret> read_secret_file(const std::string& path, std::size_t bytes_max);

void cut_line_end(WipedString& text);

}  // namespace postern::credential
