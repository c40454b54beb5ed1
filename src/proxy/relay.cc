#include "proxy/relay.h"

namespace postern::proxy {

namespace {

struct Shared {
  TimePoint last_activity;
  Duration idle;
  std::optional<Error> error;
};

/// One direction, until its end or an error of either.
io::Task<void> pump(io::Stream& from, io::Buffer& buffer, io::Stream& to, std::uint64_t& count,
                    Shared& shared) {
  io::Loop& loop = from.loop();
  bool bulk = false;  // A full block was read: fewer, longer system calls from now on.
  while (true) {
    if (buffer.empty()) {
      buffer.release();
      if (auto ready = co_await from.wait_readable(shared.last_activity + shared.idle); !ready) {
        // Quiet on this side only: the other direction keeps the tunnel open.
        const bool timed_out =
            ready.error().reason == Reason::sandbox_timeout || ready.error().reason == Reason::origin_timeout;
        if (timed_out && loop.now() < shared.last_activity + shared.idle) continue;
        if (!shared.error) shared.error = std::move(ready.error());
        break;
      }
      if (bulk) buffer.reserve(io::BufferPool::large_bytes);
      auto got =
          co_await from.read(buffer.room(io::BufferPool::large_bytes), shared.last_activity + shared.idle);
      if (!got) {
        const bool timed_out =
            got.error().reason == Reason::sandbox_timeout || got.error().reason == Reason::origin_timeout;
        if (timed_out && loop.now() < shared.last_activity + shared.idle) continue;
        if (!shared.error) shared.error = std::move(got.error());
        break;
      }
      if (*got == 0) {
        to.shutdown_write();
        co_return;
      }
      buffer.filled(*got);
      bulk = *got >= io::BufferPool::block_bytes;
      shared.last_activity = loop.now();
    }
    if (auto sent = co_await to.write_all(buffer.bytes(), loop.now() + shared.idle); !sent) {
      if (!shared.error) shared.error = std::move(sent.error());
      break;
    }
    count += buffer.size();
    shared.last_activity = loop.now();
    buffer.consume(buffer.size());
  }
  // Broken: the other direction must not look complete to anybody.
  from.reset_on_close();
  to.reset_on_close();
  from.cancel_write();
  to.cancel_read();
}

}  // namespace

void OpenTunnel::on_tenant_changed() {
  const Reason reason = judge_();
  if (reason == Reason::allowed) return;
  recording_.end_as(reason);
  recording_->policy_version = tenant_.egress->snapshot->version();  // Whose reason it is.
  end_();
}

io::Task<RelayOutcome> relay(io::Stream& sandbox, io::Buffer& from_sandbox, io::Stream& origin,
                             io::Buffer& from_origin, Duration idle) {
  RelayOutcome outcome;
  Shared shared{sandbox.loop().now(), idle, {}};
  io::Child outward(pump(sandbox, from_sandbox, origin, outcome.to_origin, shared));
  co_await pump(origin, from_origin, sandbox, outcome.to_sandbox, shared);
  co_await outward.join();
  outcome.error = std::move(shared.error);
  co_return outcome;
}

}  // namespace postern::proxy
