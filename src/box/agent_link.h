#pragma once
// The outer end of a box's agent (box/agent/protocol.h): starts commands in the box, carries their input and
// output with back-pressure, and says how they ended. What the agent says is not believed beyond its box: a
// frame that is none, a window that is overrun or a command that nobody started ends the link.
//
// Belongs to one loop. Events, and who waits for the end of the link, may do anything to it but destroy it.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/fd.h"
#include "box/agent/protocol.h"
#include "io/loop.h"

namespace postern::box {

class AgentLink final : private io::Pollable, private io::Deferred {
 public:
  /// What becomes of one command. After exited(), refused() or lost() nothing more is said.
  class Events {
   public:
    virtual void started(std::int32_t process) = 0;
    /// At most window_bytes until taken() is called for them.
    virtual void output(StreamId stream, std::string_view bytes) = 0;
    virtual void output_ended(StreamId stream) = 0;
    virtual void exited(int status) = 0;
    /// It never ran. `error_number`: errno.
    virtual void refused(int error_number) = 0;
    /// So many bytes of input were passed on.
    virtual void input_taken(std::uint32_t bytes) = 0;
    /// The agent has gone, and with it everything in the box.
    virtual void lost() = 0;

   protected:
    ~Events() = default;
  };

  /// Takes the nonblocking end of a stream socket pair, whose other end the agent has. Served in the turns of
  /// `party`.
  AgentLink(io::Loop& loop, Fd socket, io::Party party = io::nobody);
  ~AgentLink();

  bool alive() const { return alive_; }
  /// Called once, when the link is lost after all: never from the constructor.
  void when_lost(std::move_only_function<void()> then) { when_lost_ = std::move(then); }
  /// As if the agent had gone: every command is lost. Not from Events.
  void close();

  /// The command's number in this link, or 0 when the link is lost, the request is too large or there are
  /// commands_max of them. `events` outlives the command, or is taken back by forget().
  std::uint32_t run(const RunRequest& request, Events& events);
  /// Nothing more is said to its Events; it goes on running, and what it says is taken and dropped.
  void forget(std::uint32_t command);

  /// False, and nothing is sent, when more than window_bytes would not be taken yet.
  bool input(std::uint32_t command, std::string_view bytes);
  void close_input(std::uint32_t command);
  /// To the command's process group.
  void signal(std::uint32_t command, int number);
  void resize(std::uint32_t command, std::uint16_t rows, std::uint16_t columns);
  /// So many bytes of its output may follow.
  void taken(std::uint32_t command, StreamId stream, std::uint32_t bytes);

 private:
  struct Running {
    Events* events = nullptr;  ///< nullptr: forgotten.
    std::uint32_t output_left[2] = {window_bytes, window_bytes};
    std::uint32_t input_out = 0;
  };

  void on_ready(std::uint32_t events) override;
  void on_turn_end() override;
  /// False: the link is to end.
  bool receive();
  bool take(const FrameHeader& header, std::string_view bytes);
  bool take_output(const FrameHeader& header, Running& running, std::string_view bytes);
  void send(FrameType type, std::uint32_t command, std::uint32_t value = 0, StreamId stream = {},
            std::string_view bytes = {});
  bool flush();
  void lose();

  io::Loop& loop_;
  Fd socket_;
  std::string received_;
  std::string unsent_;
  std::size_t sent_ = 0;
  std::unordered_map<std::uint32_t, Running> running_;
  std::uint32_t last_number_ = 0;
  bool alive_ = true;
  std::move_only_function<void()> when_lost_;
};

}  // namespace postern::box
