#pragma once
// A stable sort for a few items. It takes no memory, and what libstdc++ sorts stably with is deprecated to
// clang.

#include <algorithm>
#include <iterator>

namespace postern {

/// Equal ones stay as they were.
template <class Range, class Before>
void put_in_order(Range&& few, Before before) {
  for (auto at = std::begin(few); at != std::end(few); ++at)
    std::rotate(std::upper_bound(std::begin(few), at, *at, before), at, at + 1);
}

}  // namespace postern
