#include "proxy/open_connections.h"

namespace postern::proxy {

OpenConnection::OpenConnection(OpenConnections& all, Resting& of_tenant) : all_(all), of_tenant_(of_tenant) {
  open_.owner = resting_.owner = resting_of_tenant_.owner = this;
  open_.join(all_.open_);
}

OpenConnection::~OpenConnection() { stir(); }

void OpenConnection::rest() {
  if (resting_.alone()) ++all_.resting_count_;
  resting_.join(all_.resting_);
  resting_of_tenant_.join(of_tenant_.ring_);
}

void OpenConnection::stir() {
  if (resting_.alone()) return;
  resting_.leave();
  resting_of_tenant_.leave();
  --all_.resting_count_;
}

void TenantWatchers::tell() {
  detail::Ring to_tell;
  while (!ring_.alone()) ring_.next->join(to_tell);
  while (!to_tell.alone()) {
    auto& hook = static_cast<TenantWatcher::Hook&>(*to_tell.next);
    hook.join(ring_);
    hook.owner->on_tenant_changed();
  }
}

void OpenConnections::drain() {
  while (!open_.alone()) open_.next->join(to_tell_);
  // One that is told may end at once, and take others along: each is in a list that it leaves.
  while (!to_tell_.alone()) {
    auto& hook = static_cast<OpenConnection::Hook&>(*to_tell_.next);
    hook.join(open_);
    hook.owner->on_drain();
  }
}

bool OpenConnections::shed_first(detail::Ring& head) {
  if (head.alone()) return false;
  OpenConnection& oldest = *static_cast<OpenConnection::Hook&>(*head.next).owner;
  oldest.stir();
  oldest.on_shed();
  return true;
}

}  // namespace postern::proxy
