#pragma once
// The secrets that a policy's templates may name: KEY → Secret, and those that stand behind a `from` of a
// policy file, by its text. Filled when the program starts, and anew when one has changed; after that only
// read. Values never appear in an error.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.h"
#include "base/secret.h"
#include "credential/secret_reference.h"

namespace postern::credential {

inline constexpr std::size_t secret_bytes_max = 16 * 1024;  // the longest header value a policy may set
inline constexpr std::size_t recognisable_bytes_min = 6;    // shorter values turn up in any text by chance

/// What Vault answered, by path.
using VaultEntries = std::unordered_map<std::string, VaultEntry>;

class SecretStore {
 public:
  /// Replaces an earlier value. `version` grows with every change, where there are versions. Errors: the key
  /// is no variable name, the value is empty or too long.
  Result<void> set(std::string key, Secret value, std::uint64_t version = 0);
  /// The value where `reference` says that it is: a file's content or what a command (`/bin/sh -c`) prints,
  /// both without the line end behind it; a variable of this process; a field of `vault`, which was asked
  /// before. A command has a minute, no input, and our standard error; it is run before any thread is
  /// started, and not again: then `earlier` has its value. Errors name place and key, and what is accepted.
  Result<void> add(const SecretReference& reference, const SecretStore* earlier = nullptr,
                   const VaultEntries& vault = {});

  /// nullptr when there is none. Valid until the key is set again or the store is gone.
  const Secret* find(std::string_view key) const;
  /// 0 when there is none, or nobody counts.
  std::uint64_t version_of(std::string_view key) const;
  bool empty() const { return secrets_.empty(); }

  /// The same keys with the same values.
  bool same_as(const SecretStore& other) const;

  /// True when a secret value (of at least recognisable_bytes_min) occurs in the text: such an environment
  /// variable does not go into a sandbox.
  bool appears_in(std::string_view text) const;

 private:
  Result<void> put(std::string key, Secret value, std::uint64_t version = 0);

  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  struct Kept {
    Secret value;
    std::uint64_t version = 0;
  };
  std::unordered_map<std::string, Kept, Hash, std::equal_to<>> secrets_;
};

}  // namespace postern::credential
