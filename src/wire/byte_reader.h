#pragma once
// A cursor over big-endian bytes (TLS presentation language, DNS). A read past the end yields zeros and makes
// the reader fail for good, so that a parser can read a whole structure and ask once whether it was all
// there.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace postern::wire {

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  std::uint8_t u8() { return static_cast<std::uint8_t>(number(1)); }
  std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
  std::uint32_t u24() { return number(3); }
  std::uint32_t u32() { return number(4); }

  /// The next `count` bytes, as a view into the input; empty when there are not so many.
  std::string_view take(std::size_t count) {
    if (count > remaining()) {
      ok_ = false;
      at_ = bytes_.size();
      return {};
    }
    std::string_view taken = bytes_.substr(at_, count);
    at_ += count;
    return taken;
  }
  /// A vector<0..2^8-1> or vector<0..2^16-1>: a length and so many bytes.
  std::string_view take_with_u8_length() { return take(u8()); }
  std::string_view take_with_u16_length() { return take(u16()); }

  std::size_t position() const { return at_; }
  std::size_t remaining() const { return bytes_.size() - at_; }
  /// No read went past the end.
  bool ok() const { return ok_; }
  /// Everything was read, and nothing was missing.
  bool finished() const { return ok_ && remaining() == 0; }

 private:
  std::uint32_t number(std::size_t width) {
    std::uint32_t value = 0;
    for (char byte : take(width)) value = value << 8 | static_cast<std::uint8_t>(byte);
    return value;
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace postern::wire
