#pragma once
// One connection of a sandbox, from accept to close: told what it is, judged, and sent down one of three
// roads: exchanges (HTTP, decrypted where a rule covers the host), a relay (TLS passed through, raw TCP), or
// a refusal.

#include "base/fd.h"
#include "io/task.h"
#include "proxy/egress.h"

namespace postern::proxy {

class Worker;

io::Task<void> serve_connection(Worker& worker, const Tenant& tenant, Fd accepted);
/// The same for a destination that is not the socket's own address.
io::Task<void> serve_dialled(Worker& worker, const Tenant& tenant, Endpoint dialled, Fd accepted);

}  // namespace postern::proxy
