#pragma once
// TLS on a socket. OpenSSL calls receive() and transmit() of the stream itself, so the readiness flags hold
// for encrypted bytes as they do for plain ones. Renegotiation and early data are off.

#include "io/stream.h"

struct ssl_st;

namespace postern::tls {

class TlsStream final : public io::Stream {
 public:
  /// Takes the socket over from a plain stream and the connection (SSL) from a context; null is overloaded.
  TlsStream(std::unique_ptr<io::TcpStream> plain, ssl_st* connection);
  ~TlsStream() override;

  /// Completes the handshake; on the origin side that includes verification of its name, so nothing may be
  /// written before. Errors: sandbox_tls_failed; origin_certificate_invalid, origin_tls_failed; timeouts.
  io::Task<Result<void>> handshake(TimePoint deadline);

  void shutdown_write() override;  ///< close_notify, then FIN.

  /// The peer ended without close_notify: what came without a length may be cut short.
  bool truncated() const { return truncated_; }
  bool resumed() const;
  std::string_view protocol() const;  ///< "TLSv1.3"
  bool chose_http2() const;           ///< By ALPN.
  /// The handshake failed because the peer speaks nothing of what was offered by ALPN.
  bool protocol_refused() const { return protocol_refused_; }

 protected:
  Attempt try_read(std::span<char> into, std::size_t& count) override;
  Attempt try_write(std::string_view bytes, std::size_t& count) override;
  bool has_buffered_input() const override;

 private:
  friend struct SocketBio;
  class HandshakeAwaiter;
  Attempt interpret(int result);
  Attempt read_record(std::span<char> into, std::size_t& count);
  Error handshake_error();

  ssl_st* connection_;
  bool truncated_ = false;
  bool only_writing_failed_ = false;  ///< What the peer said before can still be read: an early answer.
  bool established_ = false;
  bool exhausted_ = false;  ///< Nothing will be read any more.
  bool protocol_refused_ = false;
};

}  // namespace postern::tls
