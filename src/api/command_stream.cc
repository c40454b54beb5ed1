#include "api/command_stream.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/execute.h"
#include "api/execute_request.h"
#include "api/pipe.h"
#include "api/watch.h"
#include "credential/base64.h"
#include "credential/random.h"

namespace postern::api {

namespace {

using box::Command;
using box::StreamId;
using control::Call;
using nlohmann::json;

constexpr std::size_t chunk_bytes = 48 * 1024;  // 64 KiB in base64
constexpr std::size_t waiting_bytes_max = 256 * 1024;
constexpr std::chrono::seconds heartbeat{15};  // clients read for 60 s
constexpr std::chrono::seconds return_time{30};
// Then the client says what it has by coming again, and the command is not held up by what it has not.
constexpr std::uint64_t answer_bytes_max = 8 * 1024 * 1024;

const char* name_of(StreamId stream) { return stream == StreamId::standard_output ? "stdout" : "stderr"; }

class StreamWatch final : public Watch, io::Timer {
 public:
  StreamWatch(box::OpenBox& box, std::shared_ptr<Call> call, std::string id)
      : Timer(box.loop), call_(std::move(call)), pipe_(std::make_shared<Pipe>(call_)), id_(std::move(id)) {}

  void begin(box::OpenBox& box, Command& command, std::uint64_t output_offset, std::uint64_t error_offset) {
    enter(box);
    attach(command, output_offset, error_offset);
    set(box.loop.now() + heartbeat);
    const auto post = [&loop = box.loop, weak = weak_from_this()](auto job) {
      loop.post([weak, job] {
        if (const auto alive = weak.lock()) job(static_cast<StreamWatch&>(*alive));
      });
    };
    control::Response response;
    response.fields = {{"Content-Type", "text/event-stream"}, {"Cache-Control", "no-store"}};
    response.source = pipe_->source([post](std::size_t) { post([](StreamWatch& self) { self.look(); }); },
                                    [post] { post([](StreamWatch& self) { self.gone(); }); });
    call_->answer(std::move(response));
    // So that a caller who closes is noticed before the next heartbeat.
    call_->on_gone([] {}, Call::Half::is_gone);
  }

 private:
  bool has_room() const override { return !returning_ && pipe_->waiting() < waiting_bytes_max; }
  std::optional<Chunk> pull(Command& command, StreamId stream) override {
    return command.pull(*this, stream, chunk_bytes);
  }
  void on_started(std::int32_t process) override {
    say("started", json{{"command_id", id_}, {"pid", process}});
  }
  void on_output(StreamId stream, const Chunk& chunk) override {
    std::string data;
    credential::append_base64(chunk.bytes, data);
    say(name_of(stream), json{{"offset", chunk.offset}, {"data", std::move(data)}});
    sent_ += chunk.bytes.size();
    if (sent_ < answer_bytes_max) return;
    const Command& watched = *command();
    say("ack_required", json{{"stdout_offset", watched.place_of(*this, StreamId::standard_output)},
                             {"stderr_offset", watched.place_of(*this, StreamId::standard_error)}});
    await_return();
  }
  void on_look(Command& command) override {
    for (const StreamId stream : {StreamId::standard_output, StreamId::standard_error}) {
      bool& told = end_told_[stream == StreamId::standard_output ? 0 : 1];
      if (told || !command.at_end(*this, stream)) continue;
      told = true;
      say("stream_end", json{{"stream", name_of(stream)}, {"offset", command.place_of(*this, stream)}});
    }
  }
  void on_over(const std::optional<Trouble>& trouble, int status) override {
    if (trouble)
      say("error", json{{"error_type", trouble->type}, {"error", trouble->message}});
    else
      say("exit", json{{"exit_code", status}});
    end();
  }
  void on_timer() override {
    if (returning_) return end();
    pipe_->put(": \n\n");
    set(box()->loop.now() + heartbeat);
  }

  void say(std::string_view event, const json& data) {
    pipe_->put(fmt::format("event: {}\ndata: {}\n\n", event,
                           data.dump(-1, ' ', false, json::error_handler_t::replace)));
  }
  void gone() {
    if (!returning_) end();
  }
  /// The answer ends. We still watch for a while, so that nothing is overwritten before the client is back.
  void await_return() {
    returning_ = true;
    pipe_->end();
    set(box()->loop.now() + return_time);
  }
  void end() {
    clear();
    detach();
    pipe_->end();
    leave();
  }

  const std::shared_ptr<Call> call_;
  const std::shared_ptr<Pipe> pipe_;
  const std::string id_;
  std::uint64_t sent_ = 0;
  bool returning_ = false;
  bool end_told_[2] = {false, false};
};

}  // namespace

void start_stream(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  call->read_body(document_bytes_max, [call, &door, caller](const std::string& body) {
    auto request = parse_execute(body, Form::events);
    if (!request) return call->answer(to_response(request.error()));
    door.with_box(
        caller, call->request().parameter("sandbox_id"),
        [call, request = std::move(*request)](auto box) mutable {
          if (!box) return call->answer(box.error());
          std::string id =
              request.command_id.empty() ? credential::random_uuid() : std::move(request.command_id);
          Command* const command = (*box)->commands.get_or_start(id, settle(std::move(request), **box));
          if (command == nullptr)
            return call->answer(control::overloaded("There are too many commands in this sandbox."));
          std::make_shared<StreamWatch>(**box, call, std::move(id))->begin(**box, *command, 0, 0);
        });
  });
}

void resume_stream(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  call->read_body(document_bytes_max, [call, &door, caller](const std::string& body) {
    auto request = parse_reconnect(body);
    if (!request) return call->answer(to_response(request.error()));
    door.with_box(
        caller, call->request().parameter("sandbox_id"), [call, request = std::move(*request)](auto box) {
          if (!box) return call->answer(box.error());
          Command* const command = (*box)->commands.find(request.command_id);
          if (command == nullptr)
            return call->answer(control::ApiError{
                404, "CommandNotFound", "There is no such command, or no more of it is kept.", {}, {}});
          std::make_shared<StreamWatch>(**box, call, request.command_id)
              ->begin(**box, *command, request.output_offset, request.error_offset);
        });
  });
}

}  // namespace postern::api
