#pragma once
// Which part of a file a request asks for, and whether it asks at all (RFC 9110 §13, §14).

#include <cstdint>
#include <string>
#include <string_view>

#include "control/message.h"

namespace postern::api {

struct Selection {
  int status = 200;  ///< 200, 206, 304, 412 or 416.
  std::uint64_t first = 0;
  std::uint64_t length = 0;
};

/// `tag`: a strong entity tag with its quotes. `modified`: the Last-Modified as it is answered. Several
/// ranges, other units and what is malformed are as if there were no Range, as §14.2 has it.
Selection select(const control::Request& request, std::string_view tag, std::string_view modified,
                 std::uint64_t size);

}  // namespace postern::api
