#pragma once
// Working memory for a value that becomes a Secret: no growth leaves a copy behind, and it is wiped if it is
// given up halfway.

#include <string.h>
#include <string>
#include <string_view>
#include <utility>

#include "base/secret.h"

namespace postern::credential {

class WipedString {
 public:
  /// At least 64, so that the bytes are on the heap and a move takes them over instead of copying them.
  explicit WipedString(std::size_t capacity = 0) { bytes_.reserve(std::max<std::size_t>(capacity, 64)); }
  WipedString(WipedString&& other) noexcept : bytes_(std::move(other.bytes_)) {}
  WipedString(const WipedString&) = delete;
  ~WipedString() { wipe(bytes_); }

  /// To be filled within the capacity only.
  std::string& bytes() { return bytes_; }
  std::string_view view() const { return bytes_; }
  /// For what has no known size. Grows by moving house, and wipes the old one.
  void append(std::string_view more) {
    if (bytes_.capacity() - bytes_.size() < more.size()) {
      std::string larger;
      larger.reserve(2 * (bytes_.size() + more.size()));
      larger = bytes_;
      wipe(bytes_);
      bytes_ = std::move(larger);
    }
    bytes_.append(more);
  }
  Secret seal() && { return Secret(std::move(bytes_)); }

 private:
  static void wipe(std::string& text) {
    text.resize(text.capacity());
    explicit_bzero(text.data(), text.size());
    text.clear();
  }
  std::string bytes_;
};

inline Secret copy_of(std::string_view text) {
  WipedString copy(text.size());
  copy.bytes() = text;
  return std::move(copy).seal();
}

}  // namespace postern::credential
