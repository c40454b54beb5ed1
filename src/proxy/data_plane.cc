#include "proxy/data_plane.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <latch>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <system_error>

#include "dns/name_table.h"
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

/// Names that we answer for, or whose requests go elsewhere, are asked of nobody.
class OwnNames final : public io::NameLookup {
 public:
  OwnNames(io::NameLookup& others, const Tenant& tenant) : others_(others), tenant_(tenant) {}
  io::Task<Result<std::vector<IpAddress>>> addresses_of(std::string name) override {
    const Host host{name, std::nullopt};
    const policy::Snapshot& snapshot = *tenant_.egress->snapshot;
    // Which address it is matters to nobody: the sandbox gets a synthetic one.
    if (policy::answers_as_metadata(snapshot, host, 80, false) || policy::is_sent_elsewhere(snapshot, host))
      return some_address();
    return others_.addresses_of(std::move(name));
  }

 private:
  static io::Task<Result<std::vector<IpAddress>>> some_address() {
    std::vector<IpAddress> own;
    own.push_back(IpAddress::v4(policy::metadata_address));
    co_return own;
  }
  io::NameLookup& others_;
  const Tenant& tenant_;
};

}  // namespace

struct DataPlane::Sandbox {
  SandboxIdentity identity;
  dns::NameTable names;
  SandboxSockets sockets;  ///< Those of DNS are the responder's as soon as there is one.
  Lane* home = nullptr;

  // Under DataPlane::mutex_.
  std::shared_ptr<const Egress> egress;
  bool removed = false;
};

/// One sandbox on one loop. Of the loop's thread.
struct DataPlane::Seat {
  std::shared_ptr<Sandbox> sandbox;
  Tenant tenant;
  // At home only:
  std::unique_ptr<OwnNames> names;  ///< Nothing that it began refers to it.
  std::unique_ptr<dns::Responder> responder;

  explicit Seat(std::shared_ptr<Sandbox> of);
  void answer_dns(Worker& worker);
};

struct DataPlane::Lane {
  std::unique_ptr<Worker> worker;  ///< Made and used on the thread; others only post to its loop.
  std::unordered_map<Id, std::unique_ptr<Seat>> seats;  ///< The loop's own.
  std::vector<std::unique_ptr<Seat>> leaving;           ///< Removed, and connections have not all ended yet.
  std::size_t homes = 0;                                ///< Under DataPlane::mutex_.
  /// Handed over by another loop and not arrived yet.
  alignas(64) std::atomic<std::size_t> arriving = 0;

  std::mutex mutex;
  std::condition_variable changed;
  bool started = false;
  bool ready = false;  ///< To be told things; without a worker if it could not start.
  bool idle = false;
  std::vector<Work> waiting;     ///< Until it is ready.
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

DataPlane::DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal)
    : config_(std::move(config)), ca_(ca), journal_(journal) {
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
  worker.loop.at_turn_end([&lane, &worker] {
    worker.journal.flush();
    if (!lane.leaving.empty()) forget_gone(lane);
    if (!worker.draining() || worker.loop.active() > 0 || lane.arriving > 0) return;
    const std::lock_guard lock(lane.mutex);
    lane.idle = true;
    lane.changed.notify_all();
  });
  std::vector<Work> waiting;
  {
    const std::lock_guard lock(lane.mutex);
    waiting.swap(lane.waiting);
    lane.ready = true;
  }
  for (Work& work : waiting) work();  // Before what is posted from now on.
  lane.changed.notify_all();
  if (draining_) worker.drain();
  lane.serving.store(true, std::memory_order_release);
  if (!first) lanes_.front()->worker->loop.post([this] { lanes_.front()->pause.reset(); });
  worker.loop.run();
  worker.cut_off();
  lane.seats.clear();
  lane.leaving.clear();
}

/// Runs `work` on the loop's thread, after what it was told before. Of a loop that could not start, never.
void DataPlane::tell(Lane& lane, Work work) {
  const std::lock_guard lock(lane.mutex);
  if (!lane.ready)
    lane.waiting.push_back(std::move(work));
  else if (lane.worker)
    lane.worker->loop.post(std::move(work));
}

/// Returns when every loop that may know a sandbox has done it. One that begins to serve meanwhile sees,
/// under the mutex, what was written there before.
void DataPlane::tell_all(const std::function<void(Lane&)>& work) {
  std::vector<Lane*> those;
  for (const auto& lane : lanes_)
    if (lane == lanes_.front() || lane->serving.load(std::memory_order_acquire)) those.push_back(lane.get());
  const auto done = std::make_shared<std::latch>(static_cast<std::ptrdiff_t>(those.size()));
  for (Lane* lane : those)
    tell(*lane, [&work, done, lane] {
      work(*lane);
      done->count_down();
    });
  done->wait();
}

// On the first loop's thread, once.
void DataPlane::start_others() {
  if (std::exchange(others_started_, true) || lanes_.size() < 2 || draining_) return;
  Lane& first = *lanes_.front();
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

void DataPlane::place(Lane& here, Seat& seat, Fd accepted) {
  Lane* target = &here;
  if (lanes_.size() > 1 && here.load() >= connections_for_one_loop && !draining_) {
    if (&here == lanes_.front().get()) start_others();
    target = &lightest(here);
  }
  if (target == &here) return admit(here, seat, std::move(accepted));
  target->arriving.fetch_add(1, std::memory_order_relaxed);
  target->worker->loop.post([this, target, sandbox = seat.sandbox, fd = std::move(accepted)]() mutable {
    target->arriving.fetch_sub(1, std::memory_order_relaxed);
    if (Seat* there = seat_of(*target, sandbox)) return admit(*target, *there, std::move(fd));
    io::break_connection(fd.get());  // Removed while it was on its way.
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

void DataPlane::admit(Lane& lane, Seat& seat, Fd accepted) {
  if (!config_.dialled) return lane.worker->admit(seat.tenant, std::move(accepted));
  if (const auto dialled = config_.dialled(accepted.get()))
    lane.worker->admit(seat.tenant, *dialled, std::move(accepted));
}

// ---- sandboxes come and go

/// The one with the fewest sandboxes.
DataPlane::Lane& DataPlane::home_for_another() {
  Lane* home = lanes_.front().get();
  for (const auto& lane : lanes_)
    if (lane->serving.load(std::memory_order_acquire) && lane->homes < home->homes) home = lane.get();
  ++home->homes;
  return *home;
}

DataPlane::Id DataPlane::add(SandboxEntry entry) {
  auto sandbox = std::make_shared<Sandbox>();
  sandbox->identity.name = std::make_shared<const std::string>(std::move(entry.sandbox));
  sandbox->identity.workspace = std::make_shared<const std::string>(std::move(entry.workspace));
  sandbox->identity.names = &sandbox->names;
  sandbox->sockets = std::move(entry.sockets);
  sandbox->egress = std::move(entry.egress);
  const Id id = sandbox->identity.number;
  bool several = false;
  {
    const std::lock_guard lock(mutex_);
    sandbox->home = &home_for_another();
    sandboxes_.emplace(id, sandbox);
    several = sandboxes_.size() == 2;
  }
  if (several) tell(*lanes_.front(), [this] { start_others(); });
  tell(*sandbox->home, [this, sandbox] { seat_of(*sandbox->home, sandbox); });
  return id;
}

/// nullptr when the sandbox has been removed.
DataPlane::Seat* DataPlane::seat_of(Lane& lane, const std::shared_ptr<Sandbox>& sandbox) {
  const Id id = sandbox->identity.number;
  if (const auto known = lane.seats.find(id); known != lane.seats.end()) return known->second.get();
  Worker& worker = *lane.worker;
  auto made = std::make_unique<Seat>(sandbox);
  {
    const std::lock_guard lock(mutex_);
    if (sandbox->removed) return nullptr;
    made->tenant.egress = counted_apart(sandbox->egress);
  }
  Seat& seat = *made;
  lane.seats.emplace(id, std::move(made));
  if (sandbox->home == &lane) seat.answer_dns(worker);
  if (worker.draining()) return &seat;
  for (const Fd* listening : {&sandbox->sockets.tcp4, &sandbox->sockets.tcp6})
    if (*listening)
      worker.serve(seat.tenant, listening->get(),
                   [this, &lane, &seat](Fd accepted) { place(lane, seat, std::move(accepted)); });
  return &seat;
}

bool DataPlane::swap(Id id, std::shared_ptr<const Egress> egress) {
  std::shared_ptr<Sandbox> sandbox;
  {
    const std::lock_guard lock(mutex_);
    const auto known = sandboxes_.find(id);
    if (known == sandboxes_.end()) return false;
    sandbox = known->second;
    sandbox->egress = std::move(egress);
  }
  tell_all([this, id, &sandbox](Lane& lane) {
    const auto known = lane.seats.find(id);
    if (known == lane.seats.end()) return;
    std::shared_ptr<const Egress> own;
    {
      const std::lock_guard lock(mutex_);
      own = counted_apart(sandbox->egress);
    }
    Worker::swap(known->second->tenant, std::move(own));
  });
  return true;
}

void DataPlane::remove(Id id) {
  std::shared_ptr<Sandbox> sandbox;
  {
    const std::lock_guard lock(mutex_);
    const auto known = sandboxes_.find(id);
    if (known == sandboxes_.end()) return;
    sandbox = std::move(known->second);
    sandboxes_.erase(known);
    sandbox->removed = true;
    --sandbox->home->homes;
  }
  tell_all([this, id](Lane& lane) { leave(lane, id); });
  sandbox->sockets = {};  // Nobody listens on them any more.
}

void DataPlane::leave(Lane& lane, Id id) {
  auto known = lane.seats.extract(id);
  if (known.empty()) return;
  Seat& seat = *known.mapped();
  seat.responder.reset();
  lane.worker->remove(seat.tenant);
  lane.leaving.push_back(std::move(known.mapped()));
}

/// At the end of a turn, when no task runs: the last connection of a tenant has let go of it.
void DataPlane::forget_gone(Lane& lane) {
  std::erase_if(lane.leaving, [&](const std::unique_ptr<Seat>& seat) {
    if (seat->tenant.load.connections > 0) return false;
    lane.worker->pool.forget(seat->tenant.identity.number);  // What was dialled until now.
    return true;
  });
}

DataPlane::Seat::Seat(std::shared_ptr<Sandbox> of) : sandbox(std::move(of)) {
  tenant.identity = sandbox->identity;
  tenant.identity.name = counted_apart(sandbox->identity.name);
  tenant.identity.workspace = counted_apart(sandbox->identity.workspace);
}

void DataPlane::Seat::answer_dns(Worker& worker) {
  auto judge = [this](const Host& name) {
    const policy::Snapshot& snapshot = *tenant.egress->snapshot;
    if (policy::may_resolve(snapshot, name) || policy::answers_as_metadata(snapshot, name, 80, false))
      return Reason::allowed;
    const Reason reason =
        policy::judge_destination(snapshot, {.host = name, .port = 443, .transport = policy::Transport::tls})
            .reason;
    return reason == Reason::allowed ? Reason::not_in_allow_list : reason;
  };
  auto record_denied = [this, &worker](std::string_view name, Reason reason) {
    audit::Recording recording(worker.journal, worker.clock);
    recording->sandbox = tenant.identity.name;
    recording->workspace = tenant.identity.workspace;
    recording->policy_version = tenant.egress->snapshot->version();
    recording->kind = audit::Kind::dns;
    recording->host = name;
    recording->port = 53;
    recording.finish(reason);
  };
  SandboxSockets& given = sandbox->sockets;
  dns::Sockets sockets{std::move(given.dns_udp4), std::move(given.dns_udp6), std::move(given.dns_tcp4),
                       std::move(given.dns_tcp6), tenant.identity.number};
  names = std::make_unique<OwnNames>(worker.resolver, tenant);
  responder = std::make_unique<dns::Responder>(worker.loop, std::move(sockets), sandbox->names, *names,
                                               std::move(judge), std::move(record_denied));
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
