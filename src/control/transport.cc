#include "control/transport.h"

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/websocket.hpp>
#include <cstring>
#include <fmt/format.h>
#include <mutex>
#include <netinet/tcp.h>
#include <optional>
#include <pthread.h>
#include <sys/socket.h>
#include <thread>
#include <utility>

namespace postern::control {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

// NOLINTBEGIN(bugprone-unused-return-value): Asio returns the error that it sets, too.

constexpr int backlog = 1024;
// When no descriptor is left: connections end, and then there is one again.
constexpr std::chrono::milliseconds accept_pause{100};
// Cancelled operations end at once; this is for what cannot be foreseen.
constexpr std::chrono::seconds end_time{5};

/// A socket with TLS or without, as one type: what is built on it is compiled once.
class AnyStream {
 public:
  using executor_type = Tcp::socket::executor_type;

  AnyStream(Tcp::socket socket, asio::ssl::context* tls) : tcp_(std::move(socket)) {
    if (tls != nullptr) tls_.emplace(tcp_, *tls);
  }
  executor_type get_executor() { return tcp_.get_executor(); }
  Tcp::socket& tcp() { return tcp_; }
  std::optional<asio::ssl::stream<Tcp::socket&>>& tls() { return tls_; }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    ++reads_;
    return asio::async_initiate<Token, void(error_code, std::size_t)>(
        [this](auto handler, const Buffers& into) {
          if (tls_) {
            tls_->async_read_some(into, std::move(handler));
          } else {
            tcp_.async_read_some(into, std::move(handler));
          }
        },
        token, buffers);
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(error_code, std::size_t)>(
        [this](auto handler, const Buffers& from) {
          if (tls_) {
            tls_->async_write_some(from, std::move(handler));
          } else {
            tcp_.async_write_some(from, std::move(handler));
          }
        },
        token, buffers);
  }

  /// That were begun.
  std::uint64_t reads() const { return reads_; }

  void close() {
    error_code ignored;
    tcp_.close(ignored);
  }
  void end_writing() {
    error_code ignored;
    tcp_.shutdown(Tcp::socket::shutdown_send, ignored);
  }

 private:
  Tcp::socket tcp_;
  std::optional<asio::ssl::stream<Tcp::socket&>> tls_;
  std::uint64_t reads_ = 0;
};

// What Beast asks of a stream that is not one of its own: how it is given up, and how it ends well.
void beast_close_socket(AnyStream& stream) { stream.close(); }
// The latter is done by who owns the socket (Connection::linger), for WebSockets as for HTTP.
[[maybe_unused]] void teardown(beast::role_type, AnyStream&, error_code& error) { error = {}; }
template <class Handler>
void async_teardown(beast::role_type, AnyStream& stream, Handler&& handler) {
  asio::post(stream.get_executor(), beast::bind_front_handler(std::forward<Handler>(handler), error_code()));
}

Outcome outcome_of(const error_code& error) {
  if (!error) return Outcome::done;
  // A peer that ends TLS without close_notify may have been cut off by somebody else. Both kinds of message
  // that come here say themselves how long they are, so that it makes no difference.
  if (error == asio::error::eof || error == asio::ssl::error::stream_truncated) return Outcome::ended;
  return Outcome::failed;
}

class BeastFrames final : public FrameStream {
 public:
  BeastFrames(AnyStream& stream, const Request& request, const Socket::WebSocketOptions& options)
      : stream_(stream) {
    request_.method(http::verb::get);
    request_.target(request.target);
    request_.version(11);
    for (const Field& field : request.fields) request_.insert(field.name, field.value);
    // Whether the peer is alive is looked after by OpenWebSocket: Beast would give up one that is not read
    // from.
    stream_.set_option(
        websocket::stream_base::timeout{options.closing_time, websocket::stream_base::none(), false});
    stream_.set_option(websocket::stream_base::decorator(
        [](websocket::response_type& response) { response.set(http::field::server, "postern"); }));
    stream_.read_message_max(options.message_bytes_max);
    // The frame is our buffer as it is: nothing is masked or compressed here, so nothing needs to be copied.
    stream_.auto_fragment(false);
  }

  void accept(std::move_only_function<void(Outcome)> then) override {
    stream_.async_accept(request_,
                         [then = std::move(then)](error_code error) mutable { then(outcome_of(error)); });
  }

  void read(std::move_only_function<void(Outcome, WebSocketFrame)> then) override {
    stream_.async_read(incoming_, [this, then = std::move(then)](error_code error, std::size_t) mutable {
      WebSocketFrame frame;
      if (!error) {
        frame.text = stream_.got_text();
        frame.data = beast::buffers_to_string(incoming_.data());
      }
      // Most messages are small: one large one must not stay behind in a session that idles for hours.
      incoming_.consume(incoming_.size());
      incoming_.shrink_to_fit();
      then(error == websocket::error::closed ? Outcome::ended : outcome_of(error), std::move(frame));
    });
  }

  void write(const WebSocketFrame& frame, std::move_only_function<void(Outcome)> then) override {
    stream_.text(frame.text);
    stream_.async_write(
        asio::buffer(frame.data),
        [then = std::move(then)](error_code error, std::size_t) mutable { then(outcome_of(error)); });
  }

  void ping(std::move_only_function<void(Outcome)> then) override {
    stream_.async_ping({}, [then = std::move(then)](error_code error) mutable { then(outcome_of(error)); });
  }

  // A read of the socket is begun when the last one has brought something that was not all yet.
  std::uint64_t activity() const override { return stream_.next_layer().reads(); }

  void close(int code, std::string_view reason, std::move_only_function<void(Outcome)> then) override {
    websocket::close_reason why(static_cast<std::uint16_t>(code));
    const std::string_view fitting = reason.substr(0, why.reason.max_size());
    why.reason.assign(fitting.begin(), fitting.end());
    stream_.async_close(why, [then = std::move(then)](error_code error) mutable { then(outcome_of(error)); });
  }

  int peer_code() const override {
    const auto code = stream_.reason().code;
    return code == websocket::close_code::none ? 1005 : static_cast<int>(code);
  }
  std::string peer_reason() const override { return std::string(stream_.reason().reason.c_str()); }

 private:
  http::request<http::empty_body> request_;
  beast::flat_buffer incoming_;
  websocket::stream<AnyStream&> stream_;
};

class AsioSocket final : public Socket {
 public:
  AsioSocket(Tcp::socket socket, asio::ssl::context* tls, unsigned lane, const Endpoint& peer)
      : stream_(std::move(socket), tls), timer_(stream_.get_executor()), lane_(lane), peer_(peer) {}

  unsigned lane() const override { return lane_; }
  const Endpoint& peer() const override { return peer_; }

  void handshake(std::move_only_function<void(Outcome)> then) override {
    auto handler = [then = std::move(then)](error_code error) mutable { then(outcome_of(error)); };
    if (stream_.tls()) {
      stream_.tls()->async_handshake(asio::ssl::stream_base::server, std::move(handler));
    } else {
      asio::post(stream_.get_executor(), [handler = std::move(handler)]() mutable { handler({}); });
    }
  }

  void read_some(std::span<char> into, std::move_only_function<void(Outcome, std::size_t)> then) override {
    stream_.async_read_some(asio::buffer(into.data(), into.size()),
                            [then = std::move(then)](error_code error, std::size_t count) mutable {
                              then(outcome_of(error), count);
                            });
  }

  void write(std::string_view first, std::string_view second,
             std::move_only_function<void(Outcome)> then) override {
    const std::array<asio::const_buffer, 2> both{asio::buffer(first), asio::buffer(second)};
    asio::async_write(stream_, both, [then = std::move(then)](error_code error, std::size_t) mutable {
      then(error ? Outcome::failed : Outcome::done);
    });
  }

  void end_writing(PeerIs peer) override {
    if (!stream_.tls()) return stream_.end_writing();
    if (peer == PeerIs::sending) return;
    // It ends when the peer answered with its own close_notify; meanwhile, what it says is read as ever.
    stream_.tls()->async_shutdown([owner = owner_.lock()](error_code) {});
  }

  void close() override {
    timer_.cancel();
    stream_.close();
  }

  void on_deadline(std::weak_ptr<void> owner, std::function<void()> then) override {
    owner_ = std::move(owner);
    on_deadline_ = std::move(then);
  }

  void set_deadline(TimePoint deadline) override {
    if (deadline == TimePoint::max()) {
      deadline_ = deadline;
      timer_.cancel();
      return;
    }
    // An earlier wake-up finds out that it is too early: moving a deadline back, which happens with every
    // piece that arrives, costs nothing.
    const bool later = deadline >= deadline_ && deadline_ != TimePoint::max();
    deadline_ = deadline;
    if (!later) wait();
  }

  std::unique_ptr<FrameStream> make_websocket(const Request& request,
                                              const WebSocketOptions& options) override {
    return std::make_unique<BeastFrames>(stream_, request, options);
  }

 private:
  void wait() {
    timer_.expires_at(deadline_);
    timer_.async_wait([this, owner = owner_](error_code error) {
      if (error) return;
      const auto alive = owner.lock();
      if (!alive || deadline_ == TimePoint::max()) return;
      if (deadline_ > std::chrono::steady_clock::now()) return wait();
      deadline_ = TimePoint::max();
      on_deadline_();
    });
  }

  AnyStream stream_;
  asio::steady_timer timer_;
  TimePoint deadline_ = TimePoint::max();
  std::weak_ptr<void> owner_;
  std::function<void()> on_deadline_;
  const unsigned lane_;
  const Endpoint peer_;
};

class AsioTransport final : public Transport {
 public:
  explicit AsioTransport(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) lanes_.push_back(std::make_unique<Lane>());
    acceptor_.emplace(lanes_[0]->context);
    pause_.emplace(lanes_[0]->context);
  }
  ~AsioTransport() override { end(); }

  Tcp::acceptor& acceptor() { return *acceptor_; }
  asio::ssl::context& use_tls() { return tls_.emplace(asio::ssl::context::tls_server); }
  void set_local(const Endpoint& local) { local_ = local; }

  const Endpoint& local() const override { return local_; }
  unsigned lanes() const override { return static_cast<unsigned>(lanes_.size()); }

  void start(OnSocket on_socket) override {
    on_socket_ = std::move(on_socket);
    post(0, [this] { accept(); });
    for (const auto& lane : lanes_)
      lane->thread = std::thread([&context = lane->context, this] {
        ::pthread_setname_np(::pthread_self(), "api i/o");
        context.run();
        const std::lock_guard lock(mutex_);
        ++ended_;
        changed_.notify_all();
      });
  }

  void stop_listening() override {
    post(0, [this] {
      error_code ignored;
      acceptor_->close(ignored);
      pause_->cancel();
    });
  }

  void post(unsigned lane, Job job) override {
    const std::lock_guard lock(lanes_[lane]->mutex);
    if (!lanes_[lane]->ended) asio::post(lanes_[lane]->context, std::move(job));
  }

  void end() override {
    stop_listening();
    for (const auto& lane : lanes_) lane->guard.reset();
    {
      std::unique_lock lock(mutex_);
      const auto all = [&] { return ended_ == lanes_.size() || !lanes_[0]->thread.joinable(); };
      changed_.wait_for(lock, end_time, all);
    }
    for (const auto& lane : lanes_) {
      {
        const std::lock_guard lock(lane->mutex);
        lane->ended = true;
      }
      lane->context.stop();
      if (lane->thread.joinable()) lane->thread.join();
      // What was posted between the end of the thread and `ended`: it may hold connections, which hold us.
      lane->context.restart();
      lane->context.poll();
    }
  }

 private:
  struct Lane {
    asio::io_context context{1};
    std::optional<asio::executor_work_guard<asio::io_context::executor_type>> guard{
        asio::make_work_guard(context)};
    std::mutex mutex;
    bool ended = false;
    std::thread thread;
  };

  void accept() {
    const unsigned lane = next_++ % lanes();
    acceptor_->async_accept(lanes_[lane]->context, [this, lane](error_code error, Tcp::socket socket) {
      if (!acceptor_->is_open()) return;
      if (!error) {
        take(lane, std::move(socket));
        return accept();
      }
      if (error == asio::error::connection_aborted) return accept();
      pause_->expires_after(accept_pause);
      pause_->async_wait([this](error_code) {
        if (acceptor_->is_open()) accept();
      });
    });
  }

  void take(unsigned lane, Tcp::socket socket) {
    error_code error;
    const auto name = socket.remote_endpoint(error);
    if (error) return;
    const auto peer = Endpoint::from_sockaddr(*name.data());
    socket.set_option(Tcp::no_delay(true), error);
    if (!peer) return;
    // A long wait has no deadline: a peer whose machine is gone is noticed by the kernel, within two minutes.
    socket.set_option(asio::socket_base::keep_alive(true), error);
    constexpr std::array<std::pair<int, int>, 3> keep_alive = {
        {{TCP_KEEPIDLE, 60}, {TCP_KEEPINTVL, 15}, {TCP_KEEPCNT, 4}}};
    for (const auto& [option, value] : keep_alive)
      ::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof value);
    auto made = std::make_shared<AsioSocket>(std::move(socket), tls_ ? &*tls_ : nullptr, lane, *peer);
    post(lane, [this, made = std::move(made)]() mutable { on_socket_(std::move(made)); });
  }

  std::vector<std::unique_ptr<Lane>> lanes_;
  std::optional<asio::ssl::context> tls_;
  std::optional<Tcp::acceptor> acceptor_;
  std::optional<asio::steady_timer> pause_;
  unsigned next_ = 0;
  Endpoint local_;
  OnSocket on_socket_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t ended_ = 0;
};

std::unexpected<Error> unusable(std::string detail) {
  return fail(Reason::invalid_configuration, std::move(detail));
}

int choose_protocol(::SSL*, const unsigned char** chosen, unsigned char* size, const unsigned char* offered,
                    unsigned offered_size, void*) {
  static constexpr unsigned char ours[] = "\x08http/1.1";
  unsigned char* selected = nullptr;
  if (::SSL_select_next_proto(&selected, size, ours, sizeof ours - 1, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;  // RFC 7301 §3.2
  *chosen = selected;
  return SSL_TLSEXT_ERR_OK;
}

Result<void> set_up_tls(asio::ssl::context& tls, const TransportOptions& options) {
  error_code error;
  tls.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                      asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                      asio::ssl::context::no_tlsv1_1 | SSL_OP_NO_RENEGOTIATION,
                  error);
  if (!error) tls.use_certificate_chain_file(options.certificate_file, error);
  if (error) return unusable(fmt::format("{}: {}", options.certificate_file, error.message()));
  tls.use_private_key_file(options.key_file, asio::ssl::context::pem, error);
  if (error) return unusable(fmt::format("{}: {}", options.key_file, error.message()));
  if (::SSL_CTX_check_private_key(tls.native_handle()) != 1)
    return unusable(fmt::format("{} is not the key of {}", options.key_file, options.certificate_file));
  ::SSL_CTX_set_alpn_select_cb(tls.native_handle(), choose_protocol, nullptr);
  return {};
}

}  // namespace

Result<std::unique_ptr<Transport>> Transport::listen(const TransportOptions& options) {
  sockaddr_storage address{};
  const unsigned size = options.listen.to_sockaddr(address);
  Tcp::endpoint endpoint;
  endpoint.resize(size);
  std::memcpy(endpoint.data(), &address, size);

  auto made = std::make_unique<AsioTransport>(std::max(options.threads, 1U));
  if (!options.certificate_file.empty())
    if (auto ready = set_up_tls(made->use_tls(), options); !ready)
      return std::unexpected(std::move(ready.error()));
  error_code error;
  Tcp::acceptor& acceptor = made->acceptor();
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(backlog, error);
  if (error) return unusable(fmt::format("{}: {}", options.listen.to_string(), error.message()));
  const auto local = Endpoint::from_sockaddr(*acceptor.local_endpoint().data());
  made->set_local(local.value_or(options.listen));
  return made;
}

// NOLINTEND(bugprone-unused-return-value)

}  // namespace postern::control
