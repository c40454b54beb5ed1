#pragma once
// What a command has written lately, by the byte's place in the whole stream: it survives the client who
// reads it, and is bounded. Older bytes give way to newer ones.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace postern::box {

class OutputRing {
 public:
  explicit OutputRing(std::size_t capacity) : capacity_(capacity) {}

  void append(std::string_view bytes);
  /// Where the kept bytes begin, and where the next one will stand.
  std::uint64_t begin() const { return end_ - kept_; }
  std::uint64_t end() const { return end_; }
  /// The bytes from `offset` on, at most `max`. Empty at the end and before begin().
  std::string copy(std::uint64_t offset, std::size_t max) const;

 private:
  const std::size_t capacity_;
  std::vector<char> bytes_;  ///< Grows up to capacity_, and is a ring then.
  std::size_t kept_ = 0;
  std::uint64_t end_ = 0;
};

/// As much of `bytes` as can stand in one JSON text of at most `max` bytes: whole characters only, unless the
/// stream ended in the middle of one. What is no UTF-8 becomes '?', byte by byte, so that places stay right.
/// `used`: how many bytes that is, which is also the length of what is returned.
std::string utf8_chunk(std::string_view bytes, bool ended, std::size_t max, std::size_t& used);

}  // namespace postern::box
