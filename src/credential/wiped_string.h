#pragma once
// Working memory for a value that becomes a Secret: reserved in full before the first byte, so that no growth
// leaves a copy behind, and wiped if it is given up halfway.

#include <string.h>
#include <string>
#include <string_view>

#include "base/secret.h"

namespace postern::credential {

class WipedString {
 public:
  /// At least 64, so that the bytes are on the heap and a move takes them over instead of copying them.
  explicit WipedString(std::size_t capacity) { bytes_.reserve(std::max<std::size_t>(capacity, 64)); }
  WipedString(const WipedString&) = delete;
  WipedString& operator=(const WipedString&) = delete;
  ~WipedString() {
    bytes_.resize(bytes_.capacity());
    explicit_bzero(bytes_.data(), bytes_.size());
  }

  std::string& bytes() { return bytes_; }
  std::string_view view() const { return bytes_; }
  Secret seal() && { return Secret(std::move(bytes_)); }

 private:
  std::string bytes_;
};

}  // namespace postern::credential
