#include "api/download.h"

#include <csignal>
#include <fmt/format.h>
#include <utility>

#include "api/execute_request.h"
#include "api/files.h"
#include "api/pipe.h"
#include "api/selection.h"
#include "base/date.h"

namespace postern::api {

namespace {

using box::FileEntry;
using box::StreamId;
using control::Call;

/// Reads the part that was asked for. The last byte is held back until the file has been looked at again: of
/// one that changed meanwhile the answer is never complete.
class Reading final : public box::Guest, box::AgentLink::Events, io::Timer {
 public:
  Reading(box::OpenBox& box, std::shared_ptr<Call> call, FileEntry entry, std::uint64_t length)
      : Timer(box.loop),
        call_(std::move(call)),
        pipe_(std::make_shared<Pipe>(call_)),
        entry_(std::move(entry)),
        left_(length) {}

  std::unique_ptr<control::BodySource> begin(box::OpenBox& box, std::uint64_t first) {
    enter(box);
    number_ = box.link.run(box::read_request(entry_.path, first, left_), *this);
    set(box.loop.now() + file_patience);
    const auto post = [&loop = box.loop, weak = weak_from_this()](auto job) {
      loop.post([weak, job = std::move(job)] {
        if (const auto alive = weak.lock()) job(static_cast<Reading&>(*alive));
      });
    };
    auto source =
        pipe_->source([post](std::size_t bytes) { post([bytes](Reading& self) { self.taken(bytes); }); },
                      [post] { post([](Reading& self) { self.give_up(); }); });
    if (number_ == 0) give_up();
    return source;
  }

 private:
  void started(std::int32_t) override {}
  void output(StreamId stream, std::string_view bytes) override {
    if (stream == StreamId::standard_error) return;  // A few bytes: they fit into their window.
    if (bytes.size() > left_) return give_up();
    left_ -= bytes.size();
    set(box()->loop.now() + file_patience);
    if (left_ > 0) return pipe_->put(bytes);
    last_ = bytes.back();
    bytes.remove_suffix(1);
    if (!bytes.empty()) pipe_->put(bytes);
  }
  void output_ended(StreamId) override {}
  void exited(int status) override {
    number_ = 0;
    if (status != 0 || left_ > 0) return give_up();
    ask_entry(*box(), call_, entry_.path,
              [self = std::static_pointer_cast<Reading>(shared_from_this())](const auto& now) {
                if (!now || now->tag != self->entry_.tag) return self->give_up();
                self->pipe_->put(std::string_view(&self->last_, 1));
                self->pipe_->end();
                self->finish();
              });
  }
  void refused(int) override {
    number_ = 0;
    give_up();
  }
  void input_taken(std::uint32_t) override {}
  void lost() override {
    number_ = 0;
    give_up();
  }
  void on_box_end() override { give_up(); }
  /// A caller who does not read is the server's to give up.
  void on_timer() override {
    if (pipe_->waiting() == 0) return give_up();
    set(box()->loop.now() + file_patience);
  }

  void taken(std::size_t bytes) {
    if (box() == nullptr || number_ == 0) return;
    box()->link.taken(number_, StreamId::standard_output, static_cast<std::uint32_t>(bytes));
    set(box()->loop.now() + file_patience);
  }
  void give_up() {
    pipe_->cut();
    finish();
  }
  void finish() {
    clear();
    if (box() != nullptr && number_ != 0) {
      box()->link.signal(number_, SIGKILL);
      box()->link.forget(number_);
    }
    number_ = 0;
    leave();
  }

  const std::shared_ptr<Call> call_;
  const std::shared_ptr<Pipe> pipe_;
  const FileEntry entry_;
  std::uint64_t left_;
  char last_ = 0;
  std::uint32_t number_ = 0;
};

void answer(box::OpenBox& box, const std::shared_ptr<Call>& call, FileEntry entry, const FileLook& look) {
  if (entry.kind == FileEntry::Kind::folder) return call->answer(file_error(EISDIR, Doing::reading));
  if (entry.kind != FileEntry::Kind::file) return call->answer(file_error(EINVAL, Doing::reading));
  const std::string tag = fmt::format("\"{}\"", entry.tag);
  const std::string modified = http_date(entry.modified);
  const Selection part = select(call->request(), tag, modified, entry.bytes);
  if (part.status == 412)
    return call->answer(
        control::ApiError{412, "PreconditionFailed", "The file is another one by now.", {}, {}});
  control::Response response;
  response.status = part.status;
  response.fields = {
      {"ETag", tag}, {"Last-Modified", modified}, {"Accept-Ranges", "bytes"}, {"Cache-Control", "no-cache"}};
  response.fields.insert(response.fields.end(), look.fields.begin(), look.fields.end());
  if (part.status == 304) return call->answer(std::move(response));
  if (part.status == 416) {
    response.fields.push_back({"Content-Range", fmt::format("bytes */{}", entry.bytes)});
    return call->answer(std::move(response));
  }
  response.fields.push_back({"Content-Type", look.content_type});
  if (part.status == 206)
    response.fields.push_back({"Content-Range", fmt::format("bytes {}-{}/{}", part.first,
                                                            part.first + part.length - 1, entry.bytes)});
  response.length = part.length;
  if (call->request().method != "HEAD" && part.length > 0)
    response.source =
        std::make_shared<Reading>(box, call, std::move(entry), part.length)->begin(box, part.first);
  call->answer(std::move(response));
}

}  // namespace

void download_file(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller,
                   const std::string& box, std::string path, FileLook look) {
  door.with_box(caller, box, [call, path = std::move(path), look = std::move(look)](auto open) mutable {
    if (!open) return call->answer(open.error());
    const std::string whole = path_in(**open, path);
    ask_entry(**open, call, whole, [call, whole, look = std::move(look), box = *open](auto entry) {
      if (!entry) return call->answer(entry.error());
      entry->path = whole;
      answer(*box, call, std::move(*entry), look);
    });
  });
}

void download(const std::shared_ptr<Call>& call, BoxDoor& door, const control::Principal& caller) {
  auto path = path_parameter(*call);
  if (path) download_file(call, door, caller, call->request().parameter("sandbox_id"), std::move(*path), {});
}

}  // namespace postern::api
