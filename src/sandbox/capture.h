#pragma once
// Capture: the whole internet of a sandbox becomes a handful of sockets that Postern owns.
//
// A network namespace with nothing in it but `lo` and the route `local default dev lo` (AnyIP) takes every
// address in the world for its own, so any connect() in it can only arrive at a listening socket of the same
// namespace. capture_network() sends a helper in there once, before the sandboxed program runs; it makes the
// routes, the rules and the sockets, hands the sockets out over a unix socket (SCM_RIGHTS), and is gone.
// Afterwards getsockname() of an accepted connection is the address and port that the program dialled, and
// *which* socket accepted says which sandbox it was.
//
// What the namespace does once this has returned:
//   TCP to 127.0.0.0/8 and ::1         the sandbox's own services, untouched
//   TCP to any other address, port 53  `dns_tcp4` / `dns_tcp6`
//   TCP to any other address and port  `tcp4` / `tcp6`, with the dialled address as getsockname()
//   UDP to any address, port 53        `dns_udp4` / `dns_udp6`; the asked address is in IP_PKTINFO /
//   IPV6_PKTINFO every other UDP                    ICMP port unreachable at once (QUIC clients fall back to
//   TCP) ICMP echo, SCTP, anything else     refused; never answered by the namespace itself
//
// The program has no capability over this namespace: the rules are out of its reach, and a nested namespace
// of its own making is empty and connected to nothing.

#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"

namespace postern::sandbox {

/// The nameserver that resolv.conf in the sandbox names. Never given to a host name.
inline constexpr const char* nameserver_address = "100.64.0.1";

/// The sandbox's own address, and the one that the capture listeners are bound to. Never given to a host
/// name. A connection straight to it arrives with this as its original destination: there is no name, refuse
/// it.
inline constexpr const char* capture_address4 = "100.64.0.2";
inline constexpr const char* capture_address6 = "fd70:6f73:7465:726e::2";

/// Below ip_unprivileged_port_start: the sandboxed program cannot bind it, so no port of its own is taken
/// away.
inline constexpr int capture_port = 2;

/// All are nonblocking, close-on-exec and listening (TCP) or bound (UDP). The `6` ones are empty when the
/// namespace has no IPv6; then nothing in it can reach an IPv6 address at all.
struct CaptureSockets {
  Fd tcp4, tcp6;
  Fd dns_udp4, dns_udp6;
  Fd dns_tcp4, dns_tcp6;
};

/// Who brings `lo` up. bubblewrap does it itself and would fail if somebody else were faster.
enum class Loopback : unsigned char { wait_until_up, bring_up };

/// Makes the capture in the network namespace of `pid_inside` and returns its sockets, which keep the
/// namespace alive. Blocks for some milliseconds (at most `capture_time_max`). Forks: the child must be
/// single-threaded to join a user namespace, which fork() makes it; call it before threads start all the
/// same, since the child runs library code that may take locks.
Result<CaptureSockets> capture_network(pid_t pid_inside, Loopback loopback = Loopback::wait_until_up);

}  // namespace postern::sandbox
