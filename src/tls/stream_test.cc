#include "tls/stream.h"

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <optional>
#include <sys/socket.h>

#include "base/units.h"
#include "tls/context.h"
#include "tls/leaf.h"

namespace postern::tls {
namespace {

using namespace std::chrono_literals;

struct Free {
  void operator()(SSL* connection) const { SSL_free(connection); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslPtr = std::unique_ptr<SSL, Free>;
using SslContextPtr = std::unique_ptr<SSL_CTX, Free>;

/// A CA, and both contexts that lean on it.
class House {
 public:
  static House& shared() {
    static House house;
    return house;
  }
  WorkspaceCa ca;
  LeafMinter minter;
  TrustStore trust;

 private:
  House() : ca(load()), minter(LeafMinter::create(ca).value()), trust(trusting()) {
    std::filesystem::remove_all(directory_);
  }
  WorkspaceCa load() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-stream-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
    return WorkspaceCa::load_or_create(directory_).value();
  }
  TrustStore trusting() const {
    std::ofstream(directory_ + "/trust.pem") << ca.certificate_pem();
    return TrustStore::load({directory_ + "/trust.pem"}).value();
  }
  inline static std::string directory_;
};

/// The other end, in the test's hand.
class Peer {
 public:
  Peer(Fd socket, SslPtr connection) : socket_(std::move(socket)), connection_(std::move(connection)) {
    SSL_set_fd(connection_.get(), socket_.get());
  }
  void pump() {
    if (!shaken) {
      ERR_clear_error();
      const int result = SSL_do_handshake(connection_.get());
      if (result != 1) {
        const int kind = SSL_get_error(connection_.get(), result);
        failed = failed || (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE);
        return;
      }
      shaken = true;
    }
    char buffer[16384];
    while (!deaf) {
      ERR_clear_error();
      const int got = SSL_read(connection_.get(), buffer, sizeof buffer);
      if (got > 0) {
        received.append(buffer, static_cast<std::size_t>(got));
        continue;
      }
      closed = closed || SSL_get_error(connection_.get(), got) == SSL_ERROR_ZERO_RETURN;
      break;
    }
    while (!pending.empty()) {
      const int sent = SSL_write(connection_.get(), pending.data(),
                                 static_cast<int>(std::min<std::size_t>(pending.size(), 16384)));
      if (sent <= 0) break;
      pending.erase(0, static_cast<std::size_t>(sent));
    }
  }
  SSL* get() const { return connection_.get(); }
  int fd() const { return socket_.get(); }
  void drop() {
    connection_.reset();
    socket_.reset();
  }
  std::string pending, received;
  bool shaken = false, failed = false, closed = false, deaf = false;

 private:
  Fd socket_;
  SslPtr connection_;
};

class TlsStreamTest : public testing::Test {
 protected:
  TlsStreamTest() : server_(SSL_CTX_new(TLS_server_method())), client_(SSL_CTX_new(TLS_client_method())) {
    std::signal(SIGPIPE, SIG_IGN);
    SSL_CTX_set_mode(server_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    X509_STORE_add_cert(SSL_CTX_get_cert_store(client_.get()), House::shared().ca.certificate());
    SSL_CTX_set_verify(client_.get(), SSL_VERIFY_PEER, nullptr);
  }
  ~TlsStreamTest() override { loop_.abandon(); }

  std::pair<Fd, Fd> connected() {
    const Fd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    Fd one(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(door.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(door.get(), 1) != 0)
      std::abort();
    ::getsockname(door.get(), reinterpret_cast<sockaddr*>(&address), &size);
    if (::connect(one.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
    ::fcntl(one.get(), F_SETFL, O_NONBLOCK);
    return {Fd(::accept4(door.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)), std::move(one)};
  }
  /// We are the client of an origin that shows a certificate for `shown`.
  void toward_origin(const std::string& wanted, const std::string& shown, const std::string& key = "k") {
    auto [ours, theirs] = connected();
    SslPtr server(SSL_new(server_.get()));
    const auto leaf = House::shared().minter.leaf_for(shown, std::chrono::system_clock::now()).value();
    SSL_use_certificate(server.get(), leaf.certificate.get());
    SSL_use_PrivateKey(server.get(), leaf.key.get());
    SSL_set_accept_state(server.get());
    peer_ = std::make_unique<Peer>(std::move(theirs), std::move(server));
    stream_ =
        std::make_unique<TlsStream>(std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::origin),
                                    origin_context_.new_connection(wanted, false, key));
    shake();
  }
  /// We are the server of a sandbox.
  void toward_sandbox(const std::string& name, const std::string& scope = "s", SSL_SESSION* session = nullptr,
                      const std::function<void(SSL*)>& prepare = {}) {
    auto [ours, theirs] = connected();
    SslPtr client(SSL_new(client_.get()));
    SSL_set_tlsext_host_name(client.get(), name.c_str());
    SSL_set1_host(client.get(), name.c_str());
    SSL_set_connect_state(client.get());
    if (session) {
      // A copy: a session whose connection ended badly is not offered again.
      SSL_SESSION* copy = SSL_SESSION_dup(session);
      SSL_set_session(client.get(), copy);
      SSL_SESSION_free(copy);
    }
    if (prepare) prepare(client.get());
    peer_ = std::make_unique<Peer>(std::move(theirs), std::move(client));
    const auto leaf = House::shared().minter.leaf_for(name, std::chrono::system_clock::now()).value();
    stream_ = std::make_unique<TlsStream>(
        std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::sandbox),
        sandbox_context_.new_connection(leaf.certificate.get(), leaf.key.get(), scope));
    shake();
  }

  static io::Task<void> run_handshake(TlsStream& stream, TimePoint deadline,
                                      std::optional<Result<void>>& out) {
    out.emplace(co_await stream.handshake(deadline));
  }
  void shake() {
    shaken_.reset();
    loop_.spawn(run_handshake(*stream_, loop_.now() + 10s, shaken_));
    EXPECT_TRUE(turn_until([&] { return shaken_.has_value(); }));
    for (int i = 0; i < 3; ++i) turn();
  }
  void turn() {
    loop_.run_once(3ms);
    peer_->pump();
  }
  bool turn_until(const std::function<bool()>& done) {
    for (int i = 0; i < 1000 && !done(); ++i) turn();
    return done();
  }
  struct Moved {
    std::string text;
    std::optional<Error> error;
    bool over = false;
  };
  static io::Task<void> read_all(io::Stream& stream, Moved& out) {
    while (true) {
      std::string space(5000, '\0');
      auto got = co_await stream.read({space.data(), space.size()}, TimePoint::max());
      if (!got) out.error = std::move(got.error());
      if (!got || *got == 0) break;
      out.text.append(space, 0, *got);
    }
    out.over = true;
  }
  static io::Task<void> write(io::Stream& stream, std::string_view bytes, Moved& out) {
    auto sent = co_await stream.write_all(bytes, TimePoint::max());
    if (!sent) out.error = std::move(sent.error());
    out.over = true;
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
  SslContextPtr server_, client_;
  SandboxContext sandbox_context_;
  OriginContext origin_context_{House::shared().trust};
  std::unique_ptr<Peer> peer_;
  std::unique_ptr<TlsStream> stream_;
  std::optional<Result<void>> shaken_;
};

TEST_F(TlsStreamTest, CarriesMegabytesBothWaysAtOnce) {
  toward_origin("api.example.com", "api.example.com");
  ASSERT_TRUE(*shaken_) << shaken_->error().detail;
  std::string up(2 * MiB, '\0'), down(2 * MiB, '\0');
  for (std::size_t i = 0; i < up.size(); ++i) {
    up[i] = static_cast<char>(i * 7 >> 3);
    down[i] = static_cast<char>(i * 13 >> 5);
  }
  Moved writing, reading;
  peer_->pending = down;
  loop_.spawn(write(*stream_, up, writing));
  loop_.spawn(read_all(*stream_, reading));
  EXPECT_TRUE(turn_until([&] {
    return writing.over && peer_->received.size() == up.size() && reading.text.size() == down.size();
  }));
  EXPECT_TRUE(peer_->received == up);
  EXPECT_TRUE(reading.text == down);
}

TEST_F(TlsStreamTest, AnOrderlyEndIsToldFromATruncatedOne) {
  for (const bool orderly : {true, false}) {
    toward_origin("api.example.com", "api.example.com");
    ASSERT_TRUE(*shaken_);
    Moved reading;
    loop_.spawn(read_all(*stream_, reading));
    peer_->pending = "all";
    turn();
    if (orderly) SSL_shutdown(peer_->get());
    ::shutdown(peer_->fd(), SHUT_WR);
    EXPECT_TRUE(turn_until([&] { return reading.over; }));
    EXPECT_EQ(reading.text, "all");
    EXPECT_FALSE(reading.error);
    EXPECT_EQ(stream_->truncated(), !orderly);
  }
}

TEST_F(TlsStreamTest, ShutdownSaysCloseNotifyAndTheOtherDirectionGoesOn) {
  toward_origin("api.example.com", "api.example.com");
  ASSERT_TRUE(*shaken_);
  Moved reading;
  loop_.spawn(read_all(*stream_, reading));
  stream_->shutdown_write();
  EXPECT_TRUE(turn_until([&] { return peer_->closed; }));
  peer_->pending = "late";
  EXPECT_TRUE(turn_until([&] { return reading.text == "late"; }));
}

// An origin may answer early and stop reading: 413, and a closed door for the rest of the body.
TEST_F(TlsStreamTest, WhatCameBeforeAWriteFailedCanStillBeRead) {
  toward_origin("api.example.com", "api.example.com");
  ASSERT_TRUE(*shaken_);
  peer_->deaf = true;
  peer_->pending = "413";
  for (int i = 0; i < 3; ++i) turn();
  ::shutdown(stream_->fd(), SHUT_WR);  // Every write fails from here on, and nothing else does.
  Moved writing, reading;
  loop_.spawn(write(*stream_, "body", writing));
  ASSERT_TRUE(writing.error);
  EXPECT_EQ(writing.error->reason, Reason::origin_closed);
  loop_.spawn(read_all(*stream_, reading));
  EXPECT_TRUE(turn_until([&] { return reading.over || !reading.text.empty(); }));
  EXPECT_EQ(reading.text, "413");
}

TEST_F(TlsStreamTest, AnOriginWithAnotherNameIsNotVerified) {
  toward_origin("api.example.com", "evil.example.com");
  ASSERT_FALSE(*shaken_);
  EXPECT_EQ(shaken_->error().reason, Reason::origin_certificate_invalid);
}

TEST_F(TlsStreamTest, AnOriginOfAnUnknownAuthorityIsNotVerified) {
  TrustStore system = TrustStore::load({}).value();
  OriginContext strangers(system);
  auto [ours, theirs] = connected();
  SslPtr server(SSL_new(server_.get()));
  const auto leaf =
      House::shared().minter.leaf_for("api.example.com", std::chrono::system_clock::now()).value();
  SSL_use_certificate(server.get(), leaf.certificate.get());
  SSL_use_PrivateKey(server.get(), leaf.key.get());
  SSL_set_accept_state(server.get());
  peer_ = std::make_unique<Peer>(std::move(theirs), std::move(server));
  stream_ = std::make_unique<TlsStream>(std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::origin),
                                        strangers.new_connection("api.example.com", false, "k"));
  shake();
  ASSERT_FALSE(*shaken_);
  EXPECT_EQ(shaken_->error().reason, Reason::origin_certificate_invalid);
  stream_.reset();
}

TEST_F(TlsStreamTest, AnOriginThatIsNotTlsOrLeavesIsATlsFailure) {
  for (const bool speaks : {true, false}) {
    auto [ours, theirs] = connected();
    stream_ =
        std::make_unique<TlsStream>(std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::origin),
                                    origin_context_.new_connection("api.example.com", false, "k"));
    shaken_.reset();
    loop_.spawn(run_handshake(*stream_, loop_.now() + 10s, shaken_));
    if (speaks) {
      ASSERT_EQ(::send(theirs.get(), "HTTP/1.1 400\r\n\r\n", 16, MSG_NOSIGNAL), 16);
    } else {
      theirs.reset();
    }
    for (int i = 0; i < 1000 && !shaken_; ++i) loop_.run_once(3ms);
    ASSERT_TRUE(shaken_ && !*shaken_);
    EXPECT_EQ(shaken_->error().reason, Reason::origin_tls_failed);
  }
}

TEST_F(TlsStreamTest, AHandshakeEndsAtItsDeadline) {
  auto [ours, theirs] = connected();
  stream_ = std::make_unique<TlsStream>(std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::origin),
                                        origin_context_.new_connection("api.example.com", false, "k"));
  loop_.spawn(run_handshake(*stream_, loop_.now() + 10s, shaken_));
  loop_.run_once(1ms);
  clock_.advance(10s - Duration(1));
  loop_.run_once(1ms);
  EXPECT_FALSE(shaken_);
  clock_.advance(io::Loop::tick);
  loop_.run_once(1ms);
  ASSERT_TRUE(shaken_ && !*shaken_);
  EXPECT_EQ(shaken_->error().reason, Reason::origin_timeout);
}

TEST_F(TlsStreamTest, AnOriginIsRecognisedByItsSessionAndOnlyUnderItsOwnKey) {
  toward_origin("api.example.com", "api.example.com", "https:api.example.com:443");
  ASSERT_TRUE(*shaken_);
  EXPECT_FALSE(stream_->resumed());
  Moved reading;
  loop_.spawn(read_all(*stream_, reading));  // tickets come behind the handshake
  peer_->pending = "x";
  EXPECT_TRUE(turn_until([&] { return reading.text == "x"; }));
  loop_.abandon();
  stream_.reset();
  toward_origin("api.example.com", "api.example.com", "https:api.example.com:8443");
  ASSERT_TRUE(*shaken_);
  EXPECT_FALSE(stream_->resumed());
  loop_.abandon();
  stream_.reset();
  toward_origin("api.example.com", "api.example.com", "https:api.example.com:443");
  ASSERT_TRUE(*shaken_);
  EXPECT_TRUE(stream_->resumed());
}

TEST_F(TlsStreamTest, ASandboxSeesALeafForExactlyItsHost) {
  toward_sandbox("api.example.com");
  ASSERT_TRUE(*shaken_) << shaken_->error().detail;
  EXPECT_TRUE(peer_->shaken);
  EXPECT_EQ(stream_->protocol(), "TLSv1.3");
}

TEST_F(TlsStreamTest, ASandboxThatDoesNotTrustUsIsATlsFailure) {
  SSL_CTX_set_cert_store(client_.get(), X509_STORE_new());
  toward_sandbox("api.example.com");
  ASSERT_FALSE(*shaken_);
  EXPECT_EQ(shaken_->error().reason, Reason::sandbox_tls_failed);
  EXPECT_EQ(shaken_->error().side, Side::sandbox);
}

TEST_F(TlsStreamTest, OldProtocolsAndUnknownOnesAreRefused) {
  toward_sandbox("api.example.com", "s", nullptr, [](SSL* client) {
    SSL_set_security_level(client, 0);
    SSL_set_min_proto_version(client, TLS1_VERSION);
    SSL_set_max_proto_version(client, TLS1_1_VERSION);
  });
  EXPECT_FALSE(*shaken_);
  loop_.abandon();
  stream_.reset();
  toward_sandbox("api.example.com", "s", nullptr, [](SSL* client) {
    static constexpr unsigned char unknown[] = "\x04imap";
    SSL_set_alpn_protos(client, unknown, sizeof unknown - 1);
  });
  EXPECT_FALSE(*shaken_);
}

TEST_F(TlsStreamTest, Http2IsChosenOverHttp11) {
  toward_sandbox("api.example.com", "s", nullptr, [](SSL* client) {
    static constexpr unsigned char both[] = "\x02h2\x08http/1.1";
    SSL_set_alpn_protos(client, both, sizeof both - 1);
  });
  ASSERT_TRUE(*shaken_) << shaken_->error().detail;
  const unsigned char* chosen = nullptr;
  unsigned length = 0;
  SSL_get0_alpn_selected(peer_->get(), &chosen, &length);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(chosen), length), "h2");
  EXPECT_TRUE(stream_->chose_http2());
}

// A session is a sandbox's and a host's own: a ticket of one must not open a connection of another.
TEST_F(TlsStreamTest, ATicketOfOneScopeIsNothingInAnother) {
  toward_sandbox("api.example.com", "home/one/api.example.com");
  ASSERT_TRUE(*shaken_);
  Moved writing;
  loop_.spawn(write(*stream_, "x", writing));
  EXPECT_TRUE(turn_until([&] { return peer_->received == "x"; }));
  const std::unique_ptr<SSL_SESSION, decltype(&SSL_SESSION_free)> session(
      SSL_SESSION_dup(SSL_get0_session(peer_->get())), SSL_SESSION_free);
  ASSERT_TRUE(SSL_SESSION_is_resumable(session.get()));
  loop_.abandon();
  stream_.reset();
  toward_sandbox("api.example.com", "home/two/api.example.com", session.get());
  ASSERT_TRUE(*shaken_) << shaken_->error().detail;
  EXPECT_FALSE(stream_->resumed());
  loop_.abandon();
  stream_.reset();
  toward_sandbox("api.example.com", "home/one/api.example.com", session.get());
  ASSERT_TRUE(*shaken_);
  EXPECT_TRUE(stream_->resumed());
}

TEST_F(TlsStreamTest, WithoutMemoryForAConnectionEveryWaitEndsAtOnce) {
  auto [ours, theirs] = connected();
  stream_ = std::make_unique<TlsStream>(std::make_unique<io::TcpStream>(loop_, std::move(ours), Side::origin),
                                        nullptr);
  loop_.spawn(run_handshake(*stream_, loop_.now() + 10s, shaken_));
  ASSERT_TRUE(shaken_ && !*shaken_);
  EXPECT_EQ(shaken_->error().reason, Reason::overloaded);
}

TEST(TrustStore, NamesAFileThatHoldsNoCertificate) {
  const auto missing = TrustStore::check({"/nonexistent/ca.pem"});
  const auto wrong = TrustStore::load({"/dev/null"});
  ASSERT_FALSE(missing || wrong);
  EXPECT_EQ(missing.error().reason, Reason::invalid_configuration);
  EXPECT_NE(missing.error().detail.find("/nonexistent/ca.pem"), std::string::npos);
  EXPECT_NE(wrong.error().detail.find("/dev/null"), std::string::npos);
}

}  // namespace
}  // namespace postern::tls
