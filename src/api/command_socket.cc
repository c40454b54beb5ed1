#include "api/command_socket.h"

#include <csignal>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/execute_request.h"
#include "api/watch.h"
#include "credential/random.h"

namespace postern::api {

namespace {

using box::Command;
using box::StreamId;
using control::WebSocketSession;
using Kind = control::WebSocketHandler::Kind;
using nlohmann::json;

// In JSON six times that at most, and thus below the 1 MiB at which clients give up.
constexpr std::size_t chunk_bytes = 64 * 1024;
// Input that the command has not read. Above, the client has to wait with everything, its kill as well.
constexpr std::size_t input_bytes_max = 1024 * 1024;
constexpr std::size_t input_piece_bytes = 64 * 1024;

/// The end on the box loop. Everything but its construction and gone() is for that.
class SocketWatch final : public Watch {
 public:
  explicit SocketWatch(std::shared_ptr<WebSocketSession> session) : session_(std::move(session)) {}

  // ---- from the handler, on workers

  void order(Order order) {
    post([order = std::move(order)](SocketWatch& self) mutable { self.take(std::move(order)); });
  }
  void room() {
    post([](SocketWatch& self) {
      self.say_held();
      self.look();
    });
  }
  void refuse(const Refusal& refusal) {
    Trouble trouble{"CommandError",
                    refusal.field.empty() ? refusal.message : refusal.field + ": " + refusal.message};
    if (!begun()) return end(trouble, 1008);
    post([trouble = std::move(trouble)](SocketWatch& self) { self.end(trouble, 1008); });
  }
  void gone() {
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
    }
    post([](SocketWatch& self) {
      self.detach();
      self.leave();
    });
  }

  // ---- on the loop

  void begin(box::OpenBox& box, Opening opening) {
    {
      const std::lock_guard lock(mutex_);
      if (gone_) return;
      loop_ = &box.loop;
    }
    if (auto* const request = std::get_if<ExecuteRequest>(&opening))
      start(box, std::move(*request));
    else
      reconnect(box, std::get<ReconnectRequest>(opening));
    session_->resume();
  }

  /// Also on another thread, before there was a box.
  void end(const Trouble& trouble, int code) {
    say(json{{"type", "error"}, {"error_type", trouble.type}, {"error", trouble.message}});
    finish(code);
  }

 private:
  /// Before, nothing comes from the peer but the first frame: it is held up until there is a box, or none.
  bool begun() {
    const std::lock_guard lock(mutex_);
    return loop_ != nullptr;
  }

  void post(std::move_only_function<void(SocketWatch&)> job) {
    const std::lock_guard lock(mutex_);
    if (loop_ == nullptr) return;
    loop_->post([self = std::static_pointer_cast<SocketWatch>(shared_from_this()),
                 job = std::move(job)]() mutable { job(*self); });
  }

  void start(box::OpenBox& box, ExecuteRequest request) {
    id_ = request.command_id.empty() ? credential::random_uuid() : std::move(request.command_id);
    binary_ = request.binary;
    Command* const command = box.commands.get_or_start(id_, settle(std::move(request), box));
    if (command == nullptr)
      return end({"CommandError", "There are too many commands in this sandbox."}, 1000);
    enter(box);
    attach(*command, 0, 0);
  }

  void reconnect(box::OpenBox& box, const ReconnectRequest& request) {
    id_ = request.command_id;
    Command* const command = box.commands.find(id_);
    if (command == nullptr)
      return end({"CommandNotFound", "There is no such command, or no more of it is kept."}, 1000);
    enter(box);
    attach(*command, request.output_offset, request.error_offset);
  }

  void take(Order order) {
    switch (order.kind) {
      case Order::Kind::kill:
        if (command()) command()->signal(SIGKILL);
        break;
      case Order::Kind::input: input_ += order.data; break;
      case Order::Kind::close_input: closing_input_ = true; break;
      case Order::Kind::resize:
        if (command()) command()->resize(order.rows, order.columns);
        break;
      case Order::Kind::unknown: break;
    }
    if (command() == nullptr) input_.clear();
    holding_ = true;
    if (command()) pass_input(*command());
    take_more();
  }

  void pass_input(Command& command) {
    std::size_t passed = 0;
    while (passed < input_.size()) {
      const std::string_view piece = std::string_view(input_).substr(passed, input_piece_bytes);
      if (!command.input(piece)) break;
      passed += piece.size();
    }
    input_.erase(0, passed);
    if (input_.empty() && std::exchange(closing_input_, false)) command.close_input();
  }

  /// Each frame holds up the next until it was taken.
  void take_more() {
    if (!holding_ || input_.size() >= input_bytes_max) return;
    holding_ = false;
    session_->resume();
  }

  bool has_room() const override { return held_.empty(); }
  std::optional<Chunk> pull(Command& command, StreamId stream) override {
    return binary_ ? command.pull(*this, stream, chunk_bytes) : command.pull_text(*this, stream, chunk_bytes);
  }
  void on_started(std::int32_t process) override {
    say(json{{"type", "started"}, {"command_id", id_}, {"pid", process}});
  }
  void on_output(StreamId stream, const Chunk& chunk) override {
    if (binary_) {
      held_.push_back({static_cast<char>(stream) + chunk.bytes, Kind::binary});
      return say_held();
    }
    say(json{{"type", stream == StreamId::standard_output ? "stdout" : "stderr"},
             {"data", chunk.bytes},
             {"offset", chunk.offset}});
  }
  void on_look(Command& command) override {
    pass_input(command);
    take_more();
  }
  void on_over(const std::optional<Trouble>& trouble, int status) override {
    if (trouble) return end(*trouble, 1000);
    say(json{{"type", "exit"}, {"exit_code", status}});
    finish(1000);
  }

  void say(const json& message) {
    held_.push_back({message.dump(-1, ' ', false, json::error_handler_t::replace), Kind::text});
    say_held();
  }

  void say_held() {
    while (!held_.empty()) {
      const Held& next = held_.front();
      const auto sent =
          next.kind == Kind::text ? session_->send_text(next.bytes) : session_->send_binary(next.bytes);
      if (sent == WebSocketSession::Sent::full) return;  // on_room() comes.
      if (sent == WebSocketSession::Sent::closed) held_.clear();
      if (!held_.empty()) held_.pop_front();
    }
    if (closing_code_ != 0) session_->close(std::exchange(closing_code_, 0), {});
  }

  /// When everything has been said.
  void finish(int code) {
    detach();
    leave();
    closing_code_ = code;
    input_.clear();
    take_more();
    say_held();
  }

  const std::shared_ptr<WebSocketSession> session_;
  std::mutex mutex_;
  io::Loop* loop_ = nullptr;
  bool gone_ = false;

  std::string id_;
  struct Held {
    std::string bytes;
    Kind kind;
  };
  std::deque<Held> held_;  ///< One, or that and the last.
  bool binary_ = false;
  int closing_code_ = 0;
  std::string input_;
  bool closing_input_ = false;
  bool holding_ = false;
};

/// The end on the connection.
class CommandSocket final : public control::WebSocketHandler {
 public:
  CommandSocket(BoxDoor& door, control::Principal caller, std::string box)
      : door_(door), caller_(std::move(caller)), box_(std::move(box)) {}

 private:
  void on_open(const std::shared_ptr<WebSocketSession>& session) override {
    session_ = session;
    watch_ = std::make_shared<SocketWatch>(session);
  }

  void on_message(std::string_view data, Kind kind) override {
    if (over_) return;
    if (kind != Kind::text && !binary_) return refuse({{}, "Frames should be texts.", Refusal::Kind::bad});
    if (!std::exchange(opened_, true)) return open(data);
    auto order = kind == Kind::text ? parse_order(data) : Order{Order::Kind::input, std::string(data)};
    if (!order) return refuse(order.error());
    session_->pause();
    watch_->order(std::move(*order));
  }

  void open(std::string_view frame) {
    auto opening = parse_opening(frame);
    if (!opening) return refuse(opening.error());
    if (const auto* request = std::get_if<ExecuteRequest>(&*opening)) binary_ = request->binary;
    session_->pause();
    door_.with_box(caller_, box_,
                   [watch = watch_, session = session_, opening = std::move(*opening)](auto box) mutable {
                     if (box) return watch->begin(**box, std::move(opening));
                     watch->end({box.error().type, box.error().message}, 1000);
                     session->resume();
                   });
  }

  void refuse(const Refusal& refusal) {
    over_ = true;
    watch_->refuse(refusal);
  }

  void on_room() override { watch_->room(); }
  void on_closed(int, std::string_view) override { watch_->gone(); }

  BoxDoor& door_;
  const control::Principal caller_;
  const std::string box_;
  std::shared_ptr<WebSocketSession> session_;
  std::shared_ptr<SocketWatch> watch_;
  bool opened_ = false;
  bool binary_ = false;
  bool over_ = false;
};

}  // namespace

void execute_socket(const std::shared_ptr<control::Call>& call, BoxDoor& door,
                    const control::Principal& caller) {
  call->upgrade(std::make_unique<CommandSocket>(door, caller, call->request().parameter("sandbox_id")));
}

}  // namespace postern::api
