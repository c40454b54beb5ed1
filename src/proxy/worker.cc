#include "proxy/worker.h"

#include <malloc.h>
#include <sys/socket.h>

#include "proxy/connection.h"
#include "proxy/limits.h"

namespace postern::proxy {

Worker::Worker(const Clock& clock_in, const Operator& settings, tls::LeafMinter minter,
               audit::Journal& journal_queue)
    : clock(clock_in),
      overload(settings.load),
      loop(clock_in),
      journal(journal_queue, &loop),
      leaves(std::move(minter)),
      origin_tls(settings.trust),
      resolver(loop, settings.overrides),
      dialler(loop, resolver, settings.allow_private),
      pool(loop, buffers, dialler, origin_tls),
      caller(clock_in, loop, buffers, head_rooms, dialler, origin_tls) {
  loop.at_turn_end([this] { journal.flush(); });
}

Worker::~Worker() { cut_off(); }  // While what the tasks refer to still lives.

void Worker::cut_off() {
  listeners_.clear();
  journal.finish_open(Reason::shutting_down);
  loop.abandon();
}

void Worker::serve(Tenant& tenant, int listening) {
  serve(tenant, listening, [this, &tenant](Fd accepted) { admit(tenant, std::move(accepted)); });
}

void Worker::serve(const Tenant& tenant, int listening, io::Listener::OnAccept on_accept) {
  listeners_.push_back({&tenant, std::make_unique<io::Listener>(loop, listening, std::move(on_accept),
                                                                tenant.identity.number)});
}

void Worker::pause_accepting() {
  for (const auto& [tenant, listener] : listeners_) listener->pause();
}

void Worker::resume_accepting() {
  for (const auto& [tenant, listener] : listeners_) listener->resume();
}

void Worker::admit(Tenant& tenant, Fd accepted) {
  if (has_room_for(tenant, accepted)) loop.spawn(serve_connection(*this, tenant, std::move(accepted)));
}

void Worker::admit(Tenant& tenant, Endpoint dialled, Fd accepted) {
  if (has_room_for(tenant, accepted)) loop.spawn(serve_dialled(*this, tenant, dialled, std::move(accepted)));
}

bool Worker::has_room_for(const Tenant& tenant, const Fd& accepted) {
  if (!watch_.running) look_at_process();
  // Room first from those that rest: its own ones, then whoever has rested longest.
  if (overload.many_connections() && !connections.shed_oldest(tenant.resting)) connections.shed_oldest();
  // What could not be recorded is not begun (threat 98).
  if (overload.admits_connection(tenant.load, accepted.get()) && journal.accepting()) return true;
  // Refused at once; the kernel's queue stays short.
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(accepted.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  ++refused_;
  return false;
}

void Worker::look_at_process() {
  overload.measured(watch_.meter.measure());
  const bool shed = shedding();
  if (shed) {
    for (std::size_t i = connections.resting() / 4 + 1; i > 0 && connections.shed_oldest(); --i) continue;
    // What was freed may still be held by the allocator, and would be measured again.
    if (overload.short_of_memory()) ::malloc_trim(0);
  }
  pool.keep_idle(shed ? limits::pool_idle_when_shedding : origin::Pool::idle_total_max);
  watch_.running = true;
  watch_.set(loop.now() + limits::process_look_time);
}

void Worker::swap(Tenant& tenant, std::shared_ptr<const Egress> egress) {
  const std::shared_ptr<const Egress> before = std::exchange(tenant.egress, std::move(egress));
  if (tenant.egress->snapshot != before->snapshot) tenant.tunnels.tell();
}

void Worker::remove(Tenant& tenant) {
  std::erase_if(listeners_, [&](const Listening& one) { return one.tenant == &tenant; });
  tenant.removed = true;
  journal.end_open(tenant.identity.name.get(), Reason::shutting_down);
  tenant.tunnels.tell();
  tenant.connections.tell();
  pool.forget(tenant.identity.number);
}

void Worker::drain() {
  if (draining_) return;
  for (const auto& [tenant, listener] : listeners_) listener->accept_waiting();
  listeners_.clear();
  draining_ = true;
  connections.drain();
}

}  // namespace postern::proxy
