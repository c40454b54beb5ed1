#include "api/upload.h"

#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/execute_request.h"
#include "api/files.h"
#include "api/multipart.h"

namespace postern::api {

namespace {

using box::StreamId;
using control::ApiError;
using control::Call;

constexpr std::uint64_t upload_bytes_max = std::uint64_t{64} << 30;  // its disk is the box's own limit
constexpr std::size_t input_piece_bytes = 64 * 1024;
constexpr std::size_t said_bytes_max = 3 * path_bytes_max;

/// The end on the box loop.
class Writing final : public box::Guest, box::AgentLink::Events, io::Timer {
 public:
  Writing(box::OpenBox& box, std::shared_ptr<Call> call, std::string path)
      : Timer(box.loop), call_(std::move(call)), path_(std::move(path)), loop_(box.loop) {}

  void begin(box::OpenBox& box) {
    enter(box);
    number_ = box.link.run(box::write_request(path_), *this);
    if (number_ == 0)
      finish(box.link.alive() ? control::overloaded("Too much is going on in this sandbox.") : box_gone());
  }

  // ---- from the sink, on workers

  void add(std::string bytes) {
    post([bytes = std::move(bytes)](Writing& self) mutable {
      self.bytes_ += bytes.size();
      self.waiting_ = std::move(bytes);
      self.holding_ = true;
      self.set(self.loop_.now() + file_patience);
      self.pass_on();
    });
  }
  void end() {
    post([](Writing& self) {
      if (self.box() == nullptr) return;
      self.ended_ = true;
      self.box()->link.close_input(self.number_);
      self.set(self.loop_.now() + file_patience);
    });
  }
  /// The caller gets `error`, or has gone.
  void give_up(ApiError error) {
    post([error = std::move(error)](Writing& self) { self.finish(error); });
  }

 private:
  template <class Do>
  void post(Do job) {
    loop_.post([self = std::static_pointer_cast<Writing>(shared_from_this()),
                job = std::move(job)]() mutable { job(*self); });
  }

  void started(std::int32_t) override {}
  void output(StreamId stream, std::string_view bytes) override {
    std::string& said = stream == StreamId::standard_error ? error_ : entry_;
    said.append(bytes.substr(0, said_bytes_max - std::min(said_bytes_max, said.size())));
  }
  void output_ended(StreamId) override {}
  void exited(int status) override {
    number_ = 0;
    if (status != 0) return finish(request_error(status, error_, Doing::writing));
    if (!ended_ || !box::parse_entries(entry_)) return finish(box_gone());
    call_->answer(control::json_response(200, nlohmann::json{{"path", path_}, {"written", bytes_}}.dump(
                                                  -1, ' ', false, nlohmann::json::error_handler_t::replace)));
    finish(box_gone());
  }
  void refused(int number) override {
    number_ = 0;
    finish(file_error(number, Doing::writing));
  }
  void input_taken(std::uint32_t) override { pass_on(); }
  void lost() override {
    number_ = 0;
    finish(box_gone());
  }
  void on_box_end() override { finish(box_gone()); }
  void on_timer() override { finish({500, "WriteError", "The sandbox took too long.", {}, {}}); }

  void pass_on() {
    if (box() == nullptr || !holding_) return;
    while (passed_ < waiting_.size()) {
      const std::string_view piece = std::string_view(waiting_).substr(passed_, input_piece_bytes);
      if (!box()->link.input(number_, piece)) return;
      passed_ += piece.size();
    }
    waiting_.clear();
    passed_ = 0;
    holding_ = false;
    clear();  // The wait is for the caller now, whom the server watches.
    call_->take_more();
  }

  /// The first answer counts.
  void finish(const ApiError& error) {
    clear();
    call_->answer(error);
    if (box() != nullptr && number_ != 0) {
      box()->link.signal(number_, SIGTERM);  // So that it takes away what it had begun.
      box()->link.forget(number_);
    }
    number_ = 0;
    leave();
  }

  const std::shared_ptr<Call> call_;
  const std::string path_;
  io::Loop& loop_;
  std::uint32_t number_ = 0;
  std::uint64_t bytes_ = 0;
  std::string waiting_;
  std::size_t passed_ = 0;
  bool holding_ = false;  ///< The sink waits.
  bool ended_ = false;
  std::string entry_;
  std::string error_;
};

class UploadSink final : public control::BodySink {
 public:
  UploadSink(std::shared_ptr<Writing> writing, std::optional<MultipartFile> multipart)
      : writing_(std::move(writing)), multipart_(std::move(multipart)) {}
  ~UploadSink() override {
    if (!ended_) writing_->give_up(control::bad_request("The body of the request broke off."));
  }

 private:
  Then take(std::string_view piece) override {
    if (ended_) return Then::more;
    std::string bytes;
    if (!multipart_) {
      bytes = piece;
    } else if (const auto taken = multipart_->take(piece, bytes); !taken) {
      refuse(taken.error());
      return Then::more;
    }
    if (bytes.empty()) return Then::more;
    writing_->add(std::move(bytes));
    return Then::wait;
  }
  void end() override {
    if (ended_) return;
    if (multipart_ && !multipart_->complete()) return refuse("The body ends before its last boundary.");
    ended_ = true;
    writing_->end();
  }
  void refuse(std::string_view why) {
    ended_ = true;
    writing_->give_up(control::bad_request(std::string(why)));
  }

  const std::shared_ptr<Writing> writing_;
  std::optional<MultipartFile> multipart_;
  bool ended_ = false;
};

/// nullopt: neither a form nor plain bytes.
std::optional<std::optional<MultipartFile>> form_of(const control::Request& request) {
  if (control::count_fields(request.fields, "Content-Type") != 1) return std::nullopt;
  const std::string& type = *request.field("Content-Type");
  if (type == "application/octet-stream") return std::optional<MultipartFile>();
  auto multipart = MultipartFile::for_type(type);
  if (!multipart) return std::nullopt;
  return multipart;
}

}  // namespace

void upload(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  auto path = path_parameter(*call);
  if (!path) return;
  auto form = form_of(call->request());
  if (!form)
    return call->answer(ApiError{415,
                                 "UnsupportedMediaType",
                                 "The body should be multipart/form-data or application/octet-stream.",
                                 {},
                                 {}});
  door.with_box(caller, call->request().parameter("sandbox_id"),
                [call, path = std::move(*path), form = std::move(*form)](auto box) mutable {
                  if (!box) return call->answer(box.error());
                  auto writing = std::make_shared<Writing>(**box, call, path_in(**box, path));
                  writing->begin(**box);
                  call->stream_body(upload_bytes_max,
                                    std::make_shared<UploadSink>(std::move(writing), std::move(form)));
                });
}

}  // namespace postern::api
