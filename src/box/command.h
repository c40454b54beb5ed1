#pragma once
// One command in a box, and what is left of it: it outlives the clients who watch it. Its output lies in two
// rings; viewers read from any place that is still kept, and come back to where they were.
//
// Flow: while somebody watches, the command is held up when the furthest viewer is a ring behind; a viewer
// who does not read holds up nobody but himself. While nobody watches, it runs freely and the rings keep the
// end.
//
// Belongs to the loop of its AgentLink.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "box/agent_link.h"
#include "box/output_ring.h"
#include "io/loop.h"

namespace postern::box {

inline constexpr std::size_t ring_bytes = 1024 * 1024;            // of each stream
inline constexpr std::size_t commands_kept_max = 1024;            // of one box, with those that have ended
inline constexpr std::size_t ended_bytes_max = 64 * 1024 * 1024;  // of output of those that have ended

struct CommandOptions {
  RunRequest request;
  std::chrono::seconds timeout{0};        ///< 0: none. Then it is killed.
  std::chrono::seconds idle_timeout{-1};  ///< Without a viewer for so long, it is killed; negative: never.
  std::chrono::seconds keep{-1};     ///< How long what is left of it is kept; negative: as long as the box.
  bool kill_without_viewer = false;  ///< As soon as the last viewer has gone.
};

class Command final : private AgentLink::Events, private io::Timer {
 public:
  enum class State : std::uint8_t { starting, running, exited, refused, lost };

  class Viewer {
   public:
    /// There is something to pull, room for input, or another state. Must not destroy the command.
    virtual void changed() = 0;

   protected:
    ~Viewer() = default;

   private:
    friend class Command;
    std::uint64_t offset_[2] = {0, 0};
  };

  struct Chunk {
    std::uint64_t offset = 0;  ///< Of its first byte in the stream.
    std::string bytes;
  };

  Command(io::Loop& loop, AgentLink& link, CommandOptions options);
  /// Kills what still runs.
  ~Command();

  State state() const { return state_; }
  std::int32_t process() const { return process_; }
  /// With State::exited; 128 + N when signal N killed it.
  int status() const { return status_; }
  /// With State::refused: errno.
  int error_number() const { return error_number_; }
  bool timed_out() const { return timed_out_; }
  bool over() const { return state_ >= State::exited; }
  /// With over().
  TimePoint ended_at() const { return ended_at_; }
  bool watched() const { return !viewers_.empty(); }
  /// Bytes of output that are kept.
  std::size_t kept_bytes() const;
  /// What is left of it need not be kept any longer.
  bool expired() const {
    return over() && !watched() && options_.keep.count() >= 0 && loop_.now() >= kept_until_;
  }

  /// The viewer reads from these places on, or from the earliest that are kept.
  void attach(Viewer& viewer, std::uint64_t output_offset, std::uint64_t error_offset);
  void detach(Viewer& viewer);
  /// The next bytes for this viewer, at most `max`; none when there are none (yet).
  std::optional<Chunk> pull(Viewer& viewer, StreamId stream, std::size_t max);
  /// The same in whole characters (utf8_chunk()), for JSON.
  std::optional<Chunk> pull_text(Viewer& viewer, StreamId stream, std::size_t max);
  /// All that will come has been pulled.
  bool at_end(const Viewer& viewer) const;
  /// The same of one stream, whether the command is over or not.
  bool at_end(const Viewer& viewer, StreamId stream) const;
  /// Where the viewer reads on.
  std::uint64_t place_of(const Viewer& viewer, StreamId stream) const {
    return viewer.offset_[index(stream)];
  }

  /// False: nothing was taken; changed() comes when there is room. Dropped without an error where nobody
  /// reads.
  bool input(std::string_view bytes);
  void close_input();
  void signal(int number);
  void resize(std::uint16_t rows, std::uint16_t columns);

 private:
  void started(std::int32_t process) override;
  void output(StreamId stream, std::string_view bytes) override;
  void output_ended(StreamId stream) override;
  void exited(int status) override;
  void refused(int error_number) override;
  void input_taken(std::uint32_t bytes) override;
  void lost() override;
  void on_timer() override;

  static std::size_t index(StreamId stream) { return static_cast<std::size_t>(stream) - 1; }
  void end(State state);
  void tell();
  void let_go_on(std::size_t stream);
  void set_timer();

  io::Loop& loop_;
  AgentLink& link_;
  CommandOptions options_;
  std::uint32_t number_ = 0;  ///< In the link.
  State state_ = State::starting;
  std::int32_t process_ = 0;
  int status_ = 0;
  int error_number_ = 0;
  bool timed_out_ = false;
  OutputRing rings_[2] = {OutputRing(ring_bytes), OutputRing(ring_bytes)};
  bool ended_[2] = {false, false};
  std::uint32_t untaken_[2] = {0, 0};  ///< Output that the agent was not told of yet.
  std::vector<Viewer*> viewers_;
  TimePoint timeout_at_ = TimePoint::max();
  TimePoint idle_at_ = TimePoint::max();
  TimePoint kept_until_ = TimePoint::max();
  TimePoint ended_at_ = TimePoint::max();
};

/// The commands of one box, by the names that clients give them.
class Commands {
 public:
  Commands(io::Loop& loop, AgentLink& link) : loop_(loop), link_(link) {}

  /// The one of that name, started if there is none: asking twice starts one. Those that ended first and that
  /// nobody watches make room. nullptr: there are too many all the same.
  Command* get_or_start(const std::string& name, CommandOptions options);
  /// nullptr: there is none, or it is not kept any more.
  Command* find(const std::string& name);

 private:
  void drop_expired();
  void make_room();

  io::Loop& loop_;
  AgentLink& link_;
  std::map<std::string, std::unique_ptr<Command>> commands_;
};

}  // namespace postern::box
