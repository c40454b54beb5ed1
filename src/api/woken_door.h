#pragma once
// The door to boxes for callers of the data plane: found in the caller's workspace, and woken when stopped.

#include "api/door.h"
#include "box/box_loop.h"
#include "platform/boxes.h"

namespace postern::api {

class WokenDoor final : public BoxDoor {
 public:
  /// Both outlive it.
  WokenDoor(platform::Boxes& boxes, box::BoxLoop& loop) : boxes_(boxes), loop_(loop) {}
  /// Waits while the box starts, some 50 ms.
  void with_box(const control::Principal& caller, const std::string& name_or_id, Then then) override;

 private:
  platform::Boxes& boxes_;
  box::BoxLoop& loop_;
};

}  // namespace postern::api
