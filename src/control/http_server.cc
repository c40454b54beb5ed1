#include "control/http_server.h"

#include <chrono>
#include <utility>

#include "control/connection.h"
#include "control/server_state.h"
#include "control/transport.h"

namespace postern::control {

namespace {

class Server final : public HttpServer {
 public:
  Server(const ServerOptions& options, const Clock& clock, std::unique_ptr<Transport> transport)
      : state_(std::make_shared<ServerState>(options, clock, std::move(transport))) {}
  ~Server() override { stop(Duration::zero()); }

  const Endpoint& local() const override { return state_->transport->local(); }
  std::size_t connections() const override { return state_->connections(); }

  void start(Handler handler, AccessLog log) override {
    state_->handler = std::move(handler);
    state_->log = std::move(log);
    state_->transport->start([state = std::weak_ptr(state_)](std::shared_ptr<Socket> socket) {
      if (auto server = state.lock())
        std::make_shared<Connection>(std::move(server), std::move(socket))->start();
    });
  }

  void stop(Duration patience) override {
    if (std::exchange(stopped_, true)) return;
    state_->stopping = true;
    state_->transport->stop_listening();
    everywhere(&Connection::wind_down);
    if (!state_->wait_for_connections(std::chrono::steady_clock::now() + patience)) {
      everywhere(&Connection::cut);
      // Those whose handlers run are over when these return.
      state_->wait_for_connections();
    }
    state_->workers.finish();
    state_->transport->end();
  }

 private:
  void everywhere(void (Connection::*what)()) {
    for (unsigned lane = 0; lane < state_->transport->lanes(); ++lane)
      state_->transport->post(lane, [state = state_, lane, what] {
        const auto open = state->open[lane];  // Some of them will be gone.
        for (const auto& connection : open) (connection.get()->*what)();
      });
  }

  const std::shared_ptr<ServerState> state_;
  bool stopped_ = false;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const ServerOptions& options, const Clock& clock) {
  auto transport =
      Transport::listen({options.listen, options.certificate_file, options.key_file, options.io_threads});
  if (!transport) return std::unexpected(std::move(transport.error()));
  return std::make_unique<Server>(options, clock, std::move(*transport));
}

}  // namespace postern::control
