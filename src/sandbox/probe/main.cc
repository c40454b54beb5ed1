// sandbox-probe: runs a command in a captured sandbox and answers everything that it dials with what was
// seen. It stands in for the proxy in tests/test_sandbox_*.py, which look at the sandbox alone. Not
// installed.
//
//   sandbox-probe [--bind P] [--ro-bind P] [--hide P] [--state P] [--keep NAME] [--set N=V] [--secret V]
//                 [--ca FILE --cache DIR] [--times] -- COMMAND...
//
// A captured TCP connection reads `tcp ADDRESS PORT\n`, one to port 53 `dns ADDRESS PORT\n`, and is closed. A
// datagram to port 53 is answered from the address that was asked, with its own bytes behind `udp ADDRESS `.

#include <arpa/inet.h>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <iterator>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string>
#include <sys/socket.h>
#include <vector>

#include "sandbox/capture.h"
#include "sandbox/launch.h"
#include "sandbox/trust.h"

namespace {

using namespace postern;
using namespace postern::sandbox;

constexpr int exit_failed = 125;

std::string text_of(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text.data(), text.size());
  } else {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text.data(), text.size());
  }
  return text.data();
}

int port_of(const sockaddr_storage& address) {
  // The port is at the same place in both families.
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

void answer_connection(const Fd& listener, std::string_view role) {
  Fd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  sockaddr_storage dialled{};
  socklen_t size = sizeof dialled;
  if (!connection || getsockname(connection.get(), reinterpret_cast<sockaddr*>(&dialled), &size) != 0) return;
  std::string text = fmt::format("{} {} {}\n", role, text_of(dialled), port_of(dialled));
  (void)!send(connection.get(), text.data(), text.size(), MSG_NOSIGNAL);
}

void answer_datagram(const Fd& socket) {
  std::array<char, 2048> bytes{};
  iovec part{bytes.data(), bytes.size()};
  sockaddr_storage from{};
  alignas(cmsghdr) std::array<char, 128> control{};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t size = recvmsg(socket.get(), &message, 0);
  if (size < 0) return;
  sockaddr_storage asked{};
  asked.ss_family = from.ss_family;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == IP_PKTINFO) {
    auto* info = reinterpret_cast<in_pktinfo*>(CMSG_DATA(header));
    reinterpret_cast<sockaddr_in&>(asked).sin_addr = info->ipi_addr;
    info->ipi_spec_dst = info->ipi_addr;  // The answer leaves from the asked address.
  } else if (header != nullptr && header->cmsg_type == IPV6_PKTINFO) {
    reinterpret_cast<sockaddr_in6&>(asked).sin6_addr =
        reinterpret_cast<in6_pktinfo*>(CMSG_DATA(header))->ipi6_addr;
  }
  std::string text =
      "udp " + text_of(asked) + " " + std::string(bytes.data(), static_cast<std::size_t>(size));
  part = {text.data(), text.size()};
  (void)!sendmsg(socket.get(), &message, 0);
}

void serve(const CaptureSockets& sockets, Sandbox& sandbox) {
  std::array<pollfd, 7> waits{
      pollfd{sockets.tcp4.get(), POLLIN, 0},     pollfd{sockets.tcp6.get(), POLLIN, 0},
      pollfd{sockets.dns_tcp4.get(), POLLIN, 0}, pollfd{sockets.dns_tcp6.get(), POLLIN, 0},
      pollfd{sockets.dns_udp4.get(), POLLIN, 0}, pollfd{sockets.dns_udp6.get(), POLLIN, 0},
      pollfd{sandbox.exit_fd(), POLLIN, 0}};
  while (waits[6].revents == 0) {
    if (poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[0].revents != 0) answer_connection(sockets.tcp4, "tcp");
    if (waits[1].revents != 0) answer_connection(sockets.tcp6, "tcp");
    if (waits[2].revents != 0) answer_connection(sockets.dns_tcp4, "dns");
    if (waits[3].revents != 0) answer_connection(sockets.dns_tcp6, "dns");
    if (waits[4].revents != 0) answer_datagram(sockets.dns_udp4);
    if (waits[5].revents != 0) answer_datagram(sockets.dns_udp6);
  }
}

struct Options {
  LaunchSpec spec;
  std::string ca_file, cache;
  bool times = false;
};

Options parse(const std::vector<std::string>& words) {
  Options options;
  std::size_t i = 0;
  for (; i < words.size() && words[i] != "--"; ++i) {
    const std::string& name = words[i];
    if (name == "--times") {
      options.times = true;
      continue;
    }
    std::string value = i + 1 < words.size() ? words[++i] : std::string();
    if (name == "--bind") options.spec.paths.push_back({PathRule::Kind::bind, value, {}});
    if (name == "--ro-bind") options.spec.paths.push_back({PathRule::Kind::ro_bind, value, {}});
    if (name == "--hide") options.spec.paths.push_back({PathRule::Kind::hide, value, {}});
    if (name == "--state") options.spec.state_directory = value;
    if (name == "--keep") options.spec.environment.keep.push_back(value);
    if (name == "--ca") options.ca_file = value;
    if (name == "--cache") options.cache = value;
    if (name == "--set") {
      options.spec.environment.set.emplace_back(value.substr(0, value.find('=')),
                                                value.substr(value.find('=') + 1));
    }
    if (name == "--secret") {
      options.spec.environment.holds_secret = [value](std::string_view text) {
        return text.find(value) != std::string_view::npos;
      };
    }
  }
  options.spec.command.assign(words.begin() + static_cast<std::ptrdiff_t>(std::min(i + 1, words.size())),
                              words.end());
  return options;
}

Sandbox* signalled = nullptr;  // For the handler, which has no other way to know.

Result<int> run(Options& options) {
  auto start_time = std::chrono::steady_clock::now();
  if (!options.ca_file.empty()) {
    std::ifstream file(options.ca_file);
    auto trust = prepare_trust({std::string(std::istreambuf_iterator<char>(file), {}), options.cache});
    if (!trust) return std::unexpected(trust.error());
    options.spec.files = trust->mounts;
    for (const Variable& variable : trust->environment) options.spec.environment.set.push_back(variable);
  }
  auto sandbox = start(options.spec);
  if (!sandbox) return std::unexpected(sandbox.error());
  auto sockets = capture_network(sandbox->init_pid());
  if (!sockets) return std::unexpected(sockets.error());
  signalled = &*sandbox;
  signal(SIGTERM, [](int number) { signalled->signal(number); });
  if (auto released = sandbox->release(); !released) return std::unexpected(released.error());
  if (options.times) {
    auto spent = std::chrono::steady_clock::now() - start_time;
    fmt::print(stderr, "ready after {} us\n",
               std::chrono::duration_cast<std::chrono::microseconds>(spent).count());
  }
  serve(*sockets, *sandbox);
  signal(SIGTERM, SIG_DFL);
  return sandbox->wait();
}

}  // namespace

int main(int count, char** arguments) {
  // As the proxy does: the terminal's signals are for the program.
  for (int number : {SIGINT, SIGQUIT}) signal(number, SIG_IGN);
  Options options = parse({arguments + 1, arguments + count});
  auto status = run(options);
  if (status) return *status;
  fmt::print(stderr, "sandbox-probe: {}\n", status.error().detail);
  return exit_failed;
}
