#pragma once
// A host in its one canonical form. Made only by wire::canonical_host(); everything else compares bytes.

#include <optional>
#include <string>

#include "model/address.h"

namespace postern {

struct Host {
  /// Lower-case A-labels without a trailing dot ("xn--bcher-kva.example"), or the address's text without
  /// brackets.
  std::string name;
  /// Set when the host is an address and not a name.
  std::optional<IpAddress> literal;

  bool operator==(const Host&) const = default;
};

}  // namespace postern
