#include "box/box.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>

#include "box/agent_bytes.h"

namespace postern::box {

namespace {

constexpr const char* agent_path = "/run/postern/agent";

}  // namespace

Result<Box> Box::start(sandbox::LaunchSpec spec) {
  spec.command = {agent_path, "3"};
  spec.talks = true;
  spec.files.push_back({sandbox::MountStep::Kind::program, {}, agent_path, std::string(agent_bytes())});
  auto sandbox = sandbox::start(spec);
  if (!sandbox) return std::unexpected(std::move(sandbox.error()));
  return Box(std::move(*sandbox));
}

Result<std::unique_ptr<AgentLink>> Box::open(io::Loop& loop) {
  if (auto released = sandbox_.release(); !released) return std::unexpected(std::move(released.error()));
  Fd socket = sandbox_.take_socket();
  if (::fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0)
    return fail(Reason::internal, fmt::format("the agent's socket: {}", std::strerror(errno)));
  return std::make_unique<AgentLink>(loop, std::move(socket));
}

void Box::stop() {
  sandbox_.kill();
  (void)sandbox_.wait();
}

}  // namespace postern::box
