#pragma once
// The server behind `postern serve`: HTTP/1.1 and WebSocket, on threads of its own, away from the loops that
// carry the sandboxes' traffic (docs/decisions/0019).
//
// The callers are not trusted: every wait has a deadline, every buffer a size, and what two readers could
// read differently is refused (wire/http1.h is the one reader of HTTP/1.1 in this house).

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"
#include "control/call.h"
#include "control/router.h"
#include "model/address.h"

namespace postern::control {

/// Heads are limited by wire/http1.h, bodies by whoever asks for them (Call::read_body).
struct ServerLimits {
  /// Thousands of WebSockets that idle, with room; each costs about 16 KiB, and some 70 KiB more with TLS.
  /// Above, a new connection is closed.
  std::size_t connections_max = 10'000;
  /// Handed to a handler and not answered, long waits too. Above: 503.
  std::size_t requests_max = 4'096;
  /// For a TLS handshake, and for a whole head from its first byte on: slow senders gain nothing by
  /// trickling.
  Duration head_time = std::chrono::seconds(10);
  /// Between requests. Above what clients keep connections for (Node 5 s, requests and httpx less), so that
  /// it is mostly they who close.
  Duration idle_time = std::chrono::seconds(75);
  /// A body that is read whole is there by then: those are documents.
  Duration body_time = std::chrono::seconds(60);
  /// A streamed body may take as long as it likes, but not pause for longer.
  Duration body_pause = std::chrono::seconds(30);
  /// 64 KiB of an answer are taken by then: a reader slower than 1 KiB/s is holding us up.
  Duration write_time = std::chrono::seconds(60);
  /// A WebSocket without a byte from the peer, pings answered, is dead. It is pinged after half of this,
  /// which is below the minute after which load balancers forget a connection.
  Duration websocket_idle_time = std::chrono::seconds(100);
  /// A message is taken by then. Longer than the above is allowed to be: a client may hold up its output on
  /// purpose.
  Duration websocket_write_time = std::chrono::minutes(10);
  Duration websocket_closing_time = std::chrono::seconds(10);
  /// After the last answer of a connection: for the caller to read it before what it still sends would reset
  /// the connection, and with it the answer (RFC 9112 §9.6).
  Duration linger_time = std::chrono::seconds(2);
};

/// One line per request, and one per WebSocket at its end.
struct AccessRecord {
  enum class End : std::uint8_t {
    complete,
    broken,  ///< The caller went, or was too slow, before it had all of the answer.
  };
  WallTime at;  ///< The head was complete.
  Duration took{};
  std::string method;
  std::string path;   ///< As sent, without the query: that may hold what nobody should read.
  std::string route;  ///< The pattern that matched; empty when none did.
  std::string workspace;
  std::string key_id;
  Endpoint peer;
  int status = 0;               ///< 0: there was no answer. 101: a WebSocket.
  std::uint64_t bytes_in = 0;   ///< Of the body, or of messages.
  std::uint64_t bytes_out = 0;  ///< Likewise.
  End end = End::complete;
};
/// Called on I/O threads: it must not wait.
using AccessLog = std::function<void(const AccessRecord&)>;

struct ServerOptions {
  Endpoint listen;               ///< Port 0 takes any.
  std::string certificate_file;  ///< PEM, with its chain; empty: no TLS.
  std::string key_file;
  unsigned io_threads = 2;
  unsigned workers = 16;  ///< They wait for disks, not for callers.
  ServerLimits limits;
};

class HttpServer {
 public:
  /// Listens; who connects waits until start(). Errors: invalid_configuration, with a sentence. `clock`
  /// outlives the server; waiting goes by the system's own.
  static Result<std::unique_ptr<HttpServer>> listen(const ServerOptions& options, const Clock& clock);
  /// stop() without patience, unless that was called.
  virtual ~HttpServer() = default;

  virtual const Endpoint& local() const = 0;

  /// `handler` is called on workers, many at once: usually a Router's. Once.
  virtual void start(Handler handler, AccessLog log) = 0;

  /// Takes no new connections and no further requests on open ones, tells WebSockets to come again (1001),
  /// and waits for what is under way, at most for `patience`; then cuts it. Calls that are still held do
  /// nothing afterwards. Not from a handler.
  virtual void stop(Duration patience) = 0;

  /// Connections that are open.
  virtual std::size_t connections() const = 0;
};

}  // namespace postern::control
