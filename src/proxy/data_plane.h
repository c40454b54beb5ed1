#pragma once
// The loops and their threads: a Worker each, and the DNS of the sandbox on the first of them. The others
// start when the first has several connections to care for; a connection is then given to the loop that has
// the fewest, and stays there. Loops share nothing on the way of a request: each has the policy, its
// credentials and the names under counters of its own.

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "audit/journal.h"
#include "base/fd.h"
#include "dns/name_table.h"
#include "model/address.h"
#include "origin/resolver.h"
#include "proxy/egress.h"
#include "tls/ca.h"
#include "tls/context.h"
#include "tls/leaf.h"

namespace postern::dns {
class Responder;
}

namespace postern::proxy {

class Worker;

/// Where a sandbox's whole network arrives (sandbox/capture.h makes them). Invalid ones are left out.
struct SandboxSockets {
  Fd tcp4, tcp6;
  Fd dns_udp4, dns_udp6;
  Fd dns_tcp4, dns_tcp6;
};

struct DataPlaneConfig {
  std::shared_ptr<const Egress> egress;
  std::string sandbox_name;
  std::string workspace_name;
  origin::Overrides overrides;
  std::vector<Cidr> allow_private;
  std::vector<std::string> origin_ca_files;
  /// Made from origin_ca_files and the CA already; else the first loop makes them.
  std::optional<tls::TrustStore> trust;
  std::optional<tls::LeafMinter> minter;
  unsigned loops = 1;
  /// Where an accepted connection was going; nullptr: its own address, as the capture of a sandbox leaves it.
  std::optional<Endpoint> (*dialled)(int socket) = nullptr;
};

class DataPlane {
 public:
  /// Starts the threads. What is not there already (the system's roots take up to 17 ms) is made on them;
  /// connections wait in the listening queues meanwhile. `ca` and `journal` outlive the data plane.
  DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal,
            SandboxSockets sockets);
  /// Ends the threads; what is still open is cut off.
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;

  /// Lets what is under way come to its end, and takes nothing new: idle connections are closed, answers say
  /// that they are the last of theirs (Worker::drain). Returns when nothing is active or `longest` has
  /// passed; what is left then is reset by the destructor, and recorded as shutting_down.
  void drain(std::chrono::milliseconds longest);

  /// Another policy with its credentials. When it returns, every loop judges by it; exchanges that were
  /// judged before end as they began. Drops nothing: no connection is closed for it. Any thread but a loop's.
  void swap(std::shared_ptr<const Egress> egress);

  /// One per core that this process may use, up to the number beyond which small pools cost more than cores
  /// bring.
  static unsigned loops_for_this_machine();
  static constexpr unsigned loops_max = 8;

  /// Open connections on each loop that serves by now. Any thread.
  std::vector<std::size_t> connections() const;

 private:
  struct Lane;
  struct Pause;
  void run_lane(Lane& lane, bool first);
  void start_others(Lane& first);
  Lane& lightest(Lane& here);
  void place(Lane& here, Fd accepted);
  void admit(Lane& lane, Fd accepted);
  std::unique_ptr<dns::Responder> start_responder(Lane& lane);

  /// Connections on one loop before there is a second: few programs need one.
  static constexpr std::size_t connections_for_one_loop = 4;

  DataPlaneConfig config_;
  const tls::WorkspaceCa& ca_;
  audit::Journal& journal_;
  SandboxSockets sockets_;
  SystemClock clock_;
  dns::NameTable names_;
  SandboxIdentity identity_;
  std::mutex egress_mutex_;  ///< Also: a loop that becomes ready misses no swap.
  std::shared_ptr<const Egress> egress_;
  std::optional<tls::TrustStore> trust_;  ///< Loaded by the first loop, before the others start.
  std::atomic<bool> draining_ = false;
  bool others_started_ = false;  ///< The first loop's.
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace postern::proxy
