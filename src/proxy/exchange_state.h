#pragma once
// All that is known of one request and its answer, while they are under way. Each chapter of its life has a
// file of its own:
//
//   exchange.cc             the table of contents, refusals, the record
//   exchange_verdict.cc     may it, and where does it go
//   exchange_body.cc        a body that is read before anything is sent
//   exchange_credential.cc  what is put on it
//   exchange_sending.cc     to the origin
//   exchange_answer.cc      and back
//   exchange_tunnel.cc      when both speak something else from there on
//
// For these files only; everybody else has exchange.h.

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "credential/grants.h"
#include "credential/signer.h"
#include "policy/decide.h"
#include "proxy/answer_scrubbing.h"
#include "proxy/egress.h"
#include "proxy/held_request.h"
#include "proxy/limited_request.h"
#include "proxy/limits.h"
#include "proxy/relay.h"
#include "proxy/request_treatment.h"
#include "proxy/rewriting.h"
#include "proxy/sides.h"
#include "proxy/worker.h"
#include "wire/path.h"

namespace postern::proxy {

/// What signs the request, and its signature.
struct SigningRequest {
  const credential::Signing* rule = nullptr;
  std::shared_ptr<credential::Signer> signer;
  std::unique_ptr<credential::RequestSigner> request;
  std::string body_hash;
  credential::Signature signature;
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

  io::Task<void> carry();

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

}  // namespace postern::proxy
