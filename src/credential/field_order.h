#pragma once
// Signatures cover fields in the order of their names.

#include <algorithm>
#include <span>

#include "base/put_in_order.h"
#include "model/http.h"
#include "wire/http1.h"

namespace postern::credential {

/// By name without regard to case; fields of one name stay in their order.
inline void sort_by_name(std::span<HeaderField> fields) {
  const auto lower = [](char c) { return wire::lower(c); };
  put_in_order(fields, [lower](const HeaderField& a, const HeaderField& b) {
    return std::ranges::lexicographical_compare(a.name, b.name, {}, lower, lower);
  });
}

}  // namespace postern::credential
