// One noisy sandbox among many quiet ones, on one loop: how long the quiet ones' requests take without and
// with the noise (threat 71). The loop has the second core to itself; the quiet requests, their origin and
// the noise share the first, where the noise yields to everybody.
//
//   noisy_sandbox KIND [SECONDS]    connections, requests, downloads or streams; SECONDS for each half of a
//                                   round
//
// Who asks and answers for the quiet ones has real-time priority where that is allowed: the noise shares its
// core, and else the slices of the scheduler would be measured. The loop and the writer of the journal have
// no such thing.
//
// Prints one line of JSON. What the sandboxes dial is a socket on loopback for each: what a namespace costs
// is sandbox_cost's question.

#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "in_process.h"

namespace {

using namespace postern;         // NOLINT(google-build-using-namespace): a program of its own
using namespace postern::bench;  // NOLINT(google-build-using-namespace)
using Clock = std::chrono::steady_clock;

constexpr std::size_t quiet_count = 200;
constexpr int quiet_per_second = 1000;
constexpr int rounds = 3;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

Fd dial(std::uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  must(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0, "connect");
  return fd;
}

// ---- the sandboxes

struct Box {
  proxy::Tenant tenant;
  dns::NameTable names;
  std::vector<Fd> listening;
};

/// A socket that stands for `name` and `port` as this sandbox dials them. Before the loop runs.
std::uint16_t entrance(Server& server, Box& box, const char* name, std::uint16_t port) {
  std::uint16_t own_port = 0;
  box.listening.push_back(listen_on_loopback(own_port));
  const int fd = box.listening.back().get();
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  const Endpoint dialled{box.names.address_for(name, dns::NameUse::allowed).value(), port};
  server.worker().serve(box.tenant, fd, [&server, &box, dialled](Fd accepted) {
    server.worker().admit(box.tenant, dialled, std::move(accepted));
  });
  return own_port;
}

std::unique_ptr<Box> make_box(const std::shared_ptr<const proxy::Egress>& egress) {
  auto box = std::make_unique<Box>();
  box->tenant.identity.name = std::make_shared<const std::string>("box");
  box->tenant.identity.workspace = box->tenant.identity.name;
  box->tenant.identity.names = &box->names;
  box->tenant.egress = egress;
  return box;
}

// ---- the noise: each runs in a process of its own until it is ended

/// Connections one after the other, 32 at once. Each sends the same ClientHello, for which the server signs,
/// and goes when the answer is there.
[[noreturn]] void flood_connections(std::uint16_t port) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* connection = SSL_new(context);
  SSL_set_bio(connection, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  SSL_set_tlsext_host_name(connection, closed_host);
  SSL_set_connect_state(connection);
  SSL_do_handshake(connection);
  std::string hello(4096, '\0');
  hello.resize(static_cast<std::size_t>(BIO_read(SSL_get_wbio(connection), hello.data(), 4096)));
  std::vector<pollfd> open(32, pollfd{-1, POLLIN, 0});
  while (true) {
    for (pollfd& slot : open) {
      if (slot.fd >= 0 && slot.revents == 0) continue;
      if (slot.fd >= 0) ::close(slot.fd);
      slot.fd = dial(port).release();
      slot.revents = 0;
      ::send(slot.fd, hello.data(), hello.size(), MSG_NOSIGNAL);
    }
    ::poll(open.data(), open.size(), 1000);
  }
}

/// Requests in line behind each other on 32 connections, as fast as they are taken.
[[noreturn]] void flood_requests(std::uint16_t port) {
  std::string many;
  while (many.size() < 32 * KiB) many += fmt::format("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", closed_host);
  struct Slot {
    Fd fd;
    std::size_t sent = 0;
  };
  std::vector<Slot> slots(32);
  std::vector<pollfd> waits;
  for (Slot& slot : slots) {
    slot.fd = dial(port);
    ::fcntl(slot.fd.get(), F_SETFL, O_NONBLOCK);
    waits.push_back({slot.fd.get(), POLLIN | POLLOUT, 0});
  }
  std::vector<char> space(256 * KiB);
  while (::poll(waits.data(), waits.size(), 1000) >= 0) {
    for (Slot& slot : slots) {
      while (::recv(slot.fd.get(), space.data(), space.size(), 0) > 0) continue;
      const ssize_t count =
          ::send(slot.fd.get(), many.data() + slot.sent, many.size() - slot.sent, MSG_NOSIGNAL);
      if (count > 0) slot.sent = (slot.sent + static_cast<std::size_t>(count)) % many.size();
    }
  }
  ::_exit(1);
}

/// Endless downloads on 8 connections. This process is their origin too.
[[noreturn]] void flood_downloads(std::uint16_t port, const Fd& origin) {
  std::vector<pollfd> ends;
  const std::string ask = fmt::format("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", noisy_host);
  for (int i = 0; i < 8; ++i) {
    ends.push_back({dial(port).release(), POLLIN, 0});
    ::send(ends.back().fd, ask.data(), ask.size(), MSG_NOSIGNAL);
  }
  const std::size_t clients = ends.size();
  ends.push_back({origin.get(), POLLIN, 0});
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
  std::vector<char> space(256 * KiB);
  while (::poll(ends.data(), ends.size(), 1000) >= 0) {
    if (ends[clients].revents) {
      const int fd = ::accept4(origin.get(), nullptr, nullptr, SOCK_CLOEXEC);
      ::send(fd, head.data(), head.size(), MSG_NOSIGNAL);
      ends.push_back({fd, POLLOUT, 0});
    }
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (i == clients || !ends[i].revents) continue;
      if (i < clients)
        ::recv(ends[i].fd, space.data(), space.size(), MSG_DONTWAIT);
      else
        ::send(ends[i].fd, space.data(), space.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
  }
  ::_exit(1);
}

/// HTTP/2: 4 connections with as many requests as they may have at once, each time all together.
[[noreturn]] void flood_streams(std::uint16_t port) {
  constexpr std::uint32_t at_once = 100;
  const auto frame = [](char type, char flags, std::uint32_t stream, const std::string& payload) {
    std::string out;
    for (const int shift : {16, 8, 0}) out += static_cast<char>(payload.size() >> shift);
    out += type;
    out += flags;
    for (const int shift : {24, 16, 8, 0}) out += static_cast<char>(stream >> shift);
    return out + payload;
  };
  // GET, https, "/", and the authority without a name in the table (RFC 7541, appendix A).
  const std::string head =
      std::string("\x82\x87\x84\x01") + static_cast<char>(std::string_view(closed_host).size()) + closed_host;
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  static constexpr unsigned char protocols[] = "\x02h2";
  SSL_CTX_set_alpn_protos(context, protocols, 3);
  struct Slot {
    SSL* tls;
    std::string received;
    std::uint32_t next = 1, left = 0;
  };
  std::vector<Slot> slots;
  std::vector<pollfd> waits;
  const auto ask = [&](Slot& slot) {
    std::string out;
    for (slot.left = at_once; std::cmp_greater(slot.left, out.size() / (9 + head.size())); slot.next += 2)
      out += frame(1, 5, slot.next, head);
    SSL_write(slot.tls, out.data(), static_cast<int>(out.size()));
  };
  for (int i = 0; i < 4; ++i) {
    Slot& slot = slots.emplace_back(SSL_new(context), std::string());
    waits.push_back({dial(port).release(), POLLIN, 0});
    SSL_set_fd(slot.tls, waits.back().fd);
    SSL_set_tlsext_host_name(slot.tls, closed_host);
    if (SSL_connect(slot.tls) != 1) ::_exit(2);
    const std::string hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, {}) +
                              frame(8, 0, 0, std::string("\x7f\x00\x00\x00", 4));
    SSL_write(slot.tls, hello.data(), static_cast<int>(hello.size()));
    ask(slot);
  }
  std::vector<char> space(16 * KiB);
  while (::poll(waits.data(), waits.size(), 1000) >= 0) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      Slot& slot = slots[i];
      if (!waits[i].revents) continue;
      do {
        const int got = SSL_read(slot.tls, space.data(), static_cast<int>(space.size()));
        if (got <= 0) ::_exit(3);
        slot.received.append(space.data(), static_cast<std::size_t>(got));
      } while (SSL_pending(slot.tls) > 0);
      std::size_t at = 0;
      while (slot.received.size() >= at + 9) {
        const auto byte = [&](std::size_t n) { return static_cast<unsigned char>(slot.received[at + n]); };
        const std::size_t size = std::size_t{byte(0)} << 16 | std::size_t{byte(1)} << 8 | byte(2);
        if (slot.received.size() < at + 9 + size) break;
        if (byte(3) == 7) ::_exit(4);  // GOAWAY
        if (byte(3) <= 1 && (byte(4) & 1) != 0) --slot.left;
        at += 9 + size;
      }
      slot.received.erase(0, at);
      if (slot.left == 0) ask(slot);
    }
  }
  ::_exit(1);
}

// ---- the quiet ones

/// Asks on one connection after the other at a steady pace, and answers as the origin. A late answer delays
/// no other request: there are more connections than can be late.
std::vector<double> quiet_microseconds(const std::vector<Fd>& clients, std::vector<Fd>& origins,
                                       const Fd& listening, double seconds) {
  const std::string answer =
      fmt::format("HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n{}", std::string(512, 'a'));
  const Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  const auto watch = [&](int fd, std::uint64_t what) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = what;
    must(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
  };
  constexpr std::uint64_t origin_mark = 1u << 30, door = 1u << 29, clock_mark = 1u << 28;
  for (std::size_t i = 0; i < clients.size(); ++i) watch(clients[i].get(), i);
  for (const Fd& origin : origins) watch(origin.get(), origin_mark | static_cast<unsigned>(origin.get()));
  watch(listening.get(), door);
  const Fd pace(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  const timespec period{0, 1'000'000'000 / quiet_per_second};
  const itimerspec times{period, period};
  ::timerfd_settime(pace.get(), 0, &times, nullptr);
  watch(pace.get(), clock_mark);

  std::vector<double> latencies;
  std::vector<Clock::time_point> asked(clients.size());
  std::size_t next = 0, under_way = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end || under_way > 0) {
    epoll_event events[64];
    const int count = ::epoll_wait(epoll.get(), events, 64, 10'000);
    must(count > 0, "nothing moves");
    char bytes[4096];
    for (int i = 0; i < count; ++i) {
      const std::uint64_t what = events[i].data.u64;
      if (what == clock_mark) {
        std::uint64_t ticks = 0;
        (void)!::read(pace.get(), &ticks, sizeof ticks);
        for (; ticks > 0 && Clock::now() < end; --ticks, next = (next + 1) % clients.size()) {
          if (asked[next] != Clock::time_point{}) continue;
          asked[next] = Clock::now();
          ++under_way;
          must(::send(clients[next].get(), request.data(), request.size(), MSG_NOSIGNAL) > 0, "send");
        }
      } else if (what == door) {
        origins.emplace_back(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
        watch(origins.back().get(), origin_mark | static_cast<unsigned>(origins.back().get()));
      } else if (what & origin_mark) {
        const int fd = static_cast<int>(what & ~origin_mark);
        if (::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) <= 0)
          ::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
        else
          must(::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) > 0, "send");
      } else {
        must(::recv(clients[what].get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0, "a quiet connection ended");
        latencies.push_back(std::chrono::duration<double, std::micro>(Clock::now() - asked[what]).count());
        asked[what] = {};
        --under_way;
      }
    }
  }
  return latencies;
}

void measure(std::string_view kind, double seconds) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  std::uint16_t origin_port = 0, noise_origin_port = 0;
  const Fd listening = listen_on_loopback(origin_port), noise_origin = listen_on_loopback(noise_origin_port);
  const auto ca = make_ca();
  const auto trust = tls::TrustStore::load({}).value();
  audit::Journal journal(Fd(::open("/dev/null", O_WRONLY | O_CLOEXEC)));
  const auto egress = bench_egress();
  std::vector<std::unique_ptr<Box>> boxes;
  auto overrides = at_loopback(host, origin_port);
  overrides.merge(at_loopback(noisy_host, noise_origin_port));
  Server server(ca, trust, journal, std::move(overrides));
  std::vector<std::uint16_t> ports;
  for (std::size_t i = 0; i < quiet_count; ++i) {
    boxes.push_back(make_box(egress));
    ports.push_back(entrance(server, *boxes.back(), host, 80));
  }
  boxes.push_back(make_box(egress));
  const std::uint16_t noisy = entrance(server, *boxes.back(), kind == "downloads" ? noisy_host : closed_host,
                                       kind == "requests" || kind == "downloads" ? 80 : 443);
  server.start();
  pin(0);
  const sched_param first{1};
  if (::sched_setscheduler(0, SCHED_FIFO, &first) != 0)
    fmt::print(stderr, "noisy_sandbox: no real-time priority: the noise delays the clock, too\n");
  std::vector<Fd> clients, origins;
  for (const std::uint16_t port : ports) clients.push_back(dial(port));
  quiet_microseconds(clients, origins, listening, 0.3);  // To warm up.

  std::vector<double> p50_ratios, p99_ratios, quiet, noisy_all;
  for (int round = 0; round < rounds; ++round) {
    const std::vector<double> before = quiet_microseconds(clients, origins, listening, seconds);
    const pid_t noise = ::fork();
    must(noise >= 0, "fork");
    if (noise == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const sched_param none{};
      ::sched_setscheduler(0, SCHED_OTHER, &none);
      (void)!::nice(19);
      if (kind == "connections") flood_connections(noisy);
      if (kind == "requests") flood_requests(noisy);
      if (kind == "downloads") flood_downloads(noisy, noise_origin);
      flood_streams(noisy);
    }
    ::poll(nullptr, 0, 100);
    const double cpu = server.cpu_seconds();
    const auto began = Clock::now();
    const std::vector<double> with = quiet_microseconds(clients, origins, listening, seconds);
    const double busy =
        (server.cpu_seconds() - cpu) / std::chrono::duration<double>(Clock::now() - began).count();
    must(::waitpid(noise, nullptr, WNOHANG) == 0, "the noise ended by itself");
    ::kill(noise, SIGKILL);
    ::waitpid(noise, nullptr, 0);
    p50_ratios.push_back(part(with, 0.5) / part(before, 0.5));
    p99_ratios.push_back(part(with, 0.99) / part(before, 0.99));
    quiet.insert(quiet.end(), before.begin(), before.end());
    noisy_all.insert(noisy_all.end(), with.begin(), with.end());
    fmt::print(
        stderr, "round {}: p50 {:.0f} → {:.0f} µs, p99 {:.0f} → {:.0f} µs, the loop is busy {:.0f} %\n",
        round + 1, part(before, 0.5), part(with, 0.5), part(before, 0.99), part(with, 0.99), 100 * busy);
  }
  fmt::print(
      "{{\"kind\": \"{}\", \"quiet\": {{\"p50_us\": {:.1f}, \"p99_us\": {:.1f}}}, \"noisy\": {{\"p50_us\": "
      "{:.1f}, "
      "\"p99_us\": {:.1f}}}, \"p50_ratio\": {:.2f}, \"p99_ratio\": {:.2f}}}\n",
      kind, part(quiet, 0.5), part(quiet, 0.99), part(noisy_all, 0.5), part(noisy_all, 0.99),
      part(p50_ratios, 0.5), part(p99_ratios, 0.5));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view kind = argc > 1 ? argv[1] : "";
  try {
    must(kind == "connections" || kind == "requests" || kind == "downloads" || kind == "streams",
         "connections, requests, downloads or streams?");
    measure(kind, argc > 2 ? std::atof(argv[2]) : 2);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "noisy_sandbox: %s\n", error.what());
    return 1;
  }
  return 0;
}
