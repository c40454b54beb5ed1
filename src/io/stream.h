#pragma once
// A byte stream to one side: plain TCP here, TLS in tls/stream.h. Reads and writes are attempted first and
// only wait when the kernel has nothing; the readiness that epoll reported is remembered, so no call is made
// that could only answer EAGAIN. One reader and one writer at a time. Lives and dies on its loop.

#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "io/loop.h"
#include "model/address.h"

namespace postern::io {

class Buffer;

class Stream : private Pollable {
 public:
  /// Takes the nonblocking socket and registers it. `side` says whom to blame in errors.
  Stream(Loop& loop, Fd socket, Side side, Party party = nobody);
  /// The same for a socket that `watcher` has registered.
  Stream(Loop& loop, Fd socket, Side side, Pollable& watcher);
  /// Takes over the socket of a stream on which nobody waits, and what is known about its readiness.
  explicit Stream(std::unique_ptr<Stream> other);
  virtual ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  class ReadAwaiter;
  class WriteAwaiter;
  class ReadyAwaiter;
  class TurnAwaiter;

  /// Reads what is there, at least one byte; 0 is the orderly end. `into` must stay valid until it resumes.
  /// Errors: <side>_closed, <side>_timeout, <side>_tls_failed, cancelled.
  ReadAwaiter read(std::span<char> into, TimePoint deadline);
  /// Writes everything.
  WriteAwaiter write_all(std::string_view bytes, TimePoint deadline);
  /// Waits until a read would find something (or the end) without holding a buffer for it.
  ReadyAwaiter wait_readable(TimePoint deadline);
  /// Lets others go first when what one event may do is done (Loop::slice_spent()). In a reader's place.
  TurnAwaiter turn();

  /// What was read to find out what it is, is read again, before anything else. Not while some of it still
  /// is.
  void unread(Buffer bytes);

  /// Orderly end of our direction (FIN, close_notify). Best effort, never waits.
  virtual void shutdown_write();
  /// Makes closing send RST: the other side learns that the bytes so far were not the whole.
  void reset_on_close();
  /// Ends a wait of the other coroutine with Reason::cancelled.
  void cancel_read();
  void cancel_write();

  /// The peer has closed or broken the connection, or sent something, as far as is known without reading.
  bool looks_idle() const { return !may_read() && !hangup_; }

  /// The peer sent FIN or RST. After FIN alone it may still be reading (half-close).
  bool hung_up() const { return hangup_; }
  /// The connection was reset, or both directions have ended.
  bool broken() const { return broken_; }

  /// Told when something arrives (or the peer goes) while nobody reads: how a pool drops idle connections.
  class IdleWatcher {
   public:
    virtual void on_idle_input(Stream& stream) = 0;  ///< May destroy the stream.

   protected:
    ~IdleWatcher() = default;
  };
  void watch_idle(IdleWatcher* watcher) { idle_watcher_ = watcher; }

  Loop& loop() { return loop_; }
  /// Whose turns it is served in.
  void set_party(Party party) { loop_.set_party(socket_.get(), party); }
  int fd() const { return socket_.get(); }
  Side side() const { return side_; }
  std::uint64_t bytes_read() const { return bytes_read_; }
  std::uint64_t bytes_written() const { return bytes_written_; }

 protected:
  /// A coroutine that waits for this stream; tried again whenever the kernel reports something.
  struct Waiter {
    std::coroutine_handle<> handle;
    TimePoint deadline{};
    /// True when the wait is over, one way or the other.
    virtual bool retry(Stream& stream) = 0;
    virtual void give_up(Error error) = 0;

   protected:
    ~Waiter() = default;
  };
  enum class Attempt : std::uint8_t { done, would_block, failed };
  /// One try. On done `count` is what moved (0 on read: orderly end); on failed `error_` is set.
  virtual Attempt try_read(std::span<char> into, std::size_t& count);
  virtual Attempt try_write(std::string_view bytes, std::size_t& count);
  /// Input that was taken from the socket and not yet given out (decrypted records).
  virtual bool has_buffered_input() const { return false; }

  /// recv()/send() that keep the readiness flags true. -1 with errno as the system calls.
  ssize_t receive(void* into, std::size_t size);
  ssize_t transmit(const void* from, std::size_t size);
  Error error(Reason sandbox_reason, Reason origin_reason, std::string detail) const;
  Error closed_error(int error_number) const;

  void wait(Waiter*& slot, Waiter& waiter);
  /// Waits in the reader's place: for the kernel, or only for its turn.
  void wait_or_yield(Waiter& waiter) {
    wait(reader_, waiter);
    if (yields()) loop_.again(socket_.get());
  }
  /// Others go first. Without a place in the loop there would be no next turn.
  bool yields() const { return loop_.slice_spent() && !unwatched_; }

  Waiter* reader_ = nullptr;
  Waiter* writer_ = nullptr;
  std::optional<Error> error_;
  // A new connection has rarely said anything yet; if it has, epoll reports it.
  bool maybe_readable_ = false;
  bool maybe_writable_ = true;
  bool watches_room_ = false;  ///< EPOLLOUT is asked for.
  bool unwatched_ = false;     ///< epoll did not take the socket.
  bool broken_ = false;
  bool resetting_ = false;  ///< reset_on_close() was called: no orderly end may precede it.
  bool hangup_ = false;     ///< EPOLLRDHUP or worse was seen: a short read no longer means "drained".
  bool ended_ = false;      ///< Everything up to the peer's FIN was read.

 private:
  friend class ReadAwaiter;
  friend class WriteAwaiter;
  friend class ReadyAwaiter;
  friend class TurnAwaiter;

  class DeadlineTimer final : public Timer {
   public:
    DeadlineTimer(Loop& loop, Stream& stream) : Timer(loop), stream_(stream) {}
    ~DeadlineTimer() = default;
    void on_timer() override { stream_.on_deadline(); }

   private:
    Stream& stream_;
  };

  void on_ready(std::uint32_t events) override;
  bool may_read() const { return maybe_readable_ || unread_ || has_buffered_input(); }
  ssize_t read_again(void* into, std::size_t size);
  ssize_t await_room();
  void on_deadline();
  void not_watched();
  Attempt refuse_unwatched();
  bool wake(Waiter*& slot, bool& destroyed);

  Loop& loop_;
  Fd socket_;
  Side side_;
  std::unique_ptr<Buffer> unread_;  ///< Never empty.
  IdleWatcher* idle_watcher_ = nullptr;
  bool* destroyed_ = nullptr;
  DeadlineTimer timer_;
  std::uint64_t bytes_read_ = 0;
  std::uint64_t bytes_written_ = 0;

 public:
  class ReadAwaiter final : Waiter {
   public:
    ReadAwaiter(Stream& stream, std::span<char> into, TimePoint until) : stream_(stream), into_(into) {
      deadline = until;
    }
    ReadAwaiter(const ReadAwaiter&) = delete;
    ~ReadAwaiter() {
      if (stream_.reader_ == this) stream_.reader_ = nullptr;
    }
    bool await_ready() { return !stream_.yields() && retry(stream_); }
    void await_suspend(std::coroutine_handle<> h) {
      handle = h;
      stream_.wait_or_yield(*this);
    }
    Result<std::size_t> await_resume() { return std::move(*result_); }

   private:
    friend class Stream;
    bool retry(Stream& stream) override;
    void give_up(Error error) override { result_.emplace(std::unexpected(std::move(error))); }
    Stream& stream_;
    std::span<char> into_;
    std::optional<Result<std::size_t>> result_;
  };

  class WriteAwaiter final : Waiter {
   public:
    WriteAwaiter(Stream& stream, std::string_view bytes, TimePoint until) : stream_(stream), bytes_(bytes) {
      deadline = until;
    }
    WriteAwaiter(const WriteAwaiter&) = delete;
    ~WriteAwaiter() {
      if (stream_.writer_ == this) stream_.writer_ = nullptr;
    }
    bool await_ready() { return retry(stream_); }
    void await_suspend(std::coroutine_handle<> h) {
      handle = h;
      stream_.wait(stream_.writer_, *this);
    }
    Result<void> await_resume() { return std::move(*result_); }

   private:
    friend class Stream;
    bool retry(Stream& stream) override;
    void give_up(Error error) override { result_.emplace(std::unexpected(std::move(error))); }
    Stream& stream_;
    std::string_view bytes_;
    std::optional<Result<void>> result_;
  };

  class ReadyAwaiter final : Waiter {
   public:
    ReadyAwaiter(Stream& stream, TimePoint until) : stream_(stream) { deadline = until; }
    ReadyAwaiter(const ReadyAwaiter&) = delete;
    ~ReadyAwaiter() {
      if (stream_.reader_ == this) stream_.reader_ = nullptr;
    }
    bool await_ready() { return !stream_.yields() && retry(stream_); }
    void await_suspend(std::coroutine_handle<> h) {
      handle = h;
      stream_.wait_or_yield(*this);
    }
    Result<void> await_resume() { return std::move(result_); }

   private:
    friend class Stream;
    bool retry(Stream& stream) override { return stream.may_read(); }
    void give_up(Error error) override { result_ = std::unexpected(std::move(error)); }
    Stream& stream_;
    Result<void> result_;
  };

  class TurnAwaiter final : Waiter {
   public:
    explicit TurnAwaiter(Stream& stream) : stream_(stream) { deadline = TimePoint::max(); }
    TurnAwaiter(const TurnAwaiter&) = delete;
    ~TurnAwaiter() {
      if (stream_.reader_ == this) stream_.reader_ = nullptr;
    }
    bool await_ready() const { return !stream_.yields(); }
    void await_suspend(std::coroutine_handle<> h) {
      handle = h;
      stream_.wait_or_yield(*this);
    }
    void await_resume() const {}

   private:
    bool retry(Stream&) override { return true; }
    void give_up(Error) override {}
    Stream& stream_;
  };
};

inline Stream::ReadAwaiter Stream::read(std::span<char> into, TimePoint deadline) {
  return {*this, into, deadline};
}
inline Stream::WriteAwaiter Stream::write_all(std::string_view bytes, TimePoint deadline) {
  return {*this, bytes, deadline};
}
inline Stream::TurnAwaiter Stream::turn() { return TurnAwaiter(*this); }
inline Stream::ReadyAwaiter Stream::wait_readable(TimePoint deadline) { return {*this, deadline}; }

/// Ends a connection as if its peer had reset it, and resets it for the peer. Whoever waits on it learns that
/// from the loop, in a later turn: nothing is resumed in here.
void break_connection(int socket);

/// Plain TCP (or any stream socket).
class TcpStream final : public Stream {
 public:
  using Stream::Stream;
};

/// Connects without blocking. Errors: connect_failed, connect_timeout.
Task<Result<std::unique_ptr<TcpStream>>> connect(Loop& loop, Endpoint endpoint, Side side, TimePoint deadline,
                                                 Party party = nobody);

}  // namespace postern::io
