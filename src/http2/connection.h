#pragma once
// A Session on a socket. One coroutine reads, another writes; what a turn of the loop gathered goes out in
// one write at its end. An idle connection holds no buffer. Lives on its loop.

#include <memory>

#include "http2/session.h"
#include "io/buffer.h"
#include "io/loop.h"
#include "io/stream.h"

namespace postern::http2 {

/// How long things may take.
struct Timing {
  Duration first_bytes;  ///< To the first complete frame.
  Duration idle;         ///< Without any stream; then GOAWAY.
  Duration head;         ///< From a header block's first byte to its last.
  Duration write;        ///< Without a byte being taken from us.
  Duration farewell;     ///< For the last frames, when the connection is ended.
  Duration ping_after;  ///< Client: silence, with streams open, after which the origin is asked whether it is
                        ///< there.
  Duration ping_answer;  ///< And how long it may take to answer.
};

class Connection final : Session::Owner, io::Deferred {
 public:
  /// Server: who carries requests. Called on the loop, never while another call of it runs.
  class Requests {
   public:
    virtual void on_request(std::shared_ptr<Stream> stream) = 0;
    virtual void on_refused_request(const Error& why) = 0;

   protected:
    ~Requests() = default;
  };

  /// `requests` is for servers and outlives the connection; a client has none.
  Connection(std::unique_ptr<io::Stream> stream, io::BufferPool& buffers, const Timing& timing,
             Requests* requests);
  ~Connection();

  /// Serves until the connection has ended, one way or the other; all its streams have been told then.
  /// Errors: why it ended before its time.
  io::Task<Result<void>> run();

  /// Client. nullptr when the connection takes no more streams.
  std::shared_ptr<Stream> open() { return closing_ ? nullptr : session_.open(); }
  std::size_t capacity() const { return closing_ ? 0 : session_.capacity(); }
  /// It will never take another stream.
  bool leaving() const { return closing_ || session_.leaving(); }
  bool takes_extended_connect() const { return session_.takes_extended_connect(); }
  /// Client: waits for the peer's SETTINGS; false when they do not come. One may wait at a time.
  io::Task<bool> greeting(TimePoint deadline);
  std::size_t open_streams() const { return session_.open_streams(); }

  /// Ends the connection when its streams have ended. Streams that the peer opens until it hears of it are
  /// still carried.
  void drain();
  /// Ends it now, unless streams are open; they end it later.
  void close_when_idle() { session_.drain(); }

 private:
  void on_request(std::shared_ptr<Stream> stream) override { requests_->on_request(std::move(stream)); }
  void on_refused_request(Error why) override { requests_->on_refused_request(why); }
  void wants_write() override;
  void on_turn_end() override;

  io::Task<Result<void>> read_loop();
  io::Task<void> write_loop();
  io::Task<void> linger();
  TimePoint next_deadline();
  Result<bool> deadline_passed();
  void clear_output();

  io::Loop& loop_;
  std::unique_ptr<io::Stream> stream_;
  const Timing timing_;
  Requests* requests_;
  Session session_;
  io::Buffer input_;
  io::Buffer output_;
  io::Event work_;
  io::Wait greeted_;
  std::optional<Error> write_error_;
  std::optional<TimePoint> head_since_;
  const TimePoint begun_;
  TimePoint last_read_;
  TimePoint pinged_at_{};
  bool draining_ = false;
  bool writer_idle_ = false;
  bool writing_ = false;
  bool closing_ = false;
};

}  // namespace postern::http2
