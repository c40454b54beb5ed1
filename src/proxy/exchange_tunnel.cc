#include "proxy/exchange_state.h"
#include "wire/http1.h"
#include "wire/path.h"

namespace postern::proxy {

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

}  // namespace postern::proxy
