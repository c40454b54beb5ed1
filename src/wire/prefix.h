#pragma once
// Schemes and types at the beginning of a field's value, whose letters may have either case.

#include <string_view>

#include "wire/http1.h"

namespace postern::wire {

/// As std::string_view::starts_with(), where ASCII letters of either case are the same.
inline bool starts_with_ignoring_case(std::string_view text, std::string_view start) {
  return text.size() >= start.size() && same_name(text.substr(0, start.size()), start);
}

}  // namespace postern::wire
