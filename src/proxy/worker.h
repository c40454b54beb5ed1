#pragma once
// What one loop owns. Nothing here is shared with another loop but immutable values and the journal's queue.

#include <memory>
#include <vector>

#include "audit/journal.h"
#include "base/clock.h"
#include "io/buffer.h"
#include "io/listener.h"
#include "io/loop.h"
#include "origin/pool.h"
#include "proxy/egress.h"
#include "proxy/head_rooms.h"
#include "proxy/open_connections.h"
#include "proxy/outbound_call.h"
#include "proxy/overload.h"
#include "tls/context.h"
#include "tls/leaf.h"

namespace postern::proxy {

/// The operator's settings, the same for every loop.
struct Operator {
  std::shared_ptr<const origin::Overrides> overrides;
  std::vector<Cidr> allow_private;
  tls::TrustStore trust;
  LoadLimits load;
};

class Worker {
 public:
  Worker(const Clock& clock_in, const Operator& settings, tls::LeafMinter minter,
         audit::Journal& journal_queue);
  ~Worker();
  Worker(const Worker&) = delete;

  /// Serves what arrives on `listening` (borrowed) as this tenant's. On the loop's thread, or before it runs.
  void serve(Tenant& tenant, int listening);
  /// The same, but `on_accept` says what becomes of a connection.
  void serve(const Tenant& tenant, int listening, io::Listener::OnAccept on_accept);
  /// Leaves what is dialled in the queues for a while.
  void pause_accepting();
  void resume_accepting();
  /// Serves an accepted connection, or resets it: at a limit, or when it could not be recorded.
  void admit(Tenant& tenant, Fd accepted);
  /// The same for a destination that is not the socket's own address.
  void admit(Tenant& tenant, Endpoint dialled, Fd accepted);
  /// Serves what was dialled before this moment, then stops accepting; tells every connection that nothing
  /// new is welcome. Whoever still runs at the end of the loop is cut off. Idempotent.
  void drain();
  bool draining() const { return draining_; }
  /// Judges what begins from now on by this, and the tunnels that are open, if it is another snapshot.
  static void swap(Tenant& tenant, std::shared_ptr<const Egress> egress);
  /// The sandbox is gone: nothing of it is accepted any more, what is open is reset and ends as
  /// shutting_down. The tenant is needed until its last connection has ended, which may still wait for a
  /// dial.
  void remove(Tenant& tenant);
  /// After the loop has ended: resets what is still open, and records it as shutting_down.
  void cut_off();
  /// Above a soft limit: what is idle goes, and connections end with their answer.
  bool shedding() const { return overload.shedding(); }
  /// No further request is welcome on a connection: answers over HTTP/1 say so, HTTP/2 sends GOAWAY.
  bool parting() const { return draining_ || shedding(); }

  const Clock& clock;
  OpenConnections connections;
  Overload overload;
  io::Loop loop;
  io::BufferPool buffers;
  HeadRooms head_rooms;
  audit::LoopJournal journal;
  tls::LeafMinter leaves;
  tls::SandboxContext sandbox_tls;
  tls::OriginContext origin_tls;
  origin::Resolver resolver;
  origin::Dialler dialler;
  origin::Pool pool;
  OutboundCaller caller;

  /// Connections that were reset because a limit was reached.
  std::uint64_t refused() const { return refused_; }

 private:
  /// Measures the process once a second, while anything is open.
  struct Watch final : io::Timer {
    explicit Watch(Worker& worker_in) : Timer(worker_in.loop), worker(worker_in) {}
    ~Watch() = default;
    void on_timer() override {
      running = false;  // The next connection looks again.
      if (worker.overload.connections() > 0) worker.look_at_process();
    }
    Worker& worker;
    ProcessMeter meter;
    bool running = false;
  };
  bool has_room_for(const Tenant& tenant, const Fd& accepted);
  void look_at_process();

  bool draining_ = false;
  std::uint64_t refused_ = 0;
  Watch watch_{*this};
  struct Listening {
    const Tenant* tenant;
    std::unique_ptr<io::Listener> listener;
  };
  std::vector<Listening> listeners_;
};

}  // namespace postern::proxy
