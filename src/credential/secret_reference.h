#pragma once
// Where a secret is kept, as the operator writes it: on the command line, in a file of secrets, in a policy
// file. A reference opens files and runs commands with the operator's rights, so it is only ever read from
// what the operator hands to the program (docs/decisions/0015), never from what a caller of an API sent.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/secret.h"
#include "credential/vault.h"

namespace postern::credential {

inline constexpr std::size_t env_file_bytes_max = 1024 * 1024;  // thousands of secrets
inline constexpr std::size_t reference_bytes_max = 4096;  // PATH_MAX, and more than a command should have

/// What a value may be, for messages.
inline constexpr std::string_view accepted_secret_forms =
    "accepted: KEY=VALUE, KEY=file:PATH, KEY=cmd:COMMAND, KEY=vault:PATH#FIELD, KEY=value:TEXT, or KEY alone "
    "on the command line for one from the environment";

struct SecretReference {
  enum class Kind : std::uint8_t { environment, value, file, command, vault };

  std::string key;    ///< What the policy's {KEY} says; for one that stands in a policy, its own text.
  std::string place;  ///< For messages: "--secret", "secrets.env:3".
  Kind kind = Kind::value;
  std::string text;  ///< The path or the command.
  VaultReference vault;
  Secret value;  ///< Kind::value
};

/// Of a file's path; empty: the working directory. Lives as long as `path`.
std::string_view folder_of(std::string_view path);

/// "file:PATH", "cmd:COMMAND", "vault:PATH#FIELD", "value:TEXT", or anything else as it is. A relative path
/// begins in `folder` (empty: the working directory). Errors name key and place, and never the value.
Result<SecretReference> read_reference(std::string key, std::string place, std::string_view said,
                                       std::string_view folder = {});

/// One `KEY=VALUE` or `KEY` of the command line.
Result<SecretReference> read_secret_option(std::string_view option);

/// Lines of KEY=VALUE; empty lines, # comments and `export ` are accepted. A value may stand in single quotes
/// (taken as it is) or in double quotes (\" \\ \$ \n \r \t), and is a reference as on the command line;
/// relative paths begin where the file is. Errors name file and line, and never a value.
Result<std::vector<SecretReference>> read_env_file(const std::string& path);

}  // namespace postern::credential
