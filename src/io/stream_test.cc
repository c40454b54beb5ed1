#include "io/stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <optional>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/units.h"
#include "io/buffer.h"
#include "io/fault_plan.h"

namespace postern::io {
namespace {

using namespace std::chrono_literals;

/// Another party's, so that the loop has several.
struct Source final : Pollable {
  Source(Loop& owner, Party party) : loop(owner) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    own = Fd(ends[0]);
    other = Fd(ends[1]);
    loop.add(own.get(), *this, EPOLLIN, party);
  }
  ~Source() { loop.remove(own.get(), *this); }
  void on_ready(std::uint32_t) override {}
  Loop& loop;
  Fd own, other;
};

/// A stream over a socket pair, and its other end as a plain descriptor.
class StreamTest : public testing::Test {
 protected:
  void SetUp() override { make(AF_UNIX); }
  void TearDown() override { loop_.abandon(); }  // before the stream that tasks wait for

  void make(int family) {
    int ends[2] = {-1, -1};
    if (family == AF_UNIX) {
      ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    } else {
      const Fd door(::socket(AF_INET, SOCK_STREAM, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      socklen_t size = sizeof address;
      ASSERT_EQ(::bind(door.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
      ASSERT_EQ(::listen(door.get(), 1), 0);
      ::getsockname(door.get(), reinterpret_cast<sockaddr*>(&address), &size);
      ends[1] = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      ASSERT_EQ(::connect(ends[1], reinterpret_cast<sockaddr*>(&address), size), 0);
      ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
      ends[0] = ::accept4(door.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      ASSERT_GE(ends[0], 0);
    }
    stream_.reset();
    stream_ = std::make_unique<TcpStream>(loop_, Fd(ends[0]), Side::origin);
    peer_ = Fd(ends[1]);
  }

  void peer_sends(std::string_view bytes) {
    ASSERT_EQ(::send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
  }
  void peer_resets() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(peer_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    peer_.reset();
  }
  std::string peer_reads(std::size_t most = 1 << 20) {
    std::string out(most, '\0');
    const ssize_t got = ::recv(peer_.get(), out.data(), out.size(), 0);
    out.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return out;
  }
  bool turn_until(const std::function<bool()>& done) {
    for (int turn = 0; turn < 300 && !done(); ++turn) loop_.run_once(10ms);
    return done();
  }
  TimePoint in(Duration time) const { return loop_.now() + time; }

  struct Reading {
    std::string text;
    std::optional<Error> error;
    bool over = false;
  };
  static Task<void> read_once(Stream& stream, Reading& reading, TimePoint deadline, std::size_t most = 100) {
    std::string space(most, '\0');
    auto got = co_await stream.read({space.data(), space.size()}, deadline);
    if (got)
      reading.text = space.substr(0, *got);
    else
      reading.error = std::move(got.error());
    reading.over = true;
  }
  static Task<void> read_all(Stream& stream, Reading& reading, std::size_t piece) {
    while (true) {
      std::string space(piece, '\0');
      auto got = co_await stream.read({space.data(), space.size()}, TimePoint::max());
      if (!got) reading.error = std::move(got.error());
      if (!got || *got == 0) break;
      reading.text.append(space, 0, *got);
    }
    reading.over = true;
  }
  static Task<void> write(Stream& stream, std::string_view bytes, Reading& writing, TimePoint deadline) {
    auto sent = co_await stream.write_all(bytes, deadline);
    if (!sent) writing.error = std::move(sent.error());
    writing.over = true;
  }

  ManualClock clock_;
  Loop loop_{clock_};
  std::unique_ptr<TcpStream> stream_;
  Fd peer_;
};

TEST_F(StreamTest, AReadTakesWhatIsThere) {
  peer_sends("hello");
  loop_.run_once(1ms);
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  EXPECT_TRUE(reading.over) << "epoll has said that it is there: no turn is needed";
  EXPECT_EQ(reading.text, "hello");
  EXPECT_EQ(stream_->bytes_read(), 5u);
}

TEST_F(StreamTest, AReadWaitsForTheFirstByte) {
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  loop_.run_once(0ms);
  EXPECT_FALSE(reading.over);
  peer_sends("x");
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(reading.text, "x");
}

TEST_F(StreamTest, EveryByteArrivesWhateverTheSizeOfThePieces) {
  for (const int family : {AF_UNIX, AF_INET})
    for (const std::size_t piece : {1u, 7u, 4096u}) {
      make(family);
      Reading reading;
      loop_.spawn(read_all(*stream_, reading, piece));
      std::string sent;
      for (int i = 0; i < 200; ++i) {
        const std::string bytes(static_cast<std::size_t>(i % 17 + 1), static_cast<char>('a' + i % 26));
        peer_sends(bytes);
        sent += bytes;
        if (i % 3 == 0) loop_.run_once(0ms);
      }
      peer_.reset();
      EXPECT_TRUE(turn_until([&] { return reading.over; }));
      EXPECT_FALSE(reading.error);
      EXPECT_EQ(reading.text, sent);
    }
}

// However much has arrived, one event takes a slice of it; and nothing new has to arrive for the rest.
TEST_F(StreamTest, AFastTransferLetsOthersGoFirst) {
  for (const int size : {SO_SNDBUF, SO_RCVBUF}) {
    const int bytes = 4 << 20;
    ::setsockopt(peer_.get(), SOL_SOCKET, size, &bytes, sizeof bytes);
  }
  const std::string chunk(16 * KiB, 'x');
  std::size_t sent = 0;
  while (::send(peer_.get(), chunk.data(), chunk.size(), MSG_NOSIGNAL) > 0) sent += chunk.size();
  ASSERT_GT(sent, 128 * KiB) << "the kernel takes too little for this test";
  const Source one(loop_, 1), another(loop_, 2);
  Reading reading;
  loop_.spawn(read_all(*stream_, reading, 4 * KiB));
  for (std::size_t before = 0; before < sent; before = reading.text.size()) {
    ASSERT_LE(reading.text.size() - before, 64 * KiB);
    loop_.run_once(1h);
    ASSERT_GT(reading.text.size(), before);
  }
  EXPECT_EQ(reading.text.size(), sent);
  peer_.reset();
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_FALSE(reading.error);
}

TEST_F(StreamTest, WhoWaitsForItsTurnOnlyCanBeCancelledAndTimesOut) {
  peer_sends("hello");
  loop_.count_slice(1 << 30);
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  EXPECT_FALSE(reading.over);
  stream_->cancel_read();
  ASSERT_TRUE(reading.over && reading.error);
  EXPECT_EQ(reading.error->reason, Reason::cancelled);
  loop_.run_once(1h);  // What it had asked for finds nobody.
  Reading next;
  loop_.spawn(read_once(*stream_, next, in(1s)));
  EXPECT_EQ(next.text, "hello");
}

TEST_F(StreamTest, TheEndBehindAShortReadIsSeen) {
  for (const int family : {AF_UNIX, AF_INET}) {
    make(family);
    peer_sends("last");
    peer_.reset();
    for (int turn = 0; turn < 3; ++turn) loop_.run_once(5ms);  // both are reported in one event
    Reading reading;
    loop_.spawn(read_all(*stream_, reading, 100));
    EXPECT_TRUE(turn_until([&] { return reading.over; }))
        << "the read after the short one waits for an event that has been";
    EXPECT_EQ(reading.text, "last");
    EXPECT_TRUE(stream_->hung_up());
  }
}

TEST_F(StreamTest, AResetIsAnErrorThatNamesTheSide) {
  make(AF_INET);
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  peer_resets();
  ASSERT_TRUE(turn_until([&] { return reading.over; }));
  ASSERT_TRUE(reading.error);
  EXPECT_EQ(reading.error->reason, Reason::origin_closed);
  EXPECT_EQ(reading.error->side, Side::origin);
}

TEST_F(StreamTest, AReadEndsAtItsDeadlineAndNotBefore) {
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(10s)));
  clock_.advance(10s - Duration(1));
  loop_.run_once(0ms);
  EXPECT_FALSE(reading.over);
  clock_.advance(Loop::tick);
  loop_.run_once(0ms);
  ASSERT_TRUE(reading.error);
  EXPECT_EQ(reading.error->reason, Reason::origin_timeout);
  Reading again;
  loop_.spawn(read_once(*stream_, again, in(10s)));
  peer_sends("still alive");
  EXPECT_TRUE(turn_until([&] { return again.over; }));
  EXPECT_EQ(again.text, "still alive");
}

TEST_F(StreamTest, BytesThatComeInTheVeryTurnOfTheDeadlineAreNotLost) {
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  clock_.advance(2s);
  peer_sends("just in time");
  ASSERT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(reading.text, "just in time");
}

TEST_F(StreamTest, AReaderKeepsItsDeadlineWhenAWriterWaitsLonger) {
  const std::string much(4 * MiB, 'x');
  Reading reading, writing;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  loop_.spawn(write(*stream_, much, writing, in(60s)));
  loop_.run_once(0ms);
  ASSERT_FALSE(writing.over) << "the socket took it all: the case is not met";
  clock_.advance(1s + Loop::tick);
  loop_.run_once(0ms);
  EXPECT_TRUE(reading.error);
  EXPECT_FALSE(writing.over);
  clock_.advance(59s);
  loop_.run_once(0ms);
  ASSERT_TRUE(writing.error);
  EXPECT_EQ(writing.error->reason, Reason::origin_timeout);
}

TEST_F(StreamTest, AWriterKeepsItsDeadlineWhenAReaderWaitsLonger) {
  const std::string much(4 * MiB, 'x');
  Reading reading, writing;
  loop_.spawn(write(*stream_, much, writing, in(1s)));
  loop_.spawn(read_once(*stream_, reading, in(60s)));
  clock_.advance(1s + Loop::tick);
  loop_.run_once(0ms);
  EXPECT_TRUE(writing.error);
  EXPECT_FALSE(reading.over);
}

TEST_F(StreamTest, AWriteIsCompleteOrAnErrorHoweverSlowlyThePeerReads) {
  for (const int family : {AF_UNIX, AF_INET}) {
    make(family);
    std::string much(3 * MiB, '\0');
    for (std::size_t i = 0; i < much.size(); ++i) much[i] = static_cast<char>(i * 31 >> 3);
    Reading writing;
    loop_.spawn(write(*stream_, much, writing, TimePoint::max()));
    std::string got;
    EXPECT_TRUE(turn_until([&] {
      for (int i = 0; i < 20; ++i) got += peer_reads(50'000);
      return got.size() == much.size();
    }));
    EXPECT_TRUE(turn_until([&] { return writing.over; }));
    EXPECT_FALSE(writing.error);
    EXPECT_TRUE(got == much);
    EXPECT_EQ(stream_->bytes_written(), much.size());
  }
}

TEST_F(StreamTest, WritingToAPeerThatHasGoneIsAnErrorAndNoSignal) {
  peer_.reset();
  Reading writing;
  loop_.spawn(write(*stream_, "x", writing, in(1s)));
  ASSERT_TRUE(writing.error);
  EXPECT_EQ(writing.error->reason, Reason::origin_closed);
}

TEST_F(StreamTest, WhatThePeerSaidBeforeItStoppedReadingCanStillBeRead) {
  peer_sends("413");
  ::shutdown(peer_.get(), SHUT_RDWR);
  Reading writing, reading;
  loop_.spawn(write(*stream_, "body", writing, in(1s)));
  EXPECT_TRUE(writing.error);
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(reading.text, "413");
}

TEST_F(StreamTest, CancelEndsAWaitAndNothingElse) {
  stream_->cancel_read();  // nobody waits
  stream_->cancel_write();
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  stream_->cancel_read();
  ASSERT_TRUE(reading.error);
  EXPECT_EQ(reading.error->reason, Reason::cancelled);
  const std::string much(4 * MiB, 'x');
  Reading writing;
  loop_.spawn(write(*stream_, much, writing, in(1s)));
  stream_->cancel_write();
  ASSERT_TRUE(writing.error);
  EXPECT_EQ(writing.error->reason, Reason::cancelled);
  clock_.advance(10s);
  loop_.run_once(0ms);  // the timer finds nobody
}

TEST_F(StreamTest, AStreamMayDieInsideTheWaitThatItEnds) {
  const auto die = [](std::unique_ptr<TcpStream>& stream, TimePoint deadline, int& ended) -> Task<void> {
    char byte;
    auto got = co_await stream->read({&byte, 1}, deadline);
    stream.reset();
    ++ended;
  };
  int ended = 0;
  loop_.spawn(die(stream_, in(1h), ended));
  peer_sends("x");
  EXPECT_TRUE(turn_until([&] { return ended == 1; }));

  make(AF_UNIX);
  loop_.spawn(die(stream_, in(1s), ended));
  clock_.advance(2s);
  EXPECT_TRUE(turn_until([&] { return ended == 2; }));

  make(AF_UNIX);
  loop_.spawn(die(stream_, in(1h), ended));
  stream_->cancel_read();
  EXPECT_EQ(ended, 3);
}

TEST_F(StreamTest, AWaitThatIsDestroyedLetsGoOfItsStream) {
  Reading reading, again;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  loop_.abandon();
  peer_sends("for the next one");
  for (int turn = 0; turn < 3; ++turn) loop_.run_once(1ms);
  loop_.spawn(read_once(*stream_, again, in(1s)));
  EXPECT_EQ(again.text, "for the next one");
}

TEST_F(StreamTest, WaitReadableConsumesNothing) {
  bool ready = false;
  const auto wait = [](Stream& stream, TimePoint deadline, bool& done) -> Task<void> {
    auto waited = co_await stream.wait_readable(deadline);
    done = waited.has_value();
  };
  Reading drained;
  peer_sends("x");
  loop_.spawn(read_once(*stream_, drained, in(1s)));
  EXPECT_TRUE(turn_until([&] { return drained.over; }));
  loop_.spawn(wait(*stream_, in(10s), ready));
  loop_.run_once(0ms);
  EXPECT_FALSE(ready);
  peer_sends("more");
  EXPECT_TRUE(turn_until([&] { return ready; }));
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  EXPECT_EQ(reading.text, "more");
}

struct Watcher final : Stream::IdleWatcher {
  std::unique_ptr<TcpStream>* owner = nullptr;
  int told = 0;
  void on_idle_input(Stream&) override {
    ++told;
    if (owner) owner->reset();
  }
};

TEST_F(StreamTest, AnIdleStreamsInputIsToldAndMayEndIt) {
  Reading drained;
  peer_sends("x");
  loop_.spawn(read_once(*stream_, drained, in(1s)));
  for (int turn = 0; turn < 3; ++turn) loop_.run_once(1ms);
  ASSERT_TRUE(stream_->looks_idle());
  Watcher watcher;
  watcher.owner = &stream_;
  stream_->watch_idle(&watcher);
  loop_.run_once(1ms);
  EXPECT_EQ(watcher.told, 0);
  peer_.reset();
  EXPECT_TRUE(turn_until([&] { return watcher.told > 0; }));
  EXPECT_EQ(watcher.told, 1);
  EXPECT_EQ(stream_, nullptr);
}

TEST_F(StreamTest, AStreamThatIsReadIsNotIdle) {
  Watcher watcher;
  stream_->watch_idle(&watcher);
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  peer_sends("x");
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(watcher.told, 0);
}

TEST_F(StreamTest, ResetOnCloseTellsThePeer) {
  make(AF_INET);
  stream_->reset_on_close();
  stream_.reset();
  char byte;
  EXPECT_EQ(::recv(peer_.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
}

TEST_F(StreamTest, AfterResetOnCloseNoOrderlyEndComesFirst) {
  make(AF_INET);
  stream_->reset_on_close();
  stream_->shutdown_write();
  char byte;
  EXPECT_EQ(::recv(peer_.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST_F(StreamTest, AShutDownDirectionEndsAndTheOtherGoesOn) {
  make(AF_INET);
  stream_->shutdown_write();
  char byte;
  EXPECT_EQ(::recv(peer_.get(), &byte, 1, 0), 0);
  peer_sends("late");
  Reading reading;
  loop_.spawn(read_once(*stream_, reading, in(1s)));
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(reading.text, "late");
}

TEST_F(StreamTest, AStreamThatTakesOverKnowsWhatTheOtherHadSeen) {
  peer_sends("first");
  Reading first;
  loop_.spawn(read_once(*stream_, first, in(1s)));
  EXPECT_TRUE(turn_until([&] { return first.over; }));
  peer_sends("last");
  ::shutdown(peer_.get(), SHUT_WR);
  EXPECT_TRUE(turn_until([&] { return stream_->hung_up(); }));
  TcpStream other(std::move(stream_));
  EXPECT_TRUE(other.hung_up());
  for (const char* expected : {"last", ""}) {
    Reading reading;
    loop_.spawn(read_once(other, reading, in(1s)));
    EXPECT_TRUE(turn_until([&] { return reading.over; }));
    EXPECT_EQ(reading.text, expected);
  }
}

TEST_F(StreamTest, AStreamThatTakesOverIsToldWhatComesLater) {
  TcpStream other(std::move(stream_));
  Reading reading;
  loop_.spawn(read_once(other, reading, in(1s)));
  EXPECT_FALSE(reading.over);
  peer_sends("x");
  EXPECT_TRUE(turn_until([&] { return reading.over; }));
  EXPECT_EQ(reading.text, "x");
}

TEST_F(StreamTest, ASocketThatEpollDoesNotTakeEndsEveryWaitAtOnce) {
  Fd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  TcpStream unwatched(loop_, std::move(file), Side::sandbox);
  Reading reading, writing;
  loop_.count_slice(1 << 30);  // It has no turn to wait for either.
  loop_.spawn(read_once(unwatched, reading, in(1s)));
  loop_.spawn(write(unwatched, "x", writing, in(1s)));
  ASSERT_TRUE(reading.error && writing.error);
  EXPECT_EQ(reading.error->reason, Reason::overloaded);
  EXPECT_EQ(writing.error->reason, Reason::overloaded);
}

class UnreadTest : public StreamTest {
 protected:
  Buffer buffer_of(std::string_view bytes) {
    Buffer buffer(pool_);
    buffer.append(bytes);
    return buffer;
  }
  std::string read_now(Stream& stream, std::size_t most = 100) {
    Reading reading;
    loop_.spawn(read_once(stream, reading, in(1s), most));
    return reading.over ? reading.text : "[waits]";
  }
  BufferPool pool_;
};

TEST_F(UnreadTest, WhatIsPutBackIsReadBeforeWhatComesAfterIt) {
  for (const int family : {AF_UNIX, AF_INET}) {
    make(family);
    EXPECT_TRUE(stream_->looks_idle());
    stream_->unread(buffer_of("abcdef"));
    EXPECT_FALSE(stream_->looks_idle());
    peer_sends("ghi");
    loop_.run_once(1ms);
    EXPECT_EQ(read_now(*stream_, 4), "abcd");
    EXPECT_EQ(read_now(*stream_), "ef");
    EXPECT_EQ(read_now(*stream_), "ghi");
    EXPECT_EQ(stream_->bytes_read(), 3u);
  }
}

TEST_F(UnreadTest, NothingThatIsPutBackIsNothing) {
  stream_->unread(buffer_of(""));
  EXPECT_TRUE(stream_->looks_idle());
  EXPECT_EQ(read_now(*stream_), "[waits]");
}

TEST_F(UnreadTest, TheEndOfTheStreamIsBehindIt) {
  peer_sends("abc");
  peer_.reset();
  loop_.run_once(1ms);
  EXPECT_EQ(read_now(*stream_), "abc");
  stream_->unread(buffer_of("abc"));
  EXPECT_EQ(read_now(*stream_), "abc");
  EXPECT_EQ(read_now(*stream_), "");
}

TEST_F(UnreadTest, AStreamThatTakesOverHasIt) {
  stream_->unread(buffer_of("abc"));
  TcpStream other(std::move(stream_));
  EXPECT_EQ(read_now(other), "abc");
  peer_sends("def");
  loop_.run_once(1ms);
  EXPECT_EQ(read_now(other), "def");
}

TEST_F(StreamTest, APlannedFaultStrikesOnceAndAtItsPlace) {
  FaultPlan plan{.fail_at = 2, .error_number = ECONNRESET};
  fault_plan = &plan;
  Reading one, two;
  peer_sends("abc");
  loop_.run_once(1ms);
  loop_.spawn(read_once(*stream_, one, in(1s), 1));
  loop_.spawn(read_once(*stream_, two, in(1s), 1));
  fault_plan = nullptr;
  EXPECT_EQ(one.text, "a");
  ASSERT_TRUE(two.error);
  EXPECT_TRUE(plan.fired());
}

class Connect : public testing::Test {
 protected:
  struct Outcome {
    std::optional<Result<std::unique_ptr<TcpStream>>> result;
  };
  static Task<void> dial(Loop& loop, Endpoint endpoint, TimePoint deadline, Outcome& out) {
    out.result.emplace(co_await connect(loop, endpoint, Side::origin, deadline));
  }
  /// A socket on loopback; listening with a queue of `backlog` when that is not negative.
  Fd bind_one(Endpoint& endpoint, int backlog) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    if (backlog >= 0) {
      EXPECT_EQ(::listen(socket.get(), backlog), 0);
    }
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
    endpoint = *Endpoint::from_sockaddr(reinterpret_cast<const sockaddr&>(address));
    return socket;
  }
  bool turn_until(const Outcome& out) {
    for (int turn = 0; turn < 300 && !out.result; ++turn) loop_.run_once(10ms);
    return out.result.has_value();
  }
  ManualClock clock_;
  Loop loop_{clock_};
};

TEST_F(Connect, ReachesAListener) {
  Endpoint endpoint;
  const Fd door = bind_one(endpoint, 5);
  Outcome out;
  loop_.spawn(dial(loop_, endpoint, loop_.now() + 1s, out));
  ASSERT_TRUE(turn_until(out));
  EXPECT_TRUE(out.result->has_value());
}

TEST_F(Connect, IsRefusedWhereNobodyListens) {
  Endpoint endpoint;
  const Fd closed = bind_one(endpoint, -1);
  Outcome out;
  loop_.spawn(dial(loop_, endpoint, loop_.now() + 1s, out));
  ASSERT_TRUE(turn_until(out));
  ASSERT_FALSE(*out.result);
  EXPECT_EQ(out.result->error().reason, Reason::connect_failed);
  EXPECT_EQ(out.result->error().retry, Retry::fresh_connection);
}

TEST_F(Connect, GivesUpAtItsDeadline) {
  Endpoint endpoint;
  const Fd door = bind_one(endpoint, 0);  // Nobody accepts: a full queue drops what else knocks.
  std::vector<Outcome> fill(8);
  for (Outcome& out : fill) loop_.spawn(dial(loop_, endpoint, TimePoint::max(), out));
  for (int turn = 0; turn < 5; ++turn) loop_.run_once(5ms);
  Outcome out;
  loop_.spawn(dial(loop_, endpoint, loop_.now() + 15s, out));
  for (int turn = 0; turn < 3; ++turn) loop_.run_once(5ms);
  ASSERT_FALSE(out.result) << "the queue was not full: the case is not met";
  clock_.advance(15s - Duration(1));
  loop_.run_once(0ms);
  EXPECT_FALSE(out.result);
  clock_.advance(Loop::tick);
  loop_.run_once(0ms);
  ASSERT_TRUE(out.result && !*out.result);
  EXPECT_EQ(out.result->error().reason, Reason::connect_timeout);
  loop_.abandon();
}

TEST_F(Connect, MayBeDestroyedWhileItWaits) {
  Endpoint endpoint;
  const Fd door = bind_one(endpoint, 5);
  Outcome out;
  loop_.spawn(dial(loop_, endpoint, loop_.now() + 1s, out));
  loop_.abandon();
  loop_.run_once(1ms);
  EXPECT_FALSE(out.result);
}

}  // namespace
}  // namespace postern::io
