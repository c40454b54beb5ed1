#pragma once
// The secrets that a policy's templates may name: KEY → Secret. Filled when the program starts, before any
// sandbox; after that only read. Values never appear in an error.

#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.h"
#include "base/secret.h"

namespace postern::credential {

inline constexpr std::size_t secret_bytes_max = 16 * 1024;      // the longest header value a policy may set
inline constexpr std::size_t env_file_bytes_max = 1024 * 1024;  // thousands of secrets
inline constexpr std::size_t recognisable_bytes_min = 6;  // shorter values turn up in any text by chance

class SecretStore {
 public:
  /// Replaces an earlier value. Errors: the key is no variable name, the value is empty or too long.
  Result<void> set(std::string key, Secret value);
  /// Takes the value from a variable of this process. Errors: as set(), and that it is not set.
  Result<void> set_from_environment(const std::string& key);
  /// The file's content without the line end behind it. Errors: as set(), and that it cannot be read, naming
  /// it.
  Result<void> set_from_file(std::string key, const std::string& path);
  /// What the command (`/bin/sh -c`) prints, without the line end behind it. It has a minute, no input, and
  /// our standard error. Before any thread is started. Errors: as set(), and how it ended.
  Result<void> set_from_command(std::string key, const std::string& command);
  /// The value that another store has. Errors: as set(), and that there is none.
  Result<void> set_from(std::string key, const SecretStore& other);
  /// Lines of KEY=VALUE; empty lines, # comments and `export ` are accepted. A value may stand in single
  /// quotes (taken as it is) or in double quotes (\" \\ \$ \n \r \t). Errors name file and line, and never a
  /// value. Nothing is set after an error.
  Result<void> load_env_file(const std::string& path);

  /// nullptr when there is none. Valid until the key is set again or the store is gone.
  const Secret* find(std::string_view key) const;
  bool empty() const { return secrets_.empty(); }

  /// True when a secret value (of at least recognisable_bytes_min) occurs in the text: such an environment
  /// variable does not go into a sandbox.
  bool appears_in(std::string_view text) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::unordered_map<std::string, Secret, Hash, std::equal_to<>> secrets_;
};

}  // namespace postern::credential
