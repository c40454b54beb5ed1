#pragma once
// The two parts of a request target in origin-form (RFC 9112 §3.2.1), as they were sent.

#include <string_view>

namespace postern::wire {

inline std::string_view path_of(std::string_view target) { return target.substr(0, target.find('?')); }

/// Without the "?".
inline std::string_view query_of(std::string_view target) {
  const std::size_t question = target.find('?');
  return question == std::string_view::npos ? std::string_view() : target.substr(question + 1);
}

}  // namespace postern::wire
