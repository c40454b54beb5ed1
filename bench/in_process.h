#pragma once
// What the benchmarks share that run Postern's loop in their own process (sandbox_cost.cc, noisy_sandbox.cc).

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <memory>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <thread>
#include <time.h>
#include <vector>

#include "audit/journal.h"
#include "credential/secret_store.h"
#include "dns/name_table.h"
#include "policy/document.h"
#include "proxy/worker.h"
#include "tls/ca.h"

namespace postern::bench {

inline void must(bool good, const char* what) {
  if (!good) throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(errno)));
}

template <class T>
T part(std::vector<T> values, double which) {
  std::ranges::sort(values);
  return values.at(static_cast<std::size_t>(which * static_cast<double>(values.size() - 1)));
}

inline void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

inline constexpr const char* host = "api.example.com";
inline constexpr const char* closed_host = "closed.example.com";  // Denied: no origin is in it.
inline constexpr const char* noisy_host = "big.example.com";
inline constexpr std::string_view request =
    "GET /v1/small HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: sandbox-cost\r\nAccept: */*\r\n\r\n";

inline Fd listen_on_loopback(std::uint16_t& port) {
  Fd listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  must(::bind(listening.get(), reinterpret_cast<sockaddr*>(&address), size) == 0 &&
           ::listen(listening.get(), 512) == 0 &&
           ::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0,
       "listen");
  port = ntohs(address.sin_port);
  return listening;
}

inline std::shared_ptr<const proxy::Egress> bench_egress() {
  auto document = policy::parse_document(
      fmt::format("rules:\n"
                  "  - name: api\n    match_hosts: [{}, {}]\n"
                  "    headers: [{{name: X-Bench, type: plaintext, value: bench-mark}}]\n"
                  "  - {{name: closed, match_hosts: [{}], action: deny}}\n",
                  host, noisy_host, closed_host),
      policy::Format::yaml);
  auto snapshot = policy::compile(std::move(document.value())).value();
  auto injections = credential::resolve(*snapshot, {}).value();
  return proxy::make_egress(std::move(snapshot), std::move(injections));
}

inline origin::Overrides at_loopback(const char* name, std::uint16_t port) {
  origin::Overrides overrides;
  overrides[name] = {{*IpAddress::parse("127.0.0.1"), port}};
  return overrides;
}

/// A workspace's CA that nothing else uses, and nothing to trust.
inline tls::WorkspaceCa make_ca() {
  char directory[] = "/tmp/postern-bench-XXXXXX";
  must(::mkdtemp(directory) != nullptr, "mkdtemp");
  auto ca = tls::WorkspaceCa::load_or_create(std::string(directory) + "/ca").value();
  std::filesystem::remove_all(directory);
  return ca;
}

/// A loop on a thread of its own, on the second core.
class Server {
 public:
  Server(const tls::WorkspaceCa& ca, const tls::TrustStore& trust, audit::Journal& journal,
         origin::Overrides overrides) {
    const proxy::Operator settings{
        std::make_shared<const origin::Overrides>(std::move(overrides)), {}, trust, {}};
    worker_ = std::make_unique<proxy::Worker>(clock_, settings, tls::LeafMinter::create(ca).value(), journal);
  }
  ~Server() {
    stop();
    worker_->cut_off();
  }
  Server(const Server&) = delete;

  proxy::Worker& worker() { return *worker_; }
  void start() {
    thread_ = std::thread([this] {
      pin(1);
      worker_->loop.run();
    });
  }
  void stop() {
    if (!thread_.joinable()) return;
    worker_->loop.stop();
    thread_.join();
  }
  double cpu_seconds() {
    clockid_t clock;
    timespec time{};
    must(::pthread_getcpuclockid(thread_.native_handle(), &clock) == 0 && ::clock_gettime(clock, &time) == 0,
         "clock");
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
  }

 private:
  SystemClock clock_;
  std::unique_ptr<proxy::Worker> worker_;
  std::thread thread_;
};

/// Asks on all connections, and answers as the origin, until so many answers have come. Both ends are short,
/// so that one read finds a whole message.
class Ends {
 public:
  explicit Ends(const Fd& listening) : listening_(listening) { watch(listening.get(), 0); }
  void add(const Fd& client) { watch(client.get(), client_mark); }

  void run(const std::vector<Fd>& clients, std::size_t answers) {
    for (const Fd& client : clients) ask(client.get());
    std::size_t asked = clients.size();
    for (std::size_t answered = 0; answered < answers;) {
      epoll_event events[64];
      const int count = ::epoll_wait(epoll_.get(), events, 64, 10'000);
      must(count > 0, "nothing moves");
      for (int i = 0; i < count; ++i) {
        const int fd = static_cast<int>(events[i].data.u64 & 0xffffffff);
        if (fd == listening_.get()) {
          origins_.emplace_back(::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC));
          watch(origins_.back().get(), 0);
          continue;
        }
        char bytes[4096];
        const ssize_t got = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) continue;
        const std::string_view said(bytes, got > 0 ? static_cast<std::size_t>(got) : 0);
        if ((events[i].data.u64 & client_mark) == 0) {
          if (said.empty()) {
            ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
            continue;
          }
          must(said.ends_with("\r\n\r\n") && said.find("bench-mark") != said.npos,
               "a request without its header");
          must(::send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL) == std::ssize(answer_), "send");
          continue;
        }
        must(said.size() == answer_.size() && said.starts_with("HTTP/1.1 200 "), "not the answer");
        ++answered;
        if (asked < answers) {
          ++asked;
          ask(fd);
        }
      }
    }
  }

 private:
  static constexpr std::uint64_t client_mark = std::uint64_t{1} << 32;
  void watch(int fd, std::uint64_t mark) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = static_cast<std::uint32_t>(fd) | mark;
    must(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
  }
  static void ask(int fd) {
    must(::send(fd, request.data(), request.size(), MSG_NOSIGNAL) == std::ssize(request), "send");
  }

  const Fd& listening_;
  Fd epoll_{::epoll_create1(EPOLL_CLOEXEC)};
  std::vector<Fd> origins_;
  const std::string answer_ =
      fmt::format("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n{}",
                  std::string(512, 'a'));
};

}  // namespace postern::bench
