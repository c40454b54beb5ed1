#include "io/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <vector>

namespace postern::io {
namespace {

using namespace std::chrono_literals;

struct Door {
  Fd socket{::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};

  Door() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(socket.get(), 128) != 0)
      std::abort();
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  }
  Fd knock() const {
    Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (client && ::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      client.reset();
    return client;
  }
};

TEST(Listener, HandsOverEveryConnectionAlsoMoreThanFitInOneTurn) {
  const SystemClock clock;
  Loop loop(clock);
  const Door door;
  std::vector<Fd> accepted, clients;
  Listener listener(loop, door.socket.get(), [&](Fd fd) { accepted.push_back(std::move(fd)); });
  for (int i = 0; i < 100; ++i) clients.push_back(door.knock());
  for (int turn = 0; turn < 50 && accepted.size() < 100; ++turn) loop.run_once(10ms);
  ASSERT_EQ(accepted.size(), 100u);
  EXPECT_EQ(listener.refused(), 0u);
  for (const Fd& fd : accepted) {
    EXPECT_TRUE(::fcntl(fd.get(), F_GETFL) & O_NONBLOCK);
    EXPECT_TRUE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC);
    int no_delay = 0;
    socklen_t size = sizeof no_delay;
    EXPECT_EQ(::getsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, &size), 0);
    EXPECT_TRUE(no_delay);
  }
}

/// In a process of its own: without descriptors the listener empties its queue by resets and serves again
/// later.
int survive_without_descriptors() {
  const SystemClock clock;
  Loop loop(clock);
  const Door door;
  std::vector<Fd> accepted, clients;
  const Listener listener(loop, door.socket.get(), [&](Fd fd) { accepted.push_back(std::move(fd)); });
  // One while there are descriptors: sanitizers need some the first time that a virtual function is called.
  const Fd early = door.knock();
  for (int turn = 0; turn < 50 && accepted.empty(); ++turn) loop.run_once(10ms);
  if (accepted.size() != 1) return 4;
  accepted.clear();
  for (int i = 0; i < 10; ++i) clients.push_back(door.knock());
  std::vector<Fd> eaten;
  const rlimit few{.rlim_cur = 64, .rlim_max = 64};
  ::setrlimit(RLIMIT_NOFILE, &few);
  while (true) {
    Fd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd) break;
    eaten.push_back(std::move(fd));
  }
  for (int turn = 0; turn < 50 && listener.refused() < 10; ++turn) loop.run_once(10ms);
  if (listener.refused() != 10 || !accepted.empty()) return 1;
  for (const Fd& client : clients) {
    char byte;
    if (::recv(client.get(), &byte, 1, 0) != -1 || errno != ECONNRESET) return 2;
  }
  clients.clear();  // The descriptors are there again.
  eaten.clear();
  const Fd late = door.knock();
  for (int turn = 0; turn < 50 && accepted.empty(); ++turn) loop.run_once(10ms);
  return accepted.size() == 1 ? 0 : 3;
}

TEST(Listener, LivesOnWhenDescriptorsRunOut) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(survive_without_descriptors());
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Listener, WhileItPausesConnectionsWaitInTheQueue) {
  const SystemClock clock;
  Loop loop(clock);
  const Door door;
  std::vector<Fd> accepted;
  Listener* self = nullptr;
  Listener listener(loop, door.socket.get(), [&](Fd fd) {
    accepted.push_back(std::move(fd));
    self->pause();  // Also in the middle of a turn.
  });
  self = &listener;
  std::vector<Fd> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(door.knock());
  for (int turn = 0; turn < 3; ++turn) loop.run_once(1ms);
  EXPECT_EQ(accepted.size(), 1u);
  listener.resume();
  for (int turn = 0; turn < 3; ++turn) loop.run_once(1ms);
  EXPECT_EQ(accepted.size(), 2u);
  listener.accept_waiting();
  EXPECT_EQ(accepted.size(), 3u);
}

TEST(Listener, AcceptsNothingOnceItIsGone) {
  const SystemClock clock;
  Loop loop(clock);
  const Door door;
  int accepted = 0;
  std::make_unique<Listener>(loop, door.socket.get(), [&](Fd) { ++accepted; }).reset();
  const Fd client = door.knock();
  loop.run_once(10ms);
  EXPECT_EQ(accepted, 0);
}

}  // namespace
}  // namespace postern::io
