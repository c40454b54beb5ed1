#include "proxy/outbound_call.h"

#include "proxy/http1_sides.h"
#include "proxy/limits.h"
#include "wire/host.h"
#include "wire/http1.h"

namespace postern::proxy {

namespace {

/// Where a verified certificate does not say who answers, only the operator's own network is good enough.
Result<void> check_plain(const wire::Url& url, const std::string& address) {
  if (url.tls) return {};
  const auto reached = wire::parse_authority(address);
  if (reached && reached->host.literal && !is_public(*reached->host.literal)) return {};
  return fail(Reason::plaintext_credential,
              "over plain HTTP only addresses that the operator opened are asked", Side::self);
}

bool is_encoded(const ResponseHead& head) {
  for (const HeaderField& field : head.fields)
    if (wire::same_name(field.name, "content-encoding") && !wire::same_name(field.value, "identity"))
      return true;
  return false;
}

}  // namespace

struct OutboundCaller::Attempt {
  origin::Freshness freshness = origin::Freshness::pooled_or_new;
  bool reused = false;
  bool anything_received = false;
};

io::Task<Result<credential::CallAnswer>> OutboundCaller::call(const credential::Call& call) {
  Attempt first;
  auto answer = co_await attempt(call, first);
  if (answer || !call.repeatable || !first.reused || first.anything_received) co_return answer;
  if (answer.error().reason == Reason::origin_timeout) co_return answer;
  Attempt second{.freshness = origin::Freshness::new_only};
  co_return co_await attempt(call, second);
}

io::Task<Result<credential::CallAnswer>> OutboundCaller::attempt(const credential::Call& call,
                                                                 Attempt& attempt) {
  const origin::Wanted wanted{.host = call.url.host,
                              .port = call.url.port,
                              .tls = call.url.tls,
                              .protocol = origin::Protocol::http1,
                              .freshness = attempt.freshness,
                              .must_be_alive = true,
                              .deadline = call.deadline};
  origin::ReachTimings timings;
  Result<origin::Reached> reached;
  if (auto ready = pool_.reuse(wanted))
    reached = std::move(*ready);
  else
    reached = co_await pool_.reach(wanted, timings);
  if (!reached) co_return std::unexpected(std::move(reached.error()));
  attempt.reused = reached->reused;
  if (auto checked = check_plain(call.url, reached->address); !checked)
    co_return std::unexpected(std::move(checked.error()));

  Http1OriginSide origin(pool_, rooms_, std::move(reached->connection));
  const std::string authority = call.url.authority();
  const bool has_body = call.method != "GET";
  OutgoingRequest request;
  request.method = call.method;
  request.target = call.url.target;
  request.authority = authority;
  request.fields = call.fields;
  request.credentials = call.credentials;
  request.framing = has_body ? BodyFraming::length : BodyFraming::none;
  request.content_length = call.body.size();
  if (!origin.start_request(request)) co_return fail(Reason::internal, "the question cannot be written");
  if (has_body && !call.body.empty()) {
    const BodyPiece whole{call.body, true, false};
    co_await co_await origin.send_body(whole, {}, call.deadline);
  } else {
    co_await co_await origin.flush(call.deadline);
  }

  const ResponseHead* head = nullptr;
  for (int informational = 0; !head || head->status < 200; ++informational) {
    if (informational > limits::informational_max)
      co_return fail(Reason::origin_malformed_response, "too many informational answers", Side::origin);
    auto read = co_await origin.read_head(call.method, call.deadline);
    attempt.anything_received = origin.anything_received();
    if (!read) co_return std::unexpected(std::move(read.error()));
    head = *read;
    if (head->status == 101)
      co_return fail(Reason::origin_malformed_response, "an upgrade that nobody asked for", Side::origin);
  }
  credential::CallAnswer answer;
  answer.status = head->status;
  if (is_encoded(*head))
    co_return fail(Reason::origin_malformed_response, "the answer is encoded, which was not asked for",
                   Side::origin);
  while (true) {
    const BodyPiece piece = co_await co_await origin.read_body(call.deadline);
    if (piece.last && origin.truncated())
      co_return fail(Reason::origin_closed, "the answer was cut short", Side::origin);
    if (answer.body.view().size() + piece.data.size() > call.answer_bytes_max)
      co_return fail(Reason::origin_malformed_response, "the answer is too large", Side::origin);
    answer.body.append(piece.data);
    if (piece.last) break;
  }
  origin.settle(true);
  co_return answer;
}

}  // namespace postern::proxy
