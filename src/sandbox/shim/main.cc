// postern-launch: the last step before the sandboxed program, run inside the sandbox.
//
// bubblewrap's own processes must survive the terminal's Ctrl-C, so they are started with signals ignored,
// and ignored signals stay ignored across exec. This gives the program the dispositions that it would have
// had without us, closes every descriptor but 0, 1 and 2, and executes it. Static and tiny: it runs in
// whatever root the sandbox has, and it is embedded in the postern binary.
//
//   postern-launch GATE ERRORS IGNORED share|own close|keep COMMAND [ARGUMENT...]
//     GATE     a socket to Postern: a byte out says that the sandbox is complete, a byte in lets the program
//     run ERRORS   what becomes the program's standard error IGNORED  decimal bit set of the signals that
//     stay ignored (nohup), bit 0 for signal 1 own      a process group of its own, so that kill(0) in the
//     sandbox cannot reach a process outside keep     the program has GATE as its descriptor 3, and goes on
//     talking to Postern

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int exit_cannot_execute = 126;  // What shells use.
constexpr int exit_not_found = 127;

void reset_signals(unsigned long long ignored) {
  for (int number = 1; number <= 64; ++number) {
    signal(number, ((ignored >> (number - 1)) & 1) != 0 ? SIG_IGN : SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void close_descriptors(unsigned first) {
  if (syscall(SYS_close_range, first, ~0U, 0U) == 0) return;
  for (int fd = static_cast<int>(first); fd < 65536; ++fd) close(fd);  // Before Linux 5.9.
}

/// End of file is no permission: without Postern nothing runs.
bool pass_gate(int gate) {
  char byte = 'r';
  if (send(gate, &byte, 1, MSG_NOSIGNAL) != 1) return false;
  ssize_t size = 0;
  do {
    size = recv(gate, &byte, 1, 0);
  } while (size < 0 && errno == EINTR);
  return size == 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 7 || !pass_gate(atoi(arguments[1])) || dup2(atoi(arguments[2]), 2) != 2)
    return exit_cannot_execute;
  const bool keep = strcmp(arguments[5], "keep") == 0;
  if (keep && dup2(atoi(arguments[1]), 3) != 3) return exit_cannot_execute;
  close_descriptors(keep ? 4 : 3);
  if (strcmp(arguments[4], "own") == 0) setpgid(0, 0);
  reset_signals(strtoull(arguments[3], nullptr, 10));
  execvp(arguments[6], arguments + 6);
  int error = errno;
  fprintf(stderr, "postern: cannot run '%s': %s\n", arguments[6], strerror(error));
  return error == ENOENT || error == ENOTDIR ? exit_not_found : exit_cannot_execute;
}
