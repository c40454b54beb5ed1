#pragma once
// A tunnel into a box: a WebSocket whose binary messages are one yamux session, each stream of which is a
// connection to a port of the box. A stream begins with three bytes, 1 and the port, and is answered with
// one: 0, or why not.

#include "api/door.h"

namespace postern::api {

void tunnel(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller);

}  // namespace postern::api
