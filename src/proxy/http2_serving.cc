#include "proxy/http2_serving.h"

#include "http2/connection.h"
#include "proxy/exchange.h"
#include "proxy/http2_sides.h"
#include "proxy/limits.h"
#include "proxy/worker.h"

namespace postern::proxy {

namespace {

class Serving final : http2::Connection::Requests, OpenConnection {
 public:
  Serving(Http2Serving what, std::unique_ptr<io::Stream> stream)
      : OpenConnection(what.worker.connections, what.flow.tenant.resting),
        what_(std::move(what)),
        connection_(std::move(stream), what_.worker.buffers, limits::http2_timing, this) {}
  ~Serving() = default;

  io::Task<std::optional<Error>> serve() {
    auto ended = co_await connection_.run();
    // Their streams have ended; they may still be busy with their origins' ends.
    while (running_ > 0) {
      last_ended_.reset();
      co_await last_ended_.wait();
    }
    if (requests_ > 0) co_return std::nullopt;
    if (what_.refusal) co_return what_.refusal;
    Error why(Reason::sandbox_closed, Side::sandbox, Retry::never, "the connection ended without a request");
    if (!ended) why = std::move(ended.error());
    co_return why;
  }

 private:
  void on_request(std::shared_ptr<http2::Stream> stream) override {
    ++requests_;
    stir();
    if (what_.worker.parting()) connection_.drain();
    if (running_ >= limits::http2_exchanges_max) {
      stream->reset(http2::ErrorCode::refused_stream);
      return what_.record({Reason::overloaded, Side::sandbox, Retry::never, "too many requests at once"});
    }
    ++running_;
    what_.worker.loop.spawn(exchange(*this, std::move(stream)));
  }
  void on_refused_request(const Error& why) override {
    ++requests_;
    what_.record(why);
  }
  void on_drain() override { connection_.drain(); }
  void on_shed() override { connection_.close_when_idle(); }

  static io::Task<void> exchange(Serving& self, std::shared_ptr<http2::Stream> stream) {
    co_await self.carry_or_refuse(std::move(stream));
    if (--self.running_ > 0) co_return;
    self.rest();
    self.last_ended_.set();
  }
  io::Task<void> carry_or_refuse(std::shared_ptr<http2::Stream> stream) {
    Http2SandboxSide sandbox(std::move(stream), what_.worker.loop);
    auto taken = sandbox.take_request(what_.flow.tls);
    // Not even a refusal could be recorded.
    if (!what_.worker.journal.accepting()) co_return sandbox.abort();
    std::optional<Error> why = what_.refusal;
    if (!taken) why = std::move(taken.error());
    if (why)
      co_await refuse(what_.worker, what_.flow, sandbox, std::move(*why));
    else
      co_await carry(what_.worker, what_.flow, sandbox);
    co_await sandbox.drain();
  }

  Http2Serving what_;
  http2::Connection connection_;
  std::size_t running_ = 0;
  std::size_t requests_ = 0;
  io::Event last_ended_;
};

}  // namespace

io::Task<std::optional<Error>> serve_http2(Http2Serving serving, std::unique_ptr<io::Stream> stream) {
  Serving connection(std::move(serving), std::move(stream));
  co_return co_await connection.serve();
}

}  // namespace postern::proxy
