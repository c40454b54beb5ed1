#include "box/agent_bytes.h"

// The paths come from CMake, which also rebuilds this file when an executable changes.
asm(R"(
    .section .rodata
    .balign 16
postern_agent_begin:
    .incbin ")" POSTERN_AGENT_PATH R"("
postern_agent_end:
    .byte 0
    .balign 16
postern_rest_begin:
    .incbin ")" POSTERN_REST_PATH R"("
postern_rest_end:
    .byte 0
    .text
)");

extern "C" {
extern const char postern_agent_begin[];
extern const char postern_agent_end[];
extern const char postern_rest_begin[];
extern const char postern_rest_end[];
}

namespace postern::box {

std::string_view agent_bytes() {
  return {postern_agent_begin, static_cast<std::size_t>(postern_agent_end - postern_agent_begin)};
}

std::string_view rest_bytes() {
  return {postern_rest_begin, static_cast<std::size_t>(postern_rest_end - postern_rest_begin)};
}

}  // namespace postern::box
