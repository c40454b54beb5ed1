#pragma once
// A secret is a type: it cannot be printed, compared or copied by accident, and its memory is wiped.
// Only `credential/` (and its tests) may call unwrap(); a house test keeps that true.

#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace postern {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  Secret(Secret&& other) noexcept : value_(std::move(other.value_)) { other.wipe(); }
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      wipe();
      value_ = std::move(other.value_);
      other.wipe();
    }
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(); }

  bool empty() const { return value_.empty(); }

  /// The bytes. Valid while this Secret lives and is not moved from.
  std::string_view unwrap() const { return value_; }

 private:
  void wipe() {
    // Capacity, not size: a short-string or a shrunk value may leave bytes behind the end.
    value_.resize(value_.capacity());
    explicit_bzero(value_.data(), value_.size());
    value_.clear();
  }
  std::string value_;
};

}  // namespace postern
