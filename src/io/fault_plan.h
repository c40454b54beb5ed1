#pragma once
// Tests make the Nth system call of a thread's streams fail, and so walk through every place where a
// connection can break. No plan is ever set outside of tests; what is left is one predictable branch beside a
// system call.

#include <cstddef>
#include <cstdint>
#include <sys/socket.h>

namespace postern::io {

struct FaultPlan {
  /// One byte moves although more was offered, or the call fails with this errno.
  static constexpr int short_transfer = 0;

  std::uint64_t fail_at = 0;  ///< The first call is 1.
  int error_number = short_transfer;
  std::uint64_t calls = 0;

  bool fired() const { return fail_at != 0 && calls >= fail_at; }
  /// True when this call fails with error_number; the connection is dead from then on, as it would be. `size`
  /// is cut for a short transfer.
  bool strikes(int socket, std::size_t& size) {
    if (++calls != fail_at) return false;
    if (error_number == short_transfer) {
      if (size > 1) size = 1;
      return false;
    }
    ::shutdown(socket, SHUT_RDWR);
    return true;
  }
};

inline thread_local constinit FaultPlan* fault_plan = nullptr;

}  // namespace postern::io
