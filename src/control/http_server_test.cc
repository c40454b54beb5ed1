#include "control/http_server.h"

#include <array>
#include <chrono>
#include <fstream>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "base/fd.h"
#include "control/server_test_kit.h"

namespace postern::control {
namespace {

using test::App;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

struct Answer {
  int status = 0;  ///< 0: the connection ended instead.
  std::string head;
  std::string body;
};

/// A client that says byte by byte what it is told to. Nothing waits for more than 20 s.
class Peer {
 public:
  explicit Peer(const Endpoint& to, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience{20, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (receive_buffer > 0)
      ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_storage address{};
    const socklen_t size = to.to_sockaddr(address);
    connected_ = ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), size) == 0;
  }

  bool connected() const { return connected_; }
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(count));
    }
    return true;
  }
  void get(std::string_view target, std::string_view fields = "") {
    send(fmt::format("GET {} HTTP/1.1\r\nHost: a\r\n{}\r\n", target, fields));
  }
  void post(std::string_view target, std::string_view body) {
    send(fmt::format("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", target, body.size(),
                     body));
  }
  void half_close() { ::shutdown(fd_.get(), SHUT_WR); }
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_.reset();
  }

  /// False: the end, or an error.
  bool fill() {
    std::array<char, 65536> piece;
    const ssize_t count = ::recv(fd_.get(), piece.data(), piece.size(), 0);
    if (count <= 0) return false;
    in_.append(piece.data(), static_cast<std::size_t>(count));
    return true;
  }
  /// What comes within `time`; false when nothing does, or the end.
  bool fill_within(std::chrono::milliseconds time) {
    pollfd waiting{fd_.get(), POLLIN, 0};
    return ::poll(&waiting, 1, static_cast<int>(time.count())) == 1 && fill();
  }
  bool ended_within(std::chrono::milliseconds time) {
    pollfd waiting{fd_.get(), POLLIN, 0};
    return ::poll(&waiting, 1, static_cast<int>(time.count())) == 1 && !fill();
  }
  std::string read_exactly(std::size_t size) {
    while (in_.size() < size)
      if (!fill()) return {};
    std::string taken = in_.substr(0, size);
    in_.erase(0, size);
    return taken;
  }
  std::string read_until(std::string_view end) {
    std::size_t at = 0;
    while ((at = in_.find(end)) == std::string::npos)
      if (!fill()) return {};
    return read_exactly(at + end.size());
  }
  std::string read_all() {
    while (fill()) {
    }
    return std::exchange(in_, {});
  }
  /// `to_head`: no body follows.
  Answer answer(bool to_head = false) {
    Answer read;
    read.head = read_until("\r\n\r\n");
    if (read.head.empty()) return {};
    read.status = std::stoi(read.head.substr(9, 3));
    if (to_head || read.status == 204 || read.status == 304 || read.status < 200) return read;
    if (read.head.find("Transfer-Encoding: chunked") != std::string::npos) {
      for (;;) {
        const std::string line = read_until("\r\n");
        const std::size_t size = line.empty() ? 0 : std::stoul(line, nullptr, 16);
        const std::string data = read_exactly(size + 2);
        if (size == 0 || data.empty()) return read;
        read.body += data.substr(0, size);
      }
    }
    const std::size_t length = read.head.find("Content-Length: ");
    if (length == std::string::npos) {
      read.body = read_all();
    } else {
      read.body = read_exactly(std::stoul(read.head.substr(length + 16)));
    }
    return read;
  }

 private:
  Fd fd_;
  bool connected_ = false;
  std::string in_;
};

struct Running {
  SystemClock clock;
  App app;
  std::unique_ptr<HttpServer> server;

  explicit Running(const ServerLimits& limits = {}, unsigned workers = 4) {
    ServerOptions options;
    options.listen = {IpAddress::v4(0x7F000001), 0};
    options.limits = limits;
    options.workers = workers;
    auto listening = HttpServer::listen(options, clock);
    if (!listening) std::abort();
    server = std::move(*listening);
    server->start(app.handler(), app.log());
  }
  ~Running() { server.reset(); }
  Endpoint at() const { return server->local(); }
};

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0;
  std::size_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;  // They keep what was freed, and shadow what is not.
#else
constexpr bool sanitized = false;
#endif

TEST(HttpServer, OneConnectionServesOneRequestAfterTheOther) {
  Running running;
  Peer peer(running.at());
  for (int i = 0; i < 3; ++i) {
    peer.get("/hello");
    const Answer answer = peer.answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, "hello\n");
    EXPECT_THAT(answer.head, HasSubstr("Content-Type: text/plain\r\n"));
    EXPECT_THAT(answer.head, HasSubstr("Date: "));
    EXPECT_THAT(answer.head, Not(HasSubstr("Connection:")));
  }
  peer.get("/hello/a%2Fb");
  EXPECT_EQ(peer.answer().body, "hello a/b\n");
  peer.send("DELETE /hello HTTP/1.1\r\nHost: a\r\n\r\n");
  const Answer gone = peer.answer();
  EXPECT_EQ(gone.status, 204);
  EXPECT_THAT(gone.head, Not(HasSubstr("Content-Length")));
  peer.get("/nothing");
  EXPECT_EQ(peer.answer().body, R"({"detail":{"error":"NotFound","message":"There is nothing here."}})");
  peer.get("/hello?a=%zz");
  EXPECT_EQ(peer.answer().status, 400);
  EXPECT_EQ(running.server->connections(), 1U);
}

TEST(HttpServer, TheAnswerToAHeadHasItsLengthAndNoBody) {
  Running running;
  Peer peer(running.at());
  for (const char* target : {"/hello", "/letters?count=1000000", "/letters?count=5&chunked"}) {
    peer.send(fmt::format("HEAD {} HTTP/1.1\r\nHost: a\r\n\r\n", target));
    EXPECT_EQ(peer.answer(true).status, 200) << target;
  }
  peer.send("HEAD /letters?count=1000000 HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(peer.answer(true).head, HasSubstr("Content-Length: 1000000\r\n"));
  peer.get("/hello");  // Nothing was left over.
  EXPECT_EQ(peer.answer().body, "hello\n");
}

TEST(HttpServer, ClosesWhenItIsAskedTo) {
  Running running;
  Peer peer(running.at());
  peer.get("/hello", "Connection: close\r\n");
  EXPECT_THAT(peer.answer().head, HasSubstr("Connection: close\r\n"));
  EXPECT_EQ(peer.read_all(), "");
  Peer old(running.at());
  old.send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old.read_all(), EndsWith("\r\n\r\nhello\n"));
  Peer old_and_long(running.at());
  old_and_long.send("GET /letters?count=5&chunked HTTP/1.0\r\n\r\n");
  const std::string all = old_and_long.read_all();
  EXPECT_THAT(all, EndsWith("\r\n\r\nxxxxx"));
  EXPECT_THAT(all, Not(HasSubstr("Transfer-Encoding")));
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  Running running;
  Peer peer(running.at());
  std::string all;
  for (int i = 0; i < 200; ++i) {
    const std::string body(static_cast<std::size_t>(i), 'b');
    all += fmt::format("GET /hello/{} HTTP/1.1\r\nHost: a\r\n\r\n", i);
    all += fmt::format("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}", i, body);
    all += "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET";
    all += "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
  }
  std::jthread sender([&] { peer.send(all); });
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(peer.answer().body, fmt::format("hello {}\n", i));
    ASSERT_EQ(peer.answer().body, std::string(static_cast<std::size_t>(i), 'b'));
    ASSERT_EQ(peer.answer().body, "ignored");
    ASSERT_EQ(peer.answer().body, "3");
  }
}

TEST(HttpServer, ARequestThatArrivesByteByByteIsOne) {
  Running running;
  Peer peer(running.at());
  for (const char byte : std::string("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                                     "2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n"))
    peer.send({&byte, 1});
  EXPECT_EQ(peer.answer().body, "abc");
}

TEST(HttpServer, WhatTwoReadersCouldReadDifferentlyIsRefused) {
  Running running;
  for (const char* fields : {
           "Content-Length: 5\r\nContent-Length: 5\r\n",
           "Content-Length: 5\r\nContent-Length: 6\r\n",
           "Content-Length: 5, 5\r\n",
           "Content-Length: +5\r\n",
           "Content-Length: 0x5\r\n",
           "Content-Length: \r\n",
           "Content-Length: 99999999999999999999\r\n",
           "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
           "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
           "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
           "Transfer-Encoding: gzip, chunked\r\n",
           "Transfer-Encoding: xchunked\r\n",
           "Transfer-Encoding : chunked\r\n",
           "Host: b\r\n",
           " folded: x\r\n",
           "Name: a\rb\r\n",
           "Name: a\nOther: b\r\n",
       }) {
    Peer peer(running.at());
    peer.send(fmt::format("POST /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", fields));
    peer.send("0\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    const std::string all = peer.read_all();
    EXPECT_THAT(all, StartsWith("HTTP/1.1 400 ")) << fields;
    EXPECT_THAT(all, HasSubstr(R"({"detail":{"error":"BadRequest")")) << fields;
    EXPECT_THAT(all, HasSubstr("Connection: close\r\n")) << fields;
    EXPECT_THAT(all, Not(HasSubstr("hello"))) << fields;
  }
  for (const char* line : {"GET  /hello HTTP/1.1", "GET /hello", "GET /hello HTTP/2.0", "PRI * HTTP/2.0"}) {
    Peer peer(running.at());
    peer.send(fmt::format("{}\r\nHost: a\r\n\r\n", line));
    EXPECT_THAT(peer.read_all(), StartsWith("HTTP/1.1 400 ")) << line;
  }
  Peer missing(running.at());
  missing.send("GET /hello HTTP/1.1\r\n\r\n");
  EXPECT_THAT(missing.read_all(), StartsWith("HTTP/1.1 400 "));
  for (const char* method : {"TRACE", "CONNECT"}) {
    Peer peer(running.at());
    peer.send(fmt::format("{} /hello HTTP/1.1\r\nHost: a\r\n\r\n", method));
    EXPECT_THAT(peer.read_all(), testing::AnyOf(StartsWith("HTTP/1.1 405 "), StartsWith("HTTP/1.1 400 ")));
  }
}

TEST(HttpServer, ABrokenChunkEndsTheConnection) {
  Running running;
  for (const char* body : {"zz\r\n", "3\r\nabcd\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "3\nabc"}) {
    Peer peer(running.at());
    peer.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    peer.send(body);
    EXPECT_THAT(peer.read_all(), StartsWith("HTTP/1.1 400 ")) << body;
  }
}

TEST(HttpServer, AHeadThatIsTooLargeIsRefused) {
  Running running;
  Peer peer(running.at());
  peer.send("GET /hello HTTP/1.1\r\nHost: a\r\nX: " + std::string(70'000, 'x'));
  EXPECT_THAT(peer.read_all(), StartsWith("HTTP/1.1 431 "));
}

TEST(HttpServer, ASlowHeadIsGivenUpHoweverItTrickles) {
  ServerLimits limits;
  limits.head_time = 300ms;
  Running running(limits);
  Peer peer(running.at());
  peer.send("GET /hello HTTP/1.1\r\nHost: a\r\n");
  const auto begun = std::chrono::steady_clock::now();
  while (!peer.fill_within(10ms) && std::chrono::steady_clock::now() - begun < 15s) peer.send("X: y\r\n");
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 10s);
  EXPECT_THAT(peer.read_all(), StartsWith("HTTP/1.1 408 "));
}

TEST(HttpServer, WhoSaysNothingIsLeftWithoutAWord) {
  ServerLimits limits;
  limits.head_time = 100ms;
  limits.idle_time = 100ms;
  Running running(limits);
  Peer silent(running.at());
  EXPECT_EQ(silent.read_all(), "");
  Peer served(running.at());
  served.get("/hello");
  EXPECT_EQ(served.answer().status, 200);
  EXPECT_EQ(served.read_all(), "");
}

TEST(HttpServer, ASlowBodyIsGivenUp) {
  ServerLimits limits;
  limits.body_time = 200ms;
  limits.body_pause = 200ms;
  Running running(limits);
  for (const char* target : {"/echo", "/count"}) {
    Peer peer(running.at());
    peer.send(fmt::format("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", target));
    EXPECT_THAT(peer.read_all(), StartsWith("HTTP/1.1 408 ")) << target;
  }
  EXPECT_TRUE(running.app.events.wait_for("broke off"));
}

TEST(HttpServer, ABodyThatIsTooLargeIsRefused) {
  Running running;
  Peer announced(running.at());
  announced.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n");
  EXPECT_THAT(announced.read_all(), StartsWith("HTTP/1.1 413 "));
  Peer just(running.at());
  just.post("/echo", std::string(1048576, 'x'));
  EXPECT_EQ(just.answer().body.size(), 1048576U);

  Peer surprising(running.at());
  surprising.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::jthread sender([&] {
    const std::string chunk = "10000\r\n" + std::string(65536, 'x') + "\r\n";
    for (int i = 0; i < 17 && surprising.send(chunk); ++i) {
    }
  });
  EXPECT_EQ(surprising.answer().status, 413);
}

TEST(HttpServer, AnUnwantedBodyIsSkippedOrEndsTheConnection) {
  Running running;
  Peer peer(running.at());
  peer.post("/ignore", std::string(60'000, 'x'));
  EXPECT_EQ(peer.answer().body, "ignored");
  peer.get("/hello");
  EXPECT_EQ(peer.answer().body, "hello\n");

  Peer large(running.at());
  std::jthread sender([&] { large.post("/ignore", std::string(900'000, 'x')); });
  const Answer answer = large.answer();
  EXPECT_EQ(answer.body, "ignored");
  EXPECT_THAT(answer.head, HasSubstr("Connection: close\r\n"));
}

TEST(HttpServer, ABodyIsAskedForWhenSomebodyWantsIt) {
  Running running;
  const char* const fields = "Content-Length: 3\r\nExpect: 100-continue\r\n";
  Peer peer(running.at());
  peer.send(fmt::format("POST /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", fields));
  EXPECT_EQ(peer.answer().status, 100);
  peer.send("abc");
  EXPECT_EQ(peer.answer().body, "abc");
  // Whether the body comes now cannot be told.
  peer.send(fmt::format("POST /ignore HTTP/1.1\r\nHost: a\r\n{}\r\n", fields));
  EXPECT_THAT(peer.answer().head, HasSubstr("Connection: close\r\n"));
  EXPECT_EQ(peer.read_all(), "");
}

TEST(HttpServer, WhoClosesHalfOfTheConnectionStillGetsTheAnswer) {
  Running running;
  Peer peer(running.at());
  peer.get("/wait");
  peer.half_close();
  ASSERT_TRUE(running.app.events.wait_for("waiting"));
  for (const auto& call : running.app.take_kept()) call->answer(App::text("late"));
  EXPECT_THAT(peer.read_all(), EndsWith("late"));

  Peer uploading(running.at());
  uploading.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  uploading.half_close();
  EXPECT_THAT(uploading.read_all(), StartsWith("HTTP/1.1 400 "));
  Peer heading(running.at());
  heading.send("GET /hel");
  heading.half_close();
  EXPECT_THAT(heading.read_all(), StartsWith("HTTP/1.1 400 "));
}

TEST(HttpServer, ManyWaitWithoutAThreadEach) {
  Running running({}, 2);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 100; ++i) {
    peers.push_back(std::make_unique<Peer>(running.at()));
    peers.back()->get("/wait");
  }
  ASSERT_TRUE(running.app.events.wait_for("waiting", 100));
  Peer other(running.at());
  other.get("/hello");
  EXPECT_EQ(other.answer().status, 200);
  for (const auto& call : running.app.take_kept()) call->answer(App::text("now"));
  for (const auto& peer : peers) ASSERT_EQ(peer->answer().body, "now");
}

TEST(HttpServer, ACallerThatIsGoneIsNoticed) {
  Running running;
  Peer waiting(running.at());
  waiting.get("/wait");
  ASSERT_TRUE(running.app.events.wait_for("waiting"));
  waiting.reset();
  EXPECT_TRUE(running.app.events.wait_for("gone"));
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().end, AccessRecord::End::broken);
  EXPECT_EQ(running.app.last_record().status, 0);
  const auto kept = running.app.take_kept();
  kept[0]->answer(App::text("nobody hears that"));
  kept[0]->on_gone([&] { running.app.events.add("gone late"); });
  EXPECT_TRUE(running.app.events.wait_for("gone late"));
}

TEST(HttpServer, TooManyRequestsAreTurnedAwayAndMayComeAgain) {
  ServerLimits limits;
  limits.requests_max = 2;
  Running running(limits);
  Peer one(running.at());
  Peer two(running.at());
  Peer three(running.at());
  one.get("/wait");
  two.get("/wait");
  ASSERT_TRUE(running.app.events.wait_for("waiting", 2));
  three.get("/hello");
  const Answer refused = three.answer();
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.head, HasSubstr("Retry-After: 1\r\n"));
  for (const auto& call : running.app.take_kept()) call->answer(App::text("now"));
  EXPECT_EQ(one.answer().status, 200);
  EXPECT_EQ(two.answer().status, 200);
  three.get("/hello");
  EXPECT_EQ(three.answer().status, 200);
}

TEST(HttpServer, TooManyConnectionsAreClosed) {
  ServerLimits limits;
  limits.connections_max = 2;
  Running running(limits);
  {
    Peer one(running.at());
    Peer two(running.at());
    one.get("/hello");
    two.get("/hello");
    EXPECT_EQ(one.answer().status, 200);
    EXPECT_EQ(two.answer().status, 200);
    Peer three(running.at());
    EXPECT_EQ(three.read_all(), "");
  }
  // As soon as the others have gone.
  for (int i = 0; i < 1000; ++i) {
    Peer next(running.at());
    next.get("/hello");
    if (next.answer().status == 200) return;
  }
  FAIL() << "nobody is let in any more";
}

TEST(HttpServer, AHandlerThatFailsOrForgetsIsAnInternalError) {
  Running running;
  Peer peer(running.at());
  for (const char* target : {"/throw", "/forget", "/split"}) {
    peer.get(target);
    const Answer answer = peer.answer();
    EXPECT_EQ(answer.status, 500) << target;
    EXPECT_THAT(answer.body, HasSubstr("error_id")) << target;
    EXPECT_THAT(answer.body + answer.head, Not(HasSubstr("canary")));
    EXPECT_THAT(answer.head, Not(HasSubstr("Set-Cookie")));
  }
  peer.post("/throw/body", "abc");
  EXPECT_EQ(peer.answer().status, 500);
  Peer sending(running.at());
  sending.post("/throw/sink", "abc");
  EXPECT_EQ(sending.answer().status, 500);
  Peer reading(running.at());
  reading.get("/throw/source");
  EXPECT_THAT(reading.read_all(), Not(HasSubstr("0\r\n\r\n")));
  peer.get("/twice");
  EXPECT_EQ(peer.answer().body, "first");
  peer.get("/hello");
  EXPECT_EQ(peer.answer().body, "hello\n");
}

TEST(HttpServer, AnAnswerThatCannotBeCompletedIsNotTakenForComplete) {
  Running running;
  Peer peer(running.at());
  peer.get("/short");
  const std::string all = peer.read_all();
  EXPECT_THAT(all, HasSubstr("Content-Length: 20\r\n"));
  EXPECT_THAT(all, Not(HasSubstr(std::string(20, 'x'))));
}

TEST(HttpServer, LongAnswersArriveWhole) {
  Running running;
  Peer peer(running.at());
  for (const char* target :
       {"/letters?count=3000000", "/letters?count=3000000&chunked", "/large?count=3000000"}) {
    peer.get(target);
    const Answer answer = peer.answer();
    EXPECT_EQ(answer.body.size(), 3'000'000U) << target;
    EXPECT_EQ(answer.body.find_first_not_of('x'), std::string::npos) << target;
  }
  peer.get("/letters?count=0");
  EXPECT_EQ(peer.answer().body, "");
  peer.get("/letters?count=0&chunked");
  EXPECT_EQ(peer.answer().body, "");
  peer.get("/hello");
  EXPECT_EQ(peer.answer().body, "hello\n");
}

TEST(HttpServer, ASourceThatWaitsIsWokenAndNothingIsLost) {
  Running running;
  Peer peer(running.at());
  peer.get("/feed");
  EXPECT_THAT(peer.read_until("\r\n\r\n"),
              HasSubstr("text/event-stream"));  // before there is anything to say
  ASSERT_TRUE(running.app.events.wait_for("feeding"));
  running.app.feed->say("one\n");
  EXPECT_EQ(peer.read_until("\r\none\n\r\n"), "4\r\none\n\r\n");
  std::string expected;
  std::jthread feeder([&] {
    for (int i = 0; i < 2000; ++i) running.app.feed->say(fmt::format("line {}\n", i));
    running.app.feed->end();
  });
  for (int i = 0; i < 2000; ++i) expected += fmt::format("line {}\n", i);
  std::string body;
  for (;;) {
    const std::string line = peer.read_until("\r\n");
    ASSERT_FALSE(line.empty());
    const std::size_t size = std::stoul(line, nullptr, 16);
    body += peer.read_exactly(size + 2).substr(0, size);
    if (size == 0) break;
  }
  EXPECT_EQ(body, expected);
}

TEST(HttpServer, WhoLeavesAFeedIsNoticed) {
  Running running;
  Peer peer(running.at());
  peer.get("/feed");
  ASSERT_TRUE(running.app.events.wait_for("feeding"));
  peer.read_until("\r\n\r\n");
  peer.reset();
  EXPECT_TRUE(running.app.events.wait_for("gone"));
}

TEST(HttpServer, SlowReadersHoldNeitherWorkersNorMemory) {
  Running running({}, 2);
  const std::size_t before = resident_bytes();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 20; ++i) {
    peers.push_back(std::make_unique<Peer>(running.at(), 4096));
    peers.back()->get("/letters?count=10000000000");
    EXPECT_FALSE(peers.back()->read_until("\r\n\r\n").empty());
  }
  Peer other(running.at());
  for (int i = 0; i < 50; ++i) {
    other.get("/hello");
    ASSERT_EQ(other.answer().status, 200);
  }
  if (!sanitized) {
    EXPECT_LT(resident_bytes(), before + 16 * MiB);
  }
}

TEST(HttpServer, AReaderThatTakesNothingIsGivenUp) {
  ServerLimits limits;
  limits.write_time = 200ms;
  Running running(limits);
  Peer peer(running.at(), 4096);
  peer.get("/letters?count=10000000000");
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().end, AccessRecord::End::broken);
  EXPECT_EQ(running.app.last_record().status, 200);
}

TEST(HttpServer, SlowSendersHoldNeitherWorkersNorMemory) {
  Running running({}, 2);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 20; ++i) {
    peers.push_back(std::make_unique<Peer>(running.at()));
    peers.back()->send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
  }
  ASSERT_TRUE(running.app.events.wait_for("counting", 20));
  Peer other(running.at());
  other.get("/hello");
  EXPECT_EQ(other.answer().status, 200);
  for (const auto& peer : peers) peer->send("cde");
  for (const auto& peer : peers) EXPECT_EQ(peer->answer().body, "5");
}

TEST(HttpServer, ALargeUploadStreamsThroughFlatMemory) {
  Running running;
  const std::size_t size = sanitized ? 16 * MiB : 256 * MiB;
  const std::size_t before = resident_bytes();
  Peer peer(running.at());
  std::jthread sender([&] {
    peer.send(fmt::format("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", size));
    const std::string piece(MiB, 'x');
    for (std::size_t sent = 0; sent < size; sent += MiB) peer.send(piece);
  });
  EXPECT_EQ(peer.answer().body, std::to_string(size));
  sender.join();
  if (!sanitized) {
    EXPECT_LT(resident_bytes(), before + 16 * MiB);
  }
  EXPECT_TRUE(running.app.events.wait_for("counted"));
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().bytes_in, size);
}

TEST(HttpServer, ACallerWhoClosesItsHalfHasGivenUpWhereTheHandlerSaysSo) {
  Running running;
  Peer waiting(running.at());
  waiting.get("/wait");
  ASSERT_TRUE(running.app.events.wait_for("waiting"));
  waiting.half_close();
  Peer giving_up(running.at());
  giving_up.get("/wait/for/all");
  ASSERT_TRUE(running.app.events.wait_for("waiting", 2));
  giving_up.half_close();
  ASSERT_TRUE(running.app.events.wait_for("gone"));
  EXPECT_EQ(giving_up.answer().status, 0);
  Peer at_once(running.at());
  at_once.get("/wait/for/all");
  at_once.half_close();
  ASSERT_TRUE(running.app.events.wait_for("gone", 2));
  running.app.take_kept().front()->answer(App::text("still here"));
  EXPECT_EQ(waiting.answer().body, "still here");
}

TEST(HttpServer, ASinkThatWaitsGetsNothingUntilItSaysSo) {
  Running running({}, 1);
  const std::size_t size = 8 * MiB;
  Peer peer(running.at());
  std::jthread sender([&] {
    peer.send(fmt::format("POST /hesitate HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", size));
    peer.send(std::string(size, 'x'));
  });
  ASSERT_TRUE(running.app.events.wait_for("piece"));
  Peer other(running.at());
  other.get("/hello");
  EXPECT_EQ(other.answer().status, 200) << "the only worker is free";
  EXPECT_EQ(running.app.events.count("piece"), 1);
  const auto call = running.app.take_kept().front();
  std::jthread waker([&] {
    for (int piece = 1;
         running.app.events.wait_for("piece", piece) && running.app.events.count("sink gone") == 0; ++piece)
      call->take_more();
  });
  EXPECT_EQ(peer.answer().body, std::to_string(size));
  running.app.events.wait_for("sink gone");
  running.app.events.add("piece");
  running.app.events.add("piece");
}

TEST(HttpServer, ASinkIsWokenWhileItTakes) {
  Running running;
  Peer peer(running.at());
  for (const std::size_t size : {3UL, 300'000UL}) {
    peer.post("/hurry", std::string(size, 'x'));
    EXPECT_EQ(peer.answer().body, std::to_string(size));
  }
  peer.get("/hello");
  EXPECT_EQ(peer.answer().body, "hello\n");
}

TEST(HttpServer, ACallIsAnsweredWhileItsSinkWaits) {
  Running running;
  Peer peer(running.at());
  peer.post("/hesitate", "abc");
  ASSERT_TRUE(running.app.events.wait_for("piece"));
  running.app.take_kept().front()->answer(App::text("enough"));
  EXPECT_EQ(peer.answer().body, "enough");
  ASSERT_TRUE(running.app.events.wait_for("sink gone"));
  peer.get("/hello");
  EXPECT_EQ(peer.answer().body, "hello\n") << "on the same connection";
  Peer going(running.at());
  going.post("/hesitate", "abc");
  ASSERT_TRUE(running.app.events.wait_for("piece", 2));
  running.app.take_kept().clear();
  going.reset();
}

TEST(HttpServer, ASinkWhoseBodyBreaksOffIsDestroyedWithoutItsEnd) {
  Running running;
  Peer peer(running.at());
  peer.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  ASSERT_TRUE(running.app.events.wait_for("counting"));
  peer.reset();
  EXPECT_TRUE(running.app.events.wait_for("broke off"));
  EXPECT_EQ(running.app.events.count("counted"), 0);
}

TEST(HttpServer, EveryRequestLeavesOneRecordWithoutItsQuery) {
  Running running;
  Peer peer(running.at());
  peer.get("/hello/you?token=canary", "X-Api-Key: canary\r\n");
  EXPECT_EQ(peer.answer().status, 200);
  ASSERT_TRUE(running.app.events.wait_for("record"));
  const AccessRecord record = running.app.last_record();
  EXPECT_EQ(record.method, "GET");
  EXPECT_EQ(record.path, "/hello/you");
  EXPECT_EQ(record.route, "/hello/{name}");
  EXPECT_EQ(record.workspace, "acme");
  EXPECT_EQ(record.key_id, "key-1");
  EXPECT_EQ(record.status, 200);
  EXPECT_EQ(record.bytes_out, 10U);
  EXPECT_EQ(record.end, AccessRecord::End::complete);
  EXPECT_EQ(record.peer.address.to_string(), "127.0.0.1");
  peer.post("/echo", "abc");
  EXPECT_EQ(peer.answer().status, 200);
  ASSERT_TRUE(running.app.events.wait_for("record", 2));
  EXPECT_EQ(running.app.last_record().bytes_in, 3U);
  Peer broken(running.at());
  broken.send("nonsense\r\n\r\n");
  broken.read_all();
  ASSERT_TRUE(running.app.events.wait_for("record", 3));
  EXPECT_EQ(running.app.last_record().status, 400);
}

TEST(HttpServer, StoppingFinishesWhatIsUnderWay) {
  Running running;
  Peer idle(running.at());
  idle.get("/hello");
  EXPECT_EQ(idle.answer().status, 200);
  Peer waiting(running.at());
  waiting.get("/wait");
  ASSERT_TRUE(running.app.events.wait_for("waiting"));
  std::jthread stopping([&] { running.server->stop(20s); });
  EXPECT_EQ(idle.read_all(), "");  // It stops.
  for (const auto& call : running.app.take_kept()) call->answer(App::text("late"));
  const Answer answer = waiting.answer();
  EXPECT_EQ(answer.body, "late");
  EXPECT_THAT(answer.head, HasSubstr("Connection: close\r\n"));
  EXPECT_EQ(waiting.read_all(), "");
  stopping.join();
  EXPECT_FALSE(Peer(running.at()).connected());
}

TEST(HttpServer, WhatIsNotFinishedInTimeIsCut) {
  Running running;
  Peer waiting(running.at());
  waiting.get("/wait");
  Peer feeding(running.at());
  feeding.get("/feed");
  ASSERT_TRUE(running.app.events.wait_for("waiting"));
  ASSERT_TRUE(running.app.events.wait_for("feeding"));
  running.server->stop(50ms);
  EXPECT_EQ(waiting.read_all(), "");
  EXPECT_EQ(running.app.events.count("gone"), 2);
  // Calls outlive the server, and do nothing any more.
  const auto kept = running.app.take_kept();
  kept[0]->answer(App::text("nobody hears that"));
  kept[0]->wake();
  running.server.reset();
  kept[1]->on_gone([] {});
  kept[1]->answer(App::text("nor that"));
}

TEST(HttpServer, AServerThatWasNeverStartedStops) {
  SystemClock clock;
  ServerOptions options;
  options.listen = {IpAddress::v4(0x7F000001), 0};
  auto server = HttpServer::listen(options, clock);
  ASSERT_TRUE(server);
  EXPECT_NE((*server)->local().port, 0);
  // The port is taken; and a certificate that is not there is said by name.
  options.listen = (*server)->local();
  const auto second = HttpServer::listen(options, clock);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().detail, HasSubstr(options.listen.to_string()));
  options.listen.port = 0;
  options.certificate_file = "/nowhere/certificate.pem";
  const auto third = HttpServer::listen(options, clock);
  ASSERT_FALSE(third);
  EXPECT_THAT(third.error().detail, HasSubstr("/nowhere/certificate.pem"));
}

// --- WebSocket -------------------------------------------------------------------------------------------

struct Frame {
  int first = -1;  ///< FIN and the opcode; -1: the connection ended.
  std::string data;
};

/// A WebSocket client that may do everything wrong.
class Socket {
 public:
  explicit Socket(const Endpoint& to, int receive_buffer = 0) : peer_(to, receive_buffer) {
    peer_.get("/ws",
              "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    head_ = peer_.read_until("\r\n\r\n");
  }
  const std::string& head() const { return head_; }
  Peer& peer() { return peer_; }

  /// RFC 6455 §5.2, with the mask 0 unless told otherwise.
  static std::string frame(int first, std::string_view data, bool masked = true) {
    std::string out(1, static_cast<char>(first));
    const int mask = masked ? 0x80 : 0;
    if (data.size() < 126) {
      out += static_cast<char>(mask | static_cast<int>(data.size()));
    } else if (data.size() < 65536) {
      out += static_cast<char>(mask | 126);
      out += static_cast<char>(data.size() >> 8);
      out += static_cast<char>(data.size() & 0xFF);
    } else {
      out += static_cast<char>(mask | 127);
      for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>((data.size() >> shift) & 0xFF);
    }
    if (masked) out += std::string(4, '\0');
    return out += data;
  }
  void send(int first, std::string_view data, bool masked = true) { peer_.send(frame(first, data, masked)); }
  void text(std::string_view data) { send(0x81, data); }

  Frame read() {
    const std::string head = peer_.read_exactly(2);
    if (head.empty()) return {};
    std::size_t size = static_cast<unsigned char>(head[1]);
    if (size >= 126) {
      const std::string longer = peer_.read_exactly(size == 126 ? 2 : 8);
      size = 0;
      for (const char byte : longer) size = size << 8 | static_cast<unsigned char>(byte);
    }
    return {static_cast<unsigned char>(head[0]), size == 0 ? std::string() : peer_.read_exactly(size)};
  }
  /// The close code; 0 when something else came.
  int read_close() {
    const Frame frame = read();
    if (frame.first != 0x88 || frame.data.size() < 2) return 0;
    return static_cast<unsigned char>(frame.data[0]) << 8 | static_cast<unsigned char>(frame.data[1]);
  }

 private:
  Peer peer_;
  std::string head_;
};

constexpr std::string_view code_1000 = "\x03\xE8";

TEST(WebSocket, TextsAndBytesGoBothWays) {
  Running running;
  Socket socket(running.at());
  EXPECT_THAT(socket.head(), StartsWith("HTTP/1.1 101 "));
  EXPECT_THAT(socket.head(), HasSubstr("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));  // RFC 6455 §1.3
  EXPECT_THAT(socket.head(), Not(HasSubstr("Beast")));
  socket.text("hello");
  Frame frame = socket.read();
  EXPECT_EQ(frame.first, 0x81);
  EXPECT_EQ(frame.data, "hello");
  socket.send(0x82, std::string(60'000, '\xFF'));
  frame = socket.read();
  EXPECT_EQ(frame.first, 0x82);
  EXPECT_EQ(frame.data, std::string(60'000, '\xFF'));
  // In pieces, with a ping between them.
  socket.send(0x01, "one ");
  socket.send(0x89, "are you there?");
  socket.send(0x80, "two");
  frame = socket.read();
  EXPECT_EQ(frame.first, 0x8A);
  EXPECT_EQ(frame.data, "are you there?");
  EXPECT_EQ(socket.read().data, "one two");
  socket.send(0x88, code_1000);
  EXPECT_EQ(socket.read_close(), 1000);
  EXPECT_EQ(socket.peer().read_all(), "");
  EXPECT_TRUE(running.app.events.wait_for("closed 1000 "));
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().status, 101);
  EXPECT_EQ(running.app.last_record().bytes_in, 60'012U);
  EXPECT_EQ(running.app.last_record().bytes_out, 60'012U);
  EXPECT_EQ(running.app.last_record().end, AccessRecord::End::complete);
}

TEST(WebSocket, WhatWasSentBeforeTheCloseIsHeardBeforeIt) {
  Running running;
  Socket socket(running.at());
  std::string all;
  for (int i = 0; i < 100; ++i) all += Socket::frame(0x81, "x");
  socket.peer().send(all + Socket::frame(0x88, code_1000));
  socket.peer().read_all();
  ASSERT_TRUE(running.app.events.wait_for("closed 1000 "));
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().bytes_in, 100U);
}

TEST(WebSocket, TheServerClosesWithACodeAndAReason) {
  Running running;
  Socket socket(running.at());
  socket.text("!close");
  const Frame frame = socket.read();
  EXPECT_EQ(frame.first, 0x88);
  EXPECT_EQ(frame.data,
            "\x0F\xA0"
            "as you wish");
  socket.send(0x88, frame.data);
  EXPECT_EQ(socket.peer().read_all(), "");
  EXPECT_TRUE(running.app.events.wait_for("closed 4000 as you wish"));
  EXPECT_EQ(running.app.session->send_text("late"), WebSocketSession::Sent::closed);
}

TEST(WebSocket, AHandlerThatFailsClosesIt) {
  Running running;
  Socket socket(running.at());
  socket.text("!throw");
  EXPECT_EQ(socket.read_close(), 1011);
}

TEST(WebSocket, AnEndWithoutACloseSaysSo) {
  Running running;
  Socket socket(running.at());
  ASSERT_TRUE(running.app.events.wait_for("open"));
  socket.peer().reset();
  EXPECT_TRUE(running.app.events.wait_for("closed 1006 "));
  ASSERT_TRUE(running.app.events.wait_for("record"));
  EXPECT_EQ(running.app.last_record().end, AccessRecord::End::broken);
}

TEST(WebSocket, BrokenFramesEndIt) {
  Running running;
  struct Case {
    std::string bytes;
    int code;
  };
  for (const Case& wrong : std::vector<Case>{
           {Socket::frame(0x81, "x", false), 1002},             // not masked
           {Socket::frame(0xC1, "x"), 1002},                    // a reserved bit
           {Socket::frame(0x83, "x"), 1002},                    // a reserved opcode
           {Socket::frame(0x80, "x"), 1002},                    // nothing to continue
           {Socket::frame(0x09, "x"), 1002},                    // a ping in pieces
           {Socket::frame(0x89, std::string(126, 'x')), 1002},  // a large ping
           {Socket::frame(0x81, "\xC3\x28"), 1007},             // not UTF-8
           {Socket::frame(0x88, "\x03"), 1002},                 // half a code
           {Socket::frame(0x82, std::string(65'537, 'x')), 1009},
           {Socket::frame(0x02, std::string(65'000, 'x')) + Socket::frame(0x80, std::string(1'000, 'x')),
            1009},
       }) {
    Socket socket(running.at());
    socket.peer().send(wrong.bytes);
    EXPECT_EQ(socket.read_close(), wrong.code) << wrong.bytes.substr(0, 20);
    socket.peer().read_all();
  }
  EXPECT_TRUE(running.app.events.wait_for("record", 10));
}

TEST(WebSocket, AHandshakeThatIsNoneIsRefused) {
  Running running;
  const std::string good =
      "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
  const auto without = [&](std::string_view line) {
    std::string fields = good;
    return fields.erase(fields.find(line), line.size());
  };
  Peer peer(running.at());
  peer.get("/ws");
  EXPECT_EQ(peer.answer().status, 426);
  peer.get("/ws", without("Upgrade: websocket\r\n"));
  EXPECT_EQ(peer.answer().status, 426);
  peer.get("/ws", without("Sec-WebSocket-Version: 13\r\n"));
  EXPECT_EQ(peer.answer().status, 426);
  peer.get("/ws", without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"));
  EXPECT_EQ(peer.answer().status, 400);
  peer.get("/ws", good + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
  EXPECT_EQ(peer.answer().status, 400);
  // An upgrade that nobody grants is an ordinary request.
  peer.get("/hello", good);
  EXPECT_EQ(peer.answer().status, 200);
  peer.get("/hello");
  EXPECT_EQ(peer.answer().status, 200);
  Peer hasty(running.at());
  hasty.send("GET /ws HTTP/1.1\r\nHost: a\r\n" + good + "\r\n" + Socket::frame(0x81, "early"));
  EXPECT_EQ(hasty.answer().status, 400);
}

TEST(WebSocket, AnIdlePeerIsPingedAndGivenUpWhenItDoesNotAnswer) {
  ServerLimits limits;
  limits.websocket_idle_time = 400ms;
  Running running(limits);
  Socket socket(running.at());
  for (int i = 0; i < 3; ++i) {
    const Frame ping = socket.read();
    ASSERT_EQ(ping.first, 0x89);
    socket.send(0x8A, ping.data);
  }
  EXPECT_EQ(running.app.events.count("closed 1006 "), 0);
  EXPECT_EQ(socket.read().first, 0x89);
  EXPECT_EQ(socket.read().first, -1);
  EXPECT_TRUE(running.app.events.wait_for("closed 1006 "));
}

TEST(WebSocket, ASlowReaderMakesTheSenderWaitAndNothingPilesUp) {
  Running running({}, 2);
  const std::size_t size = sanitized ? 8 * MiB : 64 * MiB;
  const std::size_t before = resident_bytes();
  Socket socket(running.at(), 4096);
  socket.text(fmt::format("!pour {}", size));
  // It is not poured while nobody reads; others are served.
  Peer other(running.at());
  for (int i = 0; i < 50; ++i) {
    other.get("/hello");
    ASSERT_EQ(other.answer().status, 200);
  }
  EXPECT_EQ(running.app.events.count("poured"), 0);
  if (!sanitized) {
    EXPECT_LT(resident_bytes(), before + 16 * MiB);
  }
  std::size_t received = 0;
  while (received < size) {
    const Frame frame = socket.read();
    ASSERT_EQ(frame.first, 0x82);
    received += frame.data.size();
  }
  EXPECT_EQ(received, size);
  EXPECT_TRUE(running.app.events.wait_for("poured"));
  EXPECT_GT(running.app.events.count("room"), 0);
}

TEST(WebSocket, PingsAreAnsweredWhileTheReceiverPauses) {
  Running running;
  Socket socket(running.at());
  socket.text("!pause");
  ASSERT_TRUE(running.app.events.wait_for("paused"));
  for (int i = 0; i < 3; ++i) {
    socket.send(0x89, "ping");
    EXPECT_EQ(socket.read().first, 0x8A);
  }
  socket.text("held");
  socket.text("behind");
  EXPECT_FALSE(socket.peer().fill_within(100ms));
  running.app.session->resume();
  EXPECT_EQ(socket.read().data, "held");
  EXPECT_EQ(socket.read().data, "behind");
}

TEST(WebSocket, ManyIdleWithoutAThreadEach) {
  Running running({}, 2);
  std::vector<std::unique_ptr<Socket>> sockets;
  for (int i = 0; i < 100; ++i) sockets.push_back(std::make_unique<Socket>(running.at()));
  ASSERT_TRUE(running.app.events.wait_for("open", 100));
  for (const auto& socket : sockets) socket->text("x");
  for (const auto& socket : sockets) ASSERT_EQ(socket->read().data, "x");
  EXPECT_EQ(running.server->connections(), 100U);
}

TEST(WebSocket, StoppingTellsItToComeAgain) {
  Running running;
  Socket polite(running.at());
  Socket deaf(running.at());
  ASSERT_TRUE(running.app.events.wait_for("open", 2));
  std::jthread stopping([&] { running.server->stop(500ms); });
  EXPECT_EQ(polite.read_close(), 1001);
  polite.send(0x88, "\x03\xE9");
  EXPECT_EQ(polite.peer().read_all(), "");
  stopping.join();
  EXPECT_EQ(running.app.events.count("closed 1001 "), 1);
  EXPECT_EQ(running.app.events.count("closed 1006 "), 1);  // The other one has not answered.
  EXPECT_EQ(running.app.session->send_text("late"), WebSocketSession::Sent::closed);
}

}  // namespace
}  // namespace postern::control
