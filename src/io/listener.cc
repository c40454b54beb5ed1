#include "io/listener.h"

#include <algorithm>
#include <cerrno>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utility>

namespace postern::io {

Listener::Listener(Loop& loop, int socket, OnAccept on_accept, Party party)
    : loop_(loop), party_(party), socket_(socket), on_accept_(std::move(on_accept)) {
  loop_.spare_descriptor();  // While there are descriptors.
  // What it accepts inherits this: once for all, and not a system call for each.
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  loop_.add(socket_, *this, EPOLLIN | EPOLLEXCLUSIVE, party_);
}

Listener::~Listener() { pause(); }

void Listener::pause() {
  if (!std::exchange(paused_, true)) loop_.remove(socket_, *this);
}

void Listener::resume() {
  if (std::exchange(paused_, false)) loop_.add(socket_, *this, EPOLLIN | EPOLLEXCLUSIVE, party_);
}

void Listener::accept_waiting() {
  resume();
  for (int i = 0; i < waiting_max && !paused_; ++i)
    if (!accept_one()) return;
}

void Listener::on_ready(std::uint32_t) {
  for (int i = 0; i < accepts_per_turn_ && !paused_; ++i) {
    if (!accept_one()) {
      accepts_per_turn_ = std::max(i, 1);
      return;
    }
    loop_.count_slice(accept_slice);
    if (loop_.slice_spent()) return;  // Level-triggered: what waits is reported again.
  }
  // There may be more; if so, the next turn tells.
  accepts_per_turn_ = std::min(2 * accepts_per_turn_, accepts_per_turn_max);
}

/// False: nothing waits.
bool Listener::accept_one() {
  Fd accepted(::accept4(socket_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (accepted) {
    on_accept_(std::move(accepted));
    return true;
  }
  if (errno == EINTR || errno == ECONNABORTED) return true;
  return (errno == EMFILE || errno == ENFILE) && refuse_one();
}

bool Listener::refuse_one() {
  if (!loop_.spare_descriptor()) return false;
  loop_.spare_descriptor().reset();
  Fd refused(::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC));
  const bool took_one = static_cast<bool>(refused);
  if (took_one) {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(refused.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    ++refused_;
  }
  refused.reset();
  loop_.spare_descriptor();
  return took_one;
}

}  // namespace postern::io
