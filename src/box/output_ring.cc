#include "box/output_ring.h"

#include <algorithm>

namespace postern::box {

void OutputRing::append(std::string_view bytes) {
  end_ += bytes.size();
  if (bytes.size() > capacity_) bytes.remove_prefix(bytes.size() - capacity_);
  // A ring has its oldest byte where the next one goes: at the place modulo the capacity.
  if (bytes_.size() < capacity_) bytes_.resize(std::min<std::size_t>(capacity_, end_));
  std::size_t at = (end_ - bytes.size()) % capacity_;
  while (!bytes.empty()) {
    const std::size_t here = std::min(bytes.size(), capacity_ - at);
    std::ranges::copy(bytes.substr(0, here), bytes_.begin() + static_cast<std::ptrdiff_t>(at));
    bytes.remove_prefix(here);
    at = 0;
  }
  kept_ = static_cast<std::size_t>(std::min<std::uint64_t>(capacity_, end_));
}

std::string OutputRing::copy(std::uint64_t offset, std::size_t max) const {
  if (offset >= end_ || offset < begin()) return {};
  const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(end_ - offset, max));
  const std::size_t at = offset % capacity_;
  const std::size_t here = std::min(size, capacity_ - at);
  std::string out(bytes_.data() + at, here);
  return out.append(bytes_.data(), size - here);
}

namespace {

/// The length of the character that begins here, 0 when it is none, or -1 when it may still become one (RFC
/// 3629 §4).
int character_length(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const int length = first >= 0xc2 && first <= 0xdf   ? 2
                     : (first & 0xf0) == 0xe0         ? 3
                     : first >= 0xf0 && first <= 0xf4 ? 4
                                                      : 0;
  for (int i = 1; i < length; ++i) {
    if (static_cast<std::size_t>(i) == bytes.size()) return -1;
    unsigned char low = 0x80, high = 0xbf;
    if (i == 1 && first == 0xe0) low = 0xa0;   // longer than need be
    if (i == 1 && first == 0xed) high = 0x9f;  // surrogates
    if (i == 1 && first == 0xf0) low = 0x90;
    if (i == 1 && first == 0xf4) high = 0x8f;  // beyond U+10FFFF
    if (at(static_cast<std::size_t>(i)) < low || at(static_cast<std::size_t>(i)) > high) return 0;
  }
  return length;
}

}  // namespace

std::string utf8_chunk(std::string_view bytes, bool ended, std::size_t max, std::size_t& used) {
  std::string out;
  used = 0;
  while (used < bytes.size()) {
    const std::string_view rest = bytes.substr(used);
    const int length = character_length(rest);
    if (length < 0 && !ended) break;
    const std::size_t size = length > 0 ? static_cast<std::size_t>(length) : 1;
    if (out.size() + size > max) break;
    if (length > 0)
      out.append(rest.substr(0, size));
    else
      out += '?';
    used += size;
  }
  return out;
}

}  // namespace postern::box
