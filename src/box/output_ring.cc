#include "box/output_ring.h"

#include <algorithm>

#include "base/utf8.h"

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

constexpr std::size_t utf8_bytes_max = 4;

/// Whether it is the beginning of a character of which more has to come.
bool may_become_utf8(std::string_view bytes) {
  // Of what may follow a first byte these two are in every range.
  for (const char* const rest : {"\x80\x80\x80", "\xbf\xbf\xbf"})
    if (utf8_length(std::string(bytes) + rest) > bytes.size()) return true;
  return false;
}

}  // namespace

std::string utf8_chunk(std::string_view bytes, bool ended, std::size_t max, std::size_t& used) {
  std::string out;
  used = 0;
  while (used < bytes.size()) {
    const std::string_view rest = bytes.substr(used);
    const std::size_t length = utf8_length(rest);
    if (length == 0 && !ended && rest.size() < utf8_bytes_max && may_become_utf8(rest)) break;
    const std::size_t size = std::max<std::size_t>(length, 1);
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
