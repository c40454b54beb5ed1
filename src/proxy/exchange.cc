#include "proxy/exchange.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "credential/digest.h"
#include "credential/grant_counts.h"
#include "proxy/answer_scrubbing.h"
#include "proxy/http1_sides.h"
#include "proxy/http2_sides.h"
#include "proxy/limited_request.h"
#include "proxy/limits.h"
#include "proxy/metadata_server.h"
#include "proxy/refusal.h"
#include "proxy/relay.h"
#include "proxy/request_treatment.h"
#include "proxy/rewriting.h"
#include "proxy/worker.h"
#include "transform/operations.h"
#include "wire/host.h"
#include "wire/http1.h"
#include "wire/path.h"
#include "wire/prefix.h"
#include "wire/presigned.h"
#include "wire/target.h"

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

std::unexpected<Error> too_large_to_judge() {
  return fail(Reason::body_too_large, "what a body asks for is looked for in 1 MiB at most", Side::sandbox);
}

/// Rules of these types have hosts of the provider's only (policy/provider_reader.cc).
bool is_clouds_own(const policy::Provider& provider) {
  return std::holds_alternative<policy::GcpAuth>(provider) ||
         std::holds_alternative<policy::AzureAuth>(provider) ||
         std::holds_alternative<policy::GithubAppAuth>(provider);
}

bool names_framing(std::string_view name) {
  return wire::same_name(name, "content-length") || wire::same_name(name, "host") ||
         wire::same_name(name, "expect");
}

/// A sandbox's share of what is held in memory before it goes on.
class HeldBytes {
 public:
  explicit HeldBytes(TenantLoad& load) : load_(load) {}
  HeldBytes(const HeldBytes&) = delete;
  ~HeldBytes() { release(); }
  /// So many in all. False: it has had its share.
  bool hold(std::size_t bytes) {
    if (load_.held_bytes - bytes_ + bytes > limits::held_bodies_bytes_max) return false;
    load_.held_bytes = load_.held_bytes - bytes_ + bytes;
    bytes_ = bytes;
    return true;
  }
  void release() { load_.held_bytes -= std::exchange(bytes_, 0); }

 private:
  TenantLoad& load_;
  std::size_t bytes_ = 0;
};

/// What signs the request, and its signature.
struct SigningRequest {
  const credential::Signing* rule = nullptr;
  std::shared_ptr<credential::Signer> signer;
  std::unique_ptr<credential::RequestSigner> request;
  std::string body_hash;
  credential::Signature signature;
};

/// A request that was read before it was sent.
struct HeldRequest {
  RequestHead head;  ///< Its views are into `bytes`.
  std::vector<HeaderField> fields;
  std::string bytes;
  std::string as_sent;    ///< What the treatment of the body was fed.
  std::string body;       ///< As it is sent on, as far as it was read.
  bool complete = false;  ///< That is all of it.

  explicit HeldRequest(const RequestHead& original)
      : head(original), fields(original.fields.begin(), original.fields.end()) {
    std::size_t size = 0;
    each_view([&size](std::string_view& view) { size += view.size(); });
    bytes.reserve(size);
    each_view([this](std::string_view& view) {
      const std::size_t at = bytes.size();
      bytes += view;
      view = std::string_view(bytes).substr(at);
    });
    head.fields = fields;
  }

 private:
  template <class Visit>
  void each_view(Visit visit) {
    for (std::string_view* view :
         {&head.method, &head.target, &head.authority, &head.upgrade, &head.protocol})
      visit(*view);
    for (HeaderField& field : fields) {
      visit(field.name);
      visit(field.value);
    }
  }
};

class Exchange final : SandboxSide::AbortWatcher {
 public:
  Exchange(Worker& worker, const Flow& flow, SandboxSide& sandbox)
      : worker_(worker),
        flow_(flow),
        sandbox_(sandbox),
        egress_(flow.tenant.egress),
        place_(worker.overload, flow.tenant.load),
        recording_(worker.journal, worker.clock) {
    open_record();
    worker.loop.count_slice(limits::exchange_slice);
  }

  io::Task<void> carry() {
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

  /// `last`: the connection ends with it.
  io::Task<void> refuse(Error error, bool last = false);

 private:
  void open_record();
  Result<void> judge();
  Result<void> judge_by_rules(const wire::CanonicalPath& path);
  io::Task<Result<void>> judge_operations();
  Result<std::string> decoded_body() const;
  void record_operations();
  std::span<const HeaderField> judged_fields();
  Result<void> judge_authority();
  policy::Verdict decide(const policy::Snapshot& snapshot, std::string_view path);
  policy::Verdict decide_there(const policy::Snapshot& snapshot, const policy::Rule& rule,
                               std::uint32_t rule_index);
  Result<void> send_elsewhere(const policy::Rule& rule, const wire::CanonicalPath& path);
  Result<void> take_credentials();
  void withhold_credentials();
  Result<void> admit();
  Result<void> keep_limits();
  std::unexpected<Error> limited(const quota::Refused& why);
  io::Task<void> answer_as_metadata();
  void look_for_grant();
  io::Task<Result<void>> obtain_grant();
  void use_grant(credential::GrantRef grant);
  Result<void> look_for_signer(const credential::Signing& rule);
  credential::RequestToSign request_to_sign();
  io::Task<Result<void>> begin_holding();
  io::Task<Result<BodyPiece>> read_sandbox(TimePoint deadline);
  io::Task<Result<BodyPiece>> read_counted(TimePoint deadline);
  io::Task<Result<BodyPiece>> read_request(TimePoint deadline);
  Result<void> keep(const BodyPiece& piece);
  io::Task<Result<void>> hold_treated();
  io::Task<Result<void>> hold_request();
  io::Task<Result<void>> hash_body();
  credential::ShownRequest shown_request();
  io::Task<Result<void>> reach_and_send();
  io::Task<Result<void>> reach(origin::Freshness freshness);
  io::Task<Result<void>> announce();
  io::Task<Result<void>> send_request();
  io::Task<Result<void>> send_held();
  io::Task<Result<void>> forward(BodyPiece piece);
  io::Task<Result<void>> forward_signed(BodyPiece piece);
  io::Task<void> upload();
  io::Task<void> finish_upload();
  io::Task<void> relay_answer();
  io::Task<void> give_up();
  io::Task<Result<void>> relay_body();
  io::Task<Result<void>> relay_scrubbed();
  std::span<const HeaderField> answer_trailers();
  void look_for_scrubbers();
  io::Task<void> tunnel();
  Result<void> pass_tunnel(const BodyPiece& piece);
  Reason judge_tunnel();
  void end_tunnel();
  io::Task<RelayOutcome> bridge();
  origin::Protocol protocol() const;
  void settle();

  bool may_retry(const Error& error) const;
  std::string_view authority();
  bool authenticates_connection(std::span<const HeaderField> fields, std::string_view name) const;
  Result<OutgoingRequest> outgoing_request();
  void list_credentials(std::vector<audit::Credential>& out) const;
  std::string_view outgoing_upgrade() const;
  static bool is_grpc(std::span<const HeaderField> fields);
  TimePoint tunnel_deadline() const { return worker_.loop.now() + limits::tunnel_idle_time; }
  void break_tunnel(Error error);
  Result<OutgoingAnswer> outgoing_answer(const ResponseHead& head);
  void forwardable(std::span<const HeaderField> fields, bool request);
  void gather(std::span<const HeaderField> fields, bool request);
  void withhold_sent_credentials();
  void map_locations();
  Result<void> treat(const policy::Rule& rule);
  bool is_injected(std::string_view name) const;
  std::span<const HeaderField> request_trailers();
  void on_sandbox_gone() override;
  TimePoint body_deadline() const { return worker_.loop.now() + limits::body_idle_time; }
  void fail_with(Error error) {
    if (!failure_) failure_ = std::move(error);
  }

  /// Valid whatever has been read.
  const RequestHead& request() const {
    // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.UndefReturn): it does not see through coroutines
    return held_ ? held_->head : sandbox_.request();
  }

  Worker& worker_;
  const Flow& flow_;
  SandboxSide& sandbox_;
  const std::shared_ptr<const Egress> egress_;
  const Overload::ExchangePlace place_;
  audit::Recording recording_;

  Host other_host_;  ///< When the request's host is not the connection's.
  const Host* host_ = nullptr;
  Destination to_;                            ///< Where it goes: as asked, or where a rule sends it.
  const policy::Rewrite* rewrite_ = nullptr;  ///< That rule's.
  const policy::Rule* matched_ = nullptr;     ///< The rule that matched first; there may be another's there.
  const policy::Transform* transform_ = nullptr;  ///< Of the rule that matched first.
  std::unique_ptr<RequestTreatment> treatment_;   ///< What it makes of the request.
  policy::Operations operations_;                 ///< What the body asks for,
  bool operations_read_ = false;                  ///< when some rule wanted to know.
  std::string location_;                          ///< Of an answer from there.
  std::string path_scratch_;
  std::string authority_;
  bool connection_bound_ = false;  ///< A login belongs to the origin's connection: it is not used again.
  io::PooledString target_;        ///< What is sent: canonical where paths are judged.
  std::string method_;             ///< Outlives the head, for the answer's framing.
  bool grpc_ = false;              ///< Likewise, for how a refusal is said.
  policy::Verdict verdict_;
  std::span<const credential::InjectedHeader> credentials_;
  const credential::Source* source_ = nullptr;  ///< Who is asked for the credentials.
  credential::GrantRef grant_;                  ///< What was answered,
  bool grant_cached_ = false;                   ///< and whether to an earlier request.
  bool withheld_ = false;                       ///< The URL carries a signature of its own.
  std::span<const credential::InjectedHeader> withheld_credentials_;
  std::uint32_t metadata_rule_ = policy::no_rule;  ///< On whose behalf we answer ourselves.
  std::unique_ptr<HeldRequest> held_;              ///< When it is read before it is sent.
  HeldBytes held_bytes_{flow_.tenant.load};
  std::unique_ptr<SigningRequest> signing_;  ///< When the credential is a signature.
  io::PooledVector<HeaderField> fields_;
  std::optional<AnswerScrubbing> scrubbing_;  ///< When the answer may hold what was put on requests.
  std::unique_ptr<LimitedRequest> quota_;     ///< When something about it is limited.
  std::chrono::seconds retry_after_{0};       ///< What a limit says, when it is reached.
  std::unique_ptr<OriginSide> origin_;
  bool origin_reused_ = false;
  std::optional<io::Child> upload_;
  bool upload_complete_ = true;
  bool body_started_ = false;
  bool retried_ = false;
  bool announced_ = false;  ///< In strict mode: its record is on disk.
  std::optional<Error> failure_;
};

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

/// The request's own views end with it.
io::Task<Result<void>> Exchange::begin_holding() {
  held_ = std::make_unique<HeldRequest>(sandbox_.request());
  held_->complete = sandbox_.body_complete();
  if (held_->complete) co_return Result<void>{};
  if (held_->head.expects_continue && !sandbox_.body_ready()) {
    const OutgoingAnswer welcome{.status = 100, .reason_phrase = "Continue"};
    co_await co_await sandbox_.send_informational(welcome);
  }
  body_started_ = true;
  co_return Result<void>{};
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

/// The next piece as the sandbox sends it.
io::Task<Result<BodyPiece>> Exchange::read_sandbox(TimePoint deadline) {
  return quota_ ? read_counted(deadline) : sandbox_.read_body(deadline);
}

io::Task<Result<BodyPiece>> Exchange::read_counted(TimePoint deadline) {
  auto piece = co_await sandbox_.read_body(deadline);
  if (!piece) co_return piece;
  if (auto passed = quota_->pass_request(piece->data.size()); !passed) co_return limited(passed.error());
  co_return piece;
}

/// The next piece of the body as it goes on.
io::Task<Result<BodyPiece>> Exchange::read_request(TimePoint deadline) {
  if (!treatment_ || !treatment_->reads_body()) co_return co_await read_sandbox(deadline);
  while (true) {
    auto treated = treatment_->pull();
    if (!treated || !treated->data.empty() || treated->last) co_return treated;
    auto piece = co_await read_sandbox(deadline);
    if (!piece) co_return std::unexpected(std::move(piece.error()));
    treatment_->feed(piece->data, piece->last);
    if (!held_bytes_.hold(held_->body.size() + treatment_->held_bytes()) ||
        worker_.overload.short_of_memory())
      co_return fail(Reason::overloaded, "too much is held in memory", Side::self);
  }
}

/// Among what is held.
Result<void> Exchange::keep(const BodyPiece& piece) {
  const std::size_t treated = treatment_ ? treatment_->held_bytes() : 0;
  if (!held_bytes_.hold(held_->body.size() + piece.data.size() + treated) ||
      worker_.overload.short_of_memory())
    return fail(Reason::overloaded, "too much is held in memory", Side::self);
  held_->body += piece.data;
  held_->complete = piece.last;
  return {};
}

/// Reads what the rule looks into, until its length is known or it is longer than is worth waiting for.
io::Task<Result<void>> Exchange::hold_treated() {
  if (held_) {
    held_->as_sent = std::exchange(held_->body, {});
    treatment_->feed(held_->as_sent, std::exchange(held_->complete, false));
  } else {
    co_await co_await begin_holding();
    if (held_->complete) co_return Result<void>{};
  }
  const bool whole = signing_ || treatment_->needs_whole_body();
  const bool patient = whole || held_->head.framing == BodyFraming::length;
  const TimePoint end = worker_.loop.now() + limits::treated_body_time;
  while (!held_->complete && (whole || held_->body.size() < limits::treated_body_bytes_max)) {
    const TimePoint deadline = patient ? body_deadline() : end;
    auto piece = co_await read_request(deadline);
    if (!piece && piece.error().reason == Reason::sandbox_timeout && !patient) break;
    if (!piece) co_return std::unexpected(std::move(piece.error()));
    if (held_->body.size() + piece->data.size() > limits::hashed_body_bytes_max)
      co_return fail(Reason::body_too_large, "it must be whole before it is sent: 16 MiB at most",
                     Side::sandbox);
    if (auto kept = keep(*piece); !kept) co_return kept;
  }
  if (held_->complete) {
    held_->head.framing = BodyFraming::length;
    held_->head.content_length = held_->body.size();
  } else if (treatment_->changes_length()) {
    held_->head.framing = BodyFraming::chunked;
    held_->head.content_length = 0;
  }
  co_return Result<void>{};
}

/// Reads the body, says what it asks for, and judges again.
io::Task<Result<void>> Exchange::judge_operations() {
  if (request().content_length > transform::operations_body_bytes_max) co_return too_large_to_judge();
  co_await co_await begin_holding();
  const TimePoint end = worker_.loop.now() + limits::head_time;
  while (!held_->complete) {
    auto piece = co_await co_await sandbox_.read_body(end);
    if (held_->body.size() + piece.data.size() > transform::operations_body_bytes_max)
      co_return too_large_to_judge();
    if (auto kept = keep(piece); !kept) co_return kept;
  }
  if (failure_) co_return std::unexpected(*failure_);  // The sandbox left meanwhile.
  auto body = decoded_body();
  if (!body && body.error().reason != Reason::unsupported_content) co_return std::unexpected(body.error());
  std::string_view type;
  std::size_t types = 0;
  for (const HeaderField& field : request().fields)
    if (wire::same_name(field.name, "content-type")) type = field.value, ++types;
  // What passes on a connection that changes its protocol is no operation that was told.
  if (body && types <= 1 && request().upgrade.empty())
    operations_ = transform::read_operations(
        {.method = method_, .query = wire::query_of(request().target), .content_type = type, .body = *body});
  operations_read_ = true;
  if (operations_) record_operations();
  // The head lies elsewhere now.
  const wire::CanonicalPath path = wire::canonical_path(request().target, path_scratch_);
  co_return judge_by_rules(path);
}

void Exchange::record_operations() {
  std::string& said = recording_->operation;
  for (const transform::Operation& operation : *operations_) {
    if (!said.empty()) said += ", ";
    said += operation.text();
    if (said.size() > limits::recorded_operation_bytes_max) break;
  }
  if (said.size() > limits::recorded_operation_bytes_max) said.resize(limits::recorded_operation_bytes_max);
}

/// Of a request that is held whole. Errors: unsupported_content for a coding that is not known.
Result<std::string> Exchange::decoded_body() const {
  const auto coding = transform::read_content_encoding(request().fields);
  if (!coding) return fail(Reason::unsupported_content, {}, Side::sandbox);
  if (*coding == transform::Coding::identity) return held_->body;
  transform::Decoder decoder(*coding, Side::sandbox);
  decoder.feed(held_->body, true);
  std::string out;
  while (true) {
    auto piece = decoder.pull();
    if (!piece) return std::unexpected(std::move(piece.error()));
    if (piece->empty()) return out;  // It was fed whole.
    out += *piece;
    if (out.size() > transform::operations_body_bytes_max) return too_large_to_judge();
  }
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

void Exchange::map_locations() {
  for (HeaderField& field : fields_) {
    if (!wire::same_name(field.name, "location")) continue;
    std::string mapped = mapped_back(field.value, *rewrite_, {host_, flow_.port, flow_.tls});
    if (mapped.empty()) continue;
    location_ = std::move(mapped);
    field.value = location_;
    return;
  }
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

/// What its answer will be searched for. A signature is no secret, and what it was made with is not sent.
void Exchange::look_for_scrubbers() {
  const auto declines = [](const policy::Transform* transform) {
    return transform && transform->scrub_secrets && !*transform->scrub_secrets;
  };
  const policy::Treatment* treatment = verdict_.rule ? verdict_.rule->treatment.get() : nullptr;
  if (signing_ || declines(transform_) ||
      declines(treatment && treatment->transform ? &*treatment->transform : nullptr))
    return;
  AnswerScrubbing::Scrubbers scrubbers;
  std::size_t count = 0;
  const auto add = [&](const std::shared_ptr<const credential::Scrubber>& scrubber) {
    if (scrubber) scrubbers[count++] = scrubber;
  };
  add(flow_.tenant.scrubbers.of(egress_->grants->number(), *egress_->snapshot, egress_->injections, *to_.host,
                                rewrite_ ? verdict_.rule_index : policy::no_rule));
  if (grant_) add(grant_->scrubber);
  if (source_ && source_->cached())
    add(flow_.tenant.grants.earlier(*egress_->grants, *source_, *to_.host, to_.port));
  if (count == 0) return;
  scrubbing_.emplace(std::move(scrubbers), count);
  if (verdict_.rule && is_clouds_own(verdict_.rule->provider)) scrubbing_->accept_parts();
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

void Exchange::on_sandbox_gone() {
  fail_with(Error{Reason::sandbox_closed, Side::sandbox, Retry::never,
                  "the sandbox left before the answer was complete"});
  if (!origin_) return;
  origin_->abort();
  origin_->cancel_read();
}

Result<OutgoingAnswer> Exchange::outgoing_answer(const ResponseHead& head) {
  forwardable(head.fields, false);
  OutgoingAnswer answer;
  if (scrubbing_) {
    if (auto begun = scrubbing_->begin_body(head); !begun) return std::unexpected(std::move(begun.error()));
    // A decoder may hold tens of megabytes.
    if (scrubbing_->changes_length() && worker_.overload.short_of_memory())
      return fail(Reason::overloaded, "there is no memory to decode its answer", Side::self);
    scrubbing_->scrub_fields(fields_);
  }
  answer.status = head.status;
  answer.reason_phrase = head.reason_phrase;
  // An end that only the connection's end would tell becomes an explicit one.
  answer.framing = head.framing == BodyFraming::until_close ? BodyFraming::chunked : head.framing;
  answer.content_length = head.content_length;
  if (scrubbing_) {
    answer.reason_phrase = scrubbing_->scrub_phrase(head.reason_phrase);
    if (scrubbing_->changes_length()) answer.framing = BodyFraming::chunked;
  }
  if (head.framing == BodyFraming::none && head.status >= 200 && head.status != 204) {
    // An answer without a body may still say how long it would be (HEAD, 304).
    for (const HeaderField& field : head.fields)
      if (wire::same_name(field.name, "content-length")) fields_.push_back(field);
  }
  if (head.status == 401 && authenticates_connection(head.fields, "www-authenticate"))
    connection_bound_ = true;
  answer.fields = fields_;
  answer.close = !upload_complete_ || worker_.parting();
  return answer;
}

io::Task<void> Exchange::relay_answer() {
  const TimePoint asked = worker_.clock.now();
  int informational = 0;
  const ResponseHead* head = nullptr;
  while (true) {
    if (failure_) co_return co_await give_up();  // Before anybody waited for the answer.
    auto read = co_await origin_->read_head(method_, worker_.loop.now() + limits::answer_time);
    if (!read && may_retry(read.error()) && !upload_ && !failure_) {
      if (auto again = co_await reach(origin::Freshness::new_only); !again) {
        sandbox_.watch_abort(nullptr);
        co_return co_await refuse(std::move(again.error()));
      }
      continue;
    }
    if (!read) {
      fail_with(std::move(read.error()));
      co_return co_await give_up();
    }
    head = *read;
    if (head->status >= 200 || head->status == 101) break;
    if (++informational > limits::informational_max) {
      Error why{Reason::origin_malformed_response, Side::origin, Retry::never,
                "too many informational answers"};
      co_return co_await refuse(std::move(why));
    }
    if (head->status == 100) continue;  // Ours was sent already.
    forwardable(head->fields, false);
    if (scrubbing_) scrubbing_->scrub_fields(fields_);
    auto sent = co_await sandbox_.send_informational(
        {.status = head->status, .reason_phrase = head->reason_phrase, .fields = fields_});
    if (!sent) fail_with(std::move(sent.error()));
  }
  recording_->timings.first_byte =
      std::chrono::duration_cast<std::chrono::microseconds>(worker_.clock.now() - asked);
  recording_->status = head->status;
  worker_.loop.count_slice(limits::exchange_slice);

  if (quota_) quota_->begin_answer(*head);
  auto answer = outgoing_answer(*head);
  if (!answer) co_return co_await refuse(std::move(answer.error()));
  if (head->status == 101) {
    // Only what was asked for may be switched to (threat 34 is the opposite: asked, and answered with 200).
    // After a body the request's views are gone; an upgrade was not asked for then anyway.
    const std::string_view wanted = body_started_ ? std::string_view() : request().upgrade;
    if (wanted.empty() || wire::has_token(wanted, "h2c") || !wire::same_name(head->upgrade, wanted)) {
      Error why{Reason::origin_malformed_response, Side::origin, Retry::never,
                "an upgrade that nobody asked for"};
      co_return co_await refuse(std::move(why));
    }
    answer->upgrade = head->upgrade;
  } else if (!body_started_ && !request().protocol.empty() && head->status < 300) {
    // To an extended CONNECT any 2xx would say that the tunnel is there.
    Error why{Reason::origin_malformed_response, Side::origin, Retry::never,
              "the origin did not switch to a WebSocket"};
    co_return co_await refuse(std::move(why));
  }
  if (auto started = sandbox_.start_answer(*answer); !started)
    co_return co_await refuse(std::move(started.error()));
  if (head->status == 101) co_return co_await tunnel();
  auto relaying = scrubbing_ ? relay_scrubbed() : relay_body();
  if (auto relayed = co_await std::move(relaying); !relayed) {
    sandbox_.abort(origin_->reset_code());
    fail_with(std::move(relayed.error()));
  }
}

// No answer will come: what failed first is what the sandbox reads.
io::Task<void> Exchange::give_up() {
  sandbox_.watch_abort(nullptr);
  co_await finish_upload();
  Error why = std::move(*failure_);
  co_await refuse(std::move(why));
}

io::Task<Result<void>> Exchange::relay_body() {
  while (true) {
    if (failure_) co_return std::unexpected(*failure_);  // Came while the sandbox was being written to.
    auto piece = co_await co_await origin_->read_body(body_deadline());
    if (piece.last && origin_->truncated())
      co_return fail(Reason::origin_closed, "the answer was cut short", Side::origin);
    if (quota_) quota_->pass_answer(piece.data, piece.last);
    co_await co_await sandbox_.send_body(piece, origin_->trailers());
    if (piece.last) co_return Result<void>{};
  }
}

/// As relay_body(), of what is found fit to be passed on.
io::Task<Result<void>> Exchange::relay_scrubbed() {
  while (true) {
    if (failure_) co_return std::unexpected(*failure_);
    auto piece = co_await co_await origin_->read_body(body_deadline());
    if (piece.last && origin_->truncated())
      co_return fail(Reason::origin_closed, "the answer was cut short", Side::origin);
    if (quota_) quota_->pass_answer(piece.data, piece.last);
    scrubbing_->feed(piece.data, piece.last);
    while (true) {
      auto out = co_await scrubbing_->pull();
      if (out.data.empty() && !out.last) break;
      co_await co_await sandbox_.send_body(out, answer_trailers());
      if (out.last) co_return Result<void>{};
    }
  }
}

std::span<const HeaderField> Exchange::answer_trailers() {
  const auto trailers = origin_->trailers();
  if (trailers.empty()) return trailers;
  fields_.assign(trailers.begin(), trailers.end());
  scrubbing_->scrub_fields(fields_);
  return fields_;
}

io::Task<void> Exchange::tunnel() {
  sandbox_.watch_abort(nullptr);
  if (!held_) held_ = std::make_unique<HeldRequest>(sandbox_.request());  // It will be judged again.
  if (auto sent = co_await sandbox_.send_body({{}, false, false}, {}); !sent)
    co_return fail_with(std::move(sent.error()));
  sandbox_.start_tunnel();
  origin_->start_tunnel();
  // It took time to get here.
  if (const Reason reason = judge_tunnel(); reason != Reason::allowed) {
    sandbox_.abort();
    origin_->abort();
    upload_complete_ = false;
    recording_->policy_version = flow_.tenant.egress->snapshot->version();
    co_return fail_with(Error{reason, Side::sandbox, Retry::never, {}});
  }
  const OpenTunnel open(
      flow_.tenant, recording_, [this] { return judge_tunnel(); }, [this] { end_tunnel(); });
  RelayOutcome outcome;
  if (scrubbing_) scrubbing_->begin_tunnel(wire::same_name(request().upgrade, "websocket"));
  if (quota_) quota_->begin_tunnel();
  if (!scrubbing_ && !quota_ && sandbox_.tunnel_stream() && origin_->tunnel_stream())
    outcome = co_await relay(*sandbox_.tunnel_stream(), *sandbox_.tunnel_input(), *origin_->tunnel_stream(),
                             *origin_->tunnel_input(), limits::tunnel_idle_time);
  else
    outcome = co_await bridge();
  recording_->request_bytes += outcome.to_origin;
  recording_->response_bytes += outcome.to_sandbox;
  upload_complete_ = false;  // Neither connection speaks HTTP any more.
  if (outcome.error) fail_with(*outcome.error);
}

/// The request that opened it, by the policy of this moment.
Reason Exchange::judge_tunnel() {
  if (flow_.tenant.removed) return Reason::shutting_down;
  const policy::Snapshot& snapshot = *flow_.tenant.egress->snapshot;
  if (&snapshot == egress_->snapshot.get()) return Reason::allowed;  // It is the one that judged it.
  std::string scratch;
  const wire::CanonicalPath path = wire::canonical_path(request().target, scratch);
  operations_read_ = true;  // Those of a tunnel cannot be told.
  const auto verdict = decide(snapshot, path.path);
  const policy::Rewrite* now = verdict.rule ? verdict.rule->rewrite() : nullptr;
  if (verdict.reason == Reason::allowed && (rewrite_ || now)) {
    // Does it still go where it went?
    const bool same =
        rewrite_ && now && now->same_destination(*rewrite_) && now->path_prefix == rewrite_->path_prefix;
    return same ? decide_there(snapshot, *verdict.rule, verdict.rule_index).reason : Reason::denied_by_rule;
  }
  return path.ambiguity && verdict.judges_paths ? Reason::ambiguous_path : verdict.reason;
}

void Exchange::end_tunnel() {
  // Nobody is resumed by this: both directions learn it later, whichever of the two they wait for.
  if (const io::Stream* own = sandbox_.tunnel_stream())
    io::break_connection(own->fd());
  else
    sandbox_.abort();
  if (const io::Stream* own = origin_->tunnel_stream())
    io::break_connection(own->fd());
  else
    origin_->abort();
}

// A tunnel of which at least one end is a stream of HTTP/2, or that is looked into.
io::Task<RelayOutcome> Exchange::bridge() {
  struct Direction {
    static io::Task<void> outward(Exchange& self) {
      while (true) {
        auto piece = co_await self.read_sandbox(self.tunnel_deadline());
        if (!piece) co_return self.break_tunnel(std::move(piece.error()));
        auto sent = co_await self.origin_->send_body(*piece, {}, self.tunnel_deadline());
        if (!sent) co_return self.break_tunnel(std::move(sent.error()));
        if (piece->last) co_return;
      }
    }
    static io::Task<void> inward(Exchange& self) {
      while (true) {
        auto piece = co_await self.origin_->read_body(self.tunnel_deadline());
        if (!piece) co_return self.break_tunnel(std::move(piece.error()));
        if (auto passed = self.pass_tunnel(*piece); !passed)
          co_return self.break_tunnel(std::move(passed.error()));
        if (self.scrubbing_) {
          auto scrubbed = self.scrubbing_->pass_tunnel(piece->data, piece->last);
          if (!scrubbed) co_return self.break_tunnel(std::move(scrubbed.error()));
          piece->data = *scrubbed;
          if (piece->data.empty() && !piece->last) continue;
        }
        auto sent = co_await self.sandbox_.send_body(*piece, {});
        if (!sent) co_return self.break_tunnel(std::move(sent.error()));
        if (piece->last) co_return;
      }
    }
  };
  io::Child upward(Direction::outward(*this));
  co_await Direction::inward(*this);
  co_await upward.join();
  RelayOutcome outcome;  // The sides have counted.
  outcome.error = failure_;
  co_return outcome;
}

/// What the origin sent there.
Result<void> Exchange::pass_tunnel(const BodyPiece& piece) {
  if (!quota_) return {};
  if (auto passed = quota_->pass_tunnel(piece.data.size()); !passed) return limited(passed.error());
  return {};
}

void Exchange::break_tunnel(Error error) {
  if (failure_) return;
  fail_with(std::move(error));
  sandbox_.abort(origin_->reset_code());
  origin_->abort();
  sandbox_.cancel_body();
  origin_->cancel_read();
  origin_->cancel_send();
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

}  // namespace

io::Task<void> carry(Worker& worker, const Flow& flow, SandboxSide& sandbox) {
  Exchange exchange(worker, flow, sandbox);
  co_await exchange.carry();
}

io::Task<void> refuse(Worker& worker, const Flow& flow, SandboxSide& sandbox, Error error) {
  Exchange exchange(worker, flow, sandbox);
  co_await exchange.refuse(std::move(error), true);
}

}  // namespace postern::proxy
