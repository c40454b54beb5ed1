#pragma once
// What a loop knows about one sandbox: who it is, and the policy with its credentials that is in force.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "credential/callback.h"
#include "credential/grants.h"
#include "credential/injections.h"
#include "credential/loop_scrubbers.h"
#include "model/host.h"
#include "policy/decide.h"
#include "policy/snapshot.h"
#include "proxy/open_connections.h"
#include "proxy/overload.h"
#include "quota/gates.h"

namespace postern::dns {
class NameTable;
}

namespace postern::proxy {

/// Policy and credentials as one immutable value, swapped whole: never an old rule with a new secret. What
/// was asked for under one policy goes with it.
struct Egress {
  std::shared_ptr<const policy::Snapshot> snapshot;
  credential::Injections injections;
  std::shared_ptr<credential::Grants> grants;  ///< What must be asked for; refers to the injections.
  std::shared_ptr<quota::Ledger> ledger;       ///< The sandbox's; counts go on under another Egress.
  quota::Gates gates;                          ///< Its limits.
};

/// `signer`: who asks the callbacks; may be nullptr without any. `ledger`: nullptr for a new one.
std::shared_ptr<const Egress> make_egress(
    std::shared_ptr<const policy::Snapshot> snapshot, credential::Injections injections,
    const std::shared_ptr<const credential::CallbackSigner>& signer = nullptr,
    std::shared_ptr<quota::Ledger> ledger = nullptr);

struct SandboxIdentity {
  /// Never used again in this process, unlike a name.
  static std::uint64_t next_number() {
    static std::atomic<std::uint64_t> last = 0;
    return ++last;
  }

  std::uint64_t number = next_number();
  std::shared_ptr<const std::string> name;
  std::shared_ptr<const std::string> workspace;
  dns::NameTable* names = nullptr;  ///< Outlives every connection of the sandbox.
};

/// One sandbox as one loop sees it. Outlives its last connection on the loop (load.connections).
struct Tenant {
  SandboxIdentity identity;
  std::shared_ptr<const Egress> egress;  ///< The current one; an exchange keeps the one it was judged by.
  mutable TenantLoad load;
  mutable credential::LoopGrants grants;
  mutable credential::LoopSigners signers;
  mutable credential::LoopScrubbers scrubbers;
  mutable Resting resting;             ///< Its connections that have nothing under way.
  mutable TenantWatchers connections;  ///< All of them; told when the sandbox is removed.
  /// Where bytes pass that no request is judged by any more; told of a new policy, too.
  mutable TenantWatchers tunnels;
  bool removed = false;  ///< Nothing of it is allowed any more; what ends, ends as shutting_down.
};

/// Where a connection is going, as it was dialled and as TLS named it.
struct Flow {
  const Tenant& tenant;
  Host host;  ///< From SNI or the synthetic address; a literal when there is no name.
  std::uint16_t port = 0;
  bool tls = false;
  bool named = false;  ///< `host` is binding: requests for another host are misdirected.
};

}  // namespace postern::proxy
