#include "box/agent/connect.h"

#include <arpa/inet.h>
#include <charconv>
#include <cstdint>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>

#include "box/agent/files.h"

namespace postern::box {

namespace {

constexpr int dial_milliseconds = 10'000;  // a port whose queue is full does not answer
constexpr std::size_t piece_bytes = 32 * 1024;

int trouble(int number) {
  char text[16];
  const auto end = std::to_chars(text, text + sizeof text, number).ptr;
  (void)!write(2, text, static_cast<std::size_t>(end - text));
  return file_trouble;
}

/// The descriptor, or -errno.
int dial(const sockaddr* address, socklen_t size) {
  const int to = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (to < 0) return -errno;
  int error = connect(to, address, size) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd waiting{to, POLLOUT, 0};
    socklen_t error_size = sizeof error;
    if (poll(&waiting, 1, dial_milliseconds) <= 0)
      error = ETIMEDOUT;
    else if (getsockopt(to, SOL_SOCKET, SO_ERROR, &error, &error_size) != 0)
      error = errno;
  }
  if (error == 0) return to;
  close(to);
  return -error;
}

int dial(std::uint16_t port) {
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = htons(port);
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int connected = dial(reinterpret_cast<const sockaddr*>(&four), sizeof four);
  if (connected >= 0) return connected;
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(port);
  six.sin6_addr = in6addr_loopback;
  const int other = dial(reinterpret_cast<const sockaddr*>(&six), sizeof six);
  return other >= 0 ? other : connected;  // The first says more: there may be no IPv6.
}

bool later() { return errno == EAGAIN || errno == EINTR; }

/// One direction, through a piece of memory.
class Flow {
 public:
  Flow(int from, int to) : from_(from), to_(to) {}
  bool over() const { return over_; }
  bool reads() const { return !ended_ && at_ == size_; }
  bool writes() const { return at_ < size_; }

  /// False: the connection is broken.
  bool fill() {
    const ssize_t size = read(from_, piece_, sizeof piece_);
    if (size < 0) return later();
    at_ = 0;
    size_ = static_cast<std::size_t>(size);
    ended_ = size == 0;
    return true;
  }
  bool drain() {
    const ssize_t size = write(to_, piece_ + at_, size_ - at_);
    if (size < 0) return later();
    at_ += static_cast<std::size_t>(size);
    return true;
  }
  /// True once: all has been passed on.
  bool take_end() {
    if (over_ || !ended_ || at_ < size_) return false;
    over_ = true;
    return true;
  }

 private:
  const int from_, to_;
  char piece_[piece_bytes];
  std::size_t at_ = 0, size_ = 0;
  bool ended_ = false, over_ = false;
};

void make_nonblocking(int descriptor) { fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK); }

int carry(int connection) {
  Flow into(0, connection), from(connection, 1);
  while (!into.over() || !from.over()) {
    const auto asked = [](bool wanted, int events) { return static_cast<short>(wanted ? events : 0); };
    pollfd waiting[] = {
        {into.reads() ? 0 : -1, POLLIN, 0},
        {into.writes() || from.reads() ? connection : -1,
         static_cast<short>(asked(into.writes(), POLLOUT) | asked(from.reads(), POLLIN)), 0},
        {from.writes() ? 1 : -1, POLLOUT, 0},
    };
    if (poll(waiting, 3, -1) < 0 && errno != EINTR) return trouble(errno);
    if (waiting[0].revents != 0 && !into.fill()) return trouble(errno);
    if (waiting[1].revents != 0 && from.reads() && !from.fill()) return trouble(errno);
    if (into.writes() && !into.drain()) return trouble(errno);
    if (from.writes() && !from.drain()) return trouble(errno);
    if (into.take_end()) shutdown(connection, SHUT_WR);
    if (from.take_end()) close(1);
  }
  return 0;
}

}  // namespace

int run_connect(const std::string& port_text) {
  std::uint16_t port = 0;
  const char* const end = port_text.data() + port_text.size();
  const auto read = std::from_chars(port_text.data(), end, port);
  if (read.ec != std::errc() || read.ptr != end || port == 0) return 2;
  const int connection = dial(port);
  if (connection < 0) return trouble(-connection);
  const int at_once = 1;
  setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
  if (write(1, "", 1) != 1) return trouble(errno);
  make_nonblocking(0);
  make_nonblocking(1);
  return carry(connection);
}

}  // namespace postern::box
