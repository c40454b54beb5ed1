#pragma once
// POST upload: a file of the box is written, whole or not at all, while it arrives.

#include "api/door.h"

namespace postern::api {

void upload(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
