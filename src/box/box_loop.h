#pragma once
// The one thread on which the open boxes live, thousands of them and mostly idle: their links, their
// commands, and whatever callers do with them. Others hand it work; nothing of a box is touched anywhere
// else.
//
// What a caller does in a box is a Guest of it: kept by the box for as long as it takes, and told when the
// box goes first. So a box may end in the middle of everything, and nobody is left with a pointer into it.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "box/agent_link.h"
#include "box/command.h"
#include "io/loop.h"

namespace postern::box {

class Guest;

struct BoxDefaults {
  std::vector<std::string> environment;  ///< NAME=VALUE of every command: HOME, PATH and the like included.
  std::string home;                      ///< Absolute: where relative paths and commands start.
  Duration idle_ttl{0};                  ///< Unused for so long it is idle; 0: never.
  std::move_only_function<void()> on_idle;  ///< On the loop, again after each further idle_ttl.
};

/// A box that runs. Only on the loop's thread, and only until the call that was given it returns.
struct OpenBox {
  OpenBox(io::Loop& on, Fd agent, BoxDefaults defaults, io::Party party);

  io::Loop& loop;
  AgentLink link;
  Commands commands;
  std::vector<std::string> environment;
  std::string home;
  TimePoint last_used;
  std::size_t users = 0;  ///< Never idle while there are any, or guests.

 private:
  friend class BoxLoop;
  friend class Guest;
  std::unordered_map<Guest*, std::shared_ptr<Guest>> guests_;
};

/// Something that goes on in a box on behalf of somebody outside. Made by make_shared, anywhere; the rest is
/// for the loop's thread. By the time that it has left it is in no list of the loop and none of the box, so
/// that anybody may hold the last reference.
class Guest : public std::enable_shared_from_this<Guest> {
 public:
  virtual ~Guest() = default;

  /// The box keeps it until leave(), or until it ends.
  void enter(OpenBox& box);
  /// Lives on until the present turn is over.
  void leave();
  /// nullptr before and after.
  OpenBox* box() const { return box_; }

 protected:
  Guest() = default;
  /// The box ends: all commands are lost, and box() is there for this call only. leave() changes nothing.
  virtual void on_box_end() = 0;

 private:
  friend class BoxLoop;
  OpenBox* box_ = nullptr;
};

class BoxLoop {
 public:
  /// Starts the thread. `clock` outlives it.
  explicit BoxLoop(const Clock& clock);
  /// Ends all boxes as close() does, and the thread. What was handed in since is destroyed.
  ~BoxLoop();
  BoxLoop(const BoxLoop&) = delete;

  // From any thread:

  /// `agent`: the nonblocking end of the agent's socket. `exit`: readable once the box has ended, as a pidfd
  /// is; none: the link alone says so. `on_end` is called on the loop, once, when the box has ended by itself
  /// or its agent is no more to be believed; nothing of it is there any more then. A box of the same id that
  /// is still open is closed first.
  void open(const std::string& id, Fd agent, Fd exit, BoxDefaults defaults,
            std::move_only_function<void()> on_end);
  /// Returns when nothing of it is left on the loop: commands are lost, and guests were told. Neither on_end
  /// nor on_idle is called afterwards. Not from the loop's own thread.
  void close(const std::string& id);
  /// On the loop; nullptr: it is not open. Counts as use.
  void with(const std::string& id, std::move_only_function<void(OpenBox*)> then);
  /// Counts as no use.
  void set_idle_ttl(const std::string& id, Duration idle_ttl);

  io::Loop& loop() { return loop_; }

 private:
  class Place;
  void end(const std::string& id, const Place& place);
  static void clear(Place& place);

  io::Loop loop_;
  std::map<std::string, std::unique_ptr<Place>> places_;
  io::Party last_party_ = io::nobody;
  std::thread thread_;
};

}  // namespace postern::box
