#include "api/files.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <utility>

#include "box/agent/files.h"

namespace postern::api {

using box::StreamId;
using control::ApiError;

std::optional<std::string> path_parameter(control::Call& call) {
  const std::string* const path = call.request().query_value("path");
  if (path != nullptr && !path->empty() && path->size() <= path_bytes_max) return *path;
  call.answer(control::validation_response(
      "path", path == nullptr || path->empty() ? "This is required." : "This is too long."));
  return std::nullopt;
}

ApiError file_error(int number, Doing doing) {
  const char* const known = ::strerrordesc_np(number);  // none for what is no errno
  const std::string why = known ? known : "unknown error";
  const char* const type = doing == Doing::reading ? "ReadError" : "WriteError";
  switch (number) {
    case ENOENT:
    case ENOTDIR: return {404, "FileNotFound", fmt::format("There is no such file: {}.", why), {}, {}};
    case EACCES:
    case EPERM:
    case EROFS:
      return {403, "PermissionDenied", fmt::format("The sandbox does not allow it: {}.", why), {}, {}};
    case EISDIR:
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return {400, type, fmt::format("This cannot be done: {}.", why), {}, {}};
    default: return {500, type, fmt::format("This did not work in the sandbox: {}.", why), {}, {}};
  }
}

ApiError box_gone() {
  return {502, "ConnectionError", "The sandbox ended, or its agent answers no more.", {}, {}};
}

ApiError request_error(int status, std::string_view standard_error, Doing doing) {
  return file_error(status == box::file_trouble ? box::parse_trouble(standard_error) : EIO, doing);
}

namespace {

constexpr std::size_t trouble_bytes_max = 64;

class Question final : public box::Guest, box::AgentLink::Events, io::Timer {
 public:
  Question(box::OpenBox& box, std::size_t bytes_max, AskThen then)
      : Timer(box.loop), bytes_max_(bytes_max), then_(std::move(then)) {}

  void begin(box::OpenBox& box, const std::shared_ptr<control::Call>& call, const box::RunRequest& request) {
    enter(box);
    number_ = box.link.run(request, *this);
    if (number_ == 0)
      return finish(std::unexpected(
          box.link.alive() ? control::overloaded("Too much is going on in this sandbox.") : box_gone()));
    set(box.loop.now() + file_patience);
    call->on_gone(
        [&loop = box.loop, weak = weak_from_this()] {
          loop.post([weak] {
            if (const auto alive = weak.lock()) static_cast<Question&>(*alive).give_up(box_gone());
          });
        },
        control::Call::Half::is_gone);
  }

 private:
  void started(std::int32_t) override {}
  void output(StreamId stream, std::string_view bytes) override {
    box::AgentLink& link = box()->link;
    link.taken(number_, stream, static_cast<std::uint32_t>(bytes.size()));
    if (stream == StreamId::standard_error)
      error_.append(bytes.substr(0, trouble_bytes_max - std::min(trouble_bytes_max, error_.size())));
    else if (answer_.size() + bytes.size() <= bytes_max_)
      answer_.append(bytes);
    else
      give_up({400, "ReadError", "The answer is too large. Ask for less.", {}, {}});
  }
  void output_ended(StreamId) override {}
  void exited(int status) override {
    if (status != 0) return finish(std::unexpected(request_error(status, error_, Doing::reading)));
    finish(std::move(answer_));
  }
  void refused(int number) override { finish(std::unexpected(file_error(number, Doing::reading))); }
  void input_taken(std::uint32_t) override {}
  void lost() override { finish(std::unexpected(box_gone())); }
  void on_box_end() override { finish(std::unexpected(box_gone())); }
  void on_timer() override { give_up({500, "ReadError", "The sandbox took too long.", {}, {}}); }

  void give_up(ApiError error) {
    if (box() != nullptr) {
      box()->link.signal(number_, SIGKILL);
      box()->link.forget(number_);
    }
    finish(std::unexpected(std::move(error)));
  }
  void finish(std::expected<std::string, ApiError> answer) {
    clear();
    if (auto then = std::exchange(then_, nullptr)) then(std::move(answer));
    leave();
  }

  const std::size_t bytes_max_;
  AskThen then_;
  std::uint32_t number_ = 0;
  std::string answer_;
  std::string error_;
};

constexpr std::size_t entry_bytes_max = 2 * path_bytes_max;

}  // namespace

void ask(box::OpenBox& box, const std::shared_ptr<control::Call>& call, const box::RunRequest& request,
         std::size_t bytes_max, AskThen then) {
  std::make_shared<Question>(box, bytes_max, std::move(then))->begin(box, call, request);
}

void ask_entry(box::OpenBox& box, const std::shared_ptr<control::Call>& call, const std::string& path,
               StatThen then) {
  ask(box, call, box::stat_request(path), entry_bytes_max, [then = std::move(then)](auto answer) mutable {
    if (!answer) return then(std::unexpected(std::move(answer.error())));
    auto entries = box::parse_entries(*answer);
    if (!entries || entries->size() != 1) return then(std::unexpected(box_gone()));
    then(std::move(entries->front()));
  });
}

}  // namespace postern::api
