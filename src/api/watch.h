#pragma once
// Somebody outside who watches a command: what they are told, in order, as fast as they take it. The forms
// of it (an answer, a WebSocket, an event stream) say how.
//
//   started → output … → over
//
// On the box loop.

#include <optional>
#include <string>

#include "box/box_loop.h"
#include "box/command.h"

namespace postern::api {

/// How a command ended otherwise than with an exit status: the contract's error_type, and a sentence.
struct Trouble {
  std::string type;
  std::string message;
};

class Watch : public box::Guest, protected box::Command::Viewer {
 protected:
  using Chunk = box::Command::Chunk;

  /// `command` is of the box that was entered, or of this.
  void attach(box::Command& command, std::uint64_t output_offset, std::uint64_t error_offset);
  /// Nothing is said any more, and the command may go.
  void detach();
  box::Command* command() { return command_; }
  /// Something else may be said now: there is room, or time has passed.
  void look();

  virtual bool has_room() const = 0;
  /// As many bytes of the stream as go into one piece.
  virtual std::optional<Chunk> pull(box::Command& command, box::StreamId stream) = 0;
  virtual void on_started(std::int32_t process) = 0;
  virtual void on_output(box::StreamId stream, const Chunk& chunk) = 0;
  /// After each look: room for input, streams that have ended.
  virtual void on_look(box::Command&) {}
  /// All was said, or the rest is lost. Calls detach() and leave(). `status`: without trouble.
  virtual void on_over(const std::optional<Trouble>& trouble, int status) = 0;

  void changed() override;
  void on_box_end() override;

 private:
  void pump();

  box::Command* command_ = nullptr;
  io::Loop* loop_ = nullptr;
  bool looking_ = false;
  bool started_told_ = false;
};

}  // namespace postern::api
