#include "proxy/data_plane.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <latch>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <system_error>

#include "dns/responder.h"
#include "proxy/worker.h"
#include "tls/leaf.h"

namespace postern::proxy {

namespace {

/// The same value under a counter of its own: loops that count in one place would take its cache line from
/// each other with every request.
template <class T>
std::shared_ptr<const T> counted_apart(const std::shared_ptr<const T>& shared) {
  return {shared.get(), [shared](const T*) {}};
}

/// Names that we answer for are asked of nobody.
class OwnNames final : public io::NameLookup {
 public:
  OwnNames(io::NameLookup& others, const Tenant& tenant) : others_(others), tenant_(tenant) {}
  io::Task<Result<std::vector<IpAddress>>> addresses_of(std::string name) override {
    const Host host{name, std::nullopt};
    if (policy::answers_as_metadata(*tenant_.egress->snapshot, host, 80, false)) return metadata();
    return others_.addresses_of(std::move(name));
  }

 private:
  static io::Task<Result<std::vector<IpAddress>>> metadata() {
    std::vector<IpAddress> own;
    own.push_back(IpAddress::v4(policy::metadata_address));
    co_return own;
  }
  io::NameLookup& others_;
  const Tenant& tenant_;
};

}  // namespace

struct DataPlane::Lane {
  std::unique_ptr<OwnNames> names;  ///< Outlives the worker's tasks.
  std::unique_ptr<Worker> worker;   ///< Made and used on the thread; others only post to its loop.
  Tenant tenant;                    ///< The loop's own.
  /// Handed over by another loop and not arrived yet.
  alignas(64) std::atomic<std::size_t> arriving = 0;

  std::mutex mutex;
  std::condition_variable changed;
  bool started = false;
  bool ready = false;  ///< To be told things; without a worker if it could not start.
  bool idle = false;
  std::unique_ptr<Pause> pause;  ///< The first loop's own.
  std::atomic<bool> serving = false;
  std::thread thread;

  std::size_t load() const {
    return worker->overload.connections() + arriving.load(std::memory_order_relaxed);
  }
};

/// While other loops start, new connections wait for them: those of a burst would otherwise all stay on the
/// first. Not for long, should the machine be busy.
struct DataPlane::Pause final : io::Timer {
  static constexpr std::chrono::milliseconds longest{32};
  Worker& worker;
  explicit Pause(Worker& of) : Timer(of.loop), worker(of) {
    worker.pause_accepting();
    set(worker.loop.now() + longest);
  }
  ~Pause() { worker.resume_accepting(); }
  void on_timer() override { worker.resume_accepting(); }
};

unsigned DataPlane::loops_for_this_machine() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;  // more cores than a set can name
  return std::clamp(static_cast<unsigned>(CPU_COUNT(&allowed)), 1u, loops_max);
}

DataPlane::DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal,
                     SandboxSockets sockets)
    : config_(std::move(config)),
      ca_(ca),
      journal_(journal),
      sockets_(std::move(sockets)),
      egress_(config_.egress) {
  identity_.name = std::make_shared<const std::string>(config_.sandbox_name);
  identity_.workspace = std::make_shared<const std::string>(config_.workspace_name);
  identity_.names = &names_;
  for (unsigned i = 0; i < std::max(1u, config_.loops); ++i) lanes_.push_back(std::make_unique<Lane>());
  Lane& first = *lanes_.front();
  first.started = true;
  first.thread = std::thread([this, &first] { run_lane(first, true); });
}

void DataPlane::run_lane(Lane& lane, bool first) {
  ::pthread_setname_np(::pthread_self(), first ? "first loop" : "loop");
  if (first) {
    trust_ = std::move(config_.trust);
    if (!trust_)
      if (auto trust = tls::TrustStore::load(config_.origin_ca_files)) trust_ = std::move(*trust);
  }
  Result<tls::LeafMinter> minter = first && config_.minter
                                       ? Result<tls::LeafMinter>(std::move(*config_.minter))
                                       : tls::LeafMinter::create(ca_);
  if (!first && !minter) {  // Memory. The first loop goes on alone.
    const std::lock_guard lock(lane.mutex);
    lane.ready = true;
    return lane.changed.notify_all();
  }
  if (!trust_ || !minter) {
    // The files were checked before; this is memory. Without a loop the sandbox only waits: fail closed.
    std::fprintf(stderr, "postern: the proxy could not start\n");
    std::abort();
  }
  const Operator settings{std::make_shared<const origin::Overrides>(config_.overrides),
                          config_.allow_private,
                          *trust_,
                          {.process = allowed_to_process()}};
  lane.worker = std::make_unique<Worker>(clock_, settings, std::move(*minter), journal_);
  Worker& worker = *lane.worker;
  lane.tenant.identity = identity_;
  lane.tenant.identity.name = counted_apart(identity_.name);
  lane.tenant.identity.workspace = counted_apart(identity_.workspace);
  for (const Fd* listening : {&sockets_.tcp4, &sockets_.tcp6})
    if (*listening)
      worker.serve(lane.tenant, listening->get(),
                   [this, &lane](Fd accepted) { place(lane, std::move(accepted)); });

  std::unique_ptr<dns::Responder> responder;
  if (first) responder = start_responder(lane);
  worker.loop.at_turn_end([&lane, &worker] {
    worker.journal.flush();
    if (!worker.draining() || worker.loop.active() > 0 || lane.arriving > 0) return;
    const std::lock_guard lock(lane.mutex);
    lane.idle = true;
    lane.changed.notify_all();
  });
  {
    const std::scoped_lock lock(egress_mutex_, lane.mutex);
    lane.tenant.egress = counted_apart(egress_);
    lane.ready = true;
  }
  lane.changed.notify_all();
  if (draining_) worker.drain();
  lane.serving.store(true, std::memory_order_release);
  if (!first) lanes_.front()->worker->loop.post([this] { lanes_.front()->pause.reset(); });
  worker.loop.run();
  worker.cut_off();
}

// On the first loop's thread, once.
void DataPlane::start_others(Lane& first) {
  others_started_ = true;
  for (const auto& lane : lanes_) {
    if (lane.get() == &first) continue;
    const std::lock_guard lock(lane->mutex);
    try {
      lane->thread = std::thread([this, &lane = *lane] { run_lane(lane, false); });
      lane->started = true;
    } catch (const std::system_error&) {
      return;  // No thread to be had: those that there are serve everybody.
    }
  }
  first.pause = std::make_unique<Pause>(*first.worker);
}

std::vector<std::size_t> DataPlane::connections() const {
  std::vector<std::size_t> of_loops;
  for (const auto& lane : lanes_)
    if (lane->serving.load(std::memory_order_acquire)) of_loops.push_back(lane->load());
  return of_loops;
}

void DataPlane::place(Lane& here, Fd accepted) {
  Lane* target = &here;
  if (lanes_.size() > 1 && here.load() >= connections_for_one_loop && !draining_) {
    if (&here == lanes_.front().get() && !others_started_) start_others(here);
    target = &lightest(here);
  }
  if (target == &here) return admit(here, std::move(accepted));
  target->arriving.fetch_add(1, std::memory_order_relaxed);
  target->worker->loop.post([this, target, fd = std::move(accepted)]() mutable {
    target->arriving.fetch_sub(1, std::memory_order_relaxed);
    admit(*target, std::move(fd));
  });
}

/// The loop with the fewest connections. To move one costs a wake-up, so a small difference stays.
DataPlane::Lane& DataPlane::lightest(Lane& here) {
  Lane* best = &here;
  std::size_t least = here.load() - here.load() / 8 - 1;
  for (const auto& lane : lanes_) {
    if (lane.get() == &here || !lane->serving.load(std::memory_order_acquire)) continue;
    if (const std::size_t load = lane->load(); load < least) {
      best = lane.get();
      least = load;
    }
  }
  return *best;
}

void DataPlane::admit(Lane& lane, Fd accepted) {
  if (!config_.dialled) return lane.worker->admit(lane.tenant, std::move(accepted));
  if (const auto dialled = config_.dialled(accepted.get()))
    lane.worker->admit(lane.tenant, *dialled, std::move(accepted));
}

void DataPlane::swap(std::shared_ptr<const Egress> egress) {
  std::shared_ptr<std::latch> told;
  {
    const std::lock_guard lock(egress_mutex_);
    egress_ = std::move(egress);
    std::vector<Lane*> ready;
    for (const auto& lane : lanes_) {
      const std::lock_guard lane_lock(lane->mutex);
      if (lane->ready && lane->worker) ready.push_back(lane.get());
    }
    told = std::make_shared<std::latch>(static_cast<std::ptrdiff_t>(ready.size()));
    for (Lane* lane : ready)
      lane->worker->loop.post([lane, told, own = counted_apart(egress_)]() mutable {
        lane->tenant.egress = std::move(own);
        told->count_down();
      });
  }
  told->wait();
}

std::unique_ptr<dns::Responder> DataPlane::start_responder(Lane& lane) {
  Worker& worker = *lane.worker;
  auto judge = [&lane](const Host& name) {
    const policy::Snapshot& snapshot = *lane.tenant.egress->snapshot;
    if (policy::may_resolve(snapshot, name) || policy::answers_as_metadata(snapshot, name, 80, false))
      return Reason::allowed;
    const Reason reason =
        policy::judge_destination(snapshot, {.host = name, .port = 443, .transport = policy::Transport::tls})
            .reason;
    return reason == Reason::allowed ? Reason::not_in_allow_list : reason;
  };
  auto record_denied = [&lane, &worker](std::string_view name, Reason reason) {
    audit::Recording recording(worker.journal, worker.clock);
    recording->sandbox = lane.tenant.identity.name;
    recording->workspace = lane.tenant.identity.workspace;
    recording->policy_version = lane.tenant.egress->snapshot->version();
    recording->kind = audit::Kind::dns;
    recording->host = name;
    recording->port = 53;
    recording.finish(reason);
  };
  lane.names = std::make_unique<OwnNames>(worker.resolver, lane.tenant);
  return std::make_unique<dns::Responder>(
      worker.loop,
      dns::Sockets{std::move(sockets_.dns_udp4), std::move(sockets_.dns_udp6), std::move(sockets_.dns_tcp4),
                   std::move(sockets_.dns_tcp6), lane.tenant.identity.number},
      names_, *lane.names, std::move(judge), std::move(record_denied));
}

void DataPlane::drain(std::chrono::milliseconds longest) {
  const auto until = std::chrono::steady_clock::now() + longest;
  draining_ = true;  // From here on no connection changes its loop.
  std::vector<Lane*> told;
  for (const auto& lane : lanes_) {
    std::unique_lock lock(lane->mutex);
    if (!lane->started) continue;
    lane->changed.wait(lock, [&] { return lane->ready; });
    if (!lane->worker) continue;
    lane->worker->loop.post([&worker = *lane->worker] { worker.drain(); });
    told.push_back(lane.get());
  }
  for (Lane* lane : told) {
    std::unique_lock lock(lane->mutex);
    lane->changed.wait_until(lock, until, [&] { return lane->idle; });
  }
}

DataPlane::~DataPlane() {
  // The first loop first: it is the one that starts the others.
  for (const auto& lane : lanes_) {
    if (!lane->thread.joinable()) continue;
    {
      std::unique_lock lock(lane->mutex);
      lane->changed.wait(lock, [&] { return lane->ready; });
    }
    if (lane->worker) lane->worker->loop.stop();
    lane->thread.join();
  }
}

}  // namespace postern::proxy
