#include "http2/session.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/fd.h"
#include "http2/test_kit.h"

namespace postern::http2 {
namespace {

using namespace std::chrono_literals;
using kit::End;
using kit::Frame;
using kit::Pairs;
using kit::Seen;
using kit::Sending;

constexpr std::uint32_t code(ErrorCode c) { return static_cast<std::uint32_t>(c); }
constexpr std::uint32_t flow_control_error = 3;

class SessionTest : public testing::Test {
 protected:
  ~SessionTest() override { loop_.abandon(); }

  void turn() {
    for (int i = 0; i < 3; ++i) loop_.run_once(Duration::zero());
  }
  void pass(Duration time) {
    clock_.advance(time + io::Loop::tick);
    turn();
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
};

// ---- two sessions, back to back
// ----------------------------------------------------------------------------

class SessionPair : public SessionTest {
 protected:
  SessionPair() { exchange(); }

  /// Until neither has anything to say.
  void exchange() {
    for (int round = 0; round < 1000; ++round) {
      const std::string to_server = client_.take();
      const std::string to_client = server_.take();
      if (to_server.empty() && to_client.empty()) return;
      to_server_bytes_ += to_server.size();
      sent_by_server_ += to_client;
      if (!to_server.empty()) server_result_ = server_.feed(to_server);
      if (!to_client.empty()) client_result_ = client_.feed(to_client);
    }
    ADD_FAILURE() << "they never come to rest";
  }
  std::shared_ptr<Stream> ask(const Pairs& head, bool ends = true) {
    auto stream = client_.ask(head, seen_, ends);
    exchange();
    return stream;
  }
  Stream& asked() { return *server_.requests.back(); }
  void answer(const Pairs& head, bool ends) {
    ASSERT_TRUE(kit::send_head(asked(), head, ends));
    exchange();
  }
  Pairs request_fields() { return kit::copy(asked().request().fields); }

  End client_{loop_, Role::client};
  End server_{loop_, Role::server};
  Result<void> client_result_, server_result_;
  std::size_t to_server_bytes_ = 0;
  std::string sent_by_server_;
  Seen seen_;
};

TEST_F(SessionPair, ARequestAndItsAnswer) {
  Pairs head = kit::get_request;
  head.emplace_back("accept", "text/plain");
  head.emplace_back("x-two", "1");
  head.emplace_back("x-two", "2");
  const auto stream = ask(head);
  ASSERT_EQ(server_.requests.size(), 1u);
  const Head& request = asked().request();
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.scheme, "https");
  EXPECT_EQ(request.authority, "api.example.com");
  EXPECT_TRUE(request.has_authority);
  EXPECT_EQ(request.path, "/");
  EXPECT_EQ(request.protocol, "");
  EXPECT_TRUE(request.end_of_stream);
  EXPECT_FALSE(request.too_large);
  EXPECT_EQ(request_fields(), (Pairs{{"accept", "text/plain"}, {"x-two", "1"}, {"x-two", "2"}}));
  EXPECT_TRUE(asked().body_complete());
  EXPECT_EQ(client_.session.open_streams(), 1u);

  answer({{":status", "204"}, {"server", "test"}}, true);
  ASSERT_TRUE(seen_.complete);
  EXPECT_EQ(seen_.heads, (std::vector<std::pair<int, Pairs>>{{204, {{"server", "test"}}}}));
  EXPECT_TRUE(stream->closed());
  EXPECT_TRUE(asked().closed());
  EXPECT_EQ(client_.session.open_streams(), 0u);
  EXPECT_EQ(server_.session.open_streams(), 0u);
  EXPECT_FALSE(stream->peer_reset());
}

TEST_F(SessionPair, BodiesAndTrailersGoBothWays) {
  const auto stream = ask(kit::post_request, false);
  Sending up, down;
  client_.send(stream, "hello ", false, up);
  exchange();
  EXPECT_TRUE(up.done());
  Seen upload;
  server_.read(server_.requests[0], upload);
  EXPECT_EQ(upload.body, "hello ");
  up = {};
  client_.send(stream, "world", true, up, {{"x-sum", "1"}});
  exchange();
  EXPECT_EQ(upload.body, "hello world");
  EXPECT_TRUE(upload.complete);
  EXPECT_EQ(upload.trailers, (Pairs{{"x-sum", "1"}}));

  answer({{":status", "200"}}, false);
  server_.send(server_.requests[0], "yes", true, down, {{"grpc-status", "0"}});
  exchange();
  EXPECT_TRUE(down.done());
  EXPECT_EQ(seen_.body, "yes");
  EXPECT_EQ(seen_.trailers, (Pairs{{"grpc-status", "0"}}));
  EXPECT_TRUE(stream->closed());
  EXPECT_TRUE(asked().closed());
}

TEST_F(SessionPair, AnEmptyLastPieceEndsAStream) {
  ask(kit::get_request);
  answer({{":status", "200"}}, false);
  Sending nothing, last;
  server_.send(server_.requests[0], "", false, nothing);
  EXPECT_TRUE(nothing.done());
  server_.send(server_.requests[0], "", true, last);
  exchange();
  EXPECT_TRUE(last.done());
  EXPECT_TRUE(seen_.complete);
  EXPECT_EQ(seen_.body, "");
}

TEST_F(SessionPair, TrailersWithoutABody) {
  ask(kit::get_request);
  answer({{":status", "200"}}, false);
  Sending last;
  server_.send(server_.requests[0], "", true, last, {{"grpc-status", "5"}});
  exchange();
  EXPECT_TRUE(last.done());
  EXPECT_TRUE(seen_.complete);
  EXPECT_EQ(seen_.trailers, (Pairs{{"grpc-status", "5"}}));
}

TEST_F(SessionPair, ABodyOfManyFramesKeepsItsOrder) {
  std::string body;
  for (int i = 0; body.size() < 3'000'000; ++i) body += std::to_string(i) + ",";
  ask(kit::get_request);
  answer({{":status", "200"}}, false);
  Sending sending;
  server_.send(server_.requests[0], body, true, sending);
  exchange();
  EXPECT_TRUE(sending.done());
  EXPECT_TRUE(seen_.complete);
  EXPECT_TRUE(seen_.body == body);
}

TEST_F(SessionPair, InformationalHeadsComeBeforeTheAnswer) {
  ask(kit::get_request);
  const Field early[] = {{":status", "103"}, {"link", "</a>"}};
  ASSERT_TRUE(asked().send_informational(early));
  exchange();
  EXPECT_EQ(seen_.heads, (std::vector<std::pair<int, Pairs>>{{103, {{"link", "</a>"}}}}));
  answer({{":status", "200"}}, true);
  EXPECT_EQ(seen_.heads.size(), 2u);
  EXPECT_EQ(seen_.status(), 200);
  EXPECT_TRUE(seen_.complete);
}

TEST_F(SessionPair, WhatMayNotBeWrittenIsNotSent) {
  for (const auto& [name, value] :
       Pairs{{"x", "a\r\nb: c"}, {"x y", "1"}, {"", "1"}, {"x", std::string("\0", 1)}}) {
    Pairs head = kit::get_request;
    head.emplace_back(name, value);
    Seen seen;
    EXPECT_EQ(client_.ask(head, seen), nullptr) << name;
  }
  exchange();
  EXPECT_TRUE(server_.requests.empty());
  EXPECT_EQ(client_.session.open_streams(), 0u);
}

TEST_F(SessionPair, AStreamThatIsOpenedAndNotUsedIsNoStream) {
  {
    const auto stream = client_.session.open();
    ASSERT_TRUE(stream);
    stream->reset(ErrorCode::cancel);
  }
  exchange();
  EXPECT_EQ(client_.session.open_streams(), 0u);
  EXPECT_EQ(client_.session.capacity(), limits::streams_max);
  EXPECT_TRUE(server_.refused.empty());
}

TEST_F(SessionPair, NoMoreStreamsThanThePeerTakes) {
  std::vector<Seen> seen(limits::streams_max + 1);
  for (std::size_t i = 0; i < limits::streams_max; ++i) ASSERT_TRUE(client_.ask(kit::get_request, seen[i]));
  exchange();
  EXPECT_EQ(client_.session.capacity(), 0u);
  EXPECT_EQ(client_.session.open(), nullptr);
  EXPECT_EQ(server_.requests.size(), limits::streams_max);
  ASSERT_TRUE(kit::send_head(*server_.requests[7], {{":status", "200"}}, true));
  exchange();
  EXPECT_EQ(client_.session.capacity(), 1u);
}

TEST_F(SessionPair, ExtendedConnectIsOfferedBySettings) {
  EXPECT_TRUE(client_.session.takes_extended_connect());
  ask({{":method", "CONNECT"},
       {":protocol", "websocket"},
       {":scheme", "https"},
       {":authority", "api.example.com"},
       {":path", "/chat"}},
      false);
  ASSERT_EQ(server_.requests.size(), 1u);
  EXPECT_EQ(asked().request().protocol, "websocket");
}

// ---- flow control

TEST_F(SessionPair, AReaderThatStopsHoldsItsWindowAndNoOtherStream) {
  const auto slow = client_.session.open();
  ASSERT_TRUE(kit::send_head(*slow, kit::get_request, true));
  exchange();
  answer({{":status", "200"}}, false);
  const std::string body(2'000'000, 'x');
  Sending stuck;
  server_.send(server_.requests[0], body, true, stuck);
  const std::size_t before = sent_by_server_.size();
  exchange();
  EXPECT_FALSE(stuck.result);
  const std::size_t moved = sent_by_server_.size() - before;
  EXPECT_GE(moved, static_cast<std::size_t>(limits::window_bytes));
  EXPECT_LT(moved, static_cast<std::size_t>(limits::window_bytes) + 1000);

  ask(kit::get_request);
  answer({{":status", "200"}}, false);
  Sending other;
  server_.send(server_.requests[1], body, true, other);
  exchange();
  EXPECT_TRUE(other.done());
  EXPECT_TRUE(seen_.body == body);
  EXPECT_FALSE(stuck.result);

  Seen late;
  loop_.spawn(kit::read_answer(slow, late, loop_.now() + 5s));
  exchange();
  EXPECT_TRUE(stuck.done());
  EXPECT_TRUE(late.body == body);
}

TEST_F(SessionPair, AnUploadIsHeldBackLikewise) {
  const auto stream = ask(kit::post_request, false);
  const std::string body(500'000, 'x');
  Sending sending;
  client_.send(stream, body, true, sending);
  exchange();
  EXPECT_FALSE(sending.result);
  EXPECT_LT(to_server_bytes_, static_cast<std::size_t>(limits::window_bytes) + 2000);
  Seen upload;
  server_.read(server_.requests[0], upload);
  exchange();
  EXPECT_TRUE(sending.done());
  EXPECT_TRUE(upload.body == body);
}

/// What the peer may send on a stream without being read, found out by not reading.
class WindowGrowth : public SessionPair {
 protected:
  std::size_t unread_window(const std::shared_ptr<Stream>& sender) {
    const std::size_t before = sent_by_server_.size();
    server_.send(sender, flood_, true, sendings_.emplace_back());
    exchange();
    return sent_by_server_.size() - before;
  }
  const std::string flood_ = std::string(2 * static_cast<std::size_t>(limits::window_bytes_max), 'x');
  std::deque<Sending> sendings_;
  static io::Task<void> read_some(std::shared_ptr<Stream> stream, std::size_t most, TimePoint deadline,
                                  bool& over) {
    (void)co_await stream->next_head(deadline);
    for (std::size_t count = 0; count < most;) {
      auto piece = co_await stream->read_body(deadline);
      if (!piece || piece->last) break;
      count += piece->data.size();
    }
    over = true;
  }
};

TEST_F(WindowGrowth, AReaderThatKeepsUpHasALargerWindowUpToALimit) {
  const auto stream = client_.session.open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  exchange();
  bool over = false;
  const std::size_t enough = 24 * MiB;
  loop_.spawn(read_some(stream, enough, loop_.now() + 5s, over));
  answer({{":status", "200"}}, false);
  const std::string piece(1 * MiB, 'x');
  for (std::size_t sent = 0; sent < enough; sent += piece.size()) {
    Sending sending;
    server_.send(server_.requests[0], piece, false, sending);
    exchange();
    ASSERT_TRUE(sending.done());
    sent_by_server_.clear();
  }
  EXPECT_TRUE(over);
  const std::size_t window = unread_window(server_.requests[0]);
  EXPECT_GT(window, static_cast<std::size_t>(limits::window_bytes_max) / 2);
  EXPECT_LE(window, static_cast<std::size_t>(limits::window_bytes_max) * 101 / 100);
}

TEST_F(WindowGrowth, AReaderThatTakesItsTimeHasTheWindowThatItHad) {
  struct Slowly {
    static io::Task<void> read(io::Loop& loop, std::shared_ptr<Stream> stream, std::size_t& count) {
      (void)co_await stream->next_head(loop.now() + 5s);
      while (true) {
        auto piece = co_await stream->read_body(loop.now() + 3600s);
        if (!piece || piece->last) co_return;
        count += piece->data.size();
        co_await loop.sleep_until(loop.now() + 250ms);
      }
    }
  };
  const auto stream = client_.session.open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  exchange();
  std::size_t count = 0;
  loop_.spawn(Slowly::read(loop_, stream, count));
  answer({{":status", "200"}}, false);
  const std::string body(4 * MiB, 'x');
  Sending sending;
  server_.send(server_.requests[0], body, false, sending);
  for (int i = 0; i < 500 && count < body.size(); ++i) {
    exchange();
    pass(250ms);
  }
  EXPECT_EQ(count, body.size());
  EXPECT_LE(unread_window(server_.requests[0]), limits::window_bytes * 101u / 100);
}

TEST_F(WindowGrowth, AReaderThatWaitsForASlowSenderNeedsNoLargerWindow) {
  const auto stream = client_.session.open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  exchange();
  bool over = false;
  const std::size_t enough = 1 * MiB;
  loop_.spawn(read_some(stream, enough, loop_.now() + 3600s, over));
  answer({{":status", "200"}}, false);
  const std::string piece(8 * KiB, 'x');
  for (std::size_t sent = 0; sent < enough; sent += piece.size()) {
    Sending sending;
    server_.send(server_.requests[0], piece, false, sending);
    exchange();
    ASSERT_TRUE(sending.done());
    pass(100ms);
  }
  EXPECT_TRUE(over);
  EXPECT_LE(unread_window(server_.requests[0]), limits::window_bytes * 101u / 100);
}

TEST_F(WindowGrowth, AllStreamsTogetherGrowByNoMoreThanTheConnectionsLimit) {
  constexpr std::size_t streams = 12;
  const std::size_t enough = 8 * MiB;
  const std::string piece(1 * MiB, 'x');
  std::vector<std::shared_ptr<Stream>> asking;
  for (std::size_t i = 0; i < streams; ++i) {
    asking.push_back(client_.session.open());
    ASSERT_TRUE(kit::send_head(*asking.back(), kit::get_request, true));
    exchange();
    bool over = false;
    loop_.spawn(read_some(asking.back(), enough, loop_.now() + 5s, over));
    answer({{":status", "200"}}, false);
    for (std::size_t sent = 0; sent < enough; sent += piece.size()) {
      Sending sending;
      server_.send(server_.requests[i], piece, false, sending);
      exchange();
      ASSERT_TRUE(sending.done());
      sent_by_server_.clear();
    }
    EXPECT_TRUE(over);
  }
  std::size_t all = 0;
  for (std::size_t i = 0; i < streams; ++i) all += unread_window(server_.requests[i]);
  EXPECT_GT(all, limits::extra_window_bytes_max / 2);
  EXPECT_LE(all, (limits::extra_window_bytes_max + streams * limits::window_bytes) * 101 / 100);
}

// ---- ends

TEST_F(SessionPair, TheSandboxResetsAStream) {
  const auto stream = ask(kit::post_request, false);
  Seen upload;
  server_.read(server_.requests[0], upload);
  struct Watcher final : Stream::GoneWatcher {
    int told = 0;
    void on_gone() override { ++told; }
  } watcher;
  asked().watch_gone(&watcher);
  stream->reset(ErrorCode::cancel);
  exchange();
  EXPECT_EQ(watcher.told, 1);
  EXPECT_EQ(asked().peer_reset(), code(ErrorCode::cancel));
  EXPECT_TRUE(asked().closed());
  ASSERT_TRUE(upload.error);
  EXPECT_EQ(upload.error->reason, Reason::sandbox_closed);
  EXPECT_EQ(upload.error->retry, Retry::never);
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::cancelled);
  EXPECT_FALSE(asked().send_head(std::vector<Field>{{":status", "200"}}, true));
  asked().watch_gone(nullptr);
}

TEST_F(SessionPair, AnOriginsResetIsPassedOnWithItsCode) {
  for (const std::uint32_t number : {1u, 2u, 8u, 11u, 13u, 0xfeedu}) {
    seen_ = {};
    const auto stream = ask(kit::get_request);
    asked().reset(number);
    exchange();
    EXPECT_EQ(stream->peer_reset(), number);
    ASSERT_TRUE(seen_.error) << number;
    EXPECT_EQ(seen_.error->reason, Reason::origin_closed);
    EXPECT_EQ(seen_.error->retry, Retry::never);
  }
}

TEST_F(SessionPair, WhatWasRefusedUnseenMayBeAskedAgain) {
  const auto stream = ask(kit::get_request);
  asked().reset(ErrorCode::refused_stream);
  exchange();
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::origin_closed);
  EXPECT_EQ(seen_.error->retry, Retry::fresh_connection);
  EXPECT_FALSE(stream->anything_received());
}

TEST_F(SessionPair, AResetAfterACompleteAnswerTakesNothingBack) {
  const auto stream = ask(kit::post_request, false);
  struct Watcher final : Stream::GoneWatcher {
    int told = 0;
    void on_gone() override { ++told; }
  } watcher;
  stream->watch_gone(&watcher);
  ASSERT_TRUE(kit::send_head(asked(), {{":status", "413"}}, false));
  Sending sending;
  server_.send(server_.requests[0], "too much", true, sending, {{"x-t", "1"}});
  const std::string before = server_.take();
  ASSERT_TRUE(sending.done());
  asked().reset(ErrorCode::no_error);
  ASSERT_TRUE(client_.feed(before));
  exchange();
  EXPECT_TRUE(seen_.complete);
  EXPECT_EQ(seen_.status(), 413);
  EXPECT_EQ(seen_.body, "too much");
  EXPECT_EQ(stream->peer_reset(), code(ErrorCode::no_error));
  stream->watch_gone(nullptr);

  // The same without a body: the reset is asked for before the head has left.
  seen_ = {};
  ask(kit::post_request, false);
  ASSERT_TRUE(kit::send_head(asked(), {{":status", "413"}}, true));
  asked().reset(ErrorCode::no_error);
  exchange();
  EXPECT_TRUE(seen_.complete);
  EXPECT_EQ(seen_.status(), 413);
}

TEST_F(SessionPair, AResetWhileADataFrameIsHeldBackEndsTheSendingOnce) {
  const auto stream = ask(kit::get_request);
  answer({{":status", "200"}}, false);
  const std::string body(300'000, 'x');
  Sending sending;
  server_.send(server_.requests[0], body, true, sending);
  // One write's worth is taken, so that a frame is begun that does not fit.
  io::BufferPool pool;
  io::Buffer out(pool);
  server_.session.produce(out);
  stream->reset(ErrorCode::cancel);
  ASSERT_TRUE(server_.feed(client_.take()));
  ASSERT_TRUE(sending.result);
  ASSERT_FALSE(*sending.result);
  EXPECT_EQ(sending.result->error().reason, Reason::sandbox_closed);
  exchange();
  EXPECT_EQ(server_.session.open_streams(), 0u);
}

TEST_F(SessionPair, SendingThatExpiresInTheMiddleOfAFrameResetsTheStream) {
  for (const bool cancels : {false, true}) {
    for (int frames = 0; frames < 6; ++frames) {
      SCOPED_TRACE(std::to_string(frames) + (cancels ? " cancelled" : " expired"));
      seen_ = {};
      const auto stream = ask(kit::get_request);
      answer({{":status", "200"}}, false);
      Sending sending;
      {
        std::string body(200'000, 'x');
        server_.send(server_.requests.back(), body, true, sending);
        io::BufferPool pool;
        for (int i = 0; i < frames; ++i) {
          io::Buffer out(pool);
          server_.session.produce(out);
          server_.session.wake();
          if (!out.empty()) client_result_ = client_.feed(out.bytes());
        }
        if (cancels)
          asked().cancel_send();
        else
          pass(6s);
        ASSERT_TRUE(sending.result);
        ASSERT_FALSE(*sending.result);
        EXPECT_EQ(sending.result->error().reason, cancels ? Reason::cancelled : Reason::sandbox_timeout);
      }
      // The piece has gone; nothing may look at it any more.
      exchange();
      EXPECT_TRUE(asked().closed());
      EXPECT_TRUE(stream->closed());
      EXPECT_TRUE(stream->peer_reset());
      EXPECT_FALSE(seen_.complete);
      EXPECT_TRUE(client_result_);
      EXPECT_TRUE(server_result_);
      EXPECT_EQ(server_.session.open_streams(), 0u);
    }
  }
  // The connection is as good as before.
  seen_ = {};
  ask(kit::get_request);
  answer({{":status", "200"}}, true);
  EXPECT_TRUE(seen_.complete);
}

TEST_F(SessionPair, AStreamMayGoAtAnyMoment) {
  // Whoever carried it lets go of it; the session ends it by itself, or lets the peer do so.
  for (int moment = 0; moment < 5; ++moment) {
    SCOPED_TRACE(moment);
    auto stream = client_.session.open();
    if (moment > 0) {
      ASSERT_TRUE(kit::send_head(*stream, kit::post_request, false));
    }
    if (moment > 1) exchange();
    if (moment > 2) {
      answer({{":status", "200"}}, false);
    }
    if (moment > 3) {
      Sending sending;
      const std::string body(100, 'x');
      server_.send(server_.requests.back(), body, true, sending);
      exchange();
    }
    stream->reset(ErrorCode::cancel);
    stream.reset();
    server_.requests.clear();
    exchange();
    EXPECT_EQ(client_.session.open_streams(), 0u);
    EXPECT_EQ(server_.session.open_streams(), 0u);
    server_.requests.clear();
  }
  EXPECT_TRUE(client_result_);
  EXPECT_TRUE(server_result_);
}

TEST_F(SessionTest, StreamsOutliveTheirSession) {
  std::shared_ptr<Stream> unused, sent, answered, served;
  Seen seen;
  Sending sending;
  const std::string body(200'000, 'x');
  {
    End client(loop_, Role::client);
    End server(loop_, Role::server);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(server.feed(client.take()));
      ASSERT_TRUE(client.feed(server.take()));
    }
    answered = client.ask(kit::get_request, seen);
    ASSERT_TRUE(server.feed(client.take()));
    served = server.requests.at(0);
    ASSERT_TRUE(kit::send_head(*served, {{":status", "200"}}, false));
    server.send(served, body, true, sending);
    ASSERT_TRUE(client.feed(server.take()));
    sent = client.session.open();
    ASSERT_TRUE(kit::send_head(*sent, kit::get_request, false));
    unused = client.session.open();
    ASSERT_TRUE(unused);
  }
  for (const auto& stream : {unused, sent, answered, served}) {
    EXPECT_TRUE(stream->closed());
    EXPECT_FALSE(stream->send_head(std::vector<Field>{{":status", "200"}}, true));
    stream->reset(ErrorCode::cancel);
    Sending late;
    loop_.spawn(kit::send(stream, "x", true, {}, late, loop_.now() + 1s));
    ASSERT_TRUE(late.result);
    EXPECT_FALSE(*late.result);
  }
  EXPECT_EQ(served->request().method, "GET");
}

TEST_F(SessionPair, ABrokenConnectionEndsEveryStreamWithItsError) {
  const auto stream = ask(kit::get_request);
  Seen upload;
  const auto posting = client_.session.open();
  ASSERT_TRUE(kit::send_head(*posting, kit::post_request, false));
  exchange();
  server_.read(server_.requests[1], upload);
  client_.session.fail({Reason::origin_closed, Side::origin, Retry::never, "broken"});
  EXPECT_FALSE(seen_.error) << "nobody is told before wake()";
  client_.session.wake();
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->detail, "broken");
  EXPECT_EQ(client_.session.open(), nullptr);
  EXPECT_TRUE(client_.session.over());
  server_.session.fail({Reason::sandbox_closed, Side::sandbox, Retry::never, "broken"});
  server_.session.wake();
  ASSERT_TRUE(upload.error);
  EXPECT_EQ(upload.error->reason, Reason::sandbox_closed);
}

TEST_F(SessionPair, WhoWaitsForAHeadIsToldOfItsDeadlineAndCancelled) {
  ask(kit::get_request);
  pass(6s);
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::origin_timeout);
  seen_ = {};
  const auto stream = ask(kit::get_request);
  stream->cancel_read();
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::cancelled);
}

// ---- GOAWAY, draining, PING

TEST_F(SessionPair, ADrainedServerEndsWithItsLastStream) {
  ask(kit::get_request);
  server_.session.drain();
  exchange();
  EXPECT_EQ(client_.session.capacity(), 0u);
  EXPECT_EQ(client_.session.open(), nullptr);
  EXPECT_FALSE(server_.session.over());
  answer({{":status", "200"}}, true);
  EXPECT_TRUE(seen_.complete);
  EXPECT_TRUE(server_.session.over());
  EXPECT_TRUE(client_.session.over());
  EXPECT_TRUE(server_result_);
  EXPECT_TRUE(client_result_);
}

TEST_F(SessionPair, WhatIsOpenedWhileADrainIsAnnouncedIsStillCarried) {
  Seen late;
  const auto stream = client_.ask(kit::get_request, late);  // not yet sent
  server_.session.announce_drain();
  const std::string notice = server_.take();
  ASSERT_TRUE(server_.feed(client_.take()));
  ASSERT_TRUE(client_.feed(notice));
  EXPECT_EQ(client_.session.open(), nullptr);
  ASSERT_EQ(server_.requests.size(), 1u);
  server_.session.drain();
  answer({{":status", "200"}}, true);
  EXPECT_TRUE(late.complete);
  EXPECT_TRUE(server_.session.over());
}

TEST_F(SessionPair, WhatGoawayLeavesOutMayBeAskedAgain) {
  ask(kit::get_request);
  Seen late;
  const auto stream = client_.ask(kit::get_request, late);
  const std::string crossing = client_.take();
  server_.session.drain();
  exchange();
  EXPECT_TRUE(stream->closed());
  ASSERT_TRUE(late.error);
  EXPECT_EQ(late.error->reason, Reason::origin_closed);
  EXPECT_EQ(late.error->retry, Retry::fresh_connection);
  EXPECT_FALSE(seen_.over) << "the first one goes on";
  // What crossed the GOAWAY is passed over, and leaves no trace.
  ASSERT_TRUE(server_.feed(crossing));
  EXPECT_EQ(server_.requests.size(), 1u);
  EXPECT_FALSE(server_.session.within_head());
  answer({{":status", "200"}}, true);
  EXPECT_TRUE(seen_.complete);
}

TEST_F(SessionPair, ADrainedClientEndsWithItsLastStream) {
  ask(kit::get_request);
  client_.session.drain();
  EXPECT_EQ(client_.session.open(), nullptr);
  exchange();
  answer({{":status", "200"}}, true);
  EXPECT_TRUE(seen_.complete);
  EXPECT_TRUE(client_.session.over());
  EXPECT_TRUE(client_result_) << client_result_.error().detail;
  EXPECT_TRUE(server_result_) << server_result_.error().detail;
}

TEST_F(SessionPair, ADrainedServerWhoseLastStreamIsResetIsNotBlamedOnThePeer) {
  const auto stream = ask(kit::get_request);
  server_.session.drain();
  exchange();
  stream->reset(ErrorCode::cancel);
  exchange();
  EXPECT_TRUE(server_result_) << server_result_.error().detail;
  EXPECT_TRUE(server_.session.over());
}

TEST_F(SessionPair, APingIsAnswered) {
  EXPECT_TRUE(client_.session.ping_answered());
  client_.session.ping();
  EXPECT_FALSE(client_.session.ping_answered());
  exchange();
  EXPECT_TRUE(client_.session.ping_answered());
}

TEST_F(SessionPair, IdleSinceIsWhenTheLastStreamEnded) {
  const TimePoint begun = loop_.now();
  EXPECT_EQ(server_.session.idle_since(), begun);
  ask(kit::get_request);
  pass(3s);
  answer({{":status", "200"}}, true);
  EXPECT_EQ(server_.session.idle_since(), loop_.now());
  EXPECT_EQ(client_.session.idle_since(), loop_.now());
}

// ---- frames by hand
// -----------------------------------------------------------------------------------------

class RawServer : public SessionTest {
 protected:
  RawServer() {
    EXPECT_TRUE(feed(std::string(kit::preface) + kit::frame(kit::settings, 0, 0, {})));
    take();
    EXPECT_TRUE(feed(kit::frame(kit::settings, kit::ack, 0, {})));
  }
  Result<void> feed(std::string_view bytes) { return server_.feed(bytes); }
  std::string take() { return server_.take(); }
  Result<void> request(std::uint32_t id, const Pairs& head, bool ends = true) {
    return feed(
        kit::frame(kit::headers, kit::end_headers | (ends ? kit::end_stream : 0), id, kit::block(head)));
  }
  /// The code that the connection was ended with.
  std::optional<std::uint32_t> goaway() {
    const auto found = kit::of_type(take(), kit::goaway);
    return found.empty() ? std::nullopt : std::optional(found.back().code());
  }
  std::optional<std::uint32_t> reset_of(std::uint32_t id) {
    for (const Frame& one : kit::of_type(take(), kit::rst_stream))
      if (one.id == id) return one.code();
    return std::nullopt;
  }
  /// Feeds the same frames until the connection is ended. How many that took.
  template <class Make>
  int flood(Make make, int most = 10000) {
    for (int i = 0; i < most; ++i) {
      auto received = feed(make(i));
      if (i % 16 == 0) take();
      if (received) continue;
      EXPECT_EQ(received.error().reason, Reason::overloaded) << received.error().detail;
      EXPECT_EQ(goaway(), code(ErrorCode::enhance_your_calm));
      return i + 1;
    }
    return most;
  }

  End server_{loop_, Role::server};
};

TEST_F(RawServer, OneByteAtATime) {
  const std::string bytes =
      kit::frame(kit::headers, 0, 1, kit::literal(":method", "POST") + kit::literal(":scheme", "https")) +
      kit::frame(kit::continuation, kit::end_headers, 1,
                 kit::literal(":authority", "a.example.com") + kit::literal(":path", "/")) +
      kit::frame(kit::data, kit::end_stream, 1, "body");
  for (const char c : bytes) ASSERT_TRUE(feed({&c, 1}));
  ASSERT_EQ(server_.requests.size(), 1u);
  EXPECT_EQ(server_.requests[0]->request().authority, "a.example.com");
  Seen seen;
  server_.read(server_.requests[0], seen);
  EXPECT_EQ(seen.body, "body");
  EXPECT_TRUE(seen.complete);
}

TEST_F(RawServer, AHeadIsUnderWayFromItsFirstFrameToItsLast) {
  const std::string first = kit::frame(kit::headers, kit::end_stream, 1, kit::literal(":method", "GET"));
  const std::string rest = kit::frame(
      kit::continuation, kit::end_headers, 1,
      kit::literal(":scheme", "https") + kit::literal(":authority", "a") + kit::literal(":path", "/"));
  EXPECT_FALSE(server_.session.within_head());
  ASSERT_TRUE(feed(first.substr(0, 12)));
  EXPECT_TRUE(server_.session.within_head());
  ASSERT_TRUE(feed(first.substr(12)));
  EXPECT_TRUE(server_.session.within_head()) << "CONTINUATION is missing";
  ASSERT_TRUE(feed(rest.substr(0, rest.size() - 1)));
  EXPECT_TRUE(server_.session.within_head());
  ASSERT_TRUE(feed(rest.substr(rest.size() - 1)));
  EXPECT_FALSE(server_.session.within_head());
  EXPECT_EQ(server_.requests.size(), 1u);
}

TEST_F(RawServer, AHeadThatIsRefusedIsNotUnderWay) {
  ASSERT_TRUE(request(1, {{":method", "GET"}, {":path", "/"}}));  // no scheme
  EXPECT_FALSE(server_.session.within_head());
  EXPECT_EQ(reset_of(1), code(ErrorCode::protocol_error));
  ASSERT_EQ(server_.refused.size(), 1u);
  EXPECT_EQ(server_.refused[0].reason, Reason::malformed_request);
  EXPECT_TRUE(server_.requests.empty());
  EXPECT_EQ(server_.session.open_streams(), 0u);
}

TEST_F(RawServer, AHeadForAStreamThatWasResetIsPassedOver) {
  ASSERT_TRUE(request(1, kit::post_request, false));
  server_.requests[0]->reset(ErrorCode::cancel);
  take();
  ASSERT_TRUE(
      feed(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 1, kit::literal("x-sum", "1"))));
  EXPECT_FALSE(server_.session.within_head());
}

TEST_F(RawServer, CookiesAreJoined) {
  ASSERT_TRUE(request(1, {{":method", "GET"},
                          {":scheme", "https"},
                          {":authority", "a.example.com"},
                          {":path", "/"},
                          {"cookie", "a=1"},
                          {"accept", "*/*"},
                          {"cookie", "b=2"},
                          {"x-last", "1"},
                          {"cookie", "c=3"}}));
  ASSERT_EQ(server_.requests.size(), 1u);
  EXPECT_EQ(kit::copy(server_.requests[0]->request().fields),
            (Pairs{{"cookie", "a=1; b=2; c=3"}, {"accept", "*/*"}, {"x-last", "1"}}));
}

TEST_F(RawServer, ALargeHeadIsHandedOnMarkedAndABombIsNot) {
  Pairs large = kit::get_request;
  for (int i = 0; i < 5; ++i) large.emplace_back("x-large", std::string(14'000, 'x'));
  std::string bytes = kit::block(large);
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_stream, 1, bytes.substr(0, 16'000))));
  for (std::size_t at = 16'000; at < bytes.size(); at += 16'000)
    ASSERT_TRUE(feed(kit::frame(kit::continuation, at + 16'000 >= bytes.size() ? kit::end_headers : 0, 1,
                                std::string_view(bytes).substr(at, 16'000))));
  ASSERT_EQ(server_.requests.size(), 1u);
  EXPECT_TRUE(server_.requests[0]->request().too_large);
  EXPECT_EQ(server_.requests[0]->request().path, "/");

  Pairs many = kit::get_request;
  for (std::size_t i = 0; i <= limits::header_fields_max; ++i) many.emplace_back("x", "1");
  ASSERT_TRUE(request(3, many));
  ASSERT_EQ(server_.requests.size(), 2u);
  EXPECT_TRUE(server_.requests[1]->request().too_large);

  // One entry of 3 KiB in the table, named by one byte each.
  std::string bomb =
      kit::block(kit::get_request) + kit::literal("x", std::string(3000, 'b'), kit::Indexing::incremental);
  bomb += std::string(12'000, static_cast<char>(0x80 | 62));
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 5, bomb)));
  EXPECT_EQ(server_.requests.size(), 2u);
  EXPECT_EQ(server_.refused.size(), 0u);
  EXPECT_TRUE(reset_of(5));
  EXPECT_EQ(server_.refused.size(), 1u);
  // The table is still in step.
  ASSERT_TRUE(request(7, kit::get_request));
  EXPECT_EQ(server_.requests.size(), 3u);
}

TEST_F(RawServer, BombsArePaidFor) {
  std::string bomb =
      kit::block(kit::get_request) + kit::literal("x", std::string(3000, 'b'), kit::Indexing::incremental);
  bomb += std::string(200, static_cast<char>(0x80 | 62));
  const int count = flood([&](int i) {
    return kit::frame(kit::headers, kit::end_headers | kit::end_stream, static_cast<std::uint32_t>(2 * i + 1),
                      bomb);
  });
  EXPECT_LE(count, limits::tokens_max / limits::bomb_tokens + 1);
}

TEST_F(RawServer, TrailersThatAreTooLargeEndTheStream) {
  ASSERT_TRUE(request(1, kit::post_request, false));
  Seen seen;
  server_.read(server_.requests[0], seen);
  Pairs many;
  for (std::size_t i = 0; i <= limits::header_fields_max; ++i) many.emplace_back("x", "1");
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 1, kit::block(many))));
  EXPECT_EQ(reset_of(1), code(ErrorCode::protocol_error));
  server_.session.wake();
  EXPECT_FALSE(seen.complete);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::malformed_request);
}

// RFC 9110 §6.5.1, as in HTTP/1.1: what frames, routes or authenticates was judged in the head.
TEST_F(RawServer, TrailersBringNothingThatBelongsInAHead) {
  ASSERT_TRUE(request(1, kit::post_request, false));
  Seen seen;
  server_.read(server_.requests[0], seen);
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 1,
                              kit::block({{"host", "evil.example"},
                                          {"authorization", "Bearer stolen"},
                                          {"cookie", "a=1"},
                                          {"content-type", "text/html"},
                                          {"x-sum", "1"},
                                          {"grpc-status", "0"},
                                          {"content-digest", "d"}}))));
  EXPECT_TRUE(seen.complete);
  EXPECT_EQ(seen.trailers, (Pairs{{"x-sum", "1"}, {"grpc-status", "0"}, {"content-digest", "d"}}));

  ASSERT_TRUE(request(3, kit::post_request, false));
  Seen other;
  server_.read(server_.requests[1], other);
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_headers | kit::end_stream, 3,
                              kit::block({{"content-length", "5"}}))));
  EXPECT_TRUE(reset_of(3));
  EXPECT_FALSE(other.complete);
}

TEST_F(RawServer, ALengthThatIsNotKeptIsAnError) {
  Pairs head = kit::post_request;
  head.emplace_back("content-length", "5");
  ASSERT_TRUE(request(1, head, false));
  Seen seen;
  server_.read(server_.requests[0], seen);
  ASSERT_TRUE(feed(kit::frame(kit::data, kit::end_stream, 1, "four")));
  EXPECT_EQ(reset_of(1), code(ErrorCode::protocol_error));
  server_.session.wake();
  EXPECT_FALSE(seen.complete);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::malformed_request);
}

// RFC 9113 §6.9.1
TEST_F(RawServer, WhatExceedsTheWindowEndsItsStreamAlone) {
  ASSERT_TRUE(request(1, kit::post_request, false));
  ASSERT_TRUE(request(3, kit::post_request, false));
  const std::string whole = kit::frame(kit::data, 0, 1, std::string(16'000, 'x'));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(feed(whole));
  ASSERT_TRUE(feed(kit::frame(kit::data, 0, 1, std::string(1535, 'x'))));
  EXPECT_FALSE(reset_of(1)) << "to the last byte it is allowed";
  ASSERT_TRUE(feed(kit::frame(kit::data, 0, 1, "x")));
  EXPECT_EQ(reset_of(1), flow_control_error);
  EXPECT_TRUE(server_.requests[0]->closed());
  Seen seen;
  server_.read(server_.requests[0], seen);
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(feed(whole)) << "what follows is nobody's";
    take();
  }
  EXPECT_LE(seen.body.size(), limits::window_bytes + 1u);
  ASSERT_TRUE(seen.error);
  EXPECT_EQ(seen.error->reason, Reason::malformed_request);
  EXPECT_EQ(seen.error->side, Side::sandbox);

  Seen other;
  server_.read(server_.requests[1], other);
  ASSERT_TRUE(feed(kit::frame(kit::data, kit::end_stream, 3, "fine")));
  EXPECT_TRUE(other.complete);
}

TEST_F(RawServer, NonsenseEndsTheConnection) {
  (void)feed(kit::frame(kit::data, 0, 0, "x"));
  EXPECT_EQ(goaway(), code(ErrorCode::protocol_error));
  const auto verdict = server_.session.verdict();
  ASSERT_FALSE(verdict);
  EXPECT_EQ(verdict.error().reason, Reason::malformed_request);
  EXPECT_EQ(verdict.error().side, Side::sandbox);
  EXPECT_FALSE(feed(kit::frame(kit::settings, 0, 0, {})));
  EXPECT_TRUE(server_.session.over());
}

TEST_F(SessionTest, SomethingElseThanAPrefaceEndsTheConnection) {
  End server(loop_, Role::server);
  EXPECT_FALSE(server.feed("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
}

TEST_F(RawServer, MoreStreamsThanAllowedEndTheConnection) {
  std::uint32_t id = 1;
  for (std::size_t i = 0; i < limits::streams_max; ++i, id += 2) ASSERT_TRUE(request(id, kit::get_request));
  EXPECT_EQ(server_.session.open_streams(), limits::streams_max);
  (void)request(id, kit::get_request);
  EXPECT_EQ(goaway(), code(ErrorCode::protocol_error));
  EXPECT_FALSE(server_.session.verdict());
  EXPECT_EQ(server_.requests.size(), limits::streams_max);
}

// ---- what floods cost

TEST_F(RawServer, FloodsOfEveryKindAreEnded) {
  const auto tokens = static_cast<int>(limits::tokens_max);
  const struct {
    const char* name;
    std::string setup;
    std::function<std::string(int)> make;
    int most;
  } kinds[] = {
      {"PING", "", [](int) { return kit::frame(kit::ping, 0, 0, "12345678"); }, tokens + 1},
      {"SETTINGS", "", [](int) { return kit::frame(kit::settings, 0, 0, {}); }, tokens + 1},
      {"PRIORITY", "", [](int) { return kit::frame(kit::priority, 0, 1, {"\0\0\0\0\1", 5}); }, tokens + 1},
      {"WINDOW_UPDATE", "", [](int) { return kit::frame(kit::window_update, 0, 0, kit::number32(1)); },
       tokens + 1},
      {"unknown frames", "", [](int) { return kit::frame(0x77, 0, 0, "x"); }, tokens + 1},
      {"RST_STREAM of a closed stream",
       kit::frame(kit::headers, kit::end_headers, 1, kit::block(kit::post_request)) +
           kit::frame(kit::rst_stream, 0, 1, kit::number32(8)),
       [](int) { return kit::frame(kit::rst_stream, 0, 1, kit::number32(8)); }, tokens + 1},
      {"empty DATA", kit::frame(kit::headers, kit::end_headers, 1, kit::block(kit::post_request)),
       [](int) { return kit::frame(kit::data, 0, 1, {}); }, tokens + 1},
      {"DATA of padding", kit::frame(kit::headers, kit::end_headers, 1, kit::block(kit::post_request)),
       [](int) { return kit::frame(kit::data, kit::padded, 1, {"\0", 1}); }, tokens + 1},
      {"rapid reset", "",
       [](int i) {
         const auto id = static_cast<std::uint32_t>(2 * i + 1);
         return kit::frame(kit::headers, kit::end_headers | kit::end_stream, id,
                           kit::block(kit::get_request)) +
                kit::frame(kit::rst_stream, 0, id, kit::number32(8));
       },
       tokens / static_cast<int>(limits::reset_tokens) + 1},
      {"requests that make us reset", "",
       [](int i) {
         return kit::frame(kit::headers, kit::end_headers | kit::end_stream,
                           static_cast<std::uint32_t>(2 * i + 1), kit::literal(":method", "GET"));
       },
       tokens / static_cast<int>(limits::reset_tokens) + 20},
  };
  for (const auto& kind : kinds) {
    SCOPED_TRACE(kind.name);
    End server(loop_, Role::server);
    ASSERT_TRUE(server.feed(std::string(kit::preface) + kit::frame(kit::settings, 0, 0, {})));
    server.take();
    ASSERT_TRUE(server.feed(kit::frame(kit::settings, kit::ack, 0, {}) + kind.setup));
    int count = 0;
    Result<void> received;
    std::string said;
    for (; received && count < 2 * tokens; ++count) {
      received = server.feed(kind.make(count));
      said = server.take();
      if (received) received = server.session.verdict();
      server.requests.clear();
    }
    ASSERT_FALSE(received) << count;
    EXPECT_EQ(received.error().reason, Reason::overloaded) << received.error().detail;
    EXPECT_EQ(received.error().side, Side::sandbox);
    EXPECT_LE(count, kind.most);
    EXPECT_GT(count, kind.most / 2);
    const auto ends = kit::of_type(said, kit::goaway);
    ASSERT_FALSE(ends.empty());
    EXPECT_EQ(ends.back().code(), code(ErrorCode::enhance_your_calm));
  }
}

TEST_F(RawServer, FewOfWhatArrivedAreFourRequestsOrThirtyTwoFrames) {
  const auto head = [](std::uint32_t id) {
    return kit::frame(kit::headers, kit::end_headers | kit::end_stream, id, kit::block(kit::get_request));
  };
  const std::string ping = kit::frame(kit::ping, 0, 0, "12345678");
  std::string requests, pings;
  for (std::uint32_t id = 1; id <= 13; id += 2) requests += head(id);
  for (int i = 0; i < 50; ++i) pings += ping;
  const auto few = [this](std::string_view bytes) { return server_.session.length_of_few(bytes); };
  EXPECT_EQ(few(requests), 4 * head(1).size());
  EXPECT_EQ(few(pings), 32 * ping.size());
  EXPECT_EQ(few(ping + requests), ping.size() + 4 * head(1).size());
  EXPECT_EQ(few(head(1) + pings), head(1).size() + 31 * ping.size());
  const std::string body = kit::frame(kit::data, 0, 1, std::string(16 * KiB, 'x'));
  EXPECT_EQ(few(body), body.size());
  EXPECT_EQ(few({}), 0u);
  // In the middle of a frame, wherever.
  for (std::size_t cut = 1; cut < head(1).size(); ++cut) {
    End server(loop_, Role::server);
    ASSERT_TRUE(server.feed(std::string(kit::preface) + kit::frame(kit::settings, 0, 0, {}) + ping +
                            head(1).substr(0, cut)));
    EXPECT_EQ(server.session.length_of_few(head(1).substr(cut) + requests), 4 * head(1).size() - cut) << cut;
  }
}

TEST_F(RawServer, ManyContinuationsEndTheConnection) {
  ASSERT_TRUE(feed(kit::frame(kit::headers, 0, 1, kit::block(kit::get_request))));
  Result<void> received;
  int count = 0;
  for (; received && count < 1000; ++count)
    received = feed(kit::frame(kit::continuation, 0, 1, kit::literal("x", "1")));
  ASSERT_FALSE(received);
  EXPECT_LE(count, static_cast<int>(limits::continuations_max) + 2);
  EXPECT_TRUE(server_.requests.empty());
}

TEST_F(RawServer, TokensComeBackWithTime) {
  const int all = static_cast<int>(limits::tokens_max) - 10;
  const auto spend = [&] {
    for (int i = 0; i < all; ++i) {
      if (!feed(kit::frame(kit::ping, 0, 0, "12345678"))) return false;
      take();
    }
    return true;
  };
  for (int round = 0; round < 5; ++round) {
    EXPECT_TRUE(spend()) << round;
    pass(std::chrono::seconds(limits::tokens_max / limits::tokens_per_second + 1));
  }
  // They do not pile up.
  EXPECT_TRUE(spend());
  EXPECT_LE(flood([&](int) { return kit::frame(kit::ping, 0, 0, "12345678"); }), 20);
}

TEST_F(RawServer, APeerThatDoesNotReadItsAnswersIsLeft) {
  Result<void> received;
  int count = 0;
  for (; received && count < 5000; ++count) received = feed(kit::frame(kit::ping, 0, 0, "12345678"));
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().reason, Reason::overloaded);
  EXPECT_LE(count, static_cast<int>(limits::tokens_max) + 1);
  EXPECT_EQ(goaway(), code(ErrorCode::enhance_your_calm));
}

// A reader that asks for little at a time sends many WINDOW_UPDATEs: they are earned by what is sent to it.
TEST_F(RawServer, WindowUpdatesThatAnswerDataAreNoFlood) {
  ASSERT_TRUE(request(1, kit::get_request));
  ASSERT_TRUE(kit::send_head(*server_.requests[0], {{":status", "200"}}, false));
  const std::string piece(1000, 'x');
  const std::string more = kit::number32(1000);
  for (int i = 0; i < 10'000; ++i) {
    Sending sending;
    server_.send(server_.requests[0], piece, false, sending);
    take();
    ASSERT_TRUE(sending.done()) << i;
    ASSERT_TRUE(feed(kit::frame(kit::window_update, 0, 0, more) + kit::frame(kit::window_update, 0, 1, more)))
        << i;
  }
}

TEST_F(RawServer, ManyQuietRequestsAreNoFlood) {
  for (std::uint32_t i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(request(2 * i + 1, kit::get_request)) << i;
    ASSERT_TRUE(kit::send_head(*server_.requests.back(), {{":status", "200"}}, true));
    take();
    server_.requests.clear();
  }
}

// ---- an origin by hand

class RawClient : public SessionTest {
 protected:
  RawClient() {
    take();
    EXPECT_TRUE(feed(kit::frame(kit::settings, 0, 0, {}) + kit::frame(kit::settings, kit::ack, 0, {})));
    take();
  }
  Result<void> feed(std::string_view bytes) { return client_.feed(bytes); }
  std::string take() { return client_.take(); }
  Result<void> answer(std::uint32_t id, const Pairs& head, bool ends = true) {
    return feed(
        kit::frame(kit::headers, kit::end_headers | (ends ? kit::end_stream : 0), id, kit::block(head)));
  }

  End client_{loop_, Role::client};
  Seen seen_;
};

TEST_F(RawClient, ItSaysWhatItDoesNotTake) {
  End fresh(loop_, Role::client);
  const std::string hello = fresh.take();
  EXPECT_TRUE(hello.starts_with(kit::preface));
  const auto settings = kit::of_type(hello, kit::settings);
  ASSERT_FALSE(settings.empty());
  EXPECT_NE(settings[0].payload.find(std::string("\0\2\0\0\0\0", 6)), std::string::npos)
      << "ENABLE_PUSH is 0";
}

TEST_F(RawClient, APushEndsTheConnection) {
  ASSERT_TRUE(client_.ask(kit::get_request, seen_));
  take();
  (void)feed(
      kit::frame(kit::push_promise, kit::end_headers, 1, kit::number32(2) + kit::block(kit::get_request)));
  take();
  const auto received = client_.session.verdict();
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().reason, Reason::origin_malformed_response);
  EXPECT_EQ(received.error().side, Side::origin);
}

// RFC 9113 §6.9.1
TEST_F(RawClient, WhatAnOriginSendsBeyondTheWindowEndsItsStreamAlone) {
  const auto stream = client_.session.open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  Seen other;
  ASSERT_TRUE(client_.ask(kit::get_request, other));
  take();
  ASSERT_TRUE(answer(1, {{":status", "200"}}, false));
  const std::string whole = kit::frame(kit::data, 0, 1, std::string(16'000, 'x'));
  std::string out;
  for (int i = 0; i < 400; ++i) {
    ASSERT_TRUE(feed(whole));
    out += take();
  }
  const auto resets = kit::of_type(out, kit::rst_stream);
  ASSERT_EQ(resets.size(), 1u);
  EXPECT_EQ(resets[0].code(), flow_control_error);

  loop_.spawn(kit::read_answer(stream, seen_, loop_.now() + 5s));
  EXPECT_EQ(seen_.status(), 200);
  EXPECT_LE(seen_.body.size(), limits::window_bytes + whole.size());
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::origin_malformed_response);
  EXPECT_EQ(seen_.error->side, Side::origin);
  ASSERT_TRUE(answer(3, {{":status", "204"}}));
  EXPECT_TRUE(other.complete);
}

// The window of the connection is given back at the end of a turn: who sends more than it within one did not
// wait for that.
TEST_F(RawClient, WhatAnOriginSendsBeyondTheConnectionsWindowEndsTheConnection) {
  ASSERT_TRUE(client_.ask(kit::get_request, seen_));
  take();
  ASSERT_TRUE(answer(1, {{":status", "200"}}, false));
  const std::string whole = kit::frame(kit::data, 0, 1, std::string(16'000, 'x'));
  for (int i = 0; i < limits::connection_window_bytes / 16'000; ++i) ASSERT_TRUE(feed(whole));
  EXPECT_TRUE(kit::of_type(take(), kit::goaway).empty());
  ASSERT_TRUE(client_.session.verdict());
  for (int i = 0; i < 2 * limits::connection_window_bytes / 16'000; ++i) (void)feed(whole);
  const auto ends = kit::of_type(take(), kit::goaway);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_EQ(ends[0].code(), flow_control_error);
  const auto verdict = client_.session.verdict();
  ASSERT_FALSE(verdict);
  EXPECT_EQ(verdict.error().reason, Reason::origin_malformed_response);
  EXPECT_EQ(verdict.error().side, Side::origin);
}

// The answer to a request that was cancelled crosses the reset: it is no head that is "under way", or a
// connection with patient streams would be ended at the head's deadline.
TEST_F(RawClient, AnAnswerThatCrossesAResetIsPassedOver) {
  const auto stream = client_.ask(kit::get_request, seen_);
  take();
  stream->reset(ErrorCode::cancel);
  take();
  ASSERT_TRUE(stream->closed());
  ASSERT_TRUE(answer(1, {{":status", "200"}}, false));
  EXPECT_FALSE(client_.session.within_head());
  ASSERT_TRUE(feed(kit::frame(kit::data, kit::end_stream, 1, "late")));
  EXPECT_FALSE(client_.session.within_head());
}

TEST_F(RawClient, AnAnswerWithoutEndIsUnderWay) {
  ASSERT_TRUE(client_.ask(kit::get_request, seen_));
  take();
  const auto head = kit::frame(kit::headers, kit::end_headers, 1, kit::literal(":status", "200"));
  ASSERT_TRUE(feed(head.substr(0, head.size() - 1)));
  EXPECT_TRUE(client_.session.within_head());
  ASSERT_TRUE(feed(head.substr(head.size() - 1)));
  EXPECT_FALSE(client_.session.within_head());
  EXPECT_EQ(seen_.status(), 200);
}

TEST_F(RawClient, AStatusThatIsNoneIsRefused) {
  for (const char* status : {"20", "2000", "2x0", "", "101", "-20"}) {
    seen_ = {};
    const auto stream = client_.ask(kit::get_request, seen_);
    const auto asked = kit::of_type(take(), kit::headers);
    ASSERT_EQ(asked.size(), 1u);
    ASSERT_TRUE(answer(asked[0].id, {{":status", status}}));
    take();
    client_.session.wake();
    ASSERT_TRUE(seen_.error) << status;
    EXPECT_EQ(seen_.error->reason, Reason::origin_malformed_response) << status;
  }
}

TEST_F(RawClient, InformationalHeadsThatNobodyReadsAreLimited) {
  const auto stream = client_.session.open();
  ASSERT_TRUE(kit::send_head(*stream, kit::get_request, true));
  take();
  for (std::size_t i = 0; i <= limits::informational_max; ++i)
    ASSERT_TRUE(answer(1, {{":status", "103"}}, false));
  const auto resets = kit::of_type(take(), kit::rst_stream);
  ASSERT_EQ(resets.size(), 1u);
  EXPECT_EQ(resets[0].code(), code(ErrorCode::protocol_error));
}

TEST_F(RawClient, AnOriginThatFloodsIsLeft) {
  ASSERT_TRUE(client_.ask(kit::get_request, seen_));
  Result<void> received;
  int count = 0;
  for (; received && count < 10'000; ++count) {
    received = feed(kit::frame(kit::ping, 0, 0, "12345678"));
    if (received) take();
  }
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().reason, Reason::origin_malformed_response);
  EXPECT_EQ(received.error().side, Side::origin);
  EXPECT_EQ(client_.session.open(), nullptr);
}

TEST_F(RawClient, ABombFromAnOriginEndsItsStream) {
  ASSERT_TRUE(client_.ask(kit::get_request, seen_));
  take();
  std::string bomb =
      kit::literal(":status", "200") + kit::literal("x", std::string(3000, 'b'), kit::Indexing::incremental);
  bomb += std::string(10'000, static_cast<char>(0x80 | 62));
  ASSERT_TRUE(feed(kit::frame(kit::headers, kit::end_headers, 1, bomb)));
  take();
  client_.session.wake();
  ASSERT_TRUE(seen_.error);
  EXPECT_EQ(seen_.error->reason, Reason::origin_malformed_response);
}

TEST_F(RawClient, AMaximumThatTheOriginLowersIsKept) {
  ASSERT_TRUE(feed(kit::frame(kit::settings, 0, 0, std::string("\0\3\0\0\0\2", 6))));
  EXPECT_EQ(client_.session.capacity(), 2u);
  Seen seen[2];
  ASSERT_TRUE(client_.ask(kit::get_request, seen[0]));
  // What is opened counts before it is sent.
  const auto second = client_.session.open();
  ASSERT_TRUE(second);
  EXPECT_EQ(client_.session.open(), nullptr);
}

// ---- credentials

/// How often a text stands in this process's writable memory. Read through the kernel: freed memory may not
/// be looked at otherwise. The text is masked outside of the search's own memory.
std::size_t copies_in_memory(std::string_view masked, unsigned char mask) {
  const Fd memory(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  std::ifstream maps("/proc/self/maps");
  constexpr std::size_t step = 1 << 20;
  const std::size_t all = step + 2 * masked.size();
  const std::unique_ptr<char[]> own(new char[all]);
  char* const text = own.get() + step + masked.size();
  for (std::size_t i = 0; i < masked.size(); ++i)
    text[i] = static_cast<char>(static_cast<unsigned char>(masked[i]) ^ mask);
  const auto own_begin = reinterpret_cast<std::uintptr_t>(own.get());
  std::size_t found = 0;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0, to = 0;
    char mode[5]{};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, mode) != 3) continue;
    if (std::string_view(mode) != "rw-p" || to - from > (std::uintptr_t{1} << 30)) continue;
    for (std::uintptr_t at = from; at < to; at += step) {
      // A little more than a step, lest a border hide a copy.
      const std::size_t most = std::min(step + masked.size() - 1, to - at);
      const ssize_t got = ::pread(memory.get(), own.get(), most, static_cast<off_t>(at));
      const char* place = own.get();
      const char* const end = own.get() + std::max<ssize_t>(got, 0);
      while (const void* hit = ::memmem(place, static_cast<std::size_t>(end - place), text, masked.size())) {
        place = static_cast<const char*>(hit) + 1;
        const std::uintptr_t address = at + static_cast<std::uintptr_t>(place - 1 - own.get());
        if (address + masked.size() <= own_begin || address >= own_begin + all) ++found;
      }
    }
  }
  explicit_bzero(own.get(), all);
  return found;
}

TEST_F(SessionTest, NoCopyOfACredentialIsLeftInMemory) {
  constexpr unsigned char mask = 0xff;
  // Characters that Huffman's code makes longer stand as they are in the frame too.
  std::string masked;
  for (int i = 0; i < 12; ++i) masked += i % 2 ? "{~}^<" : "`{}|\\";
  for (char& c : masked) c = static_cast<char>(static_cast<unsigned char>(c) ^ mask);
  const auto unmask = [&](std::string& into) {
    for (std::size_t i = 0; i < masked.size(); ++i)
      into[i] = static_cast<char>(static_cast<unsigned char>(masked[i]) ^ mask);
  };
  ASSERT_EQ(copies_in_memory(masked, mask), 0u);
  {
    std::string secret(masked.size(), '\0');
    unmask(secret);
    EXPECT_EQ(copies_in_memory(masked, mask), 1u) << "the search finds what is there";
    {
      io::BufferPool buffers;
      io::Buffer out(buffers);
      struct Owner final : Session::Owner {
        void on_request(std::shared_ptr<Stream>) override {}
        void on_refused_request(Error) override {}
        void wants_write() override {}
      } owner;
      Session client(loop_, Role::client, owner);
      for (int round = 0; round < 3; ++round) {
        const auto stream = client.open();
        const Field head[] = {{":method", "GET"},
                              {":scheme", "https"},
                              {":authority", "api.example.com"},
                              {":path", "/"},
                              {"x-api-key", secret, true}};
        ASSERT_TRUE(stream->send_head(head, true));
        client.produce(out);
        const std::string_view sent = out.bytes();
        EXPECT_NE(sent.find(secret), std::string::npos);
        explicit_bzero(const_cast<char*>(sent.data()), sent.size());
        out.consume(out.size());
      }
    }
    explicit_bzero(secret.data(), secret.size());
  }
  EXPECT_EQ(copies_in_memory(masked, mask), 0u);
}

TEST_F(SessionTest, ACredentialIsNeverIndexed) {
  for (const bool sensitive : {false, true}) {
    End client(loop_, Role::client);
    client.take();
    std::string sent[2];
    for (auto& one : sent) {
      const auto stream = client.session.open();
      const Field head[] = {{":method", "GET"},
                            {":scheme", "https"},
                            {":authority", "api.example.com"},
                            {":path", "/"},
                            {"x-api-key", "0123456789", sensitive}};
      ASSERT_TRUE(stream->send_head(head, true));
      one = kit::of_type(client.take(), kit::headers).at(0).payload;
    }
    // A new name that is never indexed: 0001 0000 (RFC 7541 §6.2.3). Its length and text, Huffman coded,
    // follow.
    const std::string never_indexed("\x10\x87", 2);
    for (const auto& one : sent) EXPECT_EQ(one.find(never_indexed) != std::string::npos, sensitive);
    // What is indexed is one byte the second time.
    EXPECT_EQ(sent[1].size() > 10, sensitive);
  }
}

}  // namespace
}  // namespace postern::http2
