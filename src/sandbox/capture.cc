#include "sandbox/capture.h"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <span>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "sandbox/capture_rules.h"

namespace postern::sandbox {
namespace {

// A bound on the helper, so that a namespace that never comes up cannot hold the caller. Usual: 3 ms.
constexpr int capture_time_max_ms = 10'000;
constexpr int proof_time_max_ms = 1000;  // On loopback it is there when connect() returns.
// The kernel caps it at net.core.somaxconn, 4096 in a new namespace. An agent's burst must not see a lost
// SYN.
constexpr int listen_backlog = 4096;
constexpr int loopback_index = 1;  // `lo` is the first device of every namespace.
constexpr std::size_t socket_count = 6;
constexpr std::size_t message_bytes_max = 1024;

std::unexpected<Error> fail_errno(std::string_view doing) {
  return fail(Reason::internal, fmt::format("cannot {}: {}", doing, std::strerror(errno)));
}

// ---------------------------------------------------------------------------------------------------------------
// Entering

Result<void> enter_network_of(pid_t pid) {
  Fd net(open(fmt::format("/proc/{}/ns/net", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!net) return fail_errno("open the sandbox's network namespace");
  // The user namespace that *owns* the network: bubblewrap nests two, and /proc/PID/ns/user is the inner one.
  Fd owner(ioctl(net.get(), NS_GET_USERNS));
  if (!owner) return fail_errno("find the owner of the sandbox's network namespace");
  struct stat theirs{}, ours{};
  if (fstat(owner.get(), &theirs) != 0 || stat("/proc/self/ns/user", &ours) != 0) {
    return fail_errno("compare user namespaces");
  }
  bool same_owner = theirs.st_ino == ours.st_ino && theirs.st_dev == ours.st_dev;
  if (!same_owner && setns(owner.get(), CLONE_NEWUSER) != 0)
    return fail_errno("join the sandbox's user namespace");
  if (setns(net.get(), CLONE_NEWNET) != 0) return fail_errno("join the sandbox's network namespace");
  return {};
}

// ---------------------------------------------------------------------------------------------------------------
// rtnetlink: addresses and routes

class RouteSocket {
 public:
  RouteSocket() = default;
  RouteSocket(const RouteSocket&) = delete;
  RouteSocket& operator=(const RouteSocket&) = delete;
  ~RouteSocket() {
    if (socket_ != nullptr) mnl_socket_close(socket_);
  }

  Result<void> open(unsigned groups) {
    socket_ = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (socket_ == nullptr || mnl_socket_bind(socket_, groups, MNL_SOCKET_AUTOPID) != 0) {
      return fail_errno("open rtnetlink");
    }
    return {};
  }

  int fd() const { return mnl_socket_get_fd(socket_); }

  /// Sends one request and waits for the kernel's acknowledgement. Returns 0 or an errno.
  int ask(nlmsghdr* request) {
    request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    request->nlmsg_seq = ++sequence_;
    if (mnl_socket_sendto(socket_, request, request->nlmsg_len) < 0) return errno;
    alignas(nlmsghdr) std::array<char, 8192> answer;
    ssize_t size = mnl_socket_recvfrom(socket_, answer.data(), answer.size());
    if (size < 0) return errno;
    int state = mnl_cb_run(answer.data(), static_cast<std::size_t>(size), sequence_,
                           mnl_socket_get_portid(socket_), nullptr, nullptr);
    return state < 0 ? errno : 0;
  }

 private:
  mnl_socket* socket_ = nullptr;
  unsigned sequence_ = 0;
};

struct Message {
  alignas(nlmsghdr) std::array<char, 512> bytes{};
  nlmsghdr* start(std::uint16_t type, std::uint16_t flags) {
    nlmsghdr* header = mnl_nlmsg_put_header(bytes.data());
    header->nlmsg_type = type;
    header->nlmsg_flags = flags;
    return header;
  }
};

/// One family's address bytes.
struct Address {
  int family;
  std::array<unsigned char, 16> bytes{};
  std::size_t size() const { return family == AF_INET ? 4 : 16; }
};

Address address(int family) {
  Address result{family};
  inet_pton(family, family == AF_INET ? capture_address4 : capture_address6, result.bytes.data());
  return result;
}

/// Gives `lo` the sandbox's own address. Resolvers count a namespace with only loopback addresses as offline
/// (getaddrinfo with AI_ADDRCONFIG), and a program that asks for its own address should not read 127.0.0.1.
int add_address(RouteSocket& route, const Address& own) {
  Message message;
  nlmsghdr* header = message.start(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
  auto* body = static_cast<ifaddrmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(ifaddrmsg)));
  body->ifa_family = static_cast<unsigned char>(own.family);
  body->ifa_prefixlen = static_cast<unsigned char>(own.size() * 8);
  body->ifa_flags = IFA_F_PERMANENT | (own.family == AF_INET6 ? IFA_F_NODAD : 0);
  body->ifa_scope = RT_SCOPE_UNIVERSE;
  body->ifa_index = loopback_index;
  mnl_attr_put(header, IFA_LOCAL, own.size(), own.bytes.data());
  mnl_attr_put(header, IFA_ADDRESS, own.size(), own.bytes.data());
  return route.ask(header);
}

/// `local default dev lo src OWN`: every address is ours. With a source of its own a connection can never
/// have the same address and port at both ends, which TCP would take for a connection with itself.
int add_any_ip_route(RouteSocket& route, const Address& own) {
  Message message;
  nlmsghdr* header = message.start(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  auto* body = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(header, sizeof(rtmsg)));
  body->rtm_family = static_cast<unsigned char>(own.family);
  body->rtm_table = RT_TABLE_LOCAL;
  body->rtm_protocol = RTPROT_STATIC;
  body->rtm_scope = own.family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  body->rtm_type = RTN_LOCAL;
  mnl_attr_put_u32(header, RTA_OIF, loopback_index);
  mnl_attr_put(header, RTA_PREFSRC, own.size(), own.bytes.data());
  return route.ask(header);
}

int bring_loopback_up(RouteSocket& route) {
  Message message;
  nlmsghdr* header = message.start(RTM_NEWLINK, 0);
  auto* body = static_cast<ifinfomsg*>(mnl_nlmsg_put_extra_header(header, sizeof(ifinfomsg)));
  body->ifi_index = loopback_index;
  body->ifi_flags = IFF_UP;
  body->ifi_change = IFF_UP;
  return route.ask(header);
}

bool loopback_is_up() {
  Fd any(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, "lo", sizeof "lo");
  return ioctl(any.get(), SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP) != 0;
}

/// Waits until bubblewrap has brought `lo` up, or until it is known that it never will.
Result<void> wait_for_loopback(int sandbox_pidfd) {
  RouteSocket events;
  // Subscribed before the first look: the change cannot fall between the two.
  if (auto opened = events.open(RTMGRP_LINK); !opened) return opened;
  while (!loopback_is_up()) {
    std::array<pollfd, 2> waits{pollfd{events.fd(), POLLIN, 0}, pollfd{sandbox_pidfd, POLLIN, 0}};
    int ready = poll(waits.data(), waits.size(), capture_time_max_ms / 2);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return fail(Reason::internal, "the sandbox's loopback device did not come up");
    if (waits[1].revents != 0) return fail(Reason::internal, "the sandbox ended while it was set up");
    std::array<char, 8192> event;
    if (recv(events.fd(), event.data(), event.size(), MSG_DONTWAIT) < 0 && errno != EAGAIN &&
        errno != ENOBUFS) {
      return fail_errno("wait for the sandbox's loopback device");
    }
  }
  return {};
}

/// Returns whether the namespace has IPv6.
Result<bool> make_routes(RouteSocket& route) {
  Address own4 = address(AF_INET);
  errno = add_address(route, own4);
  if (errno != 0) return fail_errno("give the sandbox an IPv4 address");
  errno = add_any_ip_route(route, own4);
  if (errno != 0) return fail_errno("route IPv4 to the capture");
  Address own6 = address(AF_INET6);
  // Without IPv6 (not built in, or disabled) nothing can leave over it either.
  if (add_address(route, own6) != 0) return false;
  errno = add_any_ip_route(route, own6);
  if (errno != 0) return fail_errno("route IPv6 to the capture");
  return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Sockets

enum class Role : unsigned char { capture, dns };

sockaddr_storage bind_address(int family, Role role, socklen_t& size) {
  sockaddr_storage storage{};
  Address own = address(family);
  int port = role == Role::capture ? capture_port : 53;
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    *in = {.sin_family = AF_INET, .sin_port = htons(static_cast<std::uint16_t>(port))};
    // One address, not the wildcard: 127.0.0.1 of every port stays the sandbox's.
    if (role == Role::capture) std::memcpy(&in->sin_addr, own.bytes.data(), 4);
    size = sizeof(sockaddr_in);
  } else {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(static_cast<std::uint16_t>(port));
    if (role == Role::capture) std::memcpy(&in6->sin6_addr, own.bytes.data(), 16);
    size = sizeof(sockaddr_in6);
  }
  return storage;
}

bool set_option(const Fd& fd, int level, int option) {
  int on = 1;
  return setsockopt(fd.get(), level, option, &on, sizeof on) == 0;
}

Result<Fd> make_socket(int family, int type, Role role) {
  Fd fd(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("open a capture socket");
  bool four = family == AF_INET;
  bool set = set_option(fd, SOL_SOCKET, SO_REUSEADDR) &&
             (four || set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY)) &&
             // tproxy gives connections only to transparent listeners; for UDP it lets an answer leave from
             // the address that was asked.
             set_option(fd, four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_TRANSPARENT : IPV6_TRANSPARENT);
  if (set && type == SOCK_DGRAM) {
    set = set_option(fd, four ? IPPROTO_IP : IPPROTO_IPV6, four ? IP_PKTINFO : IPV6_RECVPKTINFO);
  }
  if (!set) return fail_errno("prepare a capture socket");
  socklen_t size = 0;
  sockaddr_storage where = bind_address(family, role, size);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&where), size) != 0)
    return fail_errno("bind a capture socket");
  if (type == SOCK_STREAM && listen(fd.get(), listen_backlog) != 0)
    return fail_errno("listen for the sandbox");
  return fd;
}

/// In the order of CaptureSockets; the odd ones are empty without IPv6.
using Sockets = std::array<Fd, socket_count>;

Result<Sockets> make_sockets(bool has_ipv6) {
  struct Plan {
    int family, type;
    Role role;
  };
  constexpr std::array<Plan, socket_count> plans{
      Plan{AF_INET, SOCK_STREAM, Role::capture}, Plan{AF_INET6, SOCK_STREAM, Role::capture},
      Plan{AF_INET, SOCK_DGRAM, Role::dns},      Plan{AF_INET6, SOCK_DGRAM, Role::dns},
      Plan{AF_INET, SOCK_STREAM, Role::dns},     Plan{AF_INET6, SOCK_STREAM, Role::dns}};
  Sockets sockets;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (plans[i].family == AF_INET6 && !has_ipv6) continue;
    auto made = make_socket(plans[i].family, plans[i].type, plans[i].role);
    if (!made) return std::unexpected(made.error());
    sockets[i] = std::move(*made);
  }
  return sockets;
}

/// Dials a documentation address (RFC 5737, RFC 3849) and takes the connection: rules that were accepted but
/// do not work on this kernel are found here, before anything runs, and not by a program that got out of the
/// capture.
Result<void> prove(int family, const Fd& listener) {
  const char* somewhere = family == AF_INET ? "192.0.2.1" : "2001:db8::1";
  sockaddr_storage target{};
  socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  target.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&target);
    in->sin_port = htons(9);
    inet_pton(family, somewhere, &in->sin_addr);
  } else {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&target);
    in6->sin6_port = htons(9);
    inet_pton(family, somewhere, &in6->sin6_addr);
  }
  Fd dialling(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  (void)connect(dialling.get(), reinterpret_cast<sockaddr*>(&target), size);
  pollfd wait{listener.get(), POLLIN, 0};
  sockaddr_storage dialled{};
  socklen_t dialled_size = sizeof dialled;
  if (poll(&wait, 1, proof_time_max_ms) == 1) {
    Fd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (accepted && getsockname(accepted.get(), reinterpret_cast<sockaddr*>(&dialled), &dialled_size) == 0 &&
        dialled_size == size && std::memcmp(&dialled, &target, size) == 0) {
      return {};
    }
  }
  return fail(Reason::internal, fmt::format("the capture does not catch a connection to {}", somewhere));
}

// ---------------------------------------------------------------------------------------------------------------
// The helper, and what it sends back: the sockets, or a sentence.

Result<Sockets> capture_from_inside(pid_t pid, int pidfd, Loopback loopback) {
  if (auto entered = enter_network_of(pid); !entered) return std::unexpected(entered.error());
  RouteSocket route;
  if (auto opened = route.open(0); !opened) return std::unexpected(opened.error());
  if (loopback == Loopback::wait_until_up) {
    if (auto up = wait_for_loopback(pidfd); !up) return std::unexpected(up.error());
  } else {
    errno = bring_loopback_up(route);
    if (errno != 0) return fail_errno("bring the sandbox's loopback device up");
  }
  auto has_ipv6 = make_routes(route);
  if (!has_ipv6) return std::unexpected(has_ipv6.error());
  // Sockets before rules: tproxy rules without a listener would drop, the other way round nothing is dialled
  // yet.
  auto sockets = make_sockets(*has_ipv6);
  if (!sockets) return sockets;
  if (auto rules = make_capture_rules(*has_ipv6); !rules) return std::unexpected(rules.error());
  if (auto proof = prove(AF_INET, (*sockets)[0]); !proof) return std::unexpected(proof.error());
  if (*has_ipv6) {
    if (auto proof = prove(AF_INET6, (*sockets)[1]); !proof) return std::unexpected(proof.error());
  }
  return sockets;
}

using FdSpace = std::array<char, CMSG_SPACE(sizeof(int) * socket_count)>;

void send_sockets(int channel, const Result<Sockets>& result) {
  std::string text(1, '\0');  // First byte: which sockets follow; none means that a sentence follows.
  std::array<int, socket_count> fds{};
  std::size_t count = 0;
  if (result) {
    for (std::size_t i = 0; i < socket_count; ++i) {
      if (!(*result)[i]) continue;
      text[0] = static_cast<char>(text[0] | (1 << i));
      fds[count++] = (*result)[i].get();
    }
  } else {
    text += result.error().detail.substr(0, message_bytes_max - 1);
  }
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) FdSpace space{};
  if (count > 0) {
    message.msg_control = space.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * count);
  }
  (void)sendmsg(channel, &message, MSG_NOSIGNAL);
}

Result<CaptureSockets> receive_sockets(int channel) {
  pollfd wait{channel, POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, capture_time_max_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0)
    return fail(Reason::internal, "the capture of the sandbox's network did not finish in time");

  std::array<char, message_bytes_max> text{};
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) FdSpace space{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  ssize_t size = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
  if (size <= 0) return fail(Reason::internal, "the helper that captures the sandbox's network died");

  std::array<Fd, socket_count> sockets;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return fail(Reason::internal, std::string(text.data() + 1, static_cast<std::size_t>(size) - 1));
  }
  auto count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < socket_count && taken < count; ++i) {
    if ((text[0] & (1 << i)) == 0) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header) + sizeof(int) * taken++, sizeof fd);
    sockets[i] = Fd(fd);
  }
  return CaptureSockets{.tcp4 = std::move(sockets[0]),
                        .tcp6 = std::move(sockets[1]),
                        .dns_udp4 = std::move(sockets[2]),
                        .dns_udp6 = std::move(sockets[3]),
                        .dns_tcp4 = std::move(sockets[4]),
                        .dns_tcp6 = std::move(sockets[5])};
}

}  // namespace

Result<CaptureSockets> capture_network(pid_t pid_inside, Loopback loopback) {
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid_inside, 0)));
  if (!pidfd) return fail_errno("find the sandbox's first process");
  std::array<int, 2> pair{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0)
    return fail_errno("make a channel");
  Fd ours(pair[0]), theirs(pair[1]);

  pid_t parent = getpid();
  pid_t helper = fork();
  if (helper < 0) return fail_errno("start the capture's helper");
  if (helper == 0) {
    // _exit, never exit: the parent's atexit handlers and buffers are not ours to run.
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(1);
    send_sockets(theirs.get(), capture_from_inside(pid_inside, pidfd.get(), loopback));
    _exit(0);
  }
  theirs.reset();  // Else a dead helper would not read as end of file.
  auto result = receive_sockets(ours.get());
  if (!result) kill(helper, SIGKILL);  // Not yet waited for, so the id is still its own.
  while (waitpid(helper, nullptr, 0) < 0 && errno == EINTR) {
  }
  return result;
}

}  // namespace postern::sandbox
