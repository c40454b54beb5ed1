#pragma once
// execute/ws: a command on a WebSocket, which may be left and come back to. JSON texts; offsets are bytes.

#include "api/door.h"

namespace postern::api {

void execute_socket(const std::shared_ptr<control::Call>& call, BoxDoor& door,
                    const control::Principal& caller);

}  // namespace postern::api
