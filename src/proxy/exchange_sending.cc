#include "proxy/exchange_state.h"
#include "proxy/http1_sides.h"
#include "proxy/http2_sides.h"
#include "wire/http1.h"
#include "wire/prefix.h"

namespace postern::proxy {

namespace {

// RFC 9110 §9.2.2: repeating these changes nothing.
bool is_idempotent(std::string_view method) {
  return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "PUT" || method == "DELETE";
}

/// A body was not what its head had announced: the sandbox's fault, and not an origin that stopped reading.
bool broke_its_form(const Result<void>& sent) {
  return !sent && sent.error().reason == Reason::unsignable_request;
}

bool names_framing(std::string_view name) {
  return wire::same_name(name, "content-length") || wire::same_name(name, "host") ||
         wire::same_name(name, "expect");
}

}  // namespace

io::Task<Result<void>> Exchange::reach_and_send() {
  auto sent = co_await reach(origin::Freshness::pooled_or_new);
  if (!sent && may_retry(sent.error())) sent = co_await reach(origin::Freshness::new_only);
  co_return sent;
}

bool Exchange::may_retry(const Error& error) const {
  // Once: over HTTP/2 the other connection may be one that others use, too.
  if (retried_ || !origin_ || origin_->anything_received() || body_started_) return false;
  // An origin of HTTP/2 that says so has not looked at the request (RFC 9113 §8.7).
  if (error.retry == Retry::fresh_connection) return true;
  // A pooled connection that its origin had already closed: nothing was answered, and nothing is lost by
  // asking again. An answer that makes no sense is an answer.
  return origin_reused_ && is_idempotent(method_) && error.side == Side::origin &&
         error.reason != Reason::origin_timeout && error.reason != Reason::origin_malformed_response;
}

// Which version of HTTP this request needs.
origin::Protocol Exchange::protocol() const {
  const RequestHead& request = this->request();
  if (!outgoing_upgrade().empty())
    return wire::same_name(request.upgrade, "websocket") ? origin::Protocol::websocket
                                                         : origin::Protocol::http1;
  if (authenticates_connection(request.fields, "authorization")) return origin::Protocol::http1;
  if (grpc_) return origin::Protocol::http2;
  return origin::Protocol::any;
}

io::Task<Result<void>> Exchange::reach(origin::Freshness freshness) {
  origin::ReachTimings timings;
  retried_ = freshness == origin::Freshness::new_only;
  const origin::Wanted wanted{.host = *to_.host,
                              .port = to_.port,
                              .tls = to_.tls,
                              .protocol = protocol(),
                              .sandbox = flow_.tenant.identity.number,
                              .freshness = freshness,
                              .must_be_alive = !is_idempotent(method_)};
  Result<origin::Reached> reached;
  if (auto ready = worker_.pool.reuse(wanted))
    reached = std::move(*ready);
  else
    reached = co_await worker_.pool.reach(wanted, timings);
  recording_->timings.dns = timings.dial.dns;
  recording_->timings.connect = timings.dial.connect;
  recording_->timings.tls = timings.tls;
  if (!reached) {
    origin_.reset();
    co_return std::unexpected(std::move(reached.error()));
  }
  if (failure_) co_return std::unexpected(*failure_);  // The sandbox left meanwhile: nothing is sent for it.
  recording_->origin_address = std::move(reached->address);
  const bool has_credentials = signing_ || !credentials_.empty();
  if (worker_.journal.strict() && has_credentials) co_await co_await announce();
  // Time has passed since it was looked at (threat 90).
  if (grant_ && !grant_->usable(worker_.clock)) co_await co_await obtain_grant();
  origin_reused_ = reached->reused;
  if (reached->stream)
    origin_ = std::make_unique<Http2OriginSide>(std::move(reached->stream));
  else
    origin_ =
        std::make_unique<Http1OriginSide>(worker_.pool, worker_.head_rooms, std::move(reached->connection));
  // Only now, with the origin's identity verified, are credentials put on the request.
  auto outgoing = outgoing_request();
  if (!outgoing) co_return std::unexpected(std::move(outgoing.error()));
  if (!origin_->start_request(*outgoing))
    co_return fail(Reason::malformed_request, "a header cannot be forwarded", Side::sandbox);
  if (quota_) quota_->sent();
  if (recording_->credentials.empty()) list_credentials(recording_->credentials);
  co_return co_await send_request();
}

bool Exchange::is_injected(std::string_view name) const {
  for (const auto& header : withheld_ ? withheld_credentials_ : credentials_)
    if (wire::same_name(header.name, name)) return true;
  if (withheld_ && wire::same_name(name, "authorization")) return true;
  return signing_ && signing_->request->drops(name);
}

// A trailer must not bring a second value of what is injected.
std::span<const HeaderField> Exchange::request_trailers() {
  const auto trailers = sandbox_.trailers();
  if (signing_) return {};  // They are not what was signed.
  if ((credentials_.empty() && !withheld_ && !rewrite_ && !treatment_) || trailers.empty()) return trailers;
  fields_.clear();
  for (const HeaderField& field : trailers)
    if (!is_injected(field.name)) fields_.push_back(field);
  if (treatment_) treatment_->filter_trailers(fields_);
  if (rewrite_) withhold_sent_credentials();
  return fields_;
}

/// Those that may travel on, as the rule has them.
void Exchange::forwardable(std::span<const HeaderField> fields, bool request) {
  gather(fields, request);
  if (rewrite_) request ? withhold_sent_credentials() : map_locations();
  if (treatment_ && request) treatment_->apply(fields_);
}

void Exchange::gather(std::span<const HeaderField> fields, bool request) {
  fields_.clear();
  fields_.reserve(fields.size() + 4);
  bool nominates = false;
  for (const HeaderField& field : fields) nominates = nominates || wire::same_name(field.name, "connection");
  for (const HeaderField& field : fields) {
    if (names_framing(field.name) || wire::is_hop_by_hop(field.name)) continue;
    if (nominates && wire::nominated(fields, field.name)) continue;
    // What is injected replaces everything of that name that the sandbox sent (threat 39).
    if (request ? is_injected(field.name) : wire::same_name(field.name, "alt-svc")) continue;
    fields_.push_back(field);
  }
}

/// What the sandbox has for one host is not told another.
void Exchange::withhold_sent_credentials() {
  using policy::SentCredentials;
  if (rewrite_->credentials == SentCredentials::keep) return;
  if (rewrite_->credentials == SentCredentials::strip)
    std::erase_if(fields_, [](const HeaderField& field) { return carries_credential(field.name); });
  for (HeaderField& field : fields_)
    if (carries_credential(field.name)) field.value = redacted(field.name, field.value);
}

// The canonical host is the one that was judged, so it is the one that is sent.
std::string_view Exchange::authority() {
  const Destination asked{host_, flow_.port, flow_.tls};
  const Destination& named = rewrite_ && rewrite_->preserve_host ? asked : to_;
  if (named.has_default_port() && (!named.host->literal || named.host->literal->is_v4()))
    return named.host->name;
  authority_ = authority_of(named);
  return authority_;
}

// NTLM and Negotiate log in a connection and not a request (RFC 4559 §6): such a connection serves nobody
// else.
bool Exchange::authenticates_connection(std::span<const HeaderField> fields, std::string_view name) const {
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, name) && (wire::starts_with_ignoring_case(field.value, "ntlm") ||
                                              wire::starts_with_ignoring_case(field.value, "negotiate")))
      return true;
  return false;
}

// gRPC ends its answers with trailers that HTTP/1.1 clients and origins lose; grpc-web was made to do
// without.
bool Exchange::is_grpc(std::span<const HeaderField> fields) {
  constexpr std::string_view type = "application/grpc";
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, "content-type"))
      return wire::starts_with_ignoring_case(field.value, type) &&
             (field.value.size() == type.size() || field.value[type.size()] != '-');
  return false;
}

Result<OutgoingRequest> Exchange::outgoing_request() {
  const RequestHead& request = this->request();
  if (!scrubbing_) look_for_scrubbers();
  forwardable(request.fields, true);
  if (scrubbing_) scrubbing_->ask_for_inspectable(fields_);
  if (quota_ && !signing_) quota_->ask_for_readable(fields_);  // What is signed is as the client meant it.
  if (authenticates_connection(request.fields, "authorization")) connection_bound_ = true;
  OutgoingRequest outgoing;
  outgoing.method = request.method;
  outgoing.target = target_;
  outgoing.authority = authority();
  outgoing.fields = fields_;
  outgoing.credentials = credentials_;
  outgoing.framing = request.framing;
  outgoing.content_length = request.content_length;
  outgoing.upgrade = outgoing_upgrade();
  outgoing.extended_connect = !request.protocol.empty();
  outgoing.accepts_trailers = request.accepts_trailers;
  if (!signing_) return outgoing;
  // Last, over what is about to be written.
  auto made =
      signing_->request->sign(request_to_sign(), signing_->body_hash, grant_.get(), worker_.clock.wall());
  if (!made) return std::unexpected(std::move(made.error()));
  signing_->signature = std::move(*made);
  outgoing.credentials = signing_->signature.headers;
  if (!signing_->signature.target().empty()) {
    outgoing.target = signing_->signature.target();
    outgoing.target_is_credential = true;
  }
  return outgoing;
}

// h2c would be a second protocol inside, beyond our judgement (threat 35).
std::string_view Exchange::outgoing_upgrade() const {
  const RequestHead& request = this->request();
  const bool wanted = request.framing == BodyFraming::none && !wire::has_token(request.upgrade, "h2c");
  return wanted ? request.upgrade : std::string_view();
}

io::Task<Result<void>> Exchange::send_request() {
  if (held_ && body_started_) co_return co_await send_held();
  if (request().expects_continue && !sandbox_.body_complete() && !sandbox_.body_ready()) {
    // The request is allowed and its origin is there: the body is welcome (RFC 9110 §10.1.1).
    co_await co_await sandbox_.send_informational({.status = 100, .reason_phrase = "Continue"});
  }
  if (sandbox_.body_complete()) {
    if (signing_ && signing_->signature.body && !signing_->signature.body->finished())
      co_return fail(Reason::unsignable_request, "the body in AWS chunks is empty", Side::sandbox);
    co_return co_await origin_->flush(body_deadline());
  }
  body_started_ = true;
  if (sandbox_.body_ready()) {
    // What arrived with the head leaves with the head.
    auto piece = co_await co_await read_request(body_deadline());
    auto sent = co_await forward(piece);
    if (broke_its_form(sent)) co_return sent;
    if (!sent) {  // The origin stopped reading; its answer still counts.
      upload_complete_ = false;
      co_return Result<void>{};
    }
    if (piece.last) co_return Result<void>{};
  } else {
    co_await co_await origin_->flush(body_deadline());
  }
  upload_complete_ = false;
  upload_.emplace(upload());
  co_return Result<void>{};
}

io::Task<Result<void>> Exchange::send_held() {
  upload_complete_ = false;
  const BodyPiece piece{held_->body, held_->complete, false};
  auto sent = co_await origin_->send_body(piece, request_trailers(), body_deadline());
  std::string().swap(held_->body);
  held_bytes_.release();
  if (!sent) co_return Result<void>{};  // The origin stopped reading; its answer still counts.
  upload_complete_ = held_->complete;
  if (!held_->complete) upload_.emplace(upload());
  co_return Result<void>{};
}

io::Task<Result<void>> Exchange::forward(BodyPiece piece) {
  if (signing_ && signing_->signature.body) return forward_signed(piece);
  return origin_->send_body(piece, request_trailers(), body_deadline());
}

// What is signed in pieces goes on as they become whole.
io::Task<Result<void>> Exchange::forward_signed(BodyPiece piece) {
  credential::BodySigner& signer = *signing_->signature.body;
  for (std::string_view rest = piece.data; !rest.empty();) {
    const auto step = co_await signer.step(rest);
    rest.remove_prefix(step.consumed);
    if (step.output.empty()) continue;
    const bool last = rest.empty() && piece.last && step.finished;
    const BodyPiece out{step.output, last, !rest.empty() || piece.more_ready};
    co_await co_await origin_->send_body(out, {}, body_deadline());
    if (last) co_return Result<void>{};
  }
  if (!piece.last) co_return Result<void>{};
  if (!signer.finished())
    co_return fail(Reason::unsignable_request, "the body in AWS chunks ends before its last chunk",
                   Side::sandbox);
  const BodyPiece end{{}, true, false};
  co_return co_await origin_->send_body(end, {}, body_deadline());
}

io::Task<void> Exchange::upload() {
  while (true) {
    auto piece = co_await read_request(body_deadline());
    Result<void> sent;
    if (piece) sent = co_await forward(*piece);
    if (!piece || broke_its_form(sent)) {
      Error error = std::move(piece ? sent.error() : piece.error());
      if (error.reason != Reason::cancelled) {
        // The sandbox left or sent nonsense: the origin must not take what it got for the whole.
        origin_->abort();
        fail_with(std::move(error));
        origin_->cancel_read();
      }
      co_return;
    }
    if (!sent) co_return;  // The origin stopped reading; its answer still counts.
    if (piece->last) {
      upload_complete_ = true;
      co_return;
    }
  }
}

io::Task<void> Exchange::finish_upload() {
  if (!upload_) co_return;
  if (!upload_->finished()) {
    // The answer is complete before the request is (threat 33): neither connection carries another exchange.
    origin_->abort();
    sandbox_.cancel_body();
    origin_->cancel_send();
  }
  co_await upload_->join();
}

}  // namespace postern::proxy
