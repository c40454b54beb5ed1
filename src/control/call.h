#pragma once
// One request and the answer that is owed to it.
//
// A handler gets a Call on a worker thread. It may answer at once; or keep the Call and return, and somebody
// answers later, from any thread: a request that waits for something costs memory and no thread. Whoever
// holds the last reference owes the answer: a Call that goes away without one answers 500.
//
// Bodies are pushed and pulled piece by piece, whole answers and messages are taken as values. In every case
// the worker is only there while there is something to do, never while a peer is slow. So a few workers serve
// thousands of waiting requests and idle WebSockets, and no slow caller can take them away from others.
//
// A std::exception that code of a handler lets out is an internal error of that call: 500, or an answer that
// is cut where it had begun, or close code 1011.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/units.h"
#include "control/errors.h"
#include "control/message.h"
#include "control/worker_pool.h"

namespace postern::control {

class Connection;
class WebSocketSession;

/// Takes the body of a request while it arrives. Called on worker threads, never twice at once; the next
/// piece is read from the connection when take() has returned. Destroyed without end(): the body broke off,
/// and what was made of it is to be thrown away.
class BodySink {
 public:
  enum class Then : std::uint8_t {
    more,  ///< The next piece, or end().
    wait,  ///< The same after Call::take_more(): whatever the piece goes to has no room for another.
  };
  virtual ~BodySink() = default;
  virtual Then take(std::string_view piece) = 0;
  /// It was all there. Usually answers the call.
  virtual void end() = 0;
};

/// What happens on a WebSocket. Called on worker threads, one call at a time and in order; the next message
/// is read when the last one was taken.
class WebSocketHandler {
 public:
  enum class Kind : std::uint8_t { text, binary };

  virtual ~WebSocketHandler() = default;
  /// It is open. `session` may be kept, and used from any thread.
  virtual void on_open(const std::shared_ptr<WebSocketSession>& session) = 0;
  /// A text is well-formed UTF-8.
  virtual void on_message(std::string_view data, Kind kind) = 0;
  /// There is room again, after a send() that said `full`.
  virtual void on_room() {}
  /// The last call, once: after all messages that came before. `code`: the peer's (1005 when it gave none);
  /// 1006 when the connection broke or idled too long. `reason` is the peer's.
  virtual void on_closed(int code, std::string_view reason) = 0;
};

/// One open WebSocket. Thread-safe; harmless after its end. Pings of the peer are answered, and an idle peer
/// is pinged, without anybody's doing.
class WebSocketSession {
 public:
  static constexpr std::size_t queue_bytes_max = 256 * KiB;  // of messages that wait to be written
  static constexpr std::size_t queue_bytes_low = 64 * KiB;   // below, there is room again

  enum class Sent : std::uint8_t {
    taken,
    full,    ///< Not taken: too much waits already. Again after on_room().
    closed,  ///< Not taken, nor will anything else.
  };

  virtual ~WebSocketSession() = default;
  /// A message of any size is taken while less than queue_bytes_max waits. `text` must be UTF-8.
  virtual Sent send_text(std::string text) = 0;
  virtual Sent send_binary(std::string bytes) = 0;
  /// Leaves messages with the peer until resume(), for a receiver that can take no more: at most one is held
  /// here, and pings are answered until that one has come.
  virtual void pause() = 0;
  virtual void resume() = 0;
  /// After what was sent already (RFC 6455 §7.4; 1001: the client should come again). `reason`: UTF-8, 123
  /// bytes at most. What the peer sends until it agrees still comes to on_message().
  virtual void close(int code, std::string_view reason) = 0;
};

class Call {
 public:
  /// Made by the server.
  Call(std::shared_ptr<Connection> connection, std::uint64_t serial, Request request);
  ~Call();
  Call(const Call&) = delete;

  /// Of whoever handles the call right now: not synchronised.
  Request& request() { return request_; }
  const Request& request() const { return request_; }

  // Everything below is thread-safe, and does nothing once the call was answered or the caller has gone.

  /// The first answer counts. Where the body of the request was not taken it is thrown away, or the
  /// connection ends with the answer when much of it is to come.
  void answer(Response response);
  void answer(const ApiError& error) { answer(to_response(error)); }
  /// As answer(), but what is still to come of a streamed body goes on to its sink meanwhile.
  void answer_while_receiving(Response response);

  /// The whole body, on a worker. Above `max` bytes, or when it breaks off or does not come in time, the
  /// server answers (413, 400, 408), and `then` is destroyed. Once, and not together with stream_body().
  void read_body(std::size_t max, std::move_only_function<void(std::string)> then);
  /// Piece by piece; the same answers.
  void stream_body(std::uint64_t max, std::shared_ptr<BodySink> sink);

  /// The body of the request, whose sink said `wait`, goes on. One that comes early is not lost. Nothing else
  /// limits how long a sink waits.
  void take_more();
  /// The body of the answer, whose source said `wait`, goes on. A wake-up that comes early is not lost.
  void wake();

  /// Called on a worker, once, when the caller has gone before it had its answer (also at once, when it has
  /// gone already). Destroyed when the answer is complete. A caller that closes its half of the connection
  /// may still be waiting; but most have given up, and only `Half::is_gone` says so to what costs something.
  enum class Half : std::uint8_t { may_wait, is_gone };
  void on_gone(Job then, Half half = Half::may_wait);

  /// Makes the connection a WebSocket with this handler. Answers 400 or 426 itself when the request does not
  /// ask for one properly. Messages above `message_bytes_max` end it with code 1009.
  void upgrade(std::unique_ptr<WebSocketHandler> handler, std::size_t message_bytes_max = MiB);

  /// Answers 101 with the fields of `response` to a request that asked for a WebSocket (Request
  /// wants_websocket), on behalf of somebody who speaks it: from then on all that comes goes to `sink`, whose
  /// end() says that the caller has ended its direction, and what `response.source` makes goes out until its
  /// end, which is the connection's. Nobody here looks at either. 400 when the caller did not wait for it.
  void hand_over(Response response, std::shared_ptr<BodySink> sink);

  // For the access log; before the answer. None of it is secret.
  void note_route(std::string_view pattern);
  void note_caller(std::string workspace, std::string key_id);

 private:
  const std::shared_ptr<Connection> connection_;
  const std::uint64_t serial_;  ///< Which request of the connection.
  Request request_;
};

}  // namespace postern::control
