#pragma once
// The data plane: what callers do in a box. Handlers keep no thread while a box or a caller is slow.
//
//   POST /{sandbox_id}/execute                  one command and its output
//   GET  /{sandbox_id}/execute/ws               a command on a WebSocket, to be come back to
//   POST /{sandbox_id}/execute/stream/start     the same as server-sent events
//   POST /{sandbox_id}/execute/stream/resume
//   POST /{sandbox_id}/upload?path=             GET, HEAD /{sandbox_id}/download?path=
//   POST /{sandbox_id}/glob                     POST /{sandbox_id}/grep
//   GET  /{sandbox_id}/tunnel                   connections to ports of the box, on a WebSocket

#include <vector>

#include "api/door.h"
#include "control/router.h"

namespace postern::api {

/// To be mounted under /v2/sandboxes and /api/v2/sandboxes. `door` outlives the server.
std::vector<control::Route> data_plane_routes(BoxDoor& door, Identify identify);

}  // namespace postern::api
