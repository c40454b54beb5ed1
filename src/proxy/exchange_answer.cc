#include "proxy/exchange_state.h"
#include "wire/http1.h"

namespace postern::proxy {

namespace {

/// Rules of these types have hosts of the provider's only (policy/provider_reader.cc).
bool is_clouds_own(const policy::Provider& provider) {
  return std::holds_alternative<policy::GcpAuth>(provider) ||
         std::holds_alternative<policy::AzureAuth>(provider) ||
         std::holds_alternative<policy::GithubAppAuth>(provider);
}

}  // namespace

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

}  // namespace postern::proxy
