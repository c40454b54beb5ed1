#include "proxy/exchange.h"

#include <algorithm>
#include <utility>

#include "proxy/exchange_state.h"
#include "proxy/metadata_server.h"
#include "proxy/refusal.h"
#include "wire/path.h"

namespace postern::proxy {

io::Task<void> Exchange::carry() {
  if (auto judged = judge(); !judged) co_return co_await refuse(std::move(judged.error()));
  if (metadata_rule_ != policy::no_rule) co_return co_await answer_as_metadata();
  sandbox_.watch_abort(this);
  Result<void> ready;
  if (verdict_.wants_operations) ready = co_await judge_operations();
  if (ready && treatment_ && treatment_->reads_body()) ready = co_await hold_treated();
  if (ready && source_ && !grant_) ready = co_await obtain_grant();
  if (ready && signing_ && signing_->request->wants_body_hash()) ready = co_await hash_body();
  if (ready) ready = co_await reach_and_send();
  if (!ready) {
    sandbox_.watch_abort(nullptr);
    co_return co_await refuse(std::move(ready.error()));
  }
  co_await relay_answer();
  sandbox_.watch_abort(nullptr);
  co_await finish_upload();
  settle();
}

void Exchange::open_record() {
  const RequestHead& request = sandbox_.request();
  if (flow_.tenant.removed) recording_.end_as(Reason::shutting_down);
  recording_->sandbox = flow_.tenant.identity.name;
  recording_->workspace = flow_.tenant.identity.workspace;
  recording_->policy = egress_;
  recording_->policy_version = egress_->snapshot->version();
  recording_->kind = audit::Kind::http;
  recording_->method = method_ = request.method;
  recording_->scheme = flow_.tls ? "https" : "http";
  recording_->host = flow_.host.name;
  recording_->port = flow_.port;
  recording_->protocol = sandbox_.protocol();
  grpc_ = is_grpc(request.fields);
  recording_->intercepted = flow_.tls;
}

void Exchange::settle() {
  if (!recording_.open()) return;
  recording_->request_bytes += origin_->request_bytes();
  recording_->response_bytes += sandbox_.answer_bytes();
  if (scrubbing_) recording_->scrubbed = scrubbing_->found();
  if (treatment_) recording_->redactions = treatment_->redactions();
  if (failure_) {
    Reason reason = failure_->reason == Reason::cancelled ? Reason::sandbox_closed : failure_->reason;
    recording_.finish(reason, failure_->detail);
    return;
  }
  origin_->settle(upload_complete_ && !connection_bound_);
  recording_.finish(Reason::allowed);
}

/// Nothing is reached: the answer is a line of a table.
io::Task<void> Exchange::answer_as_metadata() {
  const std::size_t question = std::min(target_.find('?'), target_.size());
  const std::string_view target = target_;
  const MetadataQuestion asked{method_, target.substr(0, question), target.substr(question), judged_fields()};
  const bool of_google = metadata_rule_ == egress_->snapshot->metadata_rules().google;
  MetadataAnswer said;
  if (const auto* google = of_google ? egress_->injections.google() : nullptr)
    said = answer_google_metadata(*google, asked);
  else if (!of_google)
    said = answer_azure_metadata(asked, worker_.clock.wall());
  recording_->status = said.status;
  const HeaderField fields[] = {
      {"Content-Type", said.type}, {"Metadata-Flavor", "Google"}, {"Server", "Metadata Server for VM"}};
  const OutgoingAnswer answer{.status = said.status,
                              .reason_phrase = reason_phrase(said.status),
                              .fields = std::span(fields).first(of_google ? std::size(fields) : 1),
                              .framing = BodyFraming::length,
                              .content_length = said.body.size(),
                              .close = request().framing != BodyFraming::none || worker_.parting()};
  if (auto started = sandbox_.start_answer(answer); started) {
    const BodyPiece piece{method_ == "HEAD" ? std::string_view() : said.body, true, false};
    auto sent = co_await sandbox_.send_body(piece, {});
    recording_->response_bytes = sandbox_.answer_bytes();
    if (!sent) sandbox_.abort();
  }
  recording_.finish(Reason::allowed);
}

io::Task<void> Exchange::refuse(Error error, bool last) {
  if (sandbox_.answer_started()) {
    sandbox_.abort();
    recording_.finish(error.reason, error.detail);
    co_return;
  }
  const int status = grpc_ ? 200 : http_status_of(error.reason);
  recording_->status = status;
  // Refused before its path was judged.
  if (recording_->path.empty() && !body_started_ && request().target.starts_with('/'))
    recording_->path =
        wire::canonical_path(request().target, path_scratch_).path.substr(0, limits::recorded_path_bytes_max);
  if (origin_) recording_->request_bytes = origin_->request_bytes();
  if (error.reason == Reason::sandbox_closed || error.reason == Reason::cancelled) {
    sandbox_.abort();  // Nobody is there to read it.
    recording_->status = 0;
    recording_.finish(Reason::sandbox_closed, error.detail);
    co_return;
  }
  const Refusal refusal{.reason = error.reason,
                        .host = recording_->host,
                        .port = recording_->port,
                        .rule = recording_->rule,
                        .detail = error.detail,
                        .allowed = egress_->snapshot->allowed_hint()};
  const std::string said = grpc_ ? grpc_message(refusal) : refusal_body(refusal);
  const std::string_view body = grpc_ ? std::string_view() : std::string_view(said);
  const std::string code = std::to_string(grpc_status_of(error.reason));
  // gRPC reads neither status nor body but these two, of an answer that is its own trailers.
  const std::string later = std::to_string(retry_after_.count());
  std::vector<HeaderField> fields = {{"Content-Type", grpc_ ? "application/grpc" : "application/json"},
                                     {"X-Postern-Reason", token(error.reason)},
                                     {"Cache-Control", "no-store"}};
  if (error.reason == Reason::limit_exceeded) fields.push_back({"Retry-After", later});
  if (grpc_) fields.insert(fields.end(), {{"grpc-status", code}, {"grpc-message", said}});
  const RequestHead& request = this->request();
  // A short body is read off and the connection kept; before a long one it is cheaper to part.
  const bool short_body =
      sandbox_.body_complete() ||
      (!body_started_ && !request.expects_continue && request.framing == BodyFraming::length &&
       request.content_length <= limits::refused_body_bytes_max);
  OutgoingAnswer answer{.status = status,
                        .reason_phrase = reason_phrase(status),
                        .fields = fields,
                        .framing = BodyFraming::length,
                        .content_length = body.size(),
                        .close = last || !short_body || decision_of(error.reason) == Decision::failed ||
                                 error.reason == Reason::malformed_request};
  if (auto started = sandbox_.start_answer(answer); started) {
    const bool to_head = method_ == "HEAD";
    const BodyPiece piece{to_head ? std::string_view() : body, true, false};
    auto sent = co_await sandbox_.send_body(piece, {});
    recording_->response_bytes = sandbox_.answer_bytes();
    if (!sent) sandbox_.abort();
  }
  recording_.finish(error.reason, error.detail);
}

void Exchange::on_sandbox_gone() {
  fail_with(Error{Reason::sandbox_closed, Side::sandbox, Retry::never,
                  "the sandbox left before the answer was complete"});
  if (!origin_) return;
  origin_->abort();
  origin_->cancel_read();
}

io::Task<void> carry(Worker& worker, const Flow& flow, SandboxSide& sandbox) {
  Exchange exchange(worker, flow, sandbox);
  co_await exchange.carry();
}

io::Task<void> refuse(Worker& worker, const Flow& flow, SandboxSide& sandbox, Error error) {
  Exchange exchange(worker, flow, sandbox);
  co_await exchange.refuse(std::move(error), true);
}

}  // namespace postern::proxy
