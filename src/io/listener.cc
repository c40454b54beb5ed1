#include "io/listener.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utility>

namespace postern::io {

Listener::Listener(Loop& loop, int socket, OnAccept on_accept)
    : loop_(loop),
      socket_(socket),
      on_accept_(std::move(on_accept)),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)) {
  loop_.add(socket_, *this, EPOLLIN | EPOLLEXCLUSIVE);
}

Listener::~Listener() { pause(); }

void Listener::pause() {
  if (!std::exchange(paused_, true)) loop_.remove(socket_, *this);
}

void Listener::resume() {
  if (std::exchange(paused_, false)) loop_.add(socket_, *this, EPOLLIN | EPOLLEXCLUSIVE);
}

void Listener::accept_waiting() {
  resume();
  accepts_per_turn_ = accepts_per_turn_max;
  on_ready(0);
}

void Listener::on_ready(std::uint32_t) {
  if (!spare_) spare_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  for (int i = 0; i < accepts_per_turn_ && !paused_; ++i) {
    Fd accepted(::accept4(socket_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted) {
      on_accept_(std::move(accepted));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if ((errno == EMFILE || errno == ENFILE) && refuse_one()) continue;
    accepts_per_turn_ = std::max(i, 1);
    return;
  }
  // There may be more; if so, the next turn tells.
  accepts_per_turn_ = std::min(2 * accepts_per_turn_, accepts_per_turn_max);
}

bool Listener::refuse_one() {
  if (!spare_) return false;
  spare_.reset();
  Fd refused(::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC));
  const bool took_one = static_cast<bool>(refused);
  if (took_one) {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(refused.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ++refused_;
  }
  refused.reset();
  spare_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return took_one;
}

}  // namespace postern::io
