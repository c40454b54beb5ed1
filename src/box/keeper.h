#pragma once
// The keeper: a small process that starts and ends boxes for a server, which is multi-threaded, holds secrets
// and must do neither. It is forked before there is anything to hide or to lock, has one thread, holds no
// secret and no descriptor of the server's but one socket; for each box it forks a holder, which makes the
// box's root (box_root.h), its sandbox and its capture sockets (holder.h), hands those to the server, and
// stays until the box ends.
//
//   postern ── postern-keeper ─┬─ postern-box ── postern-box as process 1 ── bwrap ── bwrap ── postern-agent
//   ── commands
//                              └─ postern-box ── ...
//
// Each of them dies with the one to its left (PDEATHSIG; the keeper also by end of file), so that after a
// SIGKILL of the server nothing stays: no process, no mount, no namespace.

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"
#include "box/box_root.h"
#include "box/layer_maker.h"
#include "sandbox/capture.h"

namespace postern::box {

/// The server's end. Thread-safe.
class Keeper {
 public:
  /// Forks. Before threads start, before anything secret is in memory, and on the thread that lives as long
  /// as the server.
  /// `secret_variable` of the environment is wiped from the keeper's; nullptr: none.
  static Result<std::unique_ptr<Keeper>> start(const char* secret_variable = nullptr);
  /// Ends all boxes, and waits for the keeper.
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  struct Launched {
    std::uint64_t number = 0;  ///< For stop(). Never used again.
    Fd agent;                  ///< Nonblocking: for AgentLink. When it is closed, the agent and its box end.
    Fd exit;                   ///< A pidfd, readable when the box has ended and all of it is gone.
    sandbox::CaptureSockets network;
  };
  /// Blocks, usually for some 50 ms, at most ten seconds; calls of several threads go on side by side.
  /// Errors: what the specification has wrong, or a sentence about what this host lacks.
  Result<Launched> launch(const BoxSpec& spec);

  /// Makes a layer of a snapshot (layer_maker.h) out of `source`. Blocks, for minutes where there is much to
  /// be unpacked; `stop` ends it. The directory holds nothing to be kept, but is free, when an error is
  /// returned. Errors: what is wrong with the source; a limit; I/O.
  Result<MadeLayer> make_layer(const LayerJob& job, const Fd& source, const std::stop_token& stop);

  /// Kills everything in the box and waits until it is gone. Nothing happens when it has ended already.
  void stop(std::uint64_t number);

  /// For tests, and for `doctor`: the keeper as this process numbers it.
  pid_t process() const { return process_; }

 private:
  Keeper(pid_t process, Fd socket) : process_(process), socket_(std::move(socket)) {}
  /// The other end of what `request` is answered on.
  Result<Fd> ask(const std::string& request, int beside = -1);

  const pid_t process_;
  std::mutex sending_;  ///< A request is written whole.
  Fd socket_;
  std::atomic<std::uint64_t> last_number_ = 0;
};

}  // namespace postern::box
