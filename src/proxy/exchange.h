#pragma once
// One request and its answer. carry() is the table of contents of this program.

#include "io/task.h"
#include "proxy/egress.h"
#include "proxy/sides.h"

namespace postern::proxy {

class Worker;

/// Carries the request that `sandbox` holds to its origin and the answer back, and writes exactly one record.
/// Afterwards the side knows whether its connection can carry another.
io::Task<void> carry(Worker& worker, const Flow& flow, SandboxSide& sandbox);

/// Answers a request that is not carried at all, and records it. `error` says why. The connection is to end
/// with it.
io::Task<void> refuse(Worker& worker, const Flow& flow, SandboxSide& sandbox, Error error);

}  // namespace postern::proxy
