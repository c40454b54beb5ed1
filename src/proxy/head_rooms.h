#pragma once
// Room for the heads of one exchange: where a parsed one's fields stand, and where the next hop's is written.
// Whoever is at work takes it from the loop and gives it back, so that a connection at rest holds none and
// an exchange allocates none.

#include <string>
#include <utility>
#include <vector>

#include "base/units.h"
#include "model/http.h"

namespace postern::proxy {

struct HeadRoom {
  std::vector<HeaderField> fields;
  std::string output;
};

/// One per loop.
class HeadRooms {
 public:
  static constexpr std::size_t kept_max = 64;  // 256 KiB; a burst beyond it allocates
  static constexpr std::size_t fields_usual = 32;
  static constexpr std::size_t output_usual = 2 * KiB;
  static constexpr std::size_t output_kept_max = 8 * KiB;

  HeadRooms() = default;
  HeadRooms(const HeadRooms&) = delete;

  HeadRoom take() {
    HeadRoom room;
    if (spare_.empty()) {
      room.fields.reserve(fields_usual);
      room.output.reserve(output_usual);
    } else {
      room = std::move(spare_.back());
      spare_.pop_back();
    }
    return room;
  }
  /// Secrets in it must be wiped by now.
  void give_back(HeadRoom room) {
    if (spare_.size() == kept_max || room.output.capacity() > output_kept_max) return;
    room.fields.clear();
    room.output.clear();
    spare_.push_back(std::move(room));
  }

 private:
  std::vector<HeadRoom> spare_;
};

}  // namespace postern::proxy
