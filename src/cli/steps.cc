#include "cli/steps.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>

namespace postern::cli {

std::vector<std::pair<int, rlimit>> harden() {
  std::vector<std::pair<int, rlimit>> original;
  const auto limit = [&](int resource, auto change) {
    rlimit now{};
    if (::getrlimit(static_cast<__rlimit_resource>(resource), &now) != 0) return;
    original.emplace_back(resource, now);
    change(now);
    ::setrlimit(static_cast<__rlimit_resource>(resource), &now);
  };
  limit(RLIMIT_CORE, [](rlimit& core) { core.rlim_cur = 0; });
  limit(RLIMIT_NOFILE, [](rlimit& files) { files.rlim_cur = files.rlim_max; });
  ::prctl(PR_SET_DUMPABLE, 0);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // A log at the limit of file sizes is one that cannot be written: no more.
  return original;
}

Fd open_log(const std::string& log) {
  if (log.empty()) return Fd();
  if (log == "-") return Fd(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
  Fd file(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    complain(fmt::format("--log '{}' cannot be opened: {}", log, std::strerror(errno)));
    throw Stop{};
  }
  return file;
}

}  // namespace postern::cli
