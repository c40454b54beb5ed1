#include "intake/first_flight.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <optional>
#include <sys/socket.h>

namespace postern::intake {
namespace {

using namespace std::chrono_literals;

/// A ClientHello as OpenSSL writes it.
std::string client_hello_for(const char* name) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* connection = SSL_new(context);
  BIO* in = BIO_new(BIO_s_mem());
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(connection, in, out);
  SSL_set_tlsext_host_name(connection, name);
  SSL_set_connect_state(connection);
  SSL_do_handshake(connection);
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(out, &bytes);
  std::string hello(bytes, static_cast<std::size_t>(size));
  SSL_free(connection);
  SSL_CTX_free(context);
  return hello;
}

class FirstFlightTest : public testing::Test {
 protected:
  FirstFlightTest() { connect(); }
  ~FirstFlightTest() override { loop_.abandon(); }

  /// Over TCP: a unix socket holds only some hundred pieces that nobody has read.
  void connect() {
    const Fd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    program_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(program_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (::bind(door.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(door.get(), 1) != 0)
      std::abort();
    ::getsockname(door.get(), reinterpret_cast<sockaddr*>(&address), &size);
    if (::connect(program_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
    Fd accepted(::accept4(door.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    sandbox_ = std::make_unique<io::TcpStream>(loop_, std::move(accepted), Side::sandbox);
  }
  void say(std::string_view bytes) {
    ASSERT_EQ(::send(program_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
  }
  void turn() {
    for (int i = 0; i < 10; ++i) loop_.run_once(3ms);
  }
  static io::Task<void> run(io::TcpStream& stream, io::BufferPool& buffers, TimePoint deadline,
                            std::optional<Result<FirstFlight>>& out) {
    out.emplace(co_await first_flight(stream, buffers, deadline));
  }
  static io::Task<void> run_hello(io::TcpStream& stream, io::BufferPool& buffers, TimePoint deadline,
                                  std::optional<Result<wire::ClientHello>>& out) {
    out.emplace(co_await client_hello(stream, buffers, deadline));
  }
  void look() { loop_.spawn(run(*sandbox_, buffers_, loop_.now() + 20s, flight_)); }
  void look_for_hello() { loop_.spawn(run_hello(*sandbox_, buffers_, loop_.now() + 20s, hello_)); }
  static io::Task<void> read(io::TcpStream& stream, std::string& into) {
    std::string space(65536, '\0');
    auto got = co_await stream.read({space.data(), space.size()}, TimePoint::max());
    if (got) into = space.substr(0, *got);
  }
  /// What whoever serves the connection reads first.
  std::string read_again() {
    std::string bytes;
    loop_.spawn(read(*sandbox_, bytes));
    return bytes;
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
  io::BufferPool buffers_;
  std::unique_ptr<io::TcpStream> sandbox_;
  Fd program_;
  std::optional<Result<FirstFlight>> flight_;
  std::optional<Result<wire::ClientHello>> hello_;
};

TEST_F(FirstFlightTest, ARequestLineIsHttpAsSoonAsItsMethodIsThere) {
  look();
  say("GE");
  turn();
  EXPECT_FALSE(flight_);
  say("T /");
  turn();
  ASSERT_TRUE(flight_ && *flight_);
  EXPECT_EQ((*flight_)->speech, Speech::http);
  EXPECT_EQ(read_again(), "GET /");
}

TEST_F(FirstFlightTest, AClientHelloIsTlsWhateverItsPieces) {
  const std::string hello = client_hello_for("api.example.com");
  look();
  for (const char byte : hello) {
    EXPECT_FALSE(flight_);
    say({&byte, 1});
    loop_.run_once(1ms);
  }
  for (int i = 0; i < 300 && !flight_; ++i) loop_.run_once(10ms);
  ASSERT_TRUE(flight_ && *flight_);
  EXPECT_EQ((*flight_)->speech, Speech::tls);
  EXPECT_EQ((*flight_)->hello.server_name, "api.example.com");
  EXPECT_EQ(read_again(), hello) << "whoever serves it reads it again";
}

TEST_F(FirstFlightTest, AnythingElseIsOther) {
  for (const std::string_view text :
       {std::string_view("\0\0\0\x08\x04\xd2\x16\x2f", 8), std::string_view("*1\r\n$4\r\nPING\r\n"),
        std::string_view("\x16\x03\x01\x00\x05hello", 10)}) {
    connect();
    flight_.reset();
    look();
    say(text);
    turn();
    ASSERT_TRUE(flight_ && *flight_) << text;
    EXPECT_EQ((*flight_)->speech, Speech::other) << text;
  }
}

TEST_F(FirstFlightTest, SilenceEndsAtTheDeadlineAndAnEarlyEndIsToldApart) {
  look();
  turn();
  EXPECT_FALSE(flight_);
  clock_.advance(20s + io::Loop::tick);
  turn();
  ASSERT_TRUE(flight_ && !*flight_);
  EXPECT_EQ(flight_->error().reason, Reason::sandbox_timeout);
  flight_.reset();
  look();
  program_.reset();
  turn();
  ASSERT_TRUE(flight_ && !*flight_);
  EXPECT_EQ(flight_->error().reason, Reason::sandbox_closed);
}

TEST_F(FirstFlightTest, CanBeCalledOff) {
  look();
  turn();
  sandbox_->cancel_read();
  ASSERT_TRUE(flight_ && !*flight_);
  EXPECT_EQ(flight_->error().reason, Reason::cancelled);
}

TEST_F(FirstFlightTest, WhatWasSaidBeforeItWasCalledOffIsReadAgain) {
  look();
  say("\x16\x03");
  turn();
  sandbox_->cancel_read();
  ASSERT_TRUE(flight_ && !*flight_);
  EXPECT_EQ(flight_->error().reason, Reason::cancelled);
  say("\x01");
  turn();
  EXPECT_EQ(read_again(), "\x16\x03");
  EXPECT_EQ(read_again(), "\x01");
}

TEST_F(FirstFlightTest, AHelloThatStopsHalfWayEndsAtTheDeadline) {
  look_for_hello();
  say(std::string_view(client_hello_for("api.example.com")).substr(0, 100));
  turn();
  clock_.advance(19s);
  turn();
  EXPECT_FALSE(hello_);
  clock_.advance(1s + io::Loop::tick);
  turn();
  ASSERT_TRUE(hello_ && !*hello_);
  EXPECT_EQ(hello_->error().reason, Reason::sandbox_timeout);
}

TEST_F(FirstFlightTest, AHelloIsConsumedByNobody) {
  const std::string hello = client_hello_for("db.example.com");
  look_for_hello();
  say(hello);
  turn();
  ASSERT_TRUE(hello_ && *hello_) << hello_->error().detail;
  EXPECT_EQ((*hello_)->server_name, "db.example.com");
  EXPECT_EQ(read_again(), hello);
}

TEST_F(FirstFlightTest, WhatIsNotTlsIsNoHello) {
  look_for_hello();
  say("GET / HTTP/1.1\r\n");
  turn();
  ASSERT_TRUE(hello_ && !*hello_);
  EXPECT_EQ(hello_->error().reason, Reason::protocol_not_allowed);
}

}  // namespace
}  // namespace postern::intake
