#include "api/woken_door.h"

namespace postern::api {

void WokenDoor::with_box(const control::Principal& caller, const std::string& name_or_id, Then then) {
  auto id = boxes_.wake({caller.workspace}, name_or_id);
  if (!id) return then(std::unexpected(std::move(id.error())));
  loop_.with(*id, [then = std::move(then)](box::OpenBox* box) mutable {
    if (box) return then(box);
    // It ended just now. The SDKs take this for "not ready", and come again.
    control::ApiError gone;
    gone.status = 503;
    gone.type = "ServiceUnavailable";
    gone.message = "the sandbox has just ended";
    then(std::unexpected(std::move(gone)));
  });
}

}  // namespace postern::api
