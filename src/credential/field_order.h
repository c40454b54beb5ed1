#pragma once
// Signatures cover fields in the order of their names.

#include <algorithm>
#include <span>
#include <string_view>

#include "model/http.h"

namespace postern::credential {

/// By name without regard to case; fields of one name stay in their order. There are few of them, and no
/// memory is taken, as std::stable_sort would.
inline void sort_by_name(std::span<HeaderField> fields) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  const auto before = [lower](const HeaderField& a, const HeaderField& b) {
    return std::ranges::lexicographical_compare(a.name, b.name, {}, lower, lower);
  };
  for (auto at = fields.begin(); at != fields.end(); ++at)
    std::rotate(std::upper_bound(fields.begin(), at, *at, before), at, at + 1);
}

}  // namespace postern::credential
