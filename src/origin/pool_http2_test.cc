// Origins that speak TLS, HTTP/2 or both: who dials, who waits, and what is shared.

#include <algorithm>
#include <csignal>
#include <deque>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "http2/test_kit.h"
#include "origin/pool.h"
#include "tls/leaf.h"

namespace postern::origin {
namespace {

using namespace std::chrono_literals;
namespace kit = http2::kit;

constexpr const char* name = "a.example.com";
constexpr std::size_t links_max = Http2Links::links_per_origin_max;

struct SslFree {
  void operator()(SSL* connection) const { SSL_free(connection); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

/// What the origins of a test speak, from now on.
struct Speech {
  std::vector<std::string> protocols{"h2", "http/1.1"};  ///< What it likes best first.
  std::uint32_t streams_max = 128;
  bool extended_connect = false;
  bool alerts = true;  ///< When nothing of that was offered; otherwise ALPN is passed over (RFC 7301 §3.2).
};

/// Certificates for all tests, made once.
class Authority {
 public:
  static Authority& shared() {
    static Authority one;
    return one;
  }
  SSL* accept(const Speech& speech) {
    SSL* connection = SSL_new(context_.get());
    SSL_set_app_data(connection, const_cast<Speech*>(&speech));
    SSL_set_accept_state(connection);
    return connection;
  }
  const tls::TrustStore& trust() const { return trust_; }

 private:
  Authority() : directory_(make_directory()), ca_(tls::WorkspaceCa::load_or_create(directory_).value()) {
    std::ofstream(directory_ + "/trusted.pem") << ca_.certificate_pem();
    trust_ = tls::TrustStore::load({directory_ + "/trusted.pem"}).value();
    std::filesystem::remove_all(directory_);
    auto minter = tls::LeafMinter::create(ca_).value();
    const auto leaf = minter.leaf_for(name, std::chrono::system_clock::now()).value();
    SSL_CTX_use_certificate(context_.get(), leaf.certificate.get());
    SSL_CTX_use_PrivateKey(context_.get(), leaf.key.get());
    SSL_CTX_set_alpn_select_cb(context_.get(), select, nullptr);
  }
  static std::string make_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-pool-XXXXXX").string();
    return ::mkdtemp(pattern.data());
  }
  static int select(SSL* connection, const unsigned char** out, unsigned char* size,
                    const unsigned char* offered, unsigned offered_size, void*) {
    const auto& speech = *static_cast<const Speech*>(SSL_get_app_data(connection));
    for (const std::string& ours : speech.protocols)
      for (unsigned at = 0; at < offered_size; at += offered[at] + 1u)
        if (ours == std::string_view(reinterpret_cast<const char*>(offered) + at + 1, offered[at])) {
          *out = offered + at + 1;
          *size = offered[at];
          return SSL_TLSEXT_ERR_OK;
        }
    return speech.alerts ? SSL_TLSEXT_ERR_ALERT_FATAL : SSL_TLSEXT_ERR_NOACK;
  }

  std::string directory_;
  tls::WorkspaceCa ca_;
  tls::TrustStore trust_;
  std::unique_ptr<SSL_CTX, SslFree> context_{SSL_CTX_new(TLS_server_method())};
};

/// The origin's end of one connection. It says SETTINGS and listens.
class OriginEnd {
 public:
  OriginEnd(Fd socket, const Speech& speech)
      : socket_(std::move(socket)), speech_(speech), secure_(Authority::shared().accept(speech)) {
    SSL_set_fd(secure_.get(), socket_.get());
  }

  bool shaken() const { return shaken_; }
  void pump() {
    if (!socket_) return;
    ERR_clear_error();
    if (!shaken_) {
      if (SSL_do_handshake(secure_.get()) != 1) return;
      shaken_ = true;
      const unsigned char* chosen = nullptr;
      unsigned size = 0;
      SSL_get0_alpn_selected(secure_.get(), &chosen, &size);
      if (size == 2) greet();
    }
    char space[4096];
    for (int count = 0; (count = SSL_read(secure_.get(), space, sizeof space)) > 0;)
      heard_.append(space, static_cast<std::size_t>(count));
  }
  /// Our settings have been heard.
  bool acknowledged() const {
    const auto settings = kit::of_type(heard_, kit::settings);
    return std::ranges::any_of(settings, [](const kit::Frame& one) { return one.flags == kit::ack; });
  }
  void go_away() { say(kit::frame(kit::goaway, 0, 0, kit::number32(0x7fffffff) + kit::number32(0))); }
  void hang_up() {
    secure_.reset();
    socket_.reset();
  }

 private:
  /// The other end may have gone.
  void say(std::string_view bytes) {
    (void)SSL_write(secure_.get(), bytes.data(), static_cast<int>(bytes.size()));
  }
  void greet() {
    std::string settings = std::string("\0\3", 2) + kit::number32(speech_.streams_max);
    if (speech_.extended_connect) settings += std::string("\0\x08\0\0\0\1", 6);
    say(kit::frame(kit::settings, 0, 0, settings));
  }

  Fd socket_;
  const Speech& speech_;
  std::unique_ptr<SSL, SslFree> secure_;
  std::string heard_;
  bool shaken_ = false;
};

class Http2PoolTest : public testing::Test {
 protected:
  struct Ask {
    std::optional<Result<Reached>> out;
    ReachTimings timings;

    bool over() const { return out.has_value(); }
    bool has_stream() const { return out && *out && (**out).stream; }
    bool has_connection() const { return out && *out && (**out).connection; }
    std::optional<Reason> failure() const {
      return out && !*out ? std::optional(out->error().reason) : std::nullopt;
    }
  };

  Http2PoolTest() { std::signal(SIGPIPE, SIG_IGN); }  // OpenSSL's own sockets write without MSG_NOSIGNAL.
  ~Http2PoolTest() override { loop_.abandon(); }

  static Fd open_door(std::uint16_t& port) {
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(socket.get(), 1024) != 0)
      std::abort();
    ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    return socket;
  }
  std::shared_ptr<const Overrides> overrides() const {
    auto map = std::make_shared<Overrides>();
    (*map)[name] = {{IpAddress::v4(INADDR_LOOPBACK), port_}};
    return map;
  }

  static io::Task<void> run(Pool& pool, Wanted wanted, Ask& ask) {
    if (auto ready = pool.reuse(wanted))
      ask.out.emplace(std::move(*ready));
    else
      ask.out.emplace(co_await pool.reach(wanted, ask.timings));
  }
  Ask& ask(Protocol protocol = Protocol::any, std::uint64_t sandbox = 1,
           Freshness freshness = Freshness::pooled_or_new) {
    Ask& made = asks_.emplace_back();
    const Wanted wanted{.host = host_,
                        .port = 443,
                        .tls = true,
                        .protocol = protocol,
                        .sandbox = sandbox,
                        .freshness = freshness};
    loop_.spawn(run(pool_, wanted, made));
    return made;
  }
  std::vector<Ask*> ask_times(std::size_t times, Protocol protocol = Protocol::any) {
    std::vector<Ask*> all;
    for (std::size_t i = 0; i < times; ++i) all.push_back(&ask(protocol));
    return all;
  }

  void turn() {
    loop_.run_once(1ms);
    while (true) {
      Fd accepted(::accept4(door_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!accepted) break;
      origins_.push_back(std::make_unique<OriginEnd>(std::move(accepted), speech_));
    }
    if (!held_)
      for (auto& one : origins_) one->pump();
  }
  /// False when that takes longer than any machine needs.
  bool until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      turn();
    }
    return true;
  }
  bool all_over(const std::vector<Ask*>& asks) {
    return until([&] { return std::ranges::all_of(asks, &Ask::over); });
  }
  /// Turns until nothing can still be under way.
  void settle() {
    for (int i = 0; i < 20; ++i) turn();
  }
  void pass(Duration time) {
    clock_.advance(time);
    settle();
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
  io::BufferPool buffers_;
  std::uint16_t port_ = 0;
  Fd door_ = open_door(port_);
  const Host host_{name, std::nullopt};
  Speech speech_;
  bool held_ = false;  ///< Origins accept and say nothing.
  std::vector<std::unique_ptr<OriginEnd>> origins_;
  std::deque<Ask> asks_;
  Resolver resolver_{loop_, overrides()};
  Dialler dialler_{loop_, resolver_, {}};
  tls::OriginContext tls_{Authority::shared().trust()};
  Pool pool_{loop_, buffers_, dialler_, tls_};
};

TEST_F(Http2PoolTest, TheFirstBurstToAnUnknownOriginSharesOneConnection) {
  const auto asks = ask_times(50);
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_TRUE(one->has_stream());
  EXPECT_EQ(origins_.size(), 1u);
  EXPECT_EQ(pool_.http2_connections(), 1u);
  EXPECT_FALSE((**asks[0]->out).reused);
  EXPECT_TRUE((**asks[1]->out).reused);
}

TEST_F(Http2PoolTest, WhenAnUnknownOriginSpeaksHttp1TheOthersDialAllAtOnce) {
  speech_.protocols = {"http/1.1"};
  held_ = true;
  const auto asks = ask_times(6);
  ASSERT_TRUE(until([&] { return origins_.size() == 1; }));
  settle();
  EXPECT_EQ(origins_.size(), 1u) << "the first decides";
  ASSERT_TRUE(until([&] {
    origins_[0]->pump();
    return asks[0]->over();
  }));
  EXPECT_TRUE(until([&] { return origins_.size() == 6; })) << "not one after the other";
  held_ = false;
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_TRUE(one->has_connection());

  held_ = true;
  ask_times(4);
  EXPECT_TRUE(until([&] { return origins_.size() == 10; })) << "now it is known";
}

TEST_F(Http2PoolTest, WhatOneSandboxLearntHoldsForOthersAndTheirConnectionsStayTheirOwn) {
  speech_.protocols = {"http/1.1"};
  ASSERT_TRUE(all_over({&ask(Protocol::any, 1)}));
  held_ = true;
  ask(Protocol::any, 2);
  ask(Protocol::any, 2);
  EXPECT_TRUE(until([&] { return origins_.size() == 3; }));

  held_ = false;
  speech_.protocols = {"h2"};
  Ask& first = ask(Protocol::any, 3);
  Ask& second = ask(Protocol::any, 4);
  ASSERT_TRUE(all_over({&first, &second}));
  EXPECT_TRUE(first.has_stream());
  EXPECT_TRUE(second.has_stream());
  EXPECT_GE(pool_.http2_connections(), 2u);
  EXPECT_NE((**first.out).stream, (**second.out).stream);
}

TEST_F(Http2PoolTest, AnOriginThatFallsBackToHttp1IsDialledInParallelAgain) {
  ASSERT_TRUE(all_over({&ask()}));
  origins_[0]->hang_up();
  ASSERT_TRUE(until([&] { return pool_.http2_connections() == 0; }));

  speech_.protocols = {"http/1.1"};
  const auto asks = ask_times(5);
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_TRUE(one->has_connection());
  held_ = true;
  const std::size_t before = origins_.size();
  ask_times(5);
  EXPECT_TRUE(until([&] { return origins_.size() == before + 5; })) << "nobody waits for HTTP/2 any more";
}

TEST_F(Http2PoolTest, ASlowHandshakeIsNotWaitedForLong) {
  held_ = true;
  const auto asks = ask_times(40);
  ASSERT_TRUE(until([&] { return origins_.size() == 1; }));
  pass(Pool::patience - 20ms);
  EXPECT_EQ(origins_.size(), 1u);
  clock_.advance(20ms + io::Loop::tick);
  ASSERT_TRUE(until([&] { return origins_.size() == links_max; })) << origins_.size();
  pass(Pool::patience);
  EXPECT_EQ(origins_.size(), links_max) << "the others wait for one of these";
  // The last of them is the first that answers.
  ASSERT_TRUE(until([&] {
    origins_.back()->pump();
    return std::ranges::count_if(asks, &Ask::over) > 20;
  }));
  held_ = false;
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_TRUE(one->has_stream());
  EXPECT_LE(pool_.http2_connections(), links_max);
  EXPECT_EQ(origins_.size(), links_max);
}

TEST_F(Http2PoolTest, NoMoreConnectionsThanTheLimitAndThoseThatLeaveDoNotCount) {
  speech_.streams_max = 1;
  for (std::size_t i = 0; i < links_max; ++i) {
    Ask& one = ask();
    ASSERT_TRUE(all_over({&one}));
    ASSERT_TRUE(one.has_stream()) << i;
    ASSERT_TRUE(until([&] { return origins_.back()->acknowledged(); }));
  }
  EXPECT_EQ(pool_.http2_connections(), links_max);
  Ask& beyond = ask();
  ASSERT_TRUE(all_over({&beyond}));
  EXPECT_EQ(beyond.failure(), Reason::overloaded);
  EXPECT_EQ(origins_.size(), links_max);

  // One that carries on with what it has, and takes no more, is not in the way of another.
  origins_[3]->go_away();
  settle();
  Ask& instead = ask();
  ASSERT_TRUE(all_over({&instead}));
  EXPECT_TRUE(instead.has_stream());
  EXPECT_EQ(origins_.size(), links_max + 1);

  asks_[0].out.reset();  // Its stream is given up.
  Ask& again = ask();
  ASSERT_TRUE(all_over({&again}));
  EXPECT_TRUE(again.has_stream());
  EXPECT_EQ(origins_.size(), links_max + 1);
}

TEST_F(Http2PoolTest, AnOriginThatLearntHttp2MeanwhileStaysWithinTheLimit) {
  speech_.protocols = {"http/1.1"};
  ASSERT_TRUE(all_over({&ask()}));
  speech_.protocols = {"h2"};
  const auto asks = ask_times(3 * links_max);
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_TRUE(one->has_stream());
  EXPECT_LE(pool_.http2_connections(), links_max);
}

TEST_F(Http2PoolTest, AGrpcRequestOffersHttp2AloneAndItsRefusalIsNobodyElses) {
  for (const bool refuses : {true, false}) {
    SCOPED_TRACE(refuses ? "an alert" : "no ALPN at all");
    speech_ = {.protocols = {"http/1.1"}, .alerts = refuses};
    held_ = true;
    const std::size_t before = origins_.size();
    const std::uint64_t sandbox = refuses ? 1 : 2;
    Ask& grpc = ask(Protocol::http2, sandbox);
    Ask& alike = ask(Protocol::http2, sandbox);
    ASSERT_TRUE(until([&] { return origins_.size() == before + 1; }));
    Ask& other = ask(Protocol::any, sandbox);
    settle();
    held_ = false;
    ASSERT_TRUE(all_over({&grpc, &alike, &other}));
    EXPECT_EQ(grpc.failure(), Reason::origin_tls_failed);
    EXPECT_EQ(alike.failure(), Reason::origin_tls_failed);
    EXPECT_TRUE(other.has_connection());
    EXPECT_EQ(origins_.size(), before + 2);
  }
}

TEST_F(Http2PoolTest, AGrpcConnectionServesEverybody) {
  held_ = true;
  Ask& grpc = ask(Protocol::http2);
  ASSERT_TRUE(until([&] { return origins_.size() == 1; }));
  Ask& other = ask();
  settle();
  held_ = false;
  ASSERT_TRUE(all_over({&grpc, &other}));
  EXPECT_TRUE(grpc.has_stream());
  EXPECT_TRUE(other.has_stream());
  EXPECT_EQ(origins_.size(), 1u);
}

TEST_F(Http2PoolTest, AnOriginThatPrefersHttp1StillSpeaksHttp2ForGrpc) {
  speech_.protocols = {"http/1.1", "h2"};
  Ask& any = ask();
  ASSERT_TRUE(all_over({&any}));
  EXPECT_TRUE(any.has_connection());
  const auto grpc = ask_times(3, Protocol::http2);
  ASSERT_TRUE(all_over(grpc));
  for (const Ask* one : grpc) EXPECT_TRUE(one->has_stream());
  EXPECT_EQ(origins_.size(), 2u);
}

TEST_F(Http2PoolTest, AHandshakeThatFailsFailsThoseWhoWaitedForIt) {
  held_ = true;
  const auto asks = ask_times(10);
  ASSERT_TRUE(until([&] { return origins_.size() == 1; }));
  settle();
  origins_[0]->hang_up();
  ASSERT_TRUE(all_over(asks));
  for (const Ask* one : asks) EXPECT_EQ(one->failure(), Reason::origin_tls_failed);
  EXPECT_EQ(origins_.size(), 1u) << "nobody tries the same again";

  held_ = false;
  Ask& next = ask();
  ASSERT_TRUE(all_over({&next}));
  EXPECT_TRUE(next.has_stream()) << "but the next may";
}

TEST_F(Http2PoolTest, AFailureIsNobodyElsesWhileAnotherHandshakeIsUnderWay) {
  held_ = true;
  const auto asks = ask_times(3);
  ASSERT_TRUE(until([&] { return origins_.size() == 1; }));
  clock_.advance(Pool::patience + io::Loop::tick);
  ASSERT_TRUE(until([&] { return origins_.size() == 3; }));
  const auto late = ask_times(2);
  settle();
  EXPECT_EQ(origins_.size(), 3u);
  origins_[0]->hang_up();
  ASSERT_TRUE(until([&] { return asks[0]->over(); }));
  EXPECT_EQ(asks[0]->failure(), Reason::origin_tls_failed);
  held_ = false;
  ASSERT_TRUE(all_over({asks[1], asks[2], late[0], late[1]}));
  for (const Ask* one : late) EXPECT_TRUE(one->has_stream());
}

TEST_F(Http2PoolTest, AWebSocketTakesHttp1WhereThereIsOne) {
  ASSERT_TRUE(all_over({&ask()}));
  Ask& socket = ask(Protocol::websocket);
  ASSERT_TRUE(all_over({&socket}));
  EXPECT_TRUE(socket.has_connection());
  EXPECT_EQ(origins_.size(), 2u);
}

TEST_F(Http2PoolTest, AWebSocketToAnOriginOfHttp2SharesAConnection) {
  speech_ = {.protocols = {"h2"}, .extended_connect = true};
  Ask& first = ask(Protocol::websocket);
  ASSERT_TRUE(all_over({&first}));
  EXPECT_TRUE(first.has_stream());
  EXPECT_EQ(origins_.size(), 2u) << "HTTP/1.1 was asked for first";
  Ask& second = ask(Protocol::websocket);
  Ask& request = ask();
  ASSERT_TRUE(all_over({&second, &request}));
  EXPECT_TRUE(second.has_stream());
  EXPECT_TRUE(request.has_stream());
  EXPECT_EQ(pool_.http2_connections(), 1u);
}

TEST_F(Http2PoolTest, AnOriginOfHttp2WithoutWebSocketsIsSaidToHaveNone) {
  speech_ = {.protocols = {"h2"}};
  Ask& socket = ask(Protocol::websocket);
  ASSERT_TRUE(all_over({&socket}));
  EXPECT_EQ(socket.failure(), Reason::origin_tls_failed);
  Ask& request = ask();
  ASSERT_TRUE(all_over({&request}));
  EXPECT_TRUE(request.has_stream());
}

TEST_F(Http2PoolTest, ARequestBoundToItsConnectionHasOneOfItsOwn) {
  ASSERT_TRUE(all_over({&ask()}));
  Ask& bound = ask(Protocol::http1);
  ASSERT_TRUE(all_over({&bound}));
  EXPECT_TRUE(bound.has_connection());
}

}  // namespace
}  // namespace postern::origin
