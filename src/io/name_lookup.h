#pragma once
// How a name becomes addresses. origin/ implements it with c-ares; dns/ asks through this interface.

#include <string>
#include <vector>

#include "base/result.h"
#include "io/task.h"
#include "model/address.h"

namespace postern::io {

class NameLookup {
 public:
  virtual ~NameLookup() = default;
  /// All A and AAAA addresses of the canonical name, unchecked. Never empty.
  /// Errors: name_not_found (NXDOMAIN or no address), resolve_failed.
  virtual Task<Result<std::vector<IpAddress>>> addresses_of(std::string name) = 0;
};

}  // namespace postern::io
