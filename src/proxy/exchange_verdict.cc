#include "proxy/exchange_state.h"
#include "proxy/metadata_server.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/path.h"
#include "wire/presigned.h"
#include "wire/target.h"

namespace postern::proxy {

Result<void> Exchange::judge_authority() {
  const std::string_view authority = sandbox_.request().authority;
  host_ = &flow_.host;
  if (authority == flow_.host.name && !flow_.host.literal) return {};
  if (authority.empty()) {  // HTTP/1.0
    if (flow_.named || flow_.host.literal) return {};
    return fail(Reason::malformed_host, "there is no Host field", Side::sandbox);
  }
  auto parsed = wire::parse_authority(authority);
  if (!parsed) return std::unexpected(std::move(parsed.error()));
  const bool same_port = !parsed->port || *parsed->port == flow_.port;
  // Threats 13, 16: the request must be for the host that the connection was made for.
  if (!same_port || (flow_.named && parsed->host != flow_.host)) {
    recording_->host = parsed->host.name;
    return fail(Reason::misdirected_request, {}, Side::sandbox);
  }
  if (parsed->host != flow_.host) {
    other_host_ = std::move(parsed->host);
    host_ = &other_host_;
    recording_->host = host_->name;
  }
  return {};
}

// Rules judge what the origin will see: fields that end at this hop do not count.
std::span<const HeaderField> Exchange::judged_fields() {
  const auto fields = request().fields;
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, "connection")) {
      gather(fields, true);
      return fields_;
    }
  return fields;
}

Result<void> Exchange::judge() {
  const RequestHead& request = this->request();
  if (auto authority = judge_authority(); !authority) return authority;
  to_ = {host_, flow_.port, flow_.tls};

  const wire::CanonicalPath path = wire::canonical_path(request.target, path_scratch_);
  recording_->path = path.path.substr(0, limits::recorded_path_bytes_max);
  if (policy::answers_as_metadata(*egress_->snapshot, *host_, flow_.port, flow_.tls)) {
    metadata_rule_ = metadata_rule_for(egress_->snapshot->metadata_rules(), path.path);
    recording_->rule = egress_->snapshot->rules()[metadata_rule_].name;
    target_.reserve(path.path.size() + path.query.size());
    target_.assign(path.path).append(path.query);
    return admit();
  }
  return judge_by_rules(path);
}

/// A second time, when it hung on what the body asks for.
Result<void> Exchange::judge_by_rules(const wire::CanonicalPath& path) {
  verdict_ = decide(*egress_->snapshot, path.path);
  if (path.ambiguity && verdict_.judges_paths)
    return fail(Reason::ambiguous_path, path.ambiguity, Side::sandbox);
  if (verdict_.wants_operations) {  // They are in the body, which is held for that.
    if (!place_.admitted()) return fail(Reason::overloaded, {}, Side::self);
    return {};
  }
  if (verdict_.rule) recording_->rule = verdict_.rule->name;
  if (verdict_.reason != Reason::allowed) return fail(verdict_.reason, {}, Side::sandbox);
  matched_ = verdict_.rule;
  if (verdict_.rule && verdict_.rule->rewrite()) return send_elsewhere(*verdict_.rule, path);
  // The path that was matched is the path that is sent. Where no rule looks at paths, it goes as it came.
  if (verdict_.judges_paths) {
    target_.reserve(path.path.size() + path.query.size());
    target_.assign(path.path).append(path.query);
  } else {
    target_.assign(request().target);
  }
  return take_credentials();
}

policy::Verdict Exchange::decide(const policy::Snapshot& snapshot, std::string_view path) {
  return policy::decide(snapshot, {.host = *host_,
                                   .port = flow_.port,
                                   .tls = flow_.tls,
                                   .method = method_,
                                   .path = path,
                                   .fields = judged_fields(),
                                   .operations = operations_read_ ? &operations_ : nullptr});
}

/// `target_` is what is sent there.
policy::Verdict Exchange::decide_there(const policy::Snapshot& snapshot, const policy::Rule& rule,
                                       std::uint32_t rule_index) {
  return policy::decide_rewritten(snapshot, rule, rule_index,
                                  {.host = *to_.host,
                                   .port = to_.port,
                                   .tls = to_.tls,
                                   .method = method_,
                                   .path = wire::path_of(target_),
                                   .fields = judged_fields(),
                                   .operations = operations_read_ ? &operations_ : nullptr});
}

/// What the rule makes of the request, now that it is known where it goes.
Result<void> Exchange::treat(const policy::Rule& rule) {
  if (!rule.treatment || !rule.treatment->transform) return {};
  transform_ = &*rule.treatment->transform;
  if (transform_->request.empty()) return {};
  const SandboxIdentity& identity = flow_.tenant.identity;
  treatment_ = std::make_unique<RequestTreatment>(
      *transform_, RequestTreatment::Names{
                       .sandbox = *identity.name, .workspace = *identity.workspace, .rule = rule.name});
  gather(request().fields, true);
  const bool is_signed = carries_signature(fields_, request().target);
  if (rewrite_) withhold_sent_credentials();
  std::string target(target_);
  if (auto judged = treatment_->judge(request(), fields_, target); !judged) return judged;
  if (treatment_->decodes() && worker_.overload.short_of_memory())
    return fail(Reason::overloaded, "there is no memory to decode its body", Side::self);
  target_.assign(target);
  if (verdict_.rule && verdict_.rule->signs()) {
    treatment_->will_be_signed();
    return {};
  }
  return is_signed ? treatment_->forbid_changes() : Result<void>();
}

/// What the sandbox asked for was judged; now that it goes elsewhere, that is judged too.
Result<void> Exchange::send_elsewhere(const policy::Rule& rule, const wire::CanonicalPath& path) {
  if (!path.path.starts_with('/'))
    return fail(Reason::ambiguous_path, "only a path can be sent to another host", Side::sandbox);
  rewrite_ = rule.rewrite();
  to_ = {&rewrite_->host, rewrite_->port, rewrite_->tls};
  recording_->rewritten_to = to_.host->name + ":" + std::to_string(to_.port);
  target_.reserve(rewrite_->path_prefix.size() + path.path.size() + path.query.size());
  target_.assign(rewrite_->path_prefix).append(path.path);
  target_.append(path.query);
  verdict_ = decide_there(*egress_->snapshot, rule, verdict_.rule_index);
  if (verdict_.wants_operations) return {};
  if (verdict_.reason != Reason::allowed)
    return fail(verdict_.reason, "the rule sends it where it may not go", Side::sandbox);
  return take_credentials();
}

Result<void> Exchange::take_credentials() {
  if (verdict_.rule) credentials_ = egress_->injections.of(verdict_.rule_index);
  if (verdict_.callback_index != policy::no_rule)
    source_ = &egress_->grants->of_callback(verdict_.callback_index);
  else if (verdict_.rule)
    source_ = egress_->grants->of_rule(verdict_.rule_index);
  if (matched_) {
    if (auto treated = treat(*matched_); !treated) return treated;
  }
  if (const auto* rule = egress_->injections.signing_of(verdict_.rule_index)) {
    if (auto found = look_for_signer(*rule); !found) return found;
  }
  if ((source_ || !credentials_.empty()) && wire::is_presigned(target_)) withhold_credentials();
  if (source_) look_for_grant();
  return admit();
}

/// What carries its own signature goes as it is: a second credential beside it is refused by those who check.
/// What the rule would have replaced is taken away all the same, so that this is no way for a credential of
/// the sandbox's own. What is signed anew knows such requests itself.
void Exchange::withhold_credentials() {
  if (verdict_.rule && verdict_.rule->signs()) return;
  withheld_ = true;
  withheld_credentials_ = std::exchange(credentials_, {});
  source_ = nullptr;
}

Result<void> Exchange::admit() {
  if (!place_.admitted()) return fail(Reason::overloaded, {}, Side::self);
  // Nothing leaves unrecorded (threat 98).
  if (!worker_.journal.accepting()) return fail(Reason::audit_unavailable, {}, Side::self);
  return egress_->gates.any() ? keep_limits() : Result<void>();
}

/// Last: whatever else is refused is not counted.
Result<void> Exchange::keep_limits() {
  const auto number = [&](const policy::Rule* rule) {
    return rule ? static_cast<std::uint32_t>(rule - egress_->snapshot->rules().data()) : policy::no_rule;
  };
  auto admitted = LimitedRequest::admit(egress_->gates, number(matched_), number(verdict_.rule), request(),
                                        held_ ? held_->body.size() : 0, worker_.clock);
  if (!admitted) return limited(admitted.error());
  quota_ = std::move(*admitted);
  return {};
}

std::unexpected<Error> Exchange::limited(const quota::Refused& why) {
  recording_->limit = quota::token(why.limit);
  retry_after_ = why.retry_after;
  return fail(Reason::limit_exceeded, why.detail(), Side::sandbox);
}

}  // namespace postern::proxy
