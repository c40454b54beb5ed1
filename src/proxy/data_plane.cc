#include "proxy/data_plane.h"

#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "dns/responder.h"
#include "proxy/worker.h"

namespace postern::proxy {

struct DataPlane::Lane {
  std::unique_ptr<Worker> worker;  ///< Made and used on the thread; others only post to its loop.
  std::mutex mutex;
  std::condition_variable changed;
  bool ready = false;
  bool idle = false;
  std::thread thread;
};

DataPlane::DataPlane(DataPlaneConfig config, const tls::WorkspaceCa& ca, audit::Journal& journal,
                     SandboxSockets sockets)
    : config_(std::move(config)), ca_(ca), journal_(journal), sockets_(std::move(sockets)) {
  tenant_.identity.name = std::make_shared<const std::string>(config_.sandbox_name);
  tenant_.identity.workspace = std::make_shared<const std::string>(config_.workspace_name);
  tenant_.identity.names = &names_;
  tenant_.egress = config_.egress;
  for (unsigned i = 0; i < std::max(1u, config_.loops); ++i) lanes_.push_back(std::make_unique<Lane>());
  for (std::size_t i = 0; i < lanes_.size(); ++i)
    lanes_[i]->thread = std::thread([this, i] { run_lane(*lanes_[i], i == 0); });
}

void DataPlane::run_lane(Lane& lane, bool first) {
  auto trust = tls::TrustStore::load(config_.origin_ca_files);
  auto minter = tls::LeafMinter::create(ca_);
  if (!trust || !minter) {
    // The files were checked before; this is memory. Without a lane the sandbox only waits: fail closed.
    std::fprintf(stderr, "postern: the proxy could not start\n");
    std::abort();
  }
  const Operator settings{std::make_shared<const origin::Overrides>(config_.overrides),
                          config_.allow_private,
                          *trust,
                          {.process = allowed_to_process()}};
  lane.worker = std::make_unique<Worker>(clock_, settings, std::move(*minter), journal_);
  Worker& worker = *lane.worker;
  for (const Fd* listening : {&sockets_.tcp4, &sockets_.tcp6})
    if (*listening) worker.serve(tenant_, listening->get());

  std::unique_ptr<dns::Responder> responder;
  if (first) responder = start_responder(worker);
  worker.loop.at_turn_end([&lane, &worker] {
    worker.journal.flush();
    if (!worker.draining() || worker.loop.active() > 0) return;
    const std::lock_guard lock(lane.mutex);
    lane.idle = true;
    lane.changed.notify_all();
  });
  {
    const std::lock_guard lock(lane.mutex);
    lane.ready = true;
  }
  lane.changed.notify_all();
  worker.loop.run();
  worker.cut_off();
}

std::unique_ptr<dns::Responder> DataPlane::start_responder(Worker& worker) {
  auto judge = [this](const Host& name) {
    const policy::Snapshot& snapshot = *tenant_.egress->snapshot;
    if (policy::may_resolve(snapshot, name)) return Reason::allowed;
    const Reason reason =
        policy::judge_destination(snapshot, {.host = name, .port = 443, .transport = policy::Transport::tls})
            .reason;
    return reason == Reason::allowed ? Reason::not_in_allow_list : reason;
  };
  auto record_denied = [this, &worker](std::string_view name, Reason reason) {
    audit::Recording recording(worker.journal, worker.clock);
    recording->sandbox = tenant_.identity.name;
    recording->workspace = tenant_.identity.workspace;
    recording->policy_version = tenant_.egress->snapshot->version();
    recording->kind = audit::Kind::dns;
    recording->host = name;
    recording->port = 53;
    recording.finish(reason);
  };
  return std::make_unique<dns::Responder>(
      worker.loop,
      dns::Sockets{std::move(sockets_.dns_udp4), std::move(sockets_.dns_udp6), std::move(sockets_.dns_tcp4),
                   std::move(sockets_.dns_tcp6)},
      names_, worker.resolver, std::move(judge), std::move(record_denied));
}

void DataPlane::drain(std::chrono::milliseconds longest) {
  const auto until = std::chrono::steady_clock::now() + longest;
  for (const auto& lane : lanes_) {
    std::unique_lock lock(lane->mutex);
    lane->changed.wait(lock, [&] { return lane->ready; });
    lane->worker->loop.post([&worker = *lane->worker] { worker.drain(); });
  }
  for (const auto& lane : lanes_) {
    std::unique_lock lock(lane->mutex);
    lane->changed.wait_until(lock, until, [&] { return lane->idle; });
  }
}

DataPlane::~DataPlane() {
  for (const auto& lane : lanes_) {
    {
      std::unique_lock lock(lane->mutex);
      lane->changed.wait(lock, [&] { return lane->ready; });
    }
    lane->worker->loop.stop();
    lane->thread.join();
  }
}

}  // namespace postern::proxy
