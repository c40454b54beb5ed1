// control_test_server [CERTIFICATE KEY]: the server of the API on a free port of 127.0.0.1, with the handlers
// of control/server_test_kit.h behind it. Says its port on the first line, then one line for each access
// record, and stops gracefully at SIGTERM.

#include <csignal>
#include <cstdio>
#include <string>

#include "control/server_test_kit.h"

int main(int argc, char** argv) {
  using namespace postern;
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);  // before there are threads

  const SystemClock clock;
  control::test::App app;
  control::ServerOptions options;
  options.listen = {IpAddress::v4(0x7F000001), 0};
  if (argc == 3) {
    options.certificate_file = argv[1];
    options.key_file = argv[2];
  }
  auto server = control::HttpServer::listen(options, clock);
  if (!server) {
    std::fprintf(stderr, "%s\n", server.error().detail.c_str());
    return 2;
  }
  (*server)->start(app.handler(), [](const control::AccessRecord& record) {
    std::printf("%s %s %d\n", record.method.c_str(), record.path.c_str(), record.status);
    std::fflush(stdout);
  });
  std::printf("%d\n", (*server)->local().port);
  std::fflush(stdout);

  int signal = 0;
  sigwait(&ends, &signal);
  (*server)->stop(std::chrono::seconds(5));
  app.take_kept();
  std::printf("stopped\n");
  return 0;
}
