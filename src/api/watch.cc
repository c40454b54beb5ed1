#include "api/watch.h"

#include <cstring>
#include <fmt/format.h>
#include <utility>

namespace postern::api {

using box::Command;
using box::StreamId;

namespace {

Trouble of_lost() { return {"SessionExpired", "The sandbox has ended, and the command with it."}; }

/// nullopt: it has exited.
std::optional<Trouble> trouble_of(const Command& command) {
  if (command.timed_out())
    return Trouble{"CommandTimeout", "The command did not end in time and was killed."};
  if (command.state() == Command::State::exited) return std::nullopt;
  if (command.state() != Command::State::refused) return of_lost();
  const char* const why = ::strerrordesc_np(command.error_number());  // none for what is no errno
  return Trouble{"CommandError",
                 fmt::format("The command could not be started: {}.", why ? why : "unknown error")};
}

}  // namespace

void Watch::attach(Command& command, std::uint64_t output_offset, std::uint64_t error_offset) {
  command_ = &command;
  loop_ = &box()->loop;
  command.attach(*this, output_offset, error_offset);
  look();
}

void Watch::detach() {
  if (Command* const command = std::exchange(command_, nullptr)) command->detach(*this);
}

void Watch::changed() { look(); }

/// Not at once: the command may be in the middle of telling us, and much may come in one turn.
void Watch::look() {
  if (command_ == nullptr || std::exchange(looking_, true)) return;
  loop_->post([weak = weak_from_this(), this] {
    const auto alive = weak.lock();
    if (!alive) return;
    looking_ = false;
    pump();
  });
}

void Watch::pump() {
  if (command_ == nullptr) return;
  if (!started_told_ && command_->process() > 0 && has_room()) {
    started_told_ = true;
    on_started(command_->process());
  }
  for (bool more = started_told_; more;) {
    more = false;
    for (const StreamId stream : {StreamId::standard_output, StreamId::standard_error}) {
      if (command_ == nullptr || !has_room()) return;
      const auto chunk = pull(*command_, stream);
      if (!chunk) continue;
      more = true;
      on_output(stream, *chunk);
    }
  }
  if (command_ != nullptr) on_look(*command_);
  if (command_ != nullptr && command_->at_end(*this) && has_room())
    on_over(trouble_of(*command_), command_->status());
}

void Watch::on_box_end() {
  pump();
  if (command_ != nullptr) on_over(of_lost(), 0);
  detach();
}

}  // namespace postern::api
