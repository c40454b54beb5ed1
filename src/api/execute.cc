#include "api/execute.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/execute_request.h"
#include "api/watch.h"

namespace postern::api {

using box::Command;
using box::StreamId;
using nlohmann::json;

void Collected::append(std::string_view bytes) {
  const std::size_t room = std::min(part_bytes - head_.size(), bytes.size());
  head_.append(bytes.substr(0, room));
  tail_.append(bytes.substr(room));
  if (tail_.size() < 2 * part_bytes) return;
  left_out_ += tail_.size() - part_bytes;
  tail_.erase(0, tail_.size() - part_bytes);
}

std::string Collected::text() const {
  const std::size_t more = tail_.size() > part_bytes ? tail_.size() - part_bytes : 0;
  if (left_out_ + more == 0) return head_ + tail_;
  return fmt::format("{}\n[... {} bytes were left out ...]\n{}", head_, left_out_ + more,
                     std::string_view(tail_).substr(more));
}

namespace {

constexpr std::size_t piece_bytes = 256 * 1024;

class Execution final : public Watch {
 public:
  explicit Execution(std::shared_ptr<control::Call> call) : call_(std::move(call)) {}

  void begin(box::OpenBox& box, ExecuteRequest request) {
    enter(box);
    own_ = std::make_unique<Command>(box.loop, box.link, settle(std::move(request), box));
    attach(*own_, 0, 0);
    call_->on_gone(
        [&loop = box.loop, weak = weak_from_this()] {
          loop.post([weak] {
            if (const auto alive = weak.lock()) static_cast<Execution&>(*alive).end();
          });
        },
        control::Call::Half::is_gone);
  }

 private:
  bool has_room() const override { return true; }
  std::optional<Chunk> pull(Command& command, StreamId stream) override {
    return command.pull(*this, stream, piece_bytes);
  }
  void on_started(std::int32_t) override {}
  void on_output(StreamId stream, const Chunk& chunk) override {
    (stream == StreamId::standard_output ? output_ : error_).append(chunk.bytes);
  }
  void on_over(const std::optional<Trouble>& trouble, int status) override {
    if (trouble)
      call_->answer(to_error(*trouble));
    else
      call_->answer(control::json_response(
          200, json{{"stdout", output_.text()}, {"stderr", error_.text()}, {"exit_code", status}}.dump(
                   -1, ' ', false, json::error_handler_t::replace)));
    end();
  }
  /// No status at which a client would try again what may have been done already.
  static control::ApiError to_error(const Trouble& trouble) {
    return {400, "CommandError", trouble.message, {}, {}};
  }
  /// Kills what still runs.
  void end() {
    detach();
    own_.reset();
    leave();
  }

  const std::shared_ptr<control::Call> call_;
  std::unique_ptr<Command> own_;
  Collected output_;
  Collected error_;
};

}  // namespace

void execute(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller) {
  call->read_body(document_bytes_max, [call, &door, caller](const std::string& body) {
    auto request = parse_execute(body, Form::once);
    if (!request) return call->answer(to_response(request.error()));
    door.with_box(caller, call->request().parameter("sandbox_id"),
                  [call, request = std::move(*request)](auto box) mutable {
                    if (!box) return call->answer(box.error());
                    std::make_shared<Execution>(call)->begin(**box, std::move(request));
                  });
  });
}

}  // namespace postern::api
