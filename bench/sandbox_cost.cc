// What a sandbox's network costs: how long until one is ready, what Postern holds for an idle one, and
// whether a request costs more when thousands of them are there. Real namespaces, made as `postern run` has
// them; only the program inside is missing. Run by run.py, or alone; needs no root.
//
//   sandbox_cost ready [COUNT]      namespaces one after the other; milliseconds
//   sandbox_cost live [COUNT]       so many at once on one loop: memory of each, and CPU per request with
//                                   COUNT and with 1, in turn
//
// Prints one line of JSON. Of each sandbox there are three sockets at once and not six: file descriptors are
// what most machines allow fewest of.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <fstream>
#include <malloc.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dns/responder.h"
#include "in_process.h"
#include "sandbox/capture.h"

namespace {

using namespace postern;         // NOLINT(google-build-using-namespace): a program of its own
using namespace postern::bench;  // NOLINT(google-build-using-namespace)
using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

// ---- a process that stands in for the program in the sandbox

/// Makes the namespaces, says so, and when it is told dials `target`, hands the connection out and ends.
class Program {
 public:
  Program() {
    int pair[2];
    must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    ours_ = Fd(pair[0]);
    Fd theirs(pair[1]);
    pid_ = ::fork();
    must(pid_ >= 0, "fork");
    if (pid_ == 0) {
      ours_.reset();
      ::_exit(live(theirs.get()));
    }
    theirs.reset();
    char word = 0;
    must(::recv(ours_.get(), &word, 1, 0) == 1, "the namespaces could not be made");
  }
  ~Program() {
    ours_.reset();
    ::waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  pid_t pid() const { return pid_; }

  /// Needs the capture.
  Fd dial(const sockaddr_in& target) const {
    must(::send(ours_.get(), &target, sizeof target, MSG_NOSIGNAL) == sizeof target, "send");
    char word;
    iovec part{&word, 1};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    must(::recvmsg(ours_.get(), &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message), "no connection");
    int fd;
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return Fd(fd);
  }

 private:
  static int live(int channel) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return 1;
    if (::send(channel, "x", 1, MSG_NOSIGNAL) != 1) return 1;
    sockaddr_in target{};
    while (::recv(channel, &target, sizeof target, 0) == sizeof target) {
      const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (::connect(fd, reinterpret_cast<sockaddr*>(&target), sizeof target) != 0) return 1;
      char word = 'x';
      iovec part{&word, 1};
      alignas(cmsghdr) char space[CMSG_SPACE(sizeof fd)];
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = space;
      message.msg_controllen = sizeof space;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
      if (::sendmsg(channel, &message, MSG_NOSIGNAL) != 1) return 1;
      ::close(fd);
    }
    return 0;
  }
  Fd ours_;
  pid_t pid_ = -1;
};

sandbox::CaptureSockets capture(const Program& program) {
  auto sockets = sandbox::capture_network(program.pid(), sandbox::Loopback::bring_up);
  if (!sockets) throw std::runtime_error(sockets.error().detail);
  return std::move(*sockets);
}

// ---- ready

void ready(int count) {
  std::vector<double> all, captured;
  for (int i = -5; i < count; ++i) {
    const auto began = Clock::now();
    const Program program;
    const auto made = Clock::now();
    const auto sockets = capture(program);
    const auto done = Clock::now();
    if (i < 0) continue;  // To warm up.
    all.push_back(milliseconds(done - began));
    captured.push_back(milliseconds(done - made));
  }
  fmt::print(
      "{{\"count\": {}, \"ready_ms\": {{\"p50\": {:.3f}, \"p99\": {:.3f}, \"min\": {:.3f}}}, "
      "\"capture_ms\": {{\"p50\": {:.3f}, \"p99\": {:.3f}, \"min\": {:.3f}}}}}\n",
      count, part(all, 0.5), part(all, 0.99), part(all, 0), part(captured, 0.5), part(captured, 0.99),
      part(captured, 0));
}

// ---- live

constexpr std::size_t connections = 64;
std::size_t resident_bytes() {
  ::malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  std::size_t whole = 0, resident = 0;
  statm >> whole >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// All that Postern holds for one sandbox.
struct Sandbox {
  proxy::Tenant tenant;
  dns::NameTable names;
  sandbox::CaptureSockets sockets;
};

/// A server with its sandboxes.
class Sandboxes {
 public:
  Sandboxes(const tls::WorkspaceCa& ca, const tls::TrustStore& trust, audit::Journal& journal,
            std::shared_ptr<const proxy::Egress> egress, std::uint16_t origin_port)
      : egress_(std::move(egress)), server_(ca, trust, journal, at_loopback(host, origin_port)) {}

  /// One more, whose program dials so many times.
  void add(std::size_t dials, std::vector<Fd>& dialled) {
    const Program program;
    Sandbox& box = *boxes_.emplace_back(std::make_unique<Sandbox>());
    proxy::Worker& worker = server_.worker();
    box.sockets = capture(program);
    for (Fd* left_out : {&box.sockets.tcp6, &box.sockets.dns_udp6, &box.sockets.dns_tcp6}) left_out->reset();
    box.tenant.identity.name = std::make_shared<const std::string>(fmt::format("sandbox {}", boxes_.size()));
    box.tenant.identity.workspace = workspace_;
    box.tenant.identity.names = &box.names;
    box.tenant.egress = egress_;
    worker.serve(box.tenant, box.sockets.tcp4.get());
    dns::Sockets sockets{.udp4 = std::move(box.sockets.dns_udp4),
                         .udp6 = {},
                         .tcp4 = std::move(box.sockets.dns_tcp4),
                         .tcp6 = {},
                         .party = box.tenant.identity.number};
    responders_.push_back(std::make_unique<dns::Responder>(
        worker.loop, std::move(sockets), box.names, worker.resolver,
        [](const Host&) { return Reason::allowed; }, [](std::string_view, Reason) {}));
    if (dials == 0) return;
    sockaddr_storage target{};
    Endpoint{box.names.address_for(host, dns::NameUse::allowed).value(), 80}.to_sockaddr(target);
    for (; dials > 0; --dials) dialled.push_back(program.dial(reinterpret_cast<const sockaddr_in&>(target)));
  }
  Server& server() { return server_; }
  ~Sandboxes() { server_.stop(); }
  Sandboxes(const Sandboxes&) = delete;

 private:
  std::shared_ptr<const proxy::Egress> egress_;
  std::shared_ptr<const std::string> workspace_ = std::make_shared<const std::string>("bench");
  std::vector<std::unique_ptr<Sandbox>> boxes_;
  Server server_;
  std::vector<std::unique_ptr<dns::Responder>> responders_;
};

void live(std::size_t count) {
  // Some descriptors are for both ends of the requests.
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  count = std::min<std::size_t>(count, (files.rlim_max - 8 * connections - 64) / 3);

  const auto ca = make_ca();
  const auto trust = tls::TrustStore::load({}).value();
  audit::Journal journal(Fd(::open("/dev/null", O_WRONLY | O_CLOEXEC)));
  std::uint16_t port = 0;
  const Fd listening = listen_on_loopback(port);
  pin(0);
  Ends ends(listening);
  const auto egress = bench_egress();

  Sandboxes one(ca, trust, journal, egress, port), many(ca, trust, journal, egress, port);
  std::vector<Fd> to_one, to_many;
  one.add(connections, to_one);
  // The first ones fill what is there once.
  for (std::size_t i = 0; i < connections; ++i) many.add(1, to_many);
  const std::size_t before = resident_bytes();
  for (std::size_t i = connections; i < count; ++i) many.add(0, to_many);
  const auto each_bytes =
      static_cast<double>(resident_bytes() - before) / static_cast<double>(count - connections);
  for (const auto* clients : {&to_one, &to_many})
    for (const Fd& client : *clients) ends.add(client);

  // Both in the same process and minute, by turns; the ends have a core of their own.
  one.server().start();
  many.server().start();
  constexpr std::size_t requests = 20'000;
  std::vector<double> of_one, of_many, ratios;
  for (int round = -1; round < 7; ++round) {
    const auto measure = [&](Sandboxes& boxes, const std::vector<Fd>& clients) {
      const double from = boxes.server().cpu_seconds();
      ends.run(clients, requests);
      return (boxes.server().cpu_seconds() - from) / requests * 1e6;
    };
    const bool one_first = round % 2 == 0;
    double first = 0;
    if (one_first) first = measure(one, to_one);
    const double second = measure(many, to_many);
    if (!one_first) first = measure(one, to_one);
    if (round < 0) continue;
    of_one.push_back(first);
    of_many.push_back(second);
    ratios.push_back(second / first);
  }
  fmt::print(
      "{{\"count\": {}, \"bytes_each\": {:.0f}, \"us_with_one\": {:.2f}, \"us_with_all\": {:.2f}, \"ratio\": "
      "{:.3f}, \"ratios\": [{:.3f}]}}\n",
      count, each_bytes, part(of_one, 0.5), part(of_many, 0.5), part(ratios, 0.5), fmt::join(ratios, ", "));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  const int count = argc > 2 ? std::atoi(argv[2]) : 0;
  try {
    if (what == "ready")
      ready(count > 0 ? count : 200);
    else if (what == "live")
      live(count > 0 ? static_cast<std::size_t>(count) : 5000);
    else
      throw std::runtime_error("ready or live?");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sandbox_cost: %s\n", error.what());
    return 1;
  }
  return 0;
}
