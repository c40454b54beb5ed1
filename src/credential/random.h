#pragma once
// Random numbers of the operating system, for keys and for names that nobody may guess.

#include <cstddef>
#include <span>
#include <string>

namespace postern::credential {

void fill_at_random(std::span<std::byte> out);

/// RFC 9562 §5.4 (version 4), in small letters.
std::string random_uuid();

}  // namespace postern::credential
