#pragma once
// One connection of a caller: heads and bodies in HTTP/1.1, one request after the other. Everything but
// post() happens on the connection's lane. Inside of control/ only.
//
//   handshake → head → call → head → … → lingering → closed
//                        └──→ websocket ───────────────┘
//
// What comes before somebody wants it waits in `in_`, a piece or so; the rest is left with the kernel. So
// nobody can make us hold more than a head, a piece and what a handler asked for.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/call.h"
#include "control/server_state.h"
#include "control/transport.h"
#include "control/websocket.h"
#include "wire/http1.h"

namespace postern::control {

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<ServerState> server, std::shared_ptr<Socket> socket)
      : server_(std::move(server)), socket_(std::move(socket)) {}

  void start();
  /// No further request. WebSockets are told to come again.
  void wind_down();
  /// At once.
  void cut();

  /// From any thread: `job` runs on the lane while request number `serial` has no answer yet, or has one that
  /// is under way.
  void post(std::uint64_t serial, std::move_only_function<void(Connection&)> job);
  /// As post(), but also told when the caller has gone.
  void when_gone(std::uint64_t serial, Job then, Call::Half half);

  // On behalf of a Call, on the lane:
  /// Of the request, as far as it is still to come.
  enum class Body : std::uint8_t { unwanted, goes_on };
  void answer(Response response, Body body = Body::unwanted);
  void forget();
  void receive(std::uint64_t max, std::move_only_function<void(std::string)> then,
               std::shared_ptr<BodySink> sink);
  void take_more();
  void wake();
  void upgrade(const Request& request, std::unique_ptr<WebSocketHandler> handler,
               std::size_t message_bytes_max);
  void hand_over(Response response, std::shared_ptr<BodySink> sink);
  AccessRecord& record_in_progress() { return now_->record; }

 private:
  enum class State : std::uint8_t { handshake, head, call, lingering, websocket, closed };
  /// What becomes of the body of the request.
  enum class Intake : std::uint8_t {
    unasked,     ///< Nobody has asked for it yet.
    collecting,  ///< For read_body().
    passing,     ///< For stream_body().
    discarding,  ///< The answer is given; the next request stands behind it.
    over,        ///< All was handed on, or the rest is not read any more.
  };

  /// The request that is being answered.
  struct Current {
    Current();  // clang needs it declared before it looks at what the members begin with

    AccessRecord record;
    TimePoint started;
    int minor_version = 1;
    bool head_only = false;
    bool keep_alive = true;

    BodyFraming framing = BodyFraming::none;
    std::uint64_t remaining = 0;  ///< With BodyFraming::length.
    wire::ChunkDecoder chunks;
    bool arrived = false;  ///< All of the body was decoded.
    bool wants_continue = false;
    bool wants_websocket = false;
    bool handed_over = false;  ///< Whatever comes is a body without an end, and so is what goes.
    Intake intake = Intake::unasked;
    std::uint64_t body_max = 0;
    std::string collected;
    std::move_only_function<void(std::string)> then;
    std::shared_ptr<BodySink> sink;
    bool sink_busy = false;   ///< It has a piece, or waits.
    bool sink_waits = false;  ///< For take_more().
    bool sink_woken = false;

    bool answered = false;
    bool answer_sent = false;
    bool writing = false;
    Response response;
    std::string head;      ///< What is written before the next piece of the body.
    std::size_t sent = 0;  ///< Of response.body.
    bool chunked = false;
    std::shared_ptr<BodySource> source;
    std::string piece;  ///< Of the source.
    std::string piece_end;
    bool pulling = false;
    bool source_waits = false;
    bool woken = false;
    std::optional<BodySource::Then> after_piece;
    std::uint64_t source_bytes = 0;
    Job gone;
    Call::Half half = Call::Half::may_wait;
  };

  void read_more();
  void on_read(Outcome outcome, std::size_t count);
  void proceed();
  bool wants_input() const;
  void on_deadline();
  void set_deadlines(TimePoint reading, TimePoint writing);
  void read_until(TimePoint deadline) { set_deadlines(deadline, write_deadline_); }

  void take_head();
  void begin_call(const RequestHead& head);
  void refuse(const ApiError& error);

  Result<void> decode_body(std::string& out, std::size_t room);
  void take_body();
  void hand_on(std::string piece);
  void on_taken(std::optional<BodySink::Then> said, bool last);
  void fail_body(const ApiError& error);
  void say_continue();

  bool write_head(Response& response);
  void write_next();
  void on_written(Outcome outcome);
  void pull();
  void on_piece(std::string piece, BodySource::Piece said);
  void answer_complete();
  void next_request();
  void record(AccessRecord::End end);

  TimePoint pause_deadline() const;
  Duration write_time() const;
  bool gave_up() const;
  void broken();
  void linger();
  void finish();
  template <class Held>
  void drop(Held held);

  const std::shared_ptr<ServerState> server_;
  const std::shared_ptr<Socket> socket_;
  State state_ = State::handshake;
  std::uint64_t serial_ = 0;
  bool went_ = false;  ///< The caller, before request `serial_` was answered.

  std::vector<char> read_buffer_;
  bool reading_ = false;
  bool peer_ended_ = false;
  std::string in_;  ///< Read and not used yet.
  bool head_begun_ = false;
  wire::HeadScanner scanner_;
  std::vector<HeaderField> fields_;
  std::size_t lingered_bytes_ = 0;
  TimePoint read_deadline_ = TimePoint::max();
  TimePoint write_deadline_ = TimePoint::max();

  std::optional<Current> now_;
  std::shared_ptr<OpenWebSocket> websocket_;
};

}  // namespace postern::control
