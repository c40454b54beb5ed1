#pragma once
// Sockets, TLS, timers and WebSocket frames: all that Boost (Asio and Beast) does for the API's server,
// behind an interface without it, so that its templates are compiled once (docs/decisions/0019). What HTTP is
// stands in connection.h and knows nothing of this.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "control/message.h"
#include "control/worker_pool.h"
#include "model/address.h"

namespace postern::control {

enum class Outcome : std::uint8_t {
  done,
  ended,   ///< The peer has said all that it will say. It may still listen.
  failed,  ///< Nothing goes any more: reset, closed, a broken record, a broken frame.
};

struct WebSocketFrame {
  std::string data;
  bool text = false;
};

/// The frames of one WebSocket (RFC 6455), server side. Lives on its socket's thread. One read and one write
/// at a time; the peer's pings are answered while a read is under way.
class FrameStream {
 public:
  virtual ~FrameStream() = default;
  /// Sends the 101.
  virtual void accept(std::move_only_function<void(Outcome)> then) = 0;
  /// A whole message, within the limit it was made with (else the peer gets close code 1009).
  virtual void read(std::move_only_function<void(Outcome, WebSocketFrame)> then) = 0;
  virtual void write(const WebSocketFrame& frame, std::move_only_function<void(Outcome)> then) = 0;
  virtual void ping(std::move_only_function<void(Outcome)> then) = 0;
  virtual void close(int code, std::string_view reason, std::move_only_function<void(Outcome)> then) = 0;
  /// Changes whenever something has come from the peer while a read was under way, and only then.
  virtual std::uint64_t activity() const = 0;
  /// What the peer said when it closed, after read() ended; 1005 when it said nothing (RFC 6455 §7.1.5).
  virtual int peer_code() const = 0;
  virtual std::string peer_reason() const = 0;
};

/// One connection. Everything happens on its own thread, which is `lane`'s; callbacks come from there, never
/// from inside the call that they belong to. One read and one write at a time. Whoever starts an operation
/// keeps the socket alive until its callback was called.
class Socket {
 public:
  virtual ~Socket() = default;
  virtual unsigned lane() const = 0;
  virtual const Endpoint& peer() const = 0;

  /// TLS, where that is spoken.
  virtual void handshake(std::move_only_function<void(Outcome)> then) = 0;
  virtual void read_some(std::span<char> into, std::move_only_function<void(Outcome, std::size_t)> then) = 0;
  /// All of both. They stay valid until `then`.
  virtual void write(std::string_view first, std::string_view second,
                     std::move_only_function<void(Outcome)> then) = 0;
  enum class PeerIs : std::uint8_t { done, sending };
  /// Says that nothing more will be written: by FIN, or by TLS's close_notify. No write is under way. OpenSSL
  /// gives up a connection on which data comes behind its own close_notify: with TLS nothing is said to a
  /// peer that is still sending.
  virtual void end_writing(PeerIs peer) = 0;
  /// Everything under way fails. What was written and not taken yet may be lost.
  virtual void close() = 0;

  /// `owner`: without it nothing is called any more. One time to be woken at, which replaces the last one;
  /// TimePoint::max() for none.
  virtual void on_deadline(std::weak_ptr<void> owner, std::function<void()> then) = 0;
  virtual void set_deadline(TimePoint deadline) = 0;

  struct WebSocketOptions {
    std::size_t message_bytes_max;
    Duration closing_time;  ///< For the handshakes of opening and closing.
  };
  /// The request was checked and nothing behind it was read. The socket outlives the stream.
  virtual std::unique_ptr<FrameStream> make_websocket(const Request& request,
                                                      const WebSocketOptions& options) = 0;
};

struct TransportOptions {
  Endpoint listen;
  std::string certificate_file;  ///< PEM with its chain; empty: no TLS.
  std::string key_file;
  unsigned threads = 2;
};

/// The listening socket and the I/O threads ("lanes"), among which connections are dealt out.
class Transport {
 public:
  /// On the socket's own thread.
  using OnSocket = std::function<void(std::shared_ptr<Socket>)>;

  /// Listens; who connects waits until start(). Errors: invalid_configuration, with a sentence.
  static Result<std::unique_ptr<Transport>> listen(const TransportOptions& options);
  virtual ~Transport() = default;

  virtual const Endpoint& local() const = 0;
  virtual unsigned lanes() const = 0;
  virtual void start(OnSocket on_socket) = 0;
  /// Any thread. Who connects from now on is refused by the kernel.
  virtual void stop_listening() = 0;
  /// Any thread. In order, for each lane; after end() the job is destroyed.
  virtual void post(unsigned lane, Job job) = 0;
  /// Waits until all sockets are closed and what they had under way is over (a moment at most: then it is
  /// torn down), and for the threads. Not from a lane.
  virtual void end() = 0;
};

}  // namespace postern::control
