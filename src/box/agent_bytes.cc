#include "box/agent_bytes.h"

// POSTERN_AGENT_PATH comes from CMake, which also rebuilds this file when the executable changes.
asm(R"(
    .section .rodata
    .balign 16
postern_agent_begin:
    .incbin ")" POSTERN_AGENT_PATH R"("
postern_agent_end:
    .byte 0
    .text
)");

extern "C" {
extern const char postern_agent_begin[];
extern const char postern_agent_end[];
}

namespace postern::box {

std::string_view agent_bytes() {
  return {postern_agent_begin, static_cast<std::size_t>(postern_agent_end - postern_agent_begin)};
}

}  // namespace postern::box
