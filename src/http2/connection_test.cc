#include "http2/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "http2/test_kit.h"

namespace postern::http2 {
namespace {

using namespace std::chrono_literals;
using kit::Frame;
using kit::Pairs;
using kit::Seen;
using kit::Sending;

constexpr Timing timing{.first_bytes = 20s,
                        .idle = 20s,
                        .head = 30s,
                        .write = 300s,
                        .farewell = 2s,
                        .ping_after = 15s,
                        .ping_answer = 10s};

/// As one of TLS with half of a record: something is there, but not to be read.
struct InARecord final : io::Stream {
  using Stream::Stream;
  bool has_buffered_input() const override { return true; }
};

/// A connection on one end of a socket pair, the other end in the test's hand.
class ConnectionTest : public testing::Test, public Connection::Requests {
 protected:
  ~ConnectionTest() override { loop_.abandon(); }

  /// With SOCK_SEQPACKET every write of the connection is one packet.
  void start(Role role, int type = SOCK_STREAM) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    peer_ = Fd(ends[1]);
    const Side side = role == Role::server ? Side::sandbox : Side::origin;
    std::unique_ptr<io::Stream> stream;
    if (in_a_record_)
      stream = std::make_unique<InARecord>(loop_, Fd(ends[0]), side);
    else
      stream = std::make_unique<io::TcpStream>(loop_, Fd(ends[0]), side);
    connection_ = std::make_unique<Connection>(std::move(stream), buffers_, timing,
                                               role == Role::server ? this : nullptr);
    loop_.spawn(run(*this));
    turn();
  }
  void start_greeted(Role role, int type = SOCK_STREAM) {
    start(role, type);
    std::string hello = kit::frame(kit::settings, 0, 0, {}) + kit::frame(kit::settings, kit::ack, 0, {});
    if (role == Role::server) hello.insert(0, kit::preface);
    send(hello);
    take();
  }
  static io::Task<void> run(ConnectionTest& self) {
    self.ended_ = co_await self.connection_->run();
    self.connection_.reset();
  }

  void turn(int times = 4) {
    for (int i = 0; i < times; ++i) {
      loop_.run_once(Duration::zero());
      char space[65536];
      while (reading_ && peer_) {
        const ssize_t got = ::recv(peer_.get(), space, sizeof space, 0);
        if (got < 0) {
          if (errno != EAGAIN) reset_ = true;
          break;
        }
        if (got == 0) {
          eof_ = true;
          break;
        }
        received_.append(space, static_cast<std::size_t>(got));
        ++reads_;
      }
    }
  }
  /// Two parties were seen: events take turns from now on.
  void share_loop() {
    struct Nobody final : io::Pollable {
      void on_ready(std::uint32_t) override {}
    } none;
    const Fd mine(::eventfd(0, EFD_CLOEXEC));
    for (const io::Party party : {1, 2}) {
      ASSERT_TRUE(loop_.add(mine.get(), none, EPOLLIN, party));
      loop_.remove(mine.get(), none);
    }
    ASSERT_TRUE(loop_.shared());
  }
  void pass(Duration time) {
    clock_.advance(time);
    turn();
  }
  void send(std::string_view bytes) {
    ASSERT_EQ(::send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
    turn();
  }
  std::string take() { return std::exchange(received_, {}); }
  std::optional<std::uint32_t> goaway() {
    const auto found = kit::of_type(received_, kit::goaway);
    return found.empty() ? std::nullopt : std::optional(found.back().code());
  }
  bool over() const { return ended_.has_value(); }
  std::optional<Reason> reason() const {
    if (!ended_ || *ended_) return std::nullopt;
    return ended_->error().reason;
  }
  /// Once what the peer may still be sending has been read off.
  std::optional<Reason> reason_after_farewell() {
    EXPECT_FALSE(reason());
    pass(2s + io::Loop::tick);
    return reason();
  }
  static std::string request(std::uint32_t id, const Pairs& head = kit::get_request, bool ends = true) {
    return kit::frame(kit::headers, kit::end_headers | (ends ? kit::end_stream : 0), id, kit::block(head));
  }

  void on_request(std::shared_ptr<Stream> stream) override {
    requests_.push_back(std::move(stream));
    loop_.count_slice(request_slice_);
    if (request_slice_ > 0) clock_.advance(20us);
  }
  void on_refused_request(const Error& why) override { refused_.push_back(why); }

  ManualClock clock_;
  io::Loop loop_{clock_};
  io::BufferPool buffers_;
  Fd peer_;
  std::unique_ptr<Connection> connection_;
  std::vector<std::shared_ptr<Stream>> requests_;
  std::vector<Error> refused_;
  std::string received_;
  std::optional<Result<void>> ended_;
  int reads_ = 0;
  bool in_a_record_ = false;
  std::size_t request_slice_ = 0;
  bool reading_ = true;
  bool eof_ = false;
  bool reset_ = false;
};

constexpr Duration tick = io::Loop::tick + 1ms;

// ---- toward the sandbox

TEST_F(ConnectionTest, ItSpeaksFirstAndAnswers) {
  start(Role::server);
  EXPECT_EQ(kit::of_type(take(), kit::settings).size(), 1u);
  send(std::string(kit::preface) + kit::frame(kit::settings, 0, 0, {}) + request(1));
  ASSERT_EQ(requests_.size(), 1u);
  ASSERT_TRUE(kit::send_head(*requests_[0], {{":status", "200"}}, true));
  turn();
  const auto answers = kit::of_type(take(), kit::headers);
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].id, 1u);
  EXPECT_FALSE(over());
}

// Threat 71: a hundred requests are a few kilobytes, and would hold the loop for milliseconds.
TEST_F(ConnectionTest, RequestsThatArriveTogetherBeginByTurns) {
  start_greeted(Role::server);
  request_slice_ = 16 * KiB;
  std::string many;
  for (std::uint32_t i = 0; i < 100; ++i) many += request(1 + 2 * i);
  ASSERT_EQ(::send(peer_.get(), many.data(), many.size(), MSG_NOSIGNAL), std::ssize(many));
  loop_.run_once(1h);
  EXPECT_EQ(requests_.size(), 32u);
  while (requests_.size() < 100) {
    const std::size_t before = requests_.size();
    loop_.run_once(1h);  // Does not wait while some have not begun.
    ASSERT_GT(requests_.size(), before);
    EXPECT_LE(requests_.size() - before, 64u);  // One event as a light party, one as a busy one.
  }
}

TEST_F(ConnectionTest, RequestsThatHaveNotBegunWhenTheConnectionBreaksAreTold) {
  start_greeted(Role::server);
  request_slice_ = 16 * KiB;
  std::string many;
  for (std::uint32_t i = 0; i < 100; ++i) many += request(1 + 2 * i);
  ASSERT_EQ(::send(peer_.get(), many.data(), many.size(), MSG_NOSIGNAL), std::ssize(many));
  loop_.run_once(1h);
  ASSERT_LT(requests_.size(), 100u);
  peer_.reset();
  turn(20);
  EXPECT_TRUE(over());
  EXPECT_EQ(requests_.size() + refused_.size(), 100u);
}

TEST_F(ConnectionTest, WithoutAFirstFrameItEndsAtItsDeadlineHoweverThePrefaceTrickles) {
  start(Role::server);
  for (int i = 0; i < 19; ++i) {
    send(kit::preface.substr(static_cast<std::size_t>(i), 1));
    pass(1s);
  }
  EXPECT_FALSE(over());
  pass(1s + tick);
  EXPECT_EQ(reason_after_farewell(), Reason::sandbox_timeout);
}

TEST_F(ConnectionTest, AHeadHasItsTimeAsAWhole) {
  start_greeted(Role::server);
  const std::string head = request(1);
  send(head.substr(0, 9));
  for (std::size_t at = 9; at < 38; ++at) {
    send(head.substr(at, 1));
    pass(1s);
    ASSERT_FALSE(over()) << at;
  }
  pass(1s + tick);
  EXPECT_EQ(reason_after_farewell(), Reason::sandbox_timeout);
  EXPECT_TRUE(requests_.empty());
}

TEST_F(ConnectionTest, ABlockWithoutItsEndIsAHeadUnderWay) {
  start_greeted(Role::server);
  send(kit::frame(kit::headers, kit::end_stream, 1, kit::block(kit::get_request)));
  pass(30s - 1ms);
  EXPECT_FALSE(over());
  pass(tick);
  EXPECT_EQ(reason_after_farewell(), Reason::sandbox_timeout);
}

TEST_F(ConnectionTest, AnIdleConnectionIsEndedWithGoaway) {
  start_greeted(Role::server);
  pass(20s - 1ms);
  EXPECT_FALSE(over());
  EXPECT_FALSE(goaway());
  pass(tick);
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
  EXPECT_EQ(goaway(), 0u);
  EXPECT_TRUE(eof_);
  EXPECT_FALSE(reset_);
}

TEST_F(ConnectionTest, WhatIsAskedStartsTheIdleTimeAnew) {
  start_greeted(Role::server);
  pass(15s);
  send(request(1));
  pass(1000s);
  EXPECT_FALSE(over()) << "a stream is open";
  ASSERT_TRUE(kit::send_head(*requests_.at(0), {{":status", "200"}}, true));
  turn();
  pass(20s - 1ms);
  EXPECT_FALSE(over());
  pass(tick);
  EXPECT_TRUE(over());
}

TEST_F(ConnectionTest, APatientStreamIsNotEndedByAHeadThatWasPassedOver) {
  start_greeted(Role::server);
  send(request(1) + request(3, kit::post_request, false));
  ASSERT_EQ(requests_.size(), 2u);
  requests_[1]->reset(ErrorCode::cancel);
  turn();
  send(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 3, kit::literal("x-sum", "1")));
  pass(600s);
  EXPECT_FALSE(over());
  ASSERT_TRUE(kit::send_head(*requests_[0], {{":status", "200"}}, true));
  take();
  turn();
  EXPECT_EQ(kit::of_type(take(), kit::headers).size(), 1u);
}

TEST_F(ConnectionTest, HalfARecordHasTheDeadlinesOfNothing) {
  in_a_record_ = true;
  start_greeted(Role::server);
  send(request(1));
  pass(1000s);
  EXPECT_FALSE(over()) << "a stream is open";
  ASSERT_TRUE(kit::send_head(*requests_.at(0), {{":status", "200"}}, true));
  turn();
  pass(20s + tick);
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
  EXPECT_EQ(goaway(), 0u);
}

TEST_F(ConnectionTest, HalfARecordDoesNotHoldUpAnEndInPeace) {
  in_a_record_ = true;
  start_greeted(Role::server);
  send(request(1));
  connection_->close_when_idle();
  ASSERT_TRUE(kit::send_head(*requests_.at(0), {{":status", "200"}}, true));
  turn();
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
}

TEST_F(ConnectionTest, WhoDoesNotReadIsLeftAfterAWhile) {
  start_greeted(Role::server);
  const int small = 4096;
  ::setsockopt(peer_.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  send(request(1) + kit::frame(kit::window_update, 0, 0, kit::number32(1 << 30)) +
       kit::frame(kit::window_update, 0, 1, kit::number32(1 << 30)));
  reading_ = false;
  const std::string body(4 << 20, 'x');
  Sending sending;
  ASSERT_TRUE(kit::send_head(*requests_.at(0), {{":status", "200"}}, false));
  loop_.spawn(kit::send(requests_[0], body, true, {}, sending, loop_.now() + 3600s));
  turn();
  EXPECT_FALSE(sending.result);
  pass(300s - 1ms);
  EXPECT_FALSE(over());
  pass(tick);
  ASSERT_TRUE(reason());
  EXPECT_EQ(*reason(), Reason::sandbox_timeout);
  ASSERT_TRUE(sending.result);
  EXPECT_FALSE(*sending.result);
}

TEST_F(ConnectionTest, GoawayWithItsReasonIsReadEvenByWhoGoesOnSending) {
  start_greeted(Role::server);
  send(request(1));
  send(kit::frame(kit::data, 0, 0, "nonsense"));
  EXPECT_EQ(goaway(), 1u);
  EXPECT_TRUE(eof_);
  EXPECT_FALSE(over()) << "it lingers";
  for (int i = 0; i < 3; ++i) send(std::string(1000, 'x'));
  EXPECT_FALSE(reset_);
  pass(2s + tick);
  ASSERT_TRUE(reason());
  EXPECT_EQ(*reason(), Reason::malformed_request);
  EXPECT_TRUE(requests_[0]->closed());
}

TEST_F(ConnectionTest, LingeringHasItsLimitOfBytes) {
  start_greeted(Role::server);
  send(kit::frame(kit::data, 0, 0, "nonsense"));
  EXPECT_FALSE(over());
  for (int i = 0; i < 100 && !over(); ++i) {
    const std::string more(16'000, 'x');
    (void)!::send(peer_.get(), more.data(), more.size(), MSG_NOSIGNAL);
    turn();
  }
  EXPECT_TRUE(over());
}

TEST_F(ConnectionTest, AFloodIsToldToBeCalm) {
  start_greeted(Role::server);
  std::string pings;
  for (int i = 0; i < 200; ++i) pings += kit::frame(kit::ping, 0, 0, "12345678");
  for (int i = 0; i < 20 && !goaway(); ++i) {
    (void)!::send(peer_.get(), pings.data(), pings.size(), MSG_NOSIGNAL);
    turn();
  }
  EXPECT_EQ(goaway(), static_cast<std::uint32_t>(ErrorCode::enhance_your_calm));
  pass(2s + tick);
  EXPECT_EQ(reason(), Reason::overloaded);
}

TEST_F(ConnectionTest, TheEndOfAConnectionEndsItsStreams) {
  start_greeted(Role::server);
  send(request(1, kit::post_request, false));
  Seen seen;
  loop_.spawn(kit::read_body(requests_.at(0), seen, loop_.now() + 3600s));
  peer_.reset();
  turn();
  EXPECT_EQ(reason(), Reason::sandbox_closed);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::sandbox_closed);
}

TEST_F(ConnectionTest, AnEndBetweenRequestsIsAnOrderlyOne) {
  start_greeted(Role::server);
  peer_.reset();
  turn();
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
}

TEST_F(ConnectionTest, DrainingCarriesWhatIsUnderWayAndWhatCrosses) {
  start_greeted(Role::server);
  send(request(1));
  connection_->drain();
  turn();
  const std::string notice = take();
  ASSERT_EQ(kit::of_type(notice, kit::goaway).size(), 1u);
  const auto pings = kit::of_type(notice, kit::ping);
  ASSERT_EQ(pings.size(), 1u);
  send(request(3));  // opened before the notice was read
  EXPECT_EQ(requests_.size(), 2u);
  send(kit::frame(kit::ping, kit::ack, 0, pings[0].payload));
  ASSERT_EQ(kit::of_type(received_, kit::goaway).size(), 1u);
  EXPECT_FALSE(over());
  for (auto& one : requests_) ASSERT_TRUE(kit::send_head(*one, {{":status", "200"}}, true));
  turn();
  EXPECT_EQ(kit::of_type(take(), kit::headers).size(), 2u);
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
  EXPECT_TRUE(eof_);
}

TEST_F(ConnectionTest, DrainingAnIdleConnectionEndsIt) {
  start_greeted(Role::server);
  connection_->drain();
  turn();
  send(kit::frame(kit::ping, kit::ack, 0, kit::of_type(take(), kit::ping).at(0).payload));
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
}

TEST_F(ConnectionTest, AConnectionMayBeAskedToGoWhenIdle) {
  start_greeted(Role::server);
  connection_->close_when_idle();
  turn();
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
  EXPECT_EQ(goaway(), 0u);
}

/// Answers a request as soon as it comes, in the middle of the turn.
class AnsweringTest : public ConnectionTest {
 protected:
  void on_request(std::shared_ptr<Stream> stream) override {
    ASSERT_TRUE(kit::send_head(*stream, {{":status", "200"}}, false));
    loop_.spawn(kit::send(stream, "an answer", true, {}, sendings_.emplace_back(), loop_.now() + 5s));
  }
  std::deque<Sending> sendings_;
};

TEST_F(AnsweringTest, OneTurnIsOneWrite) {
  start_greeted(Role::server, SOCK_SEQPACKET);
  reads_ = 0;
  send(request(1) + request(3) + request(5));
  EXPECT_EQ(sendings_.size(), 3u);
  EXPECT_EQ(reads_, 1) << "one write for three heads and three bodies";
  const std::string out = take();
  EXPECT_EQ(kit::of_type(out, kit::headers).size(), 3u);
  EXPECT_EQ(kit::of_type(out, kit::data).size(), 3u);
}

TEST_F(AnsweringTest, WhereOthersWaitOneTurnIsOneWriteToo) {
  share_loop();
  start_greeted(Role::server, SOCK_SEQPACKET);
  reads_ = 0;
  send(request(1) + request(3) + request(5));
  EXPECT_EQ(sendings_.size(), 3u);
  EXPECT_EQ(reads_, 1);
  EXPECT_EQ(kit::of_type(take(), kit::data).size(), 3u);
}

TEST_F(AnsweringTest, WhatIsLargerThanARecordIsOneWriteForEach) {
  start_greeted(Role::server, SOCK_SEQPACKET);
  std::string many;
  constexpr int requests = 100;
  for (int i = 0; i < requests; ++i) many += request(static_cast<std::uint32_t>(2 * i + 1));
  reads_ = 0;
  send(many);
  const std::string out = take();
  EXPECT_EQ(kit::of_type(out, kit::data).size(), static_cast<std::size_t>(requests));
  EXPECT_LE(static_cast<std::size_t>(reads_), out.size() / limits::write_bytes + 1);
}

/// A pool that has given out nothing hands the same blocks out again.
TEST_F(ConnectionTest, AnIdleConnectionHoldsNoBuffer) {
  // What the pool keeps are blocks that were given back: take all of them, and none may be missing.
  start_greeted(Role::server);
  send(request(1));
  ASSERT_TRUE(kit::send_head(*requests_.at(0), {{":status", "200"}}, true));
  turn();
  char* const first = buffers_.take(io::BufferPool::block_bytes);
  char* const second = buffers_.take(io::BufferPool::block_bytes);
  // Only what was made for this connection is in the pool; a fresh block would come from the allocator. The
  // connection works with one block for input and one for output, so both must have come back.
  buffers_.give_back(first, io::BufferPool::block_bytes);
  buffers_.give_back(second, io::BufferPool::block_bytes);
  send(request(3));
  ASSERT_TRUE(kit::send_head(*requests_.at(1), {{":status", "200"}}, true));
  turn();
  std::vector<char*> again{buffers_.take(io::BufferPool::block_bytes),
                           buffers_.take(io::BufferPool::block_bytes)};
  EXPECT_NE(std::ranges::find(again, first), again.end());
  EXPECT_NE(std::ranges::find(again, second), again.end());
  for (char* one : again) buffers_.give_back(one, io::BufferPool::block_bytes);
}

// ---- toward an origin

TEST_F(ConnectionTest, ASilentOriginIsAskedWhetherItIsThere) {
  start_greeted(Role::client);
  Seen seen;
  const auto stream = connection_->open();
  ASSERT_TRUE(stream);
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  loop_.spawn(kit::read_answer(stream, seen, loop_.now() + 3600s));
  turn();
  EXPECT_TRUE(kit::of_type(take(), kit::ping).empty());
  pass(20s + tick);
  const auto pings = kit::of_type(take(), kit::ping);
  ASSERT_EQ(pings.size(), 1u);
  pass(9s);
  send(kit::frame(kit::ping, kit::ack, 0, pings[0].payload));
  EXPECT_FALSE(over());
  pass(15s + tick);
  ASSERT_EQ(kit::of_type(take(), kit::ping).size(), 1u) << "and again after another silence";
  pass(10s + tick);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::origin_timeout);
  EXPECT_EQ(reason_after_farewell(), Reason::origin_timeout);
}

TEST_F(ConnectionTest, AnOriginThatIsSilentInTheMiddleOfARecordIsAskedToo) {
  in_a_record_ = true;
  start_greeted(Role::client);
  const auto stream = connection_->open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  turn();
  take();
  pass(20s + tick);
  const auto pings = kit::of_type(take(), kit::ping);
  ASSERT_EQ(pings.size(), 1u);
  send(kit::frame(kit::ping, kit::ack, 0, pings[0].payload));
  EXPECT_FALSE(over());
}

TEST_F(ConnectionTest, AnIdleConnectionToAnOriginIsEnded) {
  start_greeted(Role::client);
  pass(20s + tick);
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_);
  EXPECT_EQ(goaway(), 0u);
}

TEST_F(ConnectionTest, AnOriginThatBreaksTheRulesIsBlamed) {
  start_greeted(Role::client);
  Seen seen;
  const auto stream = connection_->open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  loop_.spawn(kit::read_answer(stream, seen, loop_.now() + 3600s));
  turn();
  send(kit::frame(kit::data, 0, 0, "nonsense"));
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::origin_malformed_response);
  EXPECT_EQ(seen.error->side, Side::origin);
  pass(2s + tick);
  EXPECT_EQ(reason(), Reason::origin_malformed_response);
}

TEST_F(ConnectionTest, AnOriginThatGoesAwayTakesNoMoreAndFinishes) {
  start_greeted(Role::client);
  Seen seen;
  const auto stream = connection_->open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  loop_.spawn(kit::read_answer(stream, seen, loop_.now() + 3600s));
  turn();
  send(kit::frame(kit::goaway, 0, 0, kit::number32(1) + kit::number32(0)));
  EXPECT_EQ(connection_->open(), nullptr);
  EXPECT_EQ(connection_->capacity(), 0u);
  send(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 1, kit::literal(":status", "200")));
  EXPECT_TRUE(seen.complete);
  ASSERT_TRUE(over());
  EXPECT_TRUE(*ended_) << ended_->error().detail;
}

TEST_F(ConnectionTest, AnOriginThatClosesIsBlamed) {
  start_greeted(Role::client);
  Seen seen;
  const auto stream = connection_->open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  loop_.spawn(kit::read_answer(stream, seen, loop_.now() + 3600s));
  turn();
  peer_.reset();
  turn();
  EXPECT_EQ(reason(), Reason::origin_closed);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::origin_closed);
}

io::Task<void> wait_for_greeting(Connection& connection, TimePoint deadline, std::optional<bool>& out) {
  out = co_await connection.greeting(deadline);
}

TEST_F(ConnectionTest, AGreetingIsWaitedForUntilItsDeadline) {
  start(Role::client);
  std::optional<bool> out;
  loop_.spawn(wait_for_greeting(*connection_, loop_.now() + 5s, out));
  turn();
  EXPECT_FALSE(out);
  pass(5s + tick);
  EXPECT_EQ(out, false);

  out.reset();
  loop_.spawn(wait_for_greeting(*connection_, loop_.now() + 5s, out));
  send(kit::frame(kit::settings, 0, 0, std::string("\0\x08\0\0\0\1", 6)));
  EXPECT_EQ(out, true);
  EXPECT_TRUE(connection_->takes_extended_connect());
}

TEST_F(ConnectionTest, AGreetingThatNeverComesBecauseTheConnectionEnds) {
  start(Role::client);
  std::optional<bool> out;
  loop_.spawn(wait_for_greeting(*connection_, loop_.now() + 5s, out));
  peer_.reset();
  turn();
  EXPECT_EQ(out, false);
  EXPECT_TRUE(over());
}

}  // namespace
}  // namespace postern::http2
