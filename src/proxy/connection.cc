#include "proxy/connection.h"

#include <cerrno>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "dns/name_table.h"
#include "intake/first_flight.h"
#include "proxy/exchange.h"
#include "proxy/http1_sides.h"
#include "proxy/http2_serving.h"
#include "proxy/limits.h"
#include "proxy/relay.h"
#include "proxy/worker.h"
#include "tls/stream.h"
#include "wire/host.h"

namespace postern::proxy {

namespace {

constexpr std::uint16_t http_port = 80;
constexpr std::uint16_t https_port = 443;

/// One that speaks HTTP/1: between two requests it can be closed at once, otherwise its answer says that it
/// is the last.
class Http1Connection final : public OpenConnection {
 public:
  Http1Connection(Worker& worker, const Tenant& tenant, io::Stream& stream, const Http1SandboxSide& sandbox)
      : OpenConnection(worker.connections, tenant.resting), stream_(stream), sandbox_(sandbox) {}
  ~Http1Connection() = default;

  using OpenConnection::rest;
  using OpenConnection::stir;

  /// Nothing of a next request has arrived. One that has is served; its answer says that no other may follow.
  bool may_leave() const {
    char byte;
    return sandbox_.nothing_received() && ::recv(stream_.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
  }

 private:
  void on_drain() override {
    if (at_rest()) on_shed();
  }
  void on_shed() override {
    if (may_leave()) stream_.cancel_read();
  }

  io::Stream& stream_;
  const Http1SandboxSide& sandbox_;
};

class Connection {
 public:
  Connection(Worker& worker, const Tenant& tenant, Endpoint dialled, std::unique_ptr<io::TcpStream> sandbox)
      : worker_(worker), sandbox_(std::move(sandbox)), flow_{.tenant = tenant, .port = dialled.port} {
    if (auto name = tenant.identity.names->name_of(dialled.address)) {
      flow_.host.name = std::move(*name);
      flow_.named = true;
    } else {
      flow_.host.literal = dialled.address.unmapped();
      flow_.host.name = flow_.host.literal->to_string();
    }
  }

  io::Task<void> serve() {
    switch (flow_.port) {
      case https_port: return serve_tls();
      case http_port: return serve_http(*sandbox_);
      default: return serve_other();
    }
  }

 private:
  io::Task<void> serve_tls();
  io::Task<void> judge_hello(wire::ClientHello hello);
  io::Task<void> intercept();
  io::Task<void> refuse_readably(Error error);
  io::Task<void> serve_http(io::Stream& stream);
  io::Task<void> serve_http2(std::unique_ptr<io::Stream> stream, std::optional<Error> refusal);
  io::Task<void> serve_other();
  io::Task<void> serve_covered(bool denies_some);
  io::Task<void> pass_through(audit::Kind kind, std::unique_ptr<io::TcpStream> origin,
                              std::string origin_address, origin::DialTimings timings);
  io::Task<void> dial_and_pass(audit::Kind kind);
  io::Task<Result<void>> handshake(tls::LeafUse use, std::unique_ptr<tls::TlsStream>& stream);

  Result<void> take_server_name(const std::string& raw);
  policy::DestinationVerdict judge(policy::Transport transport) const {
    return policy::judge_destination(*flow_.tenant.egress->snapshot,
                                     {.host = flow_.host, .port = flow_.port, .transport = transport});
  }
  void record_failure(audit::Kind kind, const Error& error);
  void describe(audit::Record& record, audit::Kind kind) const;
  void reset() { sandbox_->reset_on_close(); }

  Worker& worker_;
  std::unique_ptr<io::TcpStream> sandbox_;
  Flow flow_;
};

void Connection::describe(audit::Record& record, audit::Kind kind) const {
  record.sandbox = flow_.tenant.identity.name;
  record.workspace = flow_.tenant.identity.workspace;
  record.policy_version = flow_.tenant.egress->snapshot->version();
  record.kind = kind;
  record.host = flow_.host.name;
  record.port = flow_.port;
}

void Connection::record_failure(audit::Kind kind, const Error& error) {
  audit::Recording recording(worker_.journal, worker_.clock);
  describe(*recording, kind);
  recording.finish(error.reason, error.detail);
}

// ---- port 443
// ----------------------------------------------------------------------------------------------

io::Task<void> Connection::serve_tls() {
  auto hello = co_await intake::client_hello(*sandbox_, worker_.buffers,
                                             worker_.loop.now() + limits::first_bytes_time);
  if (!hello) {
    reset();
    co_return record_failure(audit::Kind::tls, hello.error());
  }
  co_await judge_hello(std::move(*hello));
}

Result<void> Connection::take_server_name(const std::string& raw) {
  if (raw.empty()) return fail(Reason::no_server_name, {}, Side::sandbox);
  auto host = wire::canonical_host(raw);
  if (!host) return std::unexpected(std::move(host.error()));
  if (host->literal) return fail(Reason::literal_address, {}, Side::sandbox);
  // The synthetic address was given out for one name: SNI must confirm it.
  if (flow_.named && *host != flow_.host) {
    flow_.host = std::move(*host);
    return fail(Reason::misdirected_request, {}, Side::sandbox);
  }
  flow_.host = std::move(*host);
  flow_.named = true;
  return {};
}

io::Task<void> Connection::judge_hello(wire::ClientHello hello) {
  flow_.tls = true;
  if (auto named = take_server_name(hello.server_name); !named)
    co_return co_await refuse_readably(std::move(named.error()));
  const policy::DestinationVerdict verdict = judge(policy::Transport::tls);
  if (verdict.reason != Reason::allowed)
    co_return co_await refuse_readably({verdict.reason, Side::sandbox, Retry::never, {}});
  if (verdict.intercept) co_return co_await intercept();
  co_await dial_and_pass(audit::Kind::tls);
}

io::Task<Result<void>> Connection::handshake(tls::LeafUse use, std::unique_ptr<tls::TlsStream>& stream) {
  auto leaf = co_await worker_.leaves.leaf_for(flow_.host.name, std::chrono::system_clock::now(), use);
  const std::string scope =
      *flow_.tenant.identity.workspace + "/" + *flow_.tenant.identity.name + "/" + flow_.host.name;
  stream = std::make_unique<tls::TlsStream>(
      std::move(sandbox_),
      worker_.sandbox_tls.new_connection(leaf.certificate.get(), leaf.key.get(), scope,
                                         use == tls::LeafUse::refusal ? tls::Alpn::http1 : tls::Alpn::any));
  co_return co_await stream->handshake(worker_.loop.now() + limits::handshake_time);
}

io::Task<void> Connection::intercept() {
  std::unique_ptr<tls::TlsStream> stream;
  if (auto shaken = co_await handshake(tls::LeafUse::allowed, stream); !shaken)
    co_return record_failure(audit::Kind::tls, shaken.error());
  if (stream->chose_http2()) co_return co_await serve_http2(std::move(stream), std::nullopt);
  co_await serve_http(*stream);
}

// The destination is refused, but the program reads why: a completed handshake and a real HTTP answer. Errors
// of a handshake look like a broken network, and package managers then try for minutes.
io::Task<void> Connection::refuse_readably(Error error) {
  std::unique_ptr<tls::TlsStream> stream;
  if (auto shaken = co_await handshake(tls::LeafUse::refusal, stream); !shaken)
    co_return record_failure(audit::Kind::tls, error);
  if (stream->chose_http2()) co_return co_await serve_http2(std::move(stream), std::move(error));
  Http1SandboxSide sandbox(*stream, worker_.buffers, Http1SandboxSide::HalfClose::is_gone);
  auto request = co_await sandbox.next_request(worker_.loop.now() + limits::first_bytes_time);
  if (!request || !*request) {
    stream->reset_on_close();
    co_return record_failure(audit::Kind::tls, error);
  }
  co_await refuse(worker_, flow_, sandbox, std::move(error));
  co_await sandbox.drain();
  if (!sandbox.aborted()) stream->shutdown_write();
}

// ---- HTTP
// --------------------------------------------------------------------------------------------------

io::Task<void> Connection::serve_http(io::Stream& stream) {
  const auto half_close =
      flow_.tls ? Http1SandboxSide::HalfClose::is_gone : Http1SandboxSide::HalfClose::is_an_end;
  Http1SandboxSide sandbox(stream, worker_.buffers, half_close);
  Http1Connection open(worker_, flow_.tenant, stream, sandbox);
  TimePoint first_byte = worker_.loop.now() + limits::first_bytes_time;
  for (bool first = true;; first = false) {
    // Before its first request a connection is not at rest: clients do not repeat what a new one loses.
    if (!first) open.rest();
    auto request = co_await sandbox.next_request(first_byte);
    open.stir();
    if (!request) {
      const Reason reason = request.error().reason;
      // Between two requests a connection may end in any way; none of them is an exchange.
      const bool quiet = !first && (reason == Reason::cancelled || reason == Reason::sandbox_timeout ||
                                    reason == Reason::sandbox_closed || reason == Reason::sandbox_tls_failed);
      if (!quiet) {
        co_await refuse(worker_, flow_, sandbox, std::move(request.error()));
        co_await sandbox.discard();
      }
      break;
    }
    if (!*request) {
      if (first)
        record_failure(
            flow_.tls ? audit::Kind::tls : audit::Kind::tcp,
            {Reason::sandbox_closed, Side::sandbox, Retry::never, "the connection ended without a request"});
      break;
    }
    if (!worker_.journal.accepting() && !first) {
      sandbox.abort();  // Not even a refusal could be recorded.
      break;
    }
    co_await carry(worker_, flow_, sandbox);
    if (!sandbox.ready_for_next()) {
      co_await sandbox.drain();
      if (!sandbox.ready_for_next()) break;
    }
    if (worker_.draining() && open.may_leave())
      break;  // The answer was begun before that, and does not say so.
    first_byte = worker_.loop.now() + (worker_.draining() ? limits::drain_time : limits::keep_alive_time);
  }
  // After an abort the end must not look orderly: closing resets.
  if (!sandbox.aborted()) stream.shutdown_write();
}

io::Task<void> Connection::serve_http2(std::unique_ptr<io::Stream> stream, std::optional<Error> refusal) {
  Http2Serving serving{worker_, flow_, std::move(refusal),
                       [this](const Error& why) { record_failure(audit::Kind::http, why); }};
  auto nothing = co_await proxy::serve_http2(std::move(serving), std::move(stream));
  if (nothing) record_failure(audit::Kind::tls, *nothing);
}

// ---- every other port
// --------------------------------------------------------------------------------------

io::Task<void> Connection::serve_other() {
  const policy::DestinationVerdict verdict = judge(policy::Transport::tcp);
  if (verdict.reason != Reason::allowed) {
    reset();
    co_return record_failure(audit::Kind::tcp, {verdict.reason, Side::sandbox, Retry::never, {}});
  }
  if (verdict.intercept) co_return co_await serve_covered(verdict.denies_some);
  co_await dial_and_pass(audit::Kind::tcp);
}

// A rule covers the host, so HTTP and TLS are looked into on this port too; but the protocol may be one in
// which the server speaks first, so the origin is dialled before the sandbox has said anything.
io::Task<void> Connection::serve_covered(bool denies_some) {
  origin::DialTimings timings;
  auto dialled =
      co_await worker_.dialler.dial(flow_.host, flow_.port, worker_.loop.now() + origin::Pool::dial_timeout,
                                    timings, flow_.tenant.identity.number);
  if (!dialled) {
    reset();
    co_return record_failure(audit::Kind::tcp, dialled.error());
  }
  struct OriginSpeaks final : io::Stream::IdleWatcher {
    io::TcpStream& sandbox;
    explicit OriginSpeaks(io::TcpStream& s) : sandbox(s) {}
    void on_idle_input(io::Stream& origin) override {
      // A connection that was never read from counts as readable: only bytes, or the end, are a word.
      char byte;
      if (::recv(origin.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN) return;
      origin.watch_idle(nullptr);
      sandbox.cancel_read();
    }
  } origin_speaks(*sandbox_);
  dialled->stream->watch_idle(&origin_speaks);
  auto flight = co_await intake::first_flight(*sandbox_, worker_.buffers,
                                              worker_.loop.now() + limits::tunnel_idle_time);
  dialled->stream->watch_idle(nullptr);
  if (!flight && flight.error().reason != Reason::cancelled) {
    reset();
    co_return record_failure(audit::Kind::tcp, flight.error());
  }
  if (flight && flight->speech == intake::Speech::tls) {
    dialled->stream.reset();
    co_return co_await judge_hello(std::move(flight->hello));
  }
  if (flight && flight->speech == intake::Speech::http) {
    dialled->stream.reset();
    co_return co_await serve_http(*sandbox_);
  }
  if (denies_some) {
    // A rule closes a part of this host: what cannot be looked into might be just that part.
    reset();
    co_return record_failure(audit::Kind::tcp,
                             {Reason::protocol_not_allowed, Side::sandbox, Retry::never, {}});
  }
  co_await pass_through(audit::Kind::tcp, std::move(dialled->stream), dialled->endpoint.to_string(), timings);
}

io::Task<void> Connection::dial_and_pass(audit::Kind kind) {
  origin::DialTimings timings;
  auto dialled =
      co_await worker_.dialler.dial(flow_.host, flow_.port, worker_.loop.now() + origin::Pool::dial_timeout,
                                    timings, flow_.tenant.identity.number);
  if (!dialled) {
    // Nothing of the handshake was consumed: a refusal can still be read. Other failures look as they would
    // anywhere.
    if (kind == audit::Kind::tls && decision_of(dialled.error().reason) == Decision::denied)
      co_return co_await refuse_readably(std::move(dialled.error()));
    reset();
    co_return record_failure(kind, dialled.error());
  }
  co_await pass_through(kind, std::move(dialled->stream), dialled->endpoint.to_string(), timings);
}

io::Task<void> Connection::pass_through(audit::Kind kind, std::unique_ptr<io::TcpStream> origin,
                                        std::string origin_address, origin::DialTimings timings) {
  audit::Recording recording(worker_.journal, worker_.clock);
  describe(*recording, kind);
  recording->origin_address = std::move(origin_address);
  recording->timings.dns = timings.dns;
  recording->timings.connect = timings.connect;
  if (!worker_.journal.accepting()) {
    reset();
    co_return recording.finish(Reason::audit_unavailable);
  }
  io::Buffer from_sandbox(worker_.buffers);
  io::Buffer from_origin(worker_.buffers);
  const RelayOutcome outcome =
      co_await relay(*sandbox_, from_sandbox, *origin, from_origin, limits::tunnel_idle_time);
  recording->request_bytes = outcome.to_origin;
  recording->response_bytes = outcome.to_sandbox;
  // A reset at the end of a relay is an end like any other; the detail says that it was one.
  recording.finish(Reason::allowed, outcome.error ? outcome.error->detail : std::string());
}

}  // namespace

static io::Task<void> close_unserved() { co_return; }

io::Task<void> serve_connection(Worker& worker, const Tenant& tenant, Fd accepted) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  const bool known = ::getsockname(accepted.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0;
  const auto dialled =
      known ? Endpoint::from_sockaddr(reinterpret_cast<const sockaddr&>(address)) : std::nullopt;
  return dialled ? serve_dialled(worker, tenant, *dialled, std::move(accepted)) : close_unserved();
}

io::Task<void> serve_dialled(Worker& worker, const Tenant& tenant, Endpoint dialled, Fd accepted) {
  const Overload::ConnectionPlace place(worker.overload, tenant.load);
  const int on = 1;
  ::setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Connection connection(worker, tenant, dialled,
                        std::make_unique<io::TcpStream>(worker.loop, std::move(accepted), Side::sandbox,
                                                        tenant.identity.number));
  co_await connection.serve();
}

}  // namespace postern::proxy
