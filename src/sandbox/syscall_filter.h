#pragma once
// The seccomp filter of the sandboxed program: what namespaces do not close.
//
// A network namespace separates AF_INET, AF_INET6 and netlink, but not AF_VSOCK (to the hypervisor), and
// AF_ALG, XDP, packet sockets, io_uring, bpf and the keyrings are kernel surface that no agent needs.
// Refusals are the ones that programs already know from other sandboxes, so that they fall back quietly:
// ENOSYS for io_uring (libuv), EAFNOSUPPORT for a family. TIOCSTI and TIOCLINUX, which type into the caller's
// terminal, are refused with EPERM. Foreign system call tables (32-bit, x32) would pass a filter by number: a
// program that uses them is killed.

#include "base/fd.h"
#include "base/result.h"

namespace postern::sandbox {

/// A memory file holding the classic BPF program, as `bwrap --seccomp FD` reads it.
Result<Fd> syscall_filter();

}  // namespace postern::sandbox
