// postern-rest: what becomes of the two processes that hold a box (holder.h) once it runs. All they do then
// is wait, for as long as the box lives, and there are thousands of them: without a C library, without data,
// some pages of memory each in place of a copy of the server's.
//
//   postern-rest PID     ends when the child PID has, which SIGTERM kills; SIGTERM and SIGCHLD are blocked
//
// What it inherits stays: SIGKILL at its parent's end, and descriptors that keep the box's directory taken.

#include <linux/prctl.h>
#include <linux/signal.h>
#include <linux/wait.h>
#include <sys/syscall.h>

namespace {

long call(long number, long a, long b = 0, long c = 0, long d = 0) {
#if defined(__x86_64__)
  register long r10 asm("r10") = d;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
#else
#error "system calls of this machine"
#endif
}

long address(const void* pointer) { return reinterpret_cast<long>(pointer); }

[[noreturn]] void end(int status) {
  for (;;) call(SYS_exit_group, status);
}

/// -1: there is none.
long number_in(const char* text) {
  long value = 0;
  if (!text || *text == '\0') return -1;
  for (; *text != '\0'; ++text) {
    if (*text < '0' || *text > '9' || value > 1'000'000'000) return -1;
    value = value * 10 + (*text - '0');
  }
  return value;
}

/// Also of orphans, whose reaper the first process of a namespace is.
bool has_ended(long child) {
  for (;;) {
    const long gone = call(SYS_wait4, -1, 0, WNOHANG);
    if (gone == child || (gone < 0 && gone != -4)) return true;  // EINTR; ECHILD: somebody else's.
    if (gone == 0) return false;
  }
}

}  // namespace

extern "C" [[noreturn, gnu::used]] void rest(const long* stack) {
  const auto* arguments = reinterpret_cast<const char* const*>(stack + 1);
  const long child = stack[0] == 2 ? number_in(arguments[1]) : -1;
  if (child <= 0) end(2);
  call(SYS_prctl, PR_SET_DUMPABLE, 0);
  call(SYS_prctl, PR_SET_NAME, address("postern-box"));
  const unsigned long signals = 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);
  while (!has_ended(child))
    if (call(SYS_rt_sigtimedwait, address(&signals), 0, 0, sizeof signals) == SIGTERM)
      call(SYS_kill, child, SIGKILL);
  end(0);
}

// The kernel enters with the stack alone: the count of arguments, and they (System V ABI §3.4.1).
#if defined(__x86_64__)
asm(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call rest\n");
#elif defined(__aarch64__)
asm(".globl _start\n_start:\n  mov x0, sp\n  bl rest\n");
#endif
