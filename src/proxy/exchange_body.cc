#include "proxy/exchange_state.h"
#include "transform/operations.h"
#include "wire/http1.h"
#include "wire/path.h"
#include "wire/target.h"

namespace postern::proxy {

namespace {

std::unexpected<Error> too_large_to_judge() {
  return fail(Reason::body_too_large, "what a body asks for is looked for in 1 MiB at most", Side::sandbox);
}

}  // namespace

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

}  // namespace postern::proxy
