#include "proxy/worker.h"

#include "proxy/connection.h"
#include "proxy/limits.h"

namespace postern::proxy {

Worker::Worker(const Clock& clock_in, const Operator& settings, tls::LeafMinter minter,
               audit::Journal& journal_queue)
    : clock(clock_in),
      loop(clock_in),
      journal(journal_queue),
      leaves(std::move(minter)),
      origin_tls(settings.trust),
      resolver(loop, settings.overrides),
      dialler(loop, resolver, settings.allow_private),
      pool(loop, buffers, dialler, origin_tls) {
  loop.at_turn_end([this] { journal.flush(); });
}

Worker::~Worker() { cut_off(); }  // While what the tasks refer to still lives.

void Worker::cut_off() {
  listeners_.clear();
  journal.finish_open(Reason::shutting_down);
  loop.abandon();
}

void Worker::serve(Tenant& tenant, int listening) {
  listeners_.push_back(std::make_unique<io::Listener>(loop, listening, [this, &tenant](Fd accepted) {
    // Closed at once; the kernel's queue stays short. What could not be recorded is not begun (threat 98).
    if (loop.active() >= limits::connections_max || !journal.accepting()) return;
    loop.spawn(serve_connection(*this, tenant, std::move(accepted)));
  }));
}

void Worker::drain() {
  if (draining_) return;
  for (const auto& listener : listeners_) listener->accept_waiting();
  listeners_.clear();
  draining_ = true;
  connections.drain();
}

}  // namespace postern::proxy
