#include "proxy/connection.h"

#include <netinet/in.h>
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
  Http1Connection(Worker& worker, const Tenant& tenant, io::Stream& stream)
      : OpenConnection(worker.connections, tenant.resting), stream_(stream) {}
  ~Http1Connection() = default;

  using OpenConnection::rest;
  using OpenConnection::stir;

  /// Nothing of a next request has arrived. One that has is served; its answer says that no other may follow.
  bool may_leave() const {
    char byte;
    return ::recv(stream_.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
  }

 private:
  void on_drain() override {
    if (at_rest()) on_shed();
  }
  void on_shed() override {
    if (may_leave()) stream_.cancel_read();
  }

  io::Stream& stream_;
};

struct Next;
/// A connection is served in stages, each of which ends with the next one: so a connection at rest holds the
/// frame of the stage that it is in, and of none before.
using Stage = io::Task<Next>;
struct Next {
  std::optional<Stage> stage;
};

Next next(Stage stage) { return Next{std::move(stage)}; }
Next over() { return Next{}; }

class Connection final : TenantWatcher {
 public:
  Connection(Worker& worker, const Tenant& tenant, Endpoint dialled, std::unique_ptr<io::TcpStream> sandbox)
      : TenantWatcher(tenant.connections),
        worker_(worker),
        sandbox_(std::move(sandbox)),
        socket_(sandbox_->fd()),
        flow_{.tenant = tenant, .port = dialled.port} {
    if (auto name = tenant.identity.names->name_of(dialled.address)) {
      flow_.host.name = std::move(*name);
      flow_.named = true;
    } else {
      flow_.host.literal = dialled.address.unmapped();
      flow_.host.name = flow_.host.literal->to_string();
    }
  }

  ~Connection() = default;

  Stage first_stage() {
    switch (flow_.port) {
      case https_port: return serve_tls();
      case http_port: return serve_http();
      default: return serve_other();
    }
  }

 private:
  Stage serve_tls();
  Next judge_hello(const wire::ClientHello& hello);
  Stage intercept();
  Stage refuse_readably(Error error);
  Stage serve_http();
  io::Task<bool> serve_requests(TimePoint first_byte, bool first, Result<void> ready);
  Duration next_request_time() const {
    return worker_.draining() ? Duration(limits::drain_time) : Duration(limits::keep_alive_time);
  }
  Stage serve_http2(std::optional<Error> refusal);
  Stage serve_other();
  Stage serve_covered();
  Stage pass_through(audit::Kind kind, std::unique_ptr<io::TcpStream> origin, std::string origin_address,
                     origin::DialTimings timings);
  Stage dial_and_pass(audit::Kind kind);
  io::Task<Result<void>> handshake(tls::LeafUse use);

  Result<void> take_server_name(const std::string& raw);
  policy::DestinationVerdict judge(policy::Transport transport) const {
    return policy::judge_destination(*flow_.tenant.egress->snapshot,
                                     {.host = flow_.host, .port = flow_.port, .transport = transport});
  }
  /// Whether what nobody looks into may go to the destination, by the policy of this moment.
  Reason judge_relay(audit::Kind kind) const;
  void on_tenant_changed() override {
    if (socket_ >= 0) io::break_connection(socket_);
  }
  void record_failure(audit::Kind kind, const Error& error);
  void describe(audit::Recording& recording, audit::Kind kind) const;
  void reset() { sandbox_->reset_on_close(); }
  /// A failure that ends the connection.
  Next failed(audit::Kind kind, const Error& error) {
    reset();
    record_failure(kind, error);
    return over();
  }
  io::Stream& stream() { return secure_ ? static_cast<io::Stream&>(*secure_) : *sandbox_; }

  Worker& worker_;
  std::unique_ptr<io::TcpStream> sandbox_;  ///< Until TLS takes it over.
  std::unique_ptr<tls::TlsStream> secure_;
  int socket_;  ///< Whichever stream has it; -1 when it is closed.
  Flow flow_;
};

void Connection::describe(audit::Recording& recording, audit::Kind kind) const {
  audit::Record& record = *recording;
  if (flow_.tenant.removed) recording.end_as(Reason::shutting_down);
  record.sandbox = flow_.tenant.identity.name;
  record.workspace = flow_.tenant.identity.workspace;
  record.policy_version = flow_.tenant.egress->snapshot->version();
  record.kind = kind;
  record.host = flow_.host.name;
  record.port = flow_.port;
}

void Connection::record_failure(audit::Kind kind, const Error& error) {
  audit::Recording recording(worker_.journal, worker_.clock);
  describe(recording, kind);
  recording.finish(error.reason, error.detail);
}

Reason Connection::judge_relay(audit::Kind kind) const {
  if (flow_.tenant.removed) return Reason::shutting_down;
  const auto verdict = judge(kind == audit::Kind::tls ? policy::Transport::tls : policy::Transport::tcp);
  // A rule closes a part of this host: what cannot be looked into might be just that part.
  if (verdict.reason == Reason::allowed && verdict.denies_some) return Reason::protocol_not_allowed;
  return verdict.reason;
}

// ---- port 443
// ----------------------------------------------------------------------------------------------

Stage Connection::serve_tls() {
  auto hello = co_await intake::client_hello(*sandbox_, worker_.buffers,
                                             worker_.loop.now() + limits::first_bytes_time);
  if (!hello) co_return failed(audit::Kind::tls, hello.error());
  co_return judge_hello(*hello);
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

Next Connection::judge_hello(const wire::ClientHello& hello) {
  flow_.tls = true;
  if (auto named = take_server_name(hello.server_name); !named)
    return next(refuse_readably(std::move(named.error())));
  const policy::DestinationVerdict verdict = judge(policy::Transport::tls);
  if (verdict.reason != Reason::allowed)
    return next(refuse_readably({verdict.reason, Side::sandbox, Retry::never, {}}));
  return next(verdict.intercept ? intercept() : dial_and_pass(audit::Kind::tls));
}

io::Task<Result<void>> Connection::handshake(tls::LeafUse use) {
  auto leaf = co_await worker_.leaves.leaf_for(flow_.host.name, std::chrono::system_clock::now(), use);
  // Not by its name, which another may have after it.
  const std::string scope = std::to_string(flow_.tenant.identity.number) + "/" + flow_.host.name;
  secure_ = std::make_unique<tls::TlsStream>(
      std::move(sandbox_),
      worker_.sandbox_tls.new_connection(leaf.certificate.get(), leaf.key.get(), scope,
                                         use == tls::LeafUse::refusal ? tls::Alpn::http1 : tls::Alpn::any));
  co_return co_await secure_->handshake(worker_.loop.now() + limits::handshake_time);
}

Stage Connection::intercept() {
  if (auto shaken = co_await handshake(tls::LeafUse::allowed); !shaken) {
    record_failure(audit::Kind::tls, shaken.error());
    co_return over();
  }
  co_return next(secure_->chose_http2() ? serve_http2(std::nullopt) : serve_http());
}

// The destination is refused, but the program reads why: a completed handshake and a real HTTP answer. Errors
// of a handshake look like a broken network, and package managers then try for minutes.
Stage Connection::refuse_readably(Error error) {
  if (auto shaken = co_await handshake(tls::LeafUse::refusal); !shaken) {
    record_failure(audit::Kind::tls, error);
    co_return over();
  }
  if (secure_->chose_http2()) co_return next(serve_http2(std::move(error)));
  Http1SandboxSide sandbox(*secure_, worker_.buffers, worker_.head_rooms,
                           Http1SandboxSide::HalfClose::is_gone);
  auto request = co_await sandbox.next_request(worker_.loop.now() + limits::first_bytes_time);
  if (!request || !*request) {
    secure_->reset_on_close();
    record_failure(audit::Kind::tls, error);
    co_return over();
  }
  co_await refuse(worker_, flow_, sandbox, std::move(error));
  co_await sandbox.drain();
  if (!sandbox.aborted()) secure_->shutdown_write();
  co_return over();
}

// ---- HTTP
// --------------------------------------------------------------------------------------------------

// Between two requests there is nothing but this frame and the stream.
Stage Connection::serve_http() {
  Http1Connection open(worker_, flow_.tenant, stream());
  TimePoint first_byte = worker_.loop.now() + limits::first_bytes_time;
  for (bool first = true;; first = false) {
    // Before its first request a connection is not at rest: clients do not repeat what a new one loses.
    if (!first) open.rest();
    auto ready = co_await stream().wait_readable(first_byte);
    open.stir();
    // Between two requests a connection may end in any way; none of them is an exchange.
    if (!ready && !first) break;
    const bool goes_on = co_await serve_requests(first_byte, first, std::move(ready));
    if (!goes_on) co_return over();
    // One whose answer was begun before the end was near, and does not say so.
    if (worker_.draining() && open.may_leave()) break;
    first_byte = worker_.loop.now() + next_request_time();
  }
  stream().shutdown_write();
  co_return over();
}

// One request, and those that came with it. True when another may follow. `ready`: an error when there will
// be none.
io::Task<bool> Connection::serve_requests(TimePoint first_byte, bool first, Result<void> ready) {
  const auto half_close =
      flow_.tls ? Http1SandboxSide::HalfClose::is_gone : Http1SandboxSide::HalfClose::is_an_end;
  Http1SandboxSide sandbox(stream(), worker_.buffers, worker_.head_rooms, half_close);
  for (;; first = false) {
    Result<bool> request = false;
    if (ready)
      request = co_await sandbox.next_request(first_byte);
    else
      request = std::unexpected(std::move(ready.error()));
    if (!request) {
      const Reason reason = request.error().reason;
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
    if (!sandbox.next_has_begun()) co_return true;
    first_byte = worker_.loop.now() + next_request_time();
  }
  // After an abort the end must not look orderly: closing resets.
  if (!sandbox.aborted()) stream().shutdown_write();
  co_return false;
}

Stage Connection::serve_http2(std::optional<Error> refusal) {
  Http2Serving serving{worker_, flow_, std::move(refusal),
                       [this](const Error& why) { record_failure(audit::Kind::http, why); }};
  auto nothing = co_await proxy::serve_http2(std::move(serving), std::move(secure_));
  socket_ = -1;
  if (nothing) record_failure(audit::Kind::tls, *nothing);
  co_return over();
}

// ---- every other port
// --------------------------------------------------------------------------------------

Stage Connection::serve_other() {
  const policy::DestinationVerdict verdict = judge(policy::Transport::tcp);
  if (verdict.reason != Reason::allowed)
    co_return failed(audit::Kind::tcp, {verdict.reason, Side::sandbox, Retry::never, {}});
  co_return next(verdict.intercept ? serve_covered() : dial_and_pass(audit::Kind::tcp));
}

// A rule covers the host, so HTTP and TLS are looked into on this port too; but the protocol may be one in
// which the server speaks first, so the origin is dialled before the sandbox has said anything.
Stage Connection::serve_covered() {
  origin::DialTimings timings;
  auto dialled =
      co_await worker_.dialler.dial(flow_.host, flow_.port, worker_.loop.now() + origin::Pool::dial_timeout,
                                    timings, flow_.tenant.identity.number);
  if (!dialled) co_return failed(audit::Kind::tcp, dialled.error());
  struct OriginSpeaks final : io::Stream::IdleWatcher {
    io::TcpStream& sandbox;
    explicit OriginSpeaks(io::TcpStream& s) : sandbox(s) {}
    void on_idle_input(io::Stream& origin) override {
      origin.watch_idle(nullptr);
      sandbox.cancel_read();
    }
  } origin_speaks(*sandbox_);
  dialled->stream->watch_idle(&origin_speaks);
  auto flight = co_await intake::first_flight(*sandbox_, worker_.buffers,
                                              worker_.loop.now() + limits::tunnel_idle_time);
  dialled->stream->watch_idle(nullptr);
  if (!flight && flight.error().reason != Reason::cancelled)
    co_return failed(audit::Kind::tcp, flight.error());
  if (flight && flight->speech == intake::Speech::tls) co_return judge_hello(flight->hello);
  if (flight && flight->speech == intake::Speech::http) co_return next(serve_http());
  if (const Reason reason = judge_relay(audit::Kind::tcp); reason != Reason::allowed)
    co_return failed(audit::Kind::tcp, {reason, Side::sandbox, Retry::never, {}});
  co_return next(
      pass_through(audit::Kind::tcp, std::move(dialled->stream), dialled->endpoint.to_string(), timings));
}

Stage Connection::dial_and_pass(audit::Kind kind) {
  origin::DialTimings timings;
  auto dialled =
      co_await worker_.dialler.dial(flow_.host, flow_.port, worker_.loop.now() + origin::Pool::dial_timeout,
                                    timings, flow_.tenant.identity.number);
  if (!dialled) {
    // Nothing of the handshake was consumed: a refusal can still be read. Other failures look as they would
    // anywhere.
    if (kind == audit::Kind::tls && decision_of(dialled.error().reason) == Decision::denied)
      co_return next(refuse_readably(std::move(dialled.error())));
    co_return failed(kind, dialled.error());
  }
  co_return next(pass_through(kind, std::move(dialled->stream), dialled->endpoint.to_string(), timings));
}

Stage Connection::pass_through(audit::Kind kind, std::unique_ptr<io::TcpStream> origin,
                               std::string origin_address, origin::DialTimings timings) {
  audit::Recording recording(worker_.journal, worker_.clock);
  describe(recording, kind);
  recording->origin_address = std::move(origin_address);
  recording->timings.dns = timings.dns;
  recording->timings.connect = timings.connect;
  if (!worker_.journal.accepting()) {
    reset();
    recording.finish(Reason::audit_unavailable);
    co_return over();
  }
  // It took time to dial.
  if (const Reason reason = judge_relay(kind); reason != Reason::allowed) {
    reset();
    recording.finish(reason);
    co_return over();
  }
  const OpenTunnel open(
      flow_.tenant, recording, [this, kind] { return judge_relay(kind); },
      [&] {  // One direction may be waiting for either.
        io::break_connection(socket_);
        io::break_connection(origin->fd());
      });
  io::Buffer from_sandbox(worker_.buffers);
  io::Buffer from_origin(worker_.buffers);
  const RelayOutcome outcome =
      co_await relay(*sandbox_, from_sandbox, *origin, from_origin, limits::tunnel_idle_time);
  recording->request_bytes = outcome.to_origin;
  recording->response_bytes = outcome.to_sandbox;
  // A reset at the end of a relay is an end like any other; the detail says that it was one.
  recording.finish(Reason::allowed, outcome.error ? outcome.error->detail : std::string());
  co_return over();
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
  Connection connection(worker, tenant, dialled,
                        std::make_unique<io::TcpStream>(worker.loop, std::move(accepted), Side::sandbox,
                                                        tenant.identity.number));
  Next now = next(connection.first_stage());
  while (now.stage) {
    Stage stage = std::move(*now.stage);
    now = co_await std::move(stage);
  }
}

}  // namespace postern::proxy
