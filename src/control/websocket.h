#pragma once
// The life of one WebSocket: frames on the socket's lane, the handler on workers, one thing at a time in each
// direction. Inside of control/ only; call.h has the side that handlers see.

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "control/call.h"
#include "control/server_state.h"
#include "control/transport.h"

namespace postern::control {

class OpenWebSocket final : public WebSocketSession, public std::enable_shared_from_this<OpenWebSocket> {
 public:
  struct Summary {
    int code = 1006;
    bool linger = false;  ///< The peer may still be reading why it ended.
    std::uint64_t bytes_in = 0;
    std::uint64_t bytes_out = 0;
  };
  /// On the lane, when the handler has had its last call.
  using OnEnd = std::function<void(const Summary&)>;

  OpenWebSocket(std::shared_ptr<ServerState> server, std::shared_ptr<Socket> socket,
                std::unique_ptr<FrameStream> frames, std::unique_ptr<WebSocketHandler> handler, OnEnd on_end)
      : server_(std::move(server)),
        socket_(std::move(socket)),
        frames_(std::move(frames)),
        handler_(std::move(handler)),
        on_end_(std::move(on_end)) {}

  /// The rest is for the lane.
  void start();
  void cut() { end(1006, {}, Manner::cut); }

  // Any thread.
  Sent send_text(std::string text) override { return send({std::move(text), true}); }
  Sent send_binary(std::string bytes) override { return send({std::move(bytes), false}); }
  void pause() override;
  void resume() override;
  void close(int code, std::string_view reason) override;

 private:
  struct Ending {
    int code;
    std::string reason;
  };

  void post(std::move_only_function<void(OpenWebSocket&)> job);
  Sent send(WebSocketFrame frame);
  void read();
  void on_read(Outcome outcome, WebSocketFrame frame);
  void flush();
  void on_written(Outcome outcome);
  /// A callback of `frames_`, which is kept until the last one has come.
  template <class Then>
  auto under_way(Then then);
  void say_close();
  void on_closed(Outcome outcome);
  void on_timer();
  void set_timer() { socket_->set_deadline(std::min(write_deadline_, look_at_)); }
  enum class Manner : std::uint8_t { cut, linger };
  void end(int code, std::string reason, Manner manner);
  void next_call();
  /// Runs `call` on a worker, then `after` here.
  void call_handler(std::move_only_function<void(OpenWebSocket&)> call,
                    std::move_only_function<void(OpenWebSocket&)> after);

  const std::shared_ptr<ServerState> server_;
  const std::shared_ptr<Socket> socket_;
  std::unique_ptr<FrameStream> frames_;
  std::unique_ptr<WebSocketHandler> handler_;  ///< Of the call that runs, or of nobody.
  OnEnd on_end_;

  int under_way_ = 0;  ///< Callbacks of `frames_` that have not come yet.
  bool open_ = false;
  bool opening_told_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool paused_ = false;
  bool calling_ = false;  ///< The handler, on a worker.
  bool room_to_tell_ = false;
  bool close_said_ = false;
  bool close_over_ = false;
  bool close_agreed_ = false;
  bool reading_failed_ = false;
  bool pinging_ = false;
  int quiet_ = 0;  ///< How many times in a row nothing had come.
  std::uint64_t activity_ = 0;
  TimePoint look_at_ = TimePoint::max();
  TimePoint write_deadline_ = TimePoint::max();
  std::optional<WebSocketFrame> received_;  ///< Not taken by the handler yet.
  std::deque<WebSocketFrame> outgoing_;
  WebSocketFrame being_written_;
  std::optional<Ending> closing_;  ///< Ours.
  std::optional<Ending> ending_;   ///< The handler's last call.
  Summary summary_;

  std::mutex mutex_;  ///< What send() needs to know at once:
  std::size_t queued_bytes_ = 0;
  bool full_ = false;
  bool closed_ = false;
};

}  // namespace postern::control
