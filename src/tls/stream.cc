#include "tls/stream.h"

#include <cerrno>
#include <cstdlib>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <sys/socket.h>

namespace postern::tls {

// OpenSSL's door to the socket.
struct SocketBio {
  static int read(BIO* bio, char* into, int size) {
    BIO_clear_retry_flags(bio);
    auto* stream = static_cast<TlsStream*>(BIO_get_data(bio));
    const ssize_t got = stream->receive(into, static_cast<std::size_t>(size));
    if (got < 0 && errno == EAGAIN) BIO_set_retry_read(bio);
    if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return static_cast<int>(got);
  }
  static int write(BIO* bio, const char* from, int size) {
    BIO_clear_retry_flags(bio);
    auto* stream = static_cast<TlsStream*>(BIO_get_data(bio));
    const ssize_t sent = stream->transmit(from, static_cast<std::size_t>(size));
    if (sent < 0 && errno == EAGAIN) BIO_set_retry_write(bio);
    return static_cast<int>(sent);
  }
  static long control(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_FLUSH) return 1;
    if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) ? 1 : 0;
    return 0;
  }
  static BIO_METHOD* method() {
    static BIO_METHOD* const socket_method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "postern socket");
      if (!made) std::abort();
      BIO_meth_set_read(made, read);
      BIO_meth_set_write(made, write);
      BIO_meth_set_ctrl(made, control);
      return made;
    }();
    return socket_method;
  }
};

TlsStream::TlsStream(std::unique_ptr<io::TcpStream> plain, ssl_st* connection)
    : Stream(std::move(plain)), connection_(connection) {
  BIO* bio = connection_ ? BIO_new(SocketBio::method()) : nullptr;
  if (!bio) {
    error_ = Error{Reason::overloaded, Side::self, Retry::never, "out of memory for another TLS connection"};
    return;
  }
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(connection_, bio, bio);
}

TlsStream::~TlsStream() {
  // OpenSSL takes a connection that was closed without alerts for a broken one, and its session with it.
  // Closing an idle pooled connection is no reason to shake hands in full next time.
  if (established_ && !error_) SSL_set_shutdown(connection_, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  SSL_free(connection_);
}

Error TlsStream::handshake_error() {
  const unsigned long code = ERR_peek_last_error();
  protocol_refused_ = ERR_GET_REASON(code) == SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL;
  const char* reason = code ? ERR_reason_error_string(code) : nullptr;
  std::string detail = reason ? reason : "the connection ended during the TLS handshake";
  ERR_clear_error();
  const long verified = SSL_get_verify_result(connection_);
  if (side() == Side::origin && verified != X509_V_OK)
    return Error{
        Reason::origin_certificate_invalid, Side::origin, Retry::never,
        std::string("the origin's certificate is not valid: ") + X509_verify_cert_error_string(verified)};
  return error(Reason::sandbox_tls_failed, Reason::origin_tls_failed, std::move(detail));
}

io::Stream::Attempt TlsStream::interpret(int result) {
  switch (SSL_get_error(connection_, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: return Attempt::would_block;
    case SSL_ERROR_SYSCALL: {
      const int number = errno;
      ERR_clear_error();
      error_ = closed_error(number ? number : ECONNRESET);
      return Attempt::failed;
    }
    default: error_ = handshake_error(); return Attempt::failed;
  }
}

namespace {
// Of what one event may do: a signature and a key exchange take longer than relaying as many bytes.
constexpr std::size_t handshake_step_slice = 64 * KiB;
}  // namespace

class TlsStream::HandshakeAwaiter final : Waiter {
 public:
  HandshakeAwaiter(TlsStream& stream, TimePoint until) : stream_(stream) { deadline = until; }
  HandshakeAwaiter(const HandshakeAwaiter&) = delete;
  ~HandshakeAwaiter() {
    if (stream_.reader_ == this) stream_.reader_ = nullptr;
  }
  bool await_ready() { return retry(stream_); }
  void await_suspend(std::coroutine_handle<> h) {
    handle = h;
    stream_.wait(stream_.reader_, *this);
  }
  Result<void> await_resume() { return std::move(result_); }

 private:
  bool retry(Stream&) override {
    if (stream_.error_) {
      give_up(*stream_.error_);
      return true;
    }
    stream_.loop().count_slice(handshake_step_slice);
    const int result = SSL_do_handshake(stream_.connection_);
    if (result == 1) return true;
    switch (stream_.interpret(result)) {
      case Attempt::would_block: return false;
      default: give_up(*stream_.error_); return true;
    }
  }
  void give_up(Error error) override { result_ = std::unexpected(std::move(error)); }
  TlsStream& stream_;
  Result<void> result_;
};

io::Task<Result<void>> TlsStream::handshake(TimePoint deadline) {
  auto done = co_await HandshakeAwaiter(*this, deadline);
  if (!done && side() == Side::origin && done.error().reason == Reason::origin_closed)
    done.error().reason = Reason::origin_tls_failed;
  established_ = done.has_value();
  co_return done;
}

// A full record is rarely the last one: those that are there are read together, so that they can go on
// together.
io::Stream::Attempt TlsStream::try_read(std::span<char> into, std::size_t& count) {
  const Attempt first = read_record(into, count);
  if (first != Attempt::done) return first;
  for (std::size_t last = count; last == SSL3_RT_MAX_PLAIN_LENGTH && count < into.size(); count += last) {
    last = 0;
    // What went wrong is told the next time.
    if (read_record(into.subspan(count), last) != Attempt::done) break;
  }
  return Attempt::done;
}

io::Stream::Attempt TlsStream::read_record(std::span<char> into, std::size_t& count) {
  if (error_ && !only_writing_failed_) return Attempt::failed;
  if (exhausted_) {
    count = 0;
    return Attempt::done;
  }
  ERR_clear_error();  // Another connection's leftover would be taken for an error of this one.
  const int result = SSL_read_ex(connection_, into.data(), into.size(), &count);
  if (result == 1) return Attempt::done;
  const int kind = SSL_get_error(connection_, result);
  if (kind == SSL_ERROR_ZERO_RETURN) {
    exhausted_ = true;
    count = 0;
    return Attempt::done;
  }
  if (kind == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    ERR_clear_error();
    exhausted_ = truncated_ = true;
    count = 0;
    return Attempt::done;
  }
  const Attempt attempt = interpret(result);
  if (attempt == Attempt::failed) only_writing_failed_ = false;
  return attempt;
}

io::Stream::Attempt TlsStream::try_write(std::string_view bytes, std::size_t& count) {
  if (error_) return Attempt::failed;
  ERR_clear_error();
  const int result = SSL_write_ex(connection_, bytes.data(), bytes.size(), &count);
  if (result == 1) return Attempt::done;
  only_writing_failed_ = SSL_get_error(connection_, result) == SSL_ERROR_SYSCALL;
  return interpret(result);
}

bool TlsStream::has_buffered_input() const { return connection_ && SSL_has_pending(connection_) == 1; }

void TlsStream::shutdown_write() {
  if (resetting_) return;
  if (established_ && !error_) {
    SSL_shutdown(connection_);
    ERR_clear_error();
  }
  Stream::shutdown_write();
}

bool TlsStream::resumed() const { return SSL_session_reused(connection_) == 1; }
std::string_view TlsStream::protocol() const { return SSL_get_version(connection_); }

bool TlsStream::chose_http2() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(connection_, &name, &size);
  return std::string_view(reinterpret_cast<const char*>(name), size) == "h2";
}

}  // namespace postern::tls
