#pragma once
// Leaf certificates, minted for the name that the sandbox asked for and signed by the workspace's CA.
//
// One key serves all leaves of a minter: what a certificate says is the name, and whoever could take one key
// out of this process could take them all. Minting costs about 40 µs, nearly half of it the signature
// (leaf.cc says how that was reached, and what it costs otherwise), so a cache hit is all that matters for a
// host that is used twice. A minter belongs to one loop and is not thread-safe.

#include <chrono>
#include <cstddef>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "tls/ca.h"

namespace postern::tls {

inline constexpr std::chrono::hours leaf_lifetime{24 * 7};
inline constexpr std::chrono::hours leaf_renewal{24};  ///< A leaf with less than this left is minted again.

/// A certificate and its key, each with a reference of its own: good for as long as the holder wants.
struct Leaf {
  CertificatePtr certificate;
  KeyPtr key;
};

/// Refusals are kept apart: a million denied names cannot push out the leaf of an allowed one (threat 22).
enum class LeafUse : unsigned char { allowed, refusal };

struct LeafLimits {
  std::size_t allowed_max = 1024;  ///< Cached leaves, about 3 KiB each; the least recently used goes first.
  std::size_t refusal_max = 64;
};

class LeafMinter {
 public:
  /// `ca` is copied from and need not outlive the minter. Errors: internal.
  static Result<LeafMinter> create(const WorkspaceCa& ca, LeafLimits limits = {});
  LeafMinter(LeafMinter&&) noexcept;
  LeafMinter& operator=(LeafMinter&&) noexcept;
  ~LeafMinter();

  /// The leaf for a canonical host: exactly this name (never a wildcard, or clients would coalesce
  /// connections), or this address without brackets. Valid from 24 h before `now` for at most seven days,
  /// never longer than the CA. Errors: malformed_host when it cannot stand in a certificate; internal, also
  /// when the CA has expired.
  Result<Leaf> leaf_for(std::string_view host, WallTime now, LeafUse use = LeafUse::allowed);

  std::size_t cached(LeafUse use) const;

 private:
  struct State;
  explicit LeafMinter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace postern::tls
