#pragma once
// Accepts on one socket for one loop, without Nagle's delays. Several loops may listen on the same socket
// (EPOLLEXCLUSIVE).

#include "base/fd.h"
#include "io/loop.h"

namespace postern::io {

class Listener final : Pollable {
 public:
  using OnAccept = std::move_only_function<void(Fd)>;

  /// `socket` is a nonblocking listening socket, borrowed: it must outlive the listener.
  Listener(Loop& loop, int socket, OnAccept on_accept, Party party = nobody);
  ~Listener();
  Listener(const Listener&) = delete;

  /// Leaves what comes in the queue until resume().
  void pause();
  void resume();
  /// Takes what waits in the queue by now.
  void accept_waiting();

  /// Connections that were closed unserved because the process had no descriptor left.
  std::uint64_t refused() const { return refused_; }

 private:
  void on_ready(std::uint32_t events) override;
  bool accept_one();
  bool refuse_one();

  // So that a flood of connections cannot starve the open ones.
  static constexpr int accepts_per_turn_max = 64;
  static constexpr int waiting_max = 4096;  // no kernel's queue is longer unless it was told to
  // What an accepted connection counts of a slice: its system calls take as long as so many bytes.
  static constexpr std::size_t accept_slice = 8 * KiB;

  Loop& loop_;
  const Party party_;
  bool paused_ = false;
  int socket_;
  OnAccept on_accept_;
  /// As many as came lately: a try too many is a system call, one too few a turn.
  int accepts_per_turn_ = 1;
  std::uint64_t refused_ = 0;
};

}  // namespace postern::io
