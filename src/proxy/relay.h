#pragma once
// Bytes both ways, untouched: raw TCP, TLS that is passed through, and what follows a 101. Half-closes and
// resets of one side reach the other as what they were.

#include <cstdint>
#include <optional>

#include "io/buffer.h"
#include "io/stream.h"

namespace postern::proxy {

struct RelayOutcome {
  std::uint64_t to_origin = 0;
  std::uint64_t to_sandbox = 0;
  std::optional<Error> error;  ///< Unset after an orderly end of both directions.
};

/// `from_sandbox` and `from_origin` hold bytes that were read already and go first. Ends when both directions
/// have ended, one broke, or nothing moved either way for `idle`.
io::Task<RelayOutcome> relay(io::Stream& sandbox, io::Buffer& from_sandbox, io::Stream& origin,
                             io::Buffer& from_origin, Duration idle);

}  // namespace postern::proxy
