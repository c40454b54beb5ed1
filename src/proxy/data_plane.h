#pragma once
// The loops and their threads: a Worker each, and the DNS of the sandbox on the first of them.

#include <memory>
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
  unsigned loops = 1;
};

class DataPlane {
 public:
  /// Starts the threads. What takes long (the system's roots, about 17 ms) is loaded on them; connections
  /// wait in the listening queues meanwhile. `ca` and `journal` outlive the data plane.
  DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal,
            SandboxSockets sockets);
  /// Ends the threads; what is still open is cut off.
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;

  /// Lets what is under way come to its end, and takes nothing new: idle connections are closed, answers say
  /// that they are the last of theirs (Worker::drain). Returns when nothing is active or `longest` has
  /// passed; what is left then is reset by the destructor, and recorded as shutting_down.
  void drain(std::chrono::milliseconds longest);

 private:
  struct Lane;
  void run_lane(Lane& lane, bool first);
  std::unique_ptr<dns::Responder> start_responder(Worker& worker);

  DataPlaneConfig config_;
  const tls::WorkspaceCa& ca_;
  audit::Journal& journal_;
  SandboxSockets sockets_;
  SystemClock clock_;
  dns::NameTable names_;
  Tenant tenant_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace postern::proxy
