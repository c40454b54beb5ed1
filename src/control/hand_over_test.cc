// Answers that begin while the request goes on, and connections that are handed over to others.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "control/call.h"
#include "control/http_server.h"

namespace postern::control {
namespace {

/// Says back what it gets, and "end" at its end.
class Mirror : public std::enable_shared_from_this<Mirror> {
 public:
  explicit Mirror(std::shared_ptr<Call> call) : call_(std::move(call)) {}

  class Sink final : public BodySink {
   public:
    explicit Sink(std::shared_ptr<Mirror> mirror) : mirror_(std::move(mirror)) {}
    ~Sink() override { mirror_->add("", true); }
    Then take(std::string_view piece) override {
      mirror_->add(piece, false);
      return Then::more;
    }
    void end() override { mirror_->add("end", true); }

   private:
    const std::shared_ptr<Mirror> mirror_;
  };
  class Source final : public BodySource {
   public:
    explicit Source(std::shared_ptr<Mirror> mirror) : mirror_(std::move(mirror)) {}
    Piece next(std::span<char> into) override { return mirror_->next(into); }

   private:
    const std::shared_ptr<Mirror> mirror_;
  };

  Response response() {
    Response out;
    out.source = std::make_unique<Source>(shared_from_this());
    return out;
  }
  void add(std::string_view bytes, bool last) {
    {
      const std::lock_guard lock(mutex_);
      said_ += bytes;
      ended_ = last;
    }
    call_->wake();
  }
  BodySource::Piece next(std::span<char> into) {
    const std::lock_guard lock(mutex_);
    const std::size_t size = said_.copy(into.data(), into.size());
    said_.erase(0, size);
    if (!said_.empty()) return {size, BodySource::Then::more};
    return {size, ended_ ? BodySource::Then::end : BodySource::Then::wait};
  }

 private:
  const std::shared_ptr<Call> call_;
  std::mutex mutex_;
  std::string said_;
  bool ended_ = false;
};

struct HandOver : testing::Test {
  SystemClock clock;
  std::unique_ptr<HttpServer> server;
  Fd fd;
  std::string in;

  HandOver() {
    ServerOptions options;
    options.listen = {IpAddress::v4(0x7F000001), 0};
    options.workers = 2;
    server = std::move(*HttpServer::listen(options, clock));
    server->start(
        [](const std::shared_ptr<Call>& call) {
          const auto mirror = std::make_shared<Mirror>(call);
          if (call->request().path() == "/upgrade")
            return call->hand_over(mirror->response(), std::make_shared<Mirror::Sink>(mirror));
          if (!call->request().has_body) return call->answer(Response{});
          call->stream_body(1 << 20, std::make_shared<Mirror::Sink>(mirror));
          call->answer_while_receiving(mirror->response());
        },
        nullptr);
    connect();
  }
  ~HandOver() override { server->stop(std::chrono::seconds(2)); }

  void connect() {
    in.clear();
    fd = Fd(::socket(AF_INET, SOCK_STREAM, 0));
    const timeval patience{20, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_storage address{};
    const socklen_t size = server->local().to_sockaddr(address);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  }
  void send(std::string_view bytes) const {
    EXPECT_EQ(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  /// Everything up to `end`, or to the end.
  std::string until(std::string_view end) {
    std::size_t at = std::string::npos;
    char piece[4096];
    while (end.empty() || (at = in.find(end)) == std::string::npos) {
      const ssize_t size = ::recv(fd.get(), piece, sizeof piece, 0);
      if (size <= 0) return std::exchange(in, {});
      in.append(piece, static_cast<std::size_t>(size));
    }
    std::string out = in.substr(0, at + end.size());
    in.erase(0, out.size());
    return out;
  }
};

constexpr std::string_view upgrade =
    "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

TEST_F(HandOver, AnAnswerBeginsBeforeTheRequestHasEnded) {
  send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
  EXPECT_TRUE(until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
  EXPECT_EQ(until("one\r\n"), "3\r\none\r\n");
  send("3\r\ntwo\r\n");
  EXPECT_EQ(until("two\r\n"), "3\r\ntwo\r\n");
  send("0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(until("end\r\n0\r\n\r\n"), "3\r\nend\r\n0\r\n\r\n");
  EXPECT_TRUE(until("\r\n\r\n").starts_with("HTTP/1.1 200 ")) << "the next request of the connection";
}

TEST_F(HandOver, ARequestThatIsMalformedAfterItsAnswerHasBegunEndsTheConnection) {
  send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
  until("one\r\n");
  send("nonsense\r\n");
  ::shutdown(fd.get(), SHUT_WR);
  EXPECT_EQ(until("").find("HTTP/1.1"), std::string::npos);
}

TEST_F(HandOver, BytesGoBothWaysUntilBothHaveEnded) {
  send(upgrade);
  const std::string head = until("\r\n\r\n");
  EXPECT_TRUE(head.starts_with("HTTP/1.1 101 "));
  EXPECT_EQ(head.find("Content-Length"), std::string::npos);
  EXPECT_EQ(head.find("Transfer-Encoding"), std::string::npos);
  const std::string odd("\0GET / HTTP/1.1\r\n\r\n", 19);
  send(odd);
  EXPECT_EQ(until("\n\r\n"), odd);
  ::shutdown(fd.get(), SHUT_WR);
  EXPECT_EQ(until(""), "end");
}

TEST_F(HandOver, WhoDoesNotWaitForItOrDoesNotAskForItGetsNone) {
  send(std::string(upgrade) + "too early");
  EXPECT_TRUE(until("").starts_with("HTTP/1.1 400 "));
  connect();
  send("GET /upgrade HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_TRUE(until("").starts_with("HTTP/1.1 400 "));
}

TEST_F(HandOver, AServerThatStopsWaitsForNobodyWhoWasHandedOver) {
  send(upgrade);
  until("\r\n\r\n");
  const auto begun = clock.now();
  server->stop(std::chrono::minutes(1));
  EXPECT_LT(clock.now() - begun, std::chrono::seconds(30));
  EXPECT_EQ(until(""), "");
}

}  // namespace
}  // namespace postern::control
