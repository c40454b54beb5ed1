#include "credential/random.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <sodium.h>

#include "credential/digest.h"

namespace postern::credential {

void fill_at_random(std::span<std::byte> out) {
  static const bool started = sodium_init() >= 0;
  if (!started) std::abort();  // no random numbers: nothing may go on
  randombytes_buf(out.data(), out.size());
}

std::string random_uuid() {
  std::array<std::uint8_t, 16> bytes;
  fill_at_random(std::as_writable_bytes(std::span(bytes)));
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3f) | 0x80);
  std::string text = hex(bytes);
  for (const std::size_t at : {8, 13, 18, 23}) text.insert(at, 1, '-');
  return text;
}

}  // namespace postern::credential
