#pragma once
#include <cstddef>

namespace postern {
inline constexpr std::size_t KiB = 1024;
inline constexpr std::size_t MiB = 1024 * KiB;
}  // namespace postern
