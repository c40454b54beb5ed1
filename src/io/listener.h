#pragma once
// Accepts on one socket for one loop. Several loops may listen on the same socket (EPOLLEXCLUSIVE).

#include "base/fd.h"
#include "io/loop.h"

namespace postern::io {

class Listener final : Pollable {
 public:
  using OnAccept = std::move_only_function<void(Fd)>;

  /// `socket` is a nonblocking listening socket, borrowed: it must outlive the listener.
  Listener(Loop& loop, int socket, OnAccept on_accept);
  ~Listener();
  Listener(const Listener&) = delete;

  /// Leaves what comes in the queue until resume().
  void pause();
  void resume();
  /// Takes what waits in the queue by now, as far as one turn does.
  void accept_waiting();

  /// Connections that were closed unserved because the process had no descriptor left.
  std::uint64_t refused() const { return refused_; }

 private:
  void on_ready(std::uint32_t events) override;
  bool refuse_one();

  // So that a flood of connections cannot starve the open ones.
  static constexpr int accepts_per_turn_max = 64;

  Loop& loop_;
  bool paused_ = false;
  int socket_;
  OnAccept on_accept_;
  /// As many as came lately: a try too many is a system call, one too few a turn.
  int accepts_per_turn_ = 1;
  Fd spare_;  ///< Given up for a moment when descriptors run out, so that the queue can be emptied.
  std::uint64_t refused_ = 0;
};

}  // namespace postern::io
