#include "io/stream.h"

#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "io/buffer.h"
#include "io/fault_plan.h"

namespace postern::io {

Stream::Stream(Loop& loop, Fd socket, Side side, Party party)
    : loop_(loop), socket_(std::move(socket)), side_(side), timer_(loop, *this) {
  // A fresh socket has room: to be told so would be a turn for nothing. Asked for when there is none.
  if (!loop_.add(socket_.get(), *this, EPOLLIN | EPOLLRDHUP | EPOLLET, party)) not_watched();
}

Stream::Stream(Loop& loop, Fd socket, Side side, Pollable& watcher)
    : loop_(loop), socket_(std::move(socket)), side_(side), timer_(loop, *this) {
  loop_.hand_over(socket_.get(), watcher, *this);
  // Reports anew what there is. No longer of room: every event would name it, also those that say nothing
  // else.
  if (!loop_.modify(socket_.get(), *this, EPOLLIN | EPOLLRDHUP | EPOLLET)) not_watched();
}

Stream::Stream(std::unique_ptr<Stream> other)
    : maybe_readable_(other->maybe_readable_),
      maybe_writable_(other->maybe_writable_),
      watches_room_(other->watches_room_),
      unwatched_(other->unwatched_),
      broken_(other->broken_),
      hangup_(other->hangup_),
      ended_(other->ended_),
      loop_(other->loop_),
      socket_(std::move(other->socket_)),
      side_(other->side_),
      unread_(std::move(other->unread_)),
      timer_(loop_, *this) {
  other->timer_.clear();
  loop_.hand_over(socket_.get(), *other, *this);
}

// Out of epoll watches: no wait would ever end, so none is begun.
void Stream::not_watched() { unwatched_ = maybe_readable_ = true; }

Stream::Attempt Stream::refuse_unwatched() {
  error_ = Error{Reason::overloaded, Side::self, Retry::never, "cannot watch another connection"};
  return Attempt::failed;
}

Stream::~Stream() {
  if (destroyed_) *destroyed_ = true;
  if (socket_ && loop_.abandoning()) reset_on_close();
  if (socket_) loop_.forget(socket_.get(), *this);
}

void Stream::shutdown_write() {
  // With nothing left to read either, only closing remains, and that sends the FIN.
  if (!resetting_ && !ended_) ::shutdown(socket_.get(), SHUT_WR);
}

void Stream::reset_on_close() {
  resetting_ = true;
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

Error Stream::error(Reason sandbox_reason, Reason origin_reason, std::string detail) const {
  return Error{side_ == Side::sandbox ? sandbox_reason : origin_reason, side_, Retry::never,
               std::move(detail)};
}

Error Stream::closed_error(int error_number) const {
  return error(Reason::sandbox_closed, Reason::origin_closed, std::strerror(error_number));
}

void Stream::unread(Buffer bytes) {
  if (!bytes.empty()) unread_ = std::make_unique<Buffer>(std::move(bytes));
}

ssize_t Stream::read_again(void* into, std::size_t size) {
  const std::string_view bytes = unread_->bytes().substr(0, size);
  std::memcpy(into, bytes.data(), bytes.size());
  unread_->consume(bytes.size());
  if (unread_->empty()) unread_.reset();
  return static_cast<ssize_t>(bytes.size());
}

ssize_t Stream::receive(void* into, std::size_t size) {
  if (unread_) [[unlikely]]
    return read_again(into, size);
  if (!maybe_readable_) {
    errno = EAGAIN;
    return -1;
  }
  if (ended_) return 0;
  if (fault_plan && fault_plan->strikes(socket_.get(), size)) [[unlikely]] {
    errno = fault_plan->error_number;
    return -1;
  }
  // The FIN is behind what is there now: when that was read, nothing more comes.
  const bool last = hangup_ && !broken_;
  ssize_t count;
  do {
    count = ::recv(socket_.get(), into, size, 0);
  } while (count < 0 && errno == EINTR);
  if (count > 0) {
    bytes_read_ += static_cast<std::size_t>(count);
    loop_.count_slice(static_cast<std::size_t>(count));
  }
  // Edge-triggered: less than asked for means drained, and new bytes bring a new event. After a hang-up there
  // will be no more events, so keep reading until the end shows itself.
  const bool drained =
      (count < 0 && errno == EAGAIN) || (count > 0 && static_cast<std::size_t>(count) < size);
  if (drained && !hangup_) maybe_readable_ = false;
  if ((drained && last && count > 0) || count == 0) ended_ = true;
  return count;
}

ssize_t Stream::transmit(const void* from, std::size_t size) {
  if (!maybe_writable_) {
    errno = EAGAIN;
    return -1;
  }
  if (fault_plan && fault_plan->strikes(socket_.get(), size)) [[unlikely]] {
    errno = fault_plan->error_number;
    return -1;
  }
  ssize_t count;
  do {
    count = ::send(socket_.get(), from, size, MSG_NOSIGNAL);
  } while (count < 0 && errno == EINTR);
  if (count > 0) bytes_written_ += static_cast<std::size_t>(count);
  if (count < 0 && errno == EAGAIN) return await_room();
  return count;
}

ssize_t Stream::await_room() {
  maybe_writable_ = false;
  if (!watches_room_) {
    watches_room_ = true;
    // Reports at once when room has come meanwhile.
    if (!loop_.modify(socket_.get(), *this, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) return -1;
  }
  errno = EAGAIN;
  return -1;
}

Stream::Attempt Stream::try_read(std::span<char> into, std::size_t& count) {
  if (unwatched_) return refuse_unwatched();
  const ssize_t got = receive(into.data(), into.size());
  if (got >= 0) {
    count = static_cast<std::size_t>(got);
    return Attempt::done;
  }
  if (errno == EAGAIN) return Attempt::would_block;
  error_ = closed_error(errno);
  return Attempt::failed;
}

Stream::Attempt Stream::try_write(std::string_view bytes, std::size_t& count) {
  if (unwatched_) return refuse_unwatched();
  const ssize_t sent = transmit(bytes.data(), bytes.size());
  if (sent >= 0) {
    count = static_cast<std::size_t>(sent);
    return Attempt::done;
  }
  if (errno == EAGAIN) return Attempt::would_block;
  error_ = closed_error(errno);
  return Attempt::failed;
}

bool Stream::ReadAwaiter::retry(Stream& stream) {
  std::size_t count = 0;
  switch (stream.try_read(into_, count)) {
    case Attempt::done: result_.emplace(count); return true;
    case Attempt::would_block: return false;
    case Attempt::failed: give_up(*stream.error_); return true;
  }
  return false;
}

bool Stream::WriteAwaiter::retry(Stream& stream) {
  while (!bytes_.empty()) {
    std::size_t count = 0;
    switch (stream.try_write(bytes_, count)) {
      case Attempt::done: bytes_.remove_prefix(count); break;
      case Attempt::would_block: return false;
      case Attempt::failed: give_up(*stream.error_); return true;
    }
  }
  result_.emplace();
  return true;
}

void Stream::wait(Waiter*& slot, Waiter& waiter) {
  slot = &waiter;
  TimePoint soonest = TimePoint::max();
  if (reader_) soonest = std::min(soonest, reader_->deadline);
  if (writer_) soonest = std::min(soonest, writer_->deadline);
  if (soonest != TimePoint::max()) timer_.set(soonest);
}

bool Stream::wake(Waiter*& slot, bool& destroyed) {
  Waiter* waiter = slot;
  slot = nullptr;
  waiter->handle.resume();
  return !destroyed;
}

void Stream::on_ready(std::uint32_t events) {
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) hangup_ = true;
  if (events & (EPOLLHUP | EPOLLERR)) broken_ = true;
  if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) maybe_readable_ = true;
  if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) maybe_writable_ = true;

  bool destroyed = false;
  destroyed_ = &destroyed;
  // Both are tried on any event: TLS may need to write before it can read.
  if (reader_ && reader_->retry(*this) && !wake(reader_, destroyed)) return;
  if (writer_ && writer_->retry(*this) && !wake(writer_, destroyed)) return;
  if (!reader_ && idle_watcher_ && maybe_readable_) {
    idle_watcher_->on_idle_input(*this);
    if (destroyed) return;
  }
  destroyed_ = nullptr;
}

void Stream::on_deadline() {
  const TimePoint now = loop_.now();
  bool destroyed = false;
  bool* const outer = destroyed_;
  destroyed_ = &destroyed;
  for (Waiter** slot : {&reader_, &writer_}) {
    if (!*slot || (*slot)->deadline > now) continue;
    (*slot)->give_up(
        error(Reason::sandbox_timeout, Reason::origin_timeout, "nothing happened within the time limit"));
    if (!wake(*slot, destroyed)) {
      if (outer) *outer = true;
      return;
    }
  }
  destroyed_ = outer;
  TimePoint next = TimePoint::max();
  if (reader_) next = std::min(next, reader_->deadline);
  if (writer_) next = std::min(next, writer_->deadline);
  if (next != TimePoint::max()) timer_.set(next);
}

void break_connection(int socket) {
  // connect(2): "dissolve the association by connecting to an address with sa_family AF_UNSPEC", which is
  // RFC 9293's ABORT.
  const sockaddr nowhere{.sa_family = AF_UNSPEC, .sa_data = {}};
  if (::connect(socket, &nowhere, sizeof nowhere) != 0) ::shutdown(socket, SHUT_RDWR);  // No TCP.
}

void Stream::cancel_read() {
  if (!reader_) return;
  reader_->give_up(Error{Reason::cancelled, Side::self, Retry::never, "no longer needed"});
  Waiter* waiter = std::exchange(reader_, nullptr);
  waiter->handle.resume();
}

void Stream::cancel_write() {
  if (!writer_) return;
  writer_->give_up(Error{Reason::cancelled, Side::self, Retry::never, "no longer needed"});
  Waiter* waiter = std::exchange(writer_, nullptr);
  waiter->handle.resume();
}

Task<Result<std::unique_ptr<TcpStream>>> connect(Loop& loop, Endpoint endpoint, Side side, TimePoint deadline,
                                                 Party party) {
  const auto refuse = [&](int error_number) {
    return fail(Reason::connect_failed, std::string("cannot connect: ") + std::strerror(error_number), side,
                Retry::fresh_connection);
  };
  Fd socket(
      ::socket(endpoint.address.is_v4() ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket) co_return refuse(errno);
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_storage address;
  const socklen_t size = endpoint.to_sockaddr(address);
  const int raw = socket.get();
  if (::connect(raw, reinterpret_cast<const sockaddr*>(&address), size) != 0 && errno != EINPROGRESS)
    co_return refuse(errno);

  struct Connecting final : Pollable, Timer {
    Loop& loop;
    int fd;
    std::coroutine_handle<> waiting;
    std::uint32_t seen = 0;
    Connecting(Loop& l, int descriptor) : Timer(l), loop(l), fd(descriptor) {}
    ~Connecting() { loop.forget(fd, *this); }
    void on_ready(std::uint32_t events) override {
      seen |= events;
      if (waiting) std::exchange(waiting, {}).resume();
    }
    void on_timer() override { std::exchange(waiting, {}).resume(); }
  };
  struct Awaiter {
    Connecting& connecting;
    TimePoint deadline;
    Party party;
    bool watched = true;
    bool await_ready() const { return false; }
    bool await_suspend(std::coroutine_handle<> h) {
      connecting.waiting = h;
      connecting.set(deadline);
      watched =
          connecting.loop.add(connecting.fd, connecting, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, party);
      return watched;
    }
    bool await_resume() { return watched; }
  };
  Connecting connecting(loop, raw);
  const bool watched = co_await Awaiter{connecting, deadline, party};
  if (!watched) co_return fail(Reason::overloaded, "cannot watch another connection");
  connecting.clear();
  if (connecting.seen == 0)
    co_return fail(Reason::connect_timeout, "no answer to the connection attempt", side,
                   Retry::fresh_connection);
  // The usual case is that there is room, and nothing else.
  if (connecting.seen != EPOLLOUT) {
    int error_number = 0;
    socklen_t length = sizeof error_number;
    ::getsockopt(raw, SOL_SOCKET, SO_ERROR, &error_number, &length);
    if (error_number != 0) co_return refuse(error_number);
  }
  co_return std::make_unique<TcpStream>(loop, std::move(socket), side, connecting);
}

}  // namespace postern::io
