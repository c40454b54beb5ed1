#include <algorithm>

#include "credential/digest.h"
#include "credential/grant_counts.h"
#include "proxy/exchange_state.h"
#include "wire/target.h"

namespace postern::proxy {

Result<void> Exchange::look_for_signer(const credential::Signing& rule) {
  forwardable(request().fields, true);
  auto signing = std::make_unique<SigningRequest>();
  signing->rule = &rule;
  signing->signer = flow_.tenant.signers.of(egress_->grants->number(), rule);
  auto read = signing->signer->read(request_to_sign());
  if (!read) return std::unexpected(std::move(read.error()));
  signing->request = std::move(*read);
  if (signing->request) {
    signing_ = std::move(signing);
    return {};
  }
  source_ = nullptr;  // It goes as it came.
  return treatment_ ? treatment_->forbid_changes() : Result<void>();
}

/// With the fields that were gathered last.
credential::RequestToSign Exchange::request_to_sign() {
  const RequestHead& request = this->request();
  credential::RequestToSign out;
  out.method = request.method;
  out.target = target_;
  out.authority = authority();
  out.host = to_.host->name;
  out.fields = fields_;
  if (request.framing == BodyFraming::length) out.content_length = request.content_length;
  out.has_body = request.framing != BodyFraming::none && out.content_length != 0;
  return out;
}

void Exchange::look_for_grant() {
  credential::Grants& grants = *egress_->grants;
  if (!source_->cached()) return;
  auto grant = flow_.tenant.grants.find(grants, *source_, *to_.host, to_.port, worker_.clock);
  if (!grant || worker_.loop.now() >= grant->refresh_after) {
    const auto& [number, name, workspace, names] = flow_.tenant.identity;
    grant = grants.current(worker_.caller, *source_, {workspace, name, *to_.host, to_.port});
    if (grant) flow_.tenant.grants.keep(grants, *source_, *to_.host, to_.port, grant);
  }
  if (!grant) return;
  ++credential::grant_counts_of(source_->reason()).cached;
  grant_cached_ = true;
  use_grant(std::move(grant));
}

void Exchange::use_grant(credential::GrantRef grant) {
  grant_ = std::move(grant);
  credentials_ = grant_->headers;
  recording_->credentials.clear();
  // The record names the headers, and is written later.
  recording_->policy =
      std::make_shared<const std::pair<std::shared_ptr<const Egress>, credential::GrantRef>>(egress_, grant_);
}

io::Task<Result<void>> Exchange::obtain_grant() {
  credential::Grants& grants = *egress_->grants;
  const auto& [number, name, workspace, names] = flow_.tenant.identity;
  const credential::Subject subject{workspace, name, *to_.host, to_.port};
  std::unique_ptr<const credential::ShownRequest> shown;
  if (!source_->cached()) {
    if (!held_) co_await co_await hold_request();
    shown = std::make_unique<const credential::ShownRequest>(shown_request());
  }
  auto grant = co_await grants.obtain(worker_.caller, *source_, subject, shown.get());
  if (failure_) co_return std::unexpected(*failure_);  // The sandbox left meanwhile.
  if (!grant) co_return std::unexpected(std::move(grant.error()));
  if (source_->cached()) flow_.tenant.grants.keep(grants, *source_, *to_.host, to_.port, *grant);
  grant_cached_ = false;
  use_grant(std::move(*grant));
  co_return Result<void>{};
}

/// Reads the body, as far as it is shown.
io::Task<Result<void>> Exchange::hold_request() {
  co_await co_await begin_holding();
  if (held_->complete) co_return Result<void>{};
  const TimePoint end = worker_.loop.now() + limits::shown_body_time;
  while (!held_->complete && held_->body.size() < credential::shown_body_bytes_max) {
    auto piece = co_await read_request(end);
    if (!piece && piece.error().reason == Reason::sandbox_timeout) break;
    if (!piece) co_return std::unexpected(std::move(piece.error()));
    held_->body += piece->data;
    held_->complete = piece->last;
  }
  co_return Result<void>{};
}

credential::ShownRequest Exchange::shown_request() {
  credential::ShownRequest shown;
  shown.method = method_;
  shown.scheme = to_.tls ? "https" : "http";
  shown.path = wire::path_of(target_);
  shown.query = wire::query_of(target_);
  shown.url.append(shown.scheme).append("://").append(authority()).append(target_);
  forwardable(held_->head.fields, true);
  for (const HeaderField& field : fields_) shown.fields.emplace_back(field.name, field.value);
  shown.body = held_->body.substr(0, credential::shown_body_bytes_max);
  shown.body_truncated = !held_->complete || shown.body.size() < held_->body.size();
  return shown;
}

/// Reads the body whole: its hash is signed, and the signature stands in front of it.
io::Task<Result<void>> Exchange::hash_body() {
  const auto too_large = [] {
    return fail(
        Reason::body_too_large,
        "a body of more than 16 MiB cannot be signed, unless the client says how in x-amz-content-sha256",
        Side::sandbox);
  };
  if (request().content_length > limits::hashed_body_bytes_max) co_return too_large();
  if (!held_) co_await co_await begin_holding();
  credential::Sha256 hash;
  hash.update(held_->body);
  while (!held_->complete) {
    auto piece = co_await co_await read_request(body_deadline());
    if (held_->body.size() + piece.data.size() > limits::hashed_body_bytes_max) co_return too_large();
    if (auto kept = keep(piece); !kept) co_return kept;
    hash.update(piece.data);
  }
  signing_->body_hash = credential::hex(hash.finish());
  // Its length is known now, whatever the client knew.
  held_->head.framing = BodyFraming::length;
  held_->head.content_length = held_->body.size();
  co_return Result<void>{};
}

/// Threats 97, 98: what may leave is on record before it leaves. Once, whatever connections are tried.
io::Task<Result<void>> Exchange::announce() {
  if (announced_) co_return Result<void>{};
  auto begin = worker_.journal.take();
  *begin = *recording_;
  list_credentials(begin->credentials);
  const TimePoint deadline = worker_.loop.now() + limits::announcing_time;
  const bool accepted = co_await worker_.journal.announce(std::move(begin), *recording_, deadline);
  if (failure_) co_return std::unexpected(*failure_);
  if (!accepted)
    co_return fail(Reason::audit_unavailable, "its record could not be kept before it was sent", Side::self);
  announced_ = true;
  co_return Result<void>{};
}

void Exchange::list_credentials(std::vector<audit::Credential>& out) const {
  const bool of_rule = source_ && verdict_.callback_index == policy::no_rule;
  const std::uint64_t asked_with = of_rule ? egress_->injections.version_of(verdict_.rule_index) : 0;
  for (const auto& header : credentials_)
    out.push_back({header.name, credential::source_of(header), std::max(header.version, asked_with),
                   grant_ && grant_cached_});
  if (signing_)
    out.push_back({signing_->signature.place, signing_->rule->label(),
                   egress_->injections.version_of(verdict_.rule_index), grant_ && grant_cached_});
}

}  // namespace postern::proxy
