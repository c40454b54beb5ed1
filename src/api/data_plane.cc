#include "api/data_plane.h"

#include <utility>

#include "api/command_socket.h"
#include "api/command_stream.h"
#include "api/download.h"
#include "api/execute.h"
#include "api/search.h"
#include "api/tunnel.h"
#include "api/upload.h"

namespace postern::api {

using control::Call;
using control::Principal;
using control::Scope;

std::vector<control::Route> data_plane_routes(BoxDoor& door, Identify identify) {
  using Serve = void (*)(const std::shared_ptr<Call>&, BoxDoor&, const Principal&);
  const auto route = [&](const char* method, const char* path, Scope scope, Serve serve) {
    return admitting_route(method, std::string("/{sandbox_id}") + path, identify, scope,
                           [&door, serve](const std::shared_ptr<Call>& call, const Principal& caller) {
                             serve(call, door, caller);
                           });
  };
  return {
      route("POST", "/execute", Scope::workspace, execute),
      route("GET", "/execute/ws", Scope::workspace, execute_socket),
      route("POST", "/execute/stream/start", Scope::workspace, start_stream),
      route("POST", "/execute/stream/resume", Scope::workspace, resume_stream),
      route("POST", "/upload", Scope::workspace, upload),
      route("GET", "/download", Scope::read_only, download),
      route("POST", "/glob", Scope::read_only, glob),
      route("POST", "/grep", Scope::read_only, grep),
      route("GET", "/tunnel", Scope::workspace, tunnel),
  };
}

}  // namespace postern::api
