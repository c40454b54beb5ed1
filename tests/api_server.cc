// api_test_server: the data plane on a free port of 127.0.0.1, with one box "box" whose agent is a process
// beside it (api/data_plane_test_kit.h). Says its port and the box's home on the first line; SIGUSR1 closes
// the box, and SIGTERM ends everything.

#include <csignal>
#include <cstdio>

#include "api/data_plane_test_kit.h"

int main() {
  using namespace postern;
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGUSR1);
  api::test::AgentProcess* agent = nullptr;
  std::unique_ptr<api::test::Plane> plane;
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);  // before there are threads
  plane = std::make_unique<api::test::Plane>();
  agent = &plane->add("box");
  std::printf("%d %s\n", plane->at().port, agent->home().c_str());
  std::fflush(stdout);
  int signal = 0;
  while (sigwait(&ends, &signal) == 0 && signal == SIGUSR1) plane->boxes().close("box");
  plane.reset();
  return 0;
}
