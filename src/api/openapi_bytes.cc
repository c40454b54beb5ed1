#include "api/openapi_bytes.h"

#include <cstddef>

// POSTERN_OPENAPI_PATH comes from CMake, which also rebuilds this file when the document changes.
asm(R"(
    .section .rodata
postern_openapi_begin:
    .incbin ")" POSTERN_OPENAPI_PATH R"("
postern_openapi_end:
    .byte 0
    .text
)");

extern "C" {
extern const char postern_openapi_begin[];
extern const char postern_openapi_end[];
}

namespace postern::api {

std::string_view openapi_bytes() {
  return {postern_openapi_begin, static_cast<std::size_t>(postern_openapi_end - postern_openapi_begin)};
}

}  // namespace postern::api
