#include "sandbox/shim_bytes.h"

// POSTERN_LAUNCH_PATH comes from CMake, which also rebuilds this file when the executable changes.
asm(R"(
    .section .rodata
    .balign 16
postern_launch_begin:
    .incbin ")" POSTERN_LAUNCH_PATH R"("
postern_launch_end:
    .byte 0
    .text
)");

extern "C" {
extern const char postern_launch_begin[];
extern const char postern_launch_end[];
}

namespace postern::sandbox {

std::string_view shim_bytes() {
  return {postern_launch_begin, static_cast<std::size_t>(postern_launch_end - postern_launch_begin)};
}

}  // namespace postern::sandbox
