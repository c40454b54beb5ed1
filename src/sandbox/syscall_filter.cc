#include "sandbox/syscall_filter.h"

#include <array>
#include <asm/ioctls.h>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>

namespace postern::sandbox {
namespace {

using Filter = std::unique_ptr<void, decltype([](void* filter) { seccomp_release(filter); })>;

struct Refusal {
  int number;
  int error;
};

constexpr std::array refusals{
    Refusal{SCMP_SYS(io_uring_setup), ENOSYS},
    Refusal{SCMP_SYS(io_uring_enter), ENOSYS},
    Refusal{SCMP_SYS(io_uring_register), ENOSYS},
    Refusal{SCMP_SYS(bpf), EPERM},
    Refusal{SCMP_SYS(perf_event_open), EPERM},
    Refusal{SCMP_SYS(userfaultfd), EPERM},
    Refusal{SCMP_SYS(keyctl), ENOSYS},
    Refusal{SCMP_SYS(add_key), ENOSYS},
    Refusal{SCMP_SYS(request_key), ENOSYS},
    Refusal{SCMP_SYS(kexec_load), EPERM},
    Refusal{SCMP_SYS(kexec_file_load), EPERM},
    Refusal{SCMP_SYS(open_by_handle_at), EPERM},
    Refusal{SCMP_SYS(init_module), EPERM},
    Refusal{SCMP_SYS(finit_module), EPERM},
    Refusal{SCMP_SYS(delete_module), EPERM},
    Refusal{SCMP_SYS(lookup_dcookie), EPERM},
};

constexpr int family_max = 64;  // Above the kernel's AF_MAX: larger numbers are refused by the kernel itself.
// The kernel reads an int where the filter sees 64 bits: compare the low half only, or junk above it slips
// past.
constexpr scmp_datum_t low_half = 0xffffffff;

constexpr bool family_allowed(int family) {
  return family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK;
}

/// Returns 0 or a negative errno, as libseccomp does.
int add_rules(scmp_filter_ctx filter) {
  int state = 0;
  auto refuse = [&](int number, int error, auto... comparison) {
    if (state == 0) {
      state = seccomp_rule_add(filter, SCMP_ACT_ERRNO(static_cast<std::uint16_t>(error)), number,
                               sizeof...(comparison), comparison...);
    }
  };
  for (const Refusal& refusal : refusals) refuse(refusal.number, refusal.error);
  for (scmp_datum_t request : {scmp_datum_t{TIOCSTI}, scmp_datum_t{TIOCLINUX}}) {
    refuse(SCMP_SYS(ioctl), EPERM, SCMP_A1(SCMP_CMP_MASKED_EQ, low_half, request));
  }
  for (int family = 0; family < family_max; ++family) {
    if (family_allowed(family)) continue;
    auto value = static_cast<scmp_datum_t>(family);
    refuse(SCMP_SYS(socket), EAFNOSUPPORT, SCMP_A0(SCMP_CMP_MASKED_EQ, low_half, value));
    refuse(SCMP_SYS(socketpair), EAFNOSUPPORT, SCMP_A0(SCMP_CMP_MASKED_EQ, low_half, value));
  }
  return state;
}

}  // namespace

Result<Fd> syscall_filter() {
  Filter filter(seccomp_init(SCMP_ACT_ALLOW));
  if (!filter) return fail(Reason::internal, "cannot make the seccomp filter");
  int state = seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  // A tree instead of a list: every system call of the program passes here.
  if (state == 0) state = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (state == 0) state = add_rules(filter.get());
  Fd file(memfd_create("postern-seccomp", MFD_CLOEXEC));
  if (state == 0 && !file) state = -errno;
  if (state == 0) state = seccomp_export_bpf(filter.get(), file.get());
  if (state == 0 && lseek(file.get(), 0, SEEK_SET) != 0) state = -errno;
  if (state != 0) {
    return fail(Reason::internal, fmt::format("cannot make the seccomp filter: {}", std::strerror(-state)));
  }
  return file;
}

}  // namespace postern::sandbox
