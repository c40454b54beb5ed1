#pragma once
// The loops and their threads: a Worker each, for all sandboxes that there are at the moment. Loops share
// nothing on the way of a request: each has policies, credentials and names under counters of its own.
//
// A sandbox has a home: the loop that listens for it and answers its DNS. An accepted connection is given to
// the loop that has the fewest, and stays there; a loop that has had one of a sandbox's listens for it, too.
// So an idle sandbox is known to one loop only. The loops beyond the first start with the second sandbox, or
// when the first has several connections to care for.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "audit/journal.h"
#include "base/fd.h"
#include "model/address.h"
#include "origin/resolver.h"
#include "proxy/egress.h"
#include "tls/ca.h"
#include "tls/context.h"
#include "tls/leaf.h"

namespace postern::proxy {

class Worker;

/// Where a sandbox's whole network arrives (sandbox/capture.h makes them). Invalid ones are left out.
struct SandboxSockets {
  Fd tcp4, tcp6;
  Fd dns_udp4, dns_udp6;
  Fd dns_tcp4, dns_tcp6;
};

struct SandboxEntry {
  std::string sandbox;                   ///< What records and callbacks call it, and
  std::string workspace;                 ///< where it belongs. Neither need be its own.
  std::shared_ptr<const Egress> egress;  ///< Its own: what is asked for in its name is kept in there.
  SandboxSockets sockets;                ///< Nonblocking.
};

struct DataPlaneConfig {
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
  /// SandboxIdentity::number.
  using Id = std::uint64_t;

  /// Starts the first thread. What is not there already (the system's roots take up to 17 ms) is made on it;
  /// connections wait in the listening queues meanwhile. `ca` and `journal` outlive the data plane.
  DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal);
  /// Ends the threads; what is still open is cut off.
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;

  // The following three: any thread but a loop's, and not while the data plane is being destroyed.

  /// One more sandbox. What it has dialled by now and dials from now on is served; never used again, its
  /// number names it. After drain() nobody is served.
  Id add(SandboxEntry entry);

  /// Another policy with its credentials. When it returns, every loop judges by it; exchanges that were
  /// judged before end as they began. Tunnels, whose bytes no request is judged by, are judged again if it is
  /// another snapshot, and those are reset that it does not allow; their records have its reason. Nothing
  /// else is closed. False: there is no such sandbox.
  bool swap(Id id, std::shared_ptr<const Egress> egress);

  /// When it returns its sockets are closed, and what was open has been reset, to be recorded as
  /// shutting_down. What waits for an origin just then is held until that has answered or failed, which is a
  /// matter of seconds. An unknown number is one that was removed before.
  void remove(Id id);

  /// Lets what is under way come to its end, and takes nothing new: idle connections are closed, answers say
  /// that they are the last of theirs (Worker::drain). Returns when nothing is active or `longest` has
  /// passed; what is left then is reset by the destructor, and recorded as shutting_down.
  void drain(std::chrono::milliseconds longest);

  /// One per core that this process may use, up to the number beyond which small pools cost more than cores
  /// bring.
  static unsigned loops_for_this_machine();
  static constexpr unsigned loops_max = 8;

  /// Open connections on each loop that serves by now. Any thread.
  std::vector<std::size_t> connections() const;

 private:
  struct Sandbox;
  struct Seat;
  struct Lane;
  struct Pause;
  using Work = std::move_only_function<void()>;
  void run_lane(Lane& lane, bool first);
  void start_others();
  static void tell(Lane& lane, Work work);
  void tell_all(const std::function<void(Lane&)>& work);
  Lane& home_for_another();
  Seat* seat_of(Lane& lane, const std::shared_ptr<Sandbox>& sandbox);
  void leave(Lane& lane, Id id);
  static void forget_gone(Lane& lane);
  Lane& lightest(Lane& here);
  void place(Lane& here, Seat& seat, Fd accepted);
  void admit(Lane& lane, Seat& seat, Fd accepted);

  /// Connections on one loop before there is a second: few programs need one.
  static constexpr std::size_t connections_for_one_loop = 4;

  DataPlaneConfig config_;
  const tls::WorkspaceCa& ca_;
  audit::Journal& journal_;
  SystemClock clock_;
  std::optional<tls::TrustStore> trust_;  ///< Loaded by the first loop, before the others start.
  std::atomic<bool> draining_ = false;
  bool others_started_ = false;  ///< The first loop's.

  /// Of what follows, and of what a Sandbox says is under it. Held for moments; taken by a loop when it sees
  /// a sandbox for the first time, and for a swap.
  std::mutex mutex_;
  std::unordered_map<Id, std::shared_ptr<Sandbox>> sandboxes_;

  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace postern::proxy
