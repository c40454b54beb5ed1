#pragma once
// POST execute: one command, waited for without a thread.

#include "api/door.h"

namespace postern::api {

inline constexpr std::size_t document_bytes_max = 1024 * 1024;       // of every JSON body
inline constexpr std::size_t collected_bytes_max = 4 * 1024 * 1024;  // of each stream, in one answer

/// Of an output that is too much the beginning and the end.
class Collected {
 public:
  void append(std::string_view bytes);
  /// With a line in the place of what was left out.
  std::string text() const;

 private:
  static constexpr std::size_t part_bytes = collected_bytes_max / 2;
  std::string head_;
  std::string tail_;
  std::uint64_t left_out_ = 0;
};

void execute(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
