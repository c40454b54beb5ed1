#pragma once
// The API in OpenAPI 3.1 (openapi.json), embedded and served as it is written.

#include <string_view>

namespace postern::api {

/// Static storage.
std::string_view openapi_bytes();

}  // namespace postern::api
