#pragma once
// GET and HEAD download: a file of the box, whole or in part, streamed with back-pressure.

#include "api/door.h"

namespace postern::api {

void download(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
