#pragma once
// POST glob and POST grep: what there is in a box, by name and by content.

#include "api/door.h"

namespace postern::api {

void glob(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);
void grep(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
