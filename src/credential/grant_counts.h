#pragma once
// How often this process asked for credentials (callbacks, tokens, clouds' roles), for its metrics.

#include <atomic>
#include <cstdint>

#include "base/reason.h"

namespace postern::credential {

struct GrantCounts {
  std::atomic<std::uint64_t> asked = 0;   ///< Questions that were sent.
  std::atomic<std::uint64_t> failed = 0;  ///< Of them, those without a usable answer.
  std::atomic<std::uint64_t> cached = 0;  ///< Requests that had a grant without any question.
};

/// Of this process: those of callbacks, or of all other sources. `reason`: Source::reason(). On any thread.
inline GrantCounts& grant_counts_of(Reason reason) {
  static GrantCounts callbacks, others;
  return reason == Reason::callback_failed ? callbacks : others;
}

}  // namespace postern::credential
