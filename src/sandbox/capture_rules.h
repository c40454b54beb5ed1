#pragma once
// The packet filter of a captured namespace: which connections go to the capture, and what is refused.

#include "base/result.h"

namespace postern::sandbox {

/// Makes the rules in the network namespace that the calling thread is in.
Result<void> make_capture_rules(bool has_ipv6);

}  // namespace postern::sandbox
