#include "control/connection.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <fmt/format.h>
#include <limits>
#include <utility>

#include "base/date.h"
#include "base/units.h"
#include "wire/http_writer.h"

namespace postern::control {

namespace {

// One read of a head: most have 1 KiB, and each connection that idles holds it.
constexpr std::size_t head_piece_bytes = 4 * KiB;
// One read, one write and one call of a sink or source: 64 KiB is where system calls stop to matter.
constexpr std::size_t body_piece_bytes = 64 * KiB;
// Of a body that nobody has asked for yet: small documents are there when they are.
constexpr std::size_t prefetch_max = 16 * KiB;
// A body that was not wanted is read to its end where that is cheaper than a new connection.
constexpr std::size_t discard_max = 64 * KiB;
// Whoever sends more than that after the last answer does not listen to it.
constexpr std::size_t linger_bytes_max = MiB;

TimePoint now() { return std::chrono::steady_clock::now(); }

/// RFC 9110 §6.4.1
bool has_no_body(int status) { return status < 200 || status == 204 || status == 304; }

Request make_request(const RequestHead& head, const Endpoint& peer) {
  Request request;
  request.method = head.method;
  request.target = head.target;
  request.host = head.authority;
  request.peer = peer;
  request.has_body = head.framing != BodyFraming::none;
  if (head.framing == BodyFraming::length) request.body_size = head.content_length;
  request.wants_websocket = wire::has_token(head.upgrade, "websocket");
  request.fields.reserve(head.fields.size());
  for (const HeaderField& field : head.fields)
    request.fields.push_back({std::string(field.name), std::string(field.value)});
  return request;
}

/// RFC 6455 §4.2.1; nullopt when it is in order.
std::optional<ApiError> judge_websocket(const Request& request) {
  if (!request.wants_websocket || request.method != "GET" || request.has_body) {
    ApiError error = bad_request("This path is for WebSockets only.");
    error.status = 426;
    error.type = "UpgradeRequired";
    error.fields = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}};
    return error;
  }
  const std::string* const version = request.field("Sec-WebSocket-Version");
  if (version == nullptr || *version != "13") {
    ApiError error = bad_request("Only version 13 of WebSocket is spoken.");
    error.status = 426;
    error.fields = {{"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}};
    return error;
  }
  const std::string* const key = request.field("Sec-WebSocket-Key");
  const bool one_key = count_fields(request.fields, "Sec-WebSocket-Key") == 1;
  if (!one_key || key->size() != 24 || !key->ends_with("=="))
    return bad_request("Sec-WebSocket-Key is not 16 bytes in base64.");
  return std::nullopt;
}

// Exceptions of handlers end what they were about, and nothing else.

/// nullopt: it threw. With `wait` end() has not been called.
std::optional<BodySink::Then> hand_to(BodySink& sink, std::string_view piece, bool last) {
  try {
    if (!piece.empty() && sink.take(piece) == BodySink::Then::wait) return BodySink::Then::wait;
    if (last) sink.end();
    return BodySink::Then::more;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

BodySource::Piece ask(BodySource& source, std::span<char> into) {
  try {
    return source.next(into);
  } catch (const std::exception&) {
    return {0, BodySource::Then::broken};
  }
}

}  // namespace

// --- From any thread ------------------------------------------------------------------------------------

Connection::Current::Current() = default;

void Connection::post(std::uint64_t serial, std::move_only_function<void(Connection&)> job) {
  server_->transport->post(socket_->lane(),
                           [self = shared_from_this(), serial, job = std::move(job)]() mutable {
                             if (self->state_ == State::call && self->serial_ == serial) job(*self);
                           });
}

void Connection::when_gone(std::uint64_t serial, Job then, Call::Half half) {
  server_->transport->post(socket_->lane(),
                           [self = shared_from_this(), serial, half, then = std::move(then)]() mutable {
                             if (self->serial_ != serial) return;
                             if (self->state_ == State::call && !self->now_->answer_sent) {
                               self->now_->gone = std::move(then);
                               self->now_->half = half;
                               if (self->gave_up()) self->broken();
                             } else if (self->went_) {
                               self->server_->workers.post(std::move(then));
                             }
                           });
}

// --- Beginning and end -----------------------------------------------------------------------------------

void Connection::start() {
  server_->open[socket_->lane()].insert(shared_from_this());
  server_->connection_opened();
  socket_->on_deadline(weak_from_this(), [this] { on_deadline(); });
  if (server_->stopping || server_->connections() > server_->options.limits.connections_max) return finish();
  read_until(now() + server_->options.limits.head_time);
  socket_->handshake([self = shared_from_this()](Outcome outcome) {
    if (self->state_ != State::handshake) return;
    if (outcome != Outcome::done) return self->finish();
    self->state_ = State::head;
    self->read_until(now() + self->server_->options.limits.head_time);
    self->read_more();
  });
}

void Connection::wind_down() {
  if (websocket_) return websocket_->close(1001, "the server is stopping");
  if (state_ == State::call && now_->handed_over) return broken();
  if (state_ == State::handshake || (state_ == State::head && in_.empty())) finish();
}

void Connection::cut() {
  if (websocket_) return websocket_->cut();
  broken();
}

/// What a handler made may close files when it goes: not here.
template <class Held>
void Connection::drop(Held held) {
  if (held) server_->workers.post([held = std::move(held)]() mutable { held = nullptr; });
}

/// All was said that the caller had to say, and then it closed.
bool Connection::gave_up() const {
  return state_ == State::call && peer_ended_ && now_->arrived && now_->half == Call::Half::is_gone;
}

void Connection::broken() {
  if (state_ == State::closed) return;
  if (now_) {
    went_ = !now_->answer_sent;
    if (went_) record(AccessRecord::End::broken);
    if (went_ && now_->gone) server_->workers.post(std::move(now_->gone));
  }
  finish();
}

void Connection::linger() {
  state_ = State::lingering;
  socket_->end_writing(now_->arrived ? Socket::PeerIs::done : Socket::PeerIs::sending);
  if (peer_ended_) return finish();
  in_.clear();
  set_deadlines(now() + server_->options.limits.linger_time, TimePoint::max());
  read_more();
}

void Connection::finish() {
  if (state_ == State::closed) return;
  const auto self = shared_from_this();
  state_ = State::closed;
  if (now_) {
    drop(std::move(now_->sink));
    drop(std::move(now_->then));
    drop(std::move(now_->source));
    drop(std::move(now_->gone));
    // What is being written must stay until the socket has let go of it: it does, with `self`, which the
    // callback holds.
    if (!now_->answer_sent) --server_->requests;
    now_->answer_sent = true;
  }
  websocket_.reset();
  socket_->close();
  server_->open[socket_->lane()].erase(self);
  server_->connection_closed();
}

void Connection::set_deadlines(TimePoint reading, TimePoint writing) {
  read_deadline_ = reading;
  write_deadline_ = writing;
  socket_->set_deadline(std::min(reading, writing));
}

void Connection::on_deadline() {
  const TimePoint time = now();
  if (write_deadline_ <= time) return broken();
  if (read_deadline_ > time) return socket_->set_deadline(std::min(read_deadline_, write_deadline_));
  read_deadline_ = TimePoint::max();
  switch (state_) {
    case State::head:
      if (head_begun_) return refuse(timed_out("The head of the request did not arrive in time."));
      return finish();
    case State::call:
      if (now_->answered) return broken();
      return fail_body(timed_out("The body of the request did not arrive in time."));
    default: return finish();
  }
}

/// Of whoever was handed over nobody knows when they speak.
TimePoint Connection::pause_deadline() const {
  return now_->handed_over ? TimePoint::max() : now() + server_->options.limits.body_pause;
}
Duration Connection::write_time() const {
  const ServerLimits& limits = server_->options.limits;
  return now_->handed_over ? limits.websocket_write_time : limits.write_time;
}

// --- Reading ---------------------------------------------------------------------------------------------

bool Connection::wants_input() const {
  switch (state_) {
    case State::head:
    case State::lingering: return true;
    case State::call:
      // What comes behind the head of an upgrade is not HTTP, and no read may be under way when it is
      // granted. Hence, too, the next request is read no further than it came with the last read.
      if (now_->wants_websocket && !now_->handed_over) return false;
      if (now_->arrived) return in_.empty();
      return in_.size() < (now_->intake == Intake::passing ? body_piece_bytes : prefetch_max);
    default: return false;
  }
}

void Connection::read_more() {
  if (reading_ || peer_ended_ || !wants_input()) return;
  reading_ = true;
  const bool large = state_ == State::call && now_->intake != Intake::unasked && !now_->arrived;
  read_buffer_.resize(large ? body_piece_bytes : head_piece_bytes);
  if (!large) read_buffer_.shrink_to_fit();
  socket_->read_some(read_buffer_, [self = shared_from_this()](Outcome outcome, std::size_t count) {
    self->on_read(outcome, count);
  });
}

void Connection::on_read(Outcome outcome, std::size_t count) {
  reading_ = false;
  if (state_ == State::closed) return;
  if (outcome == Outcome::failed) return state_ == State::lingering ? finish() : broken();
  if (outcome == Outcome::ended) peer_ended_ = true;
  in_.append(read_buffer_.data(), count);
  if (gave_up()) return broken();
  proceed();
}

void Connection::proceed() {
  switch (state_) {
    case State::head: return take_head();
    case State::call:
      take_body();
      if (state_ == State::call) read_more();
      return;
    case State::lingering:
      lingered_bytes_ += in_.size();
      in_.clear();
      if (peer_ended_ || lingered_bytes_ > linger_bytes_max) return finish();
      return read_more();
    default: return;
  }
}

// --- Heads -----------------------------------------------------------------------------------------------

void Connection::take_head() {
  const auto size = scanner_.scan(in_);
  if (!size) return refuse(from_error(size.error()));
  if (*size == 0) {
    if (peer_ended_)
      return in_.empty() ? finish() : refuse(bad_request("The head of the request broke off."));
    if (!in_.empty() && !head_begun_) {
      head_begun_ = true;
      read_until(now() + server_->options.limits.head_time);
    }
    return read_more();
  }
  RequestHead head;
  const auto parsed = wire::parse_request_head(std::string_view(in_).substr(0, *size), fields_, head);
  if (!parsed) return refuse(from_error(parsed.error()));
  begin_call(head);
  in_.erase(0, *size);
  proceed();
}

void Connection::begin_call(const RequestHead& head) {
  Request request = make_request(head, socket_->peer());
  Current& current = now_.emplace();
  current.started = now();
  current.record.at = server_->clock.wall();
  current.record.method = request.method;
  current.record.path = request.path();
  current.record.peer = request.peer;
  current.minor_version = head.minor_version;
  current.head_only = head.method == "HEAD";
  current.keep_alive = head.keep_alive;
  current.framing = head.framing;
  current.remaining = head.content_length;
  current.arrived =
      head.framing == BodyFraming::none || (head.framing == BodyFraming::length && head.content_length == 0);
  current.wants_continue = head.expects_continue && !current.arrived;
  current.wants_websocket = request.wants_websocket;
  state_ = State::call;
  head_begun_ = false;
  read_until(TimePoint::max());

  const bool too_many = ++server_->requests > server_->options.limits.requests_max;
  if (server_->stopping)
    return answer(to_response(from_error({Reason::shutting_down, Side::self, Retry::never, {}})));
  if (too_many) return answer(to_response(overloaded("Too many requests are under way. Try again soon.")));
  server_->workers.post(
      [server = server_, call = std::make_shared<Call>(shared_from_this(), serial_, std::move(request))] {
        server->handler(call);
      });
}

/// Of a head that is none: what comes behind it cannot be told, so that the connection ends.
void Connection::refuse(const ApiError& error) {
  Current& current = now_.emplace();
  current.started = now();
  current.record.at = server_->clock.wall();
  current.record.peer = socket_->peer();
  current.intake = Intake::over;
  current.keep_alive = false;
  state_ = State::call;
  ++server_->requests;
  answer(to_response(error));
}

// --- Bodies of requests ----------------------------------------------------------------------------------

void Connection::receive(std::uint64_t max, std::move_only_function<void(std::string)> then,
                         std::shared_ptr<BodySink> sink) {
  Current& current = *now_;
  if (current.answered || current.intake != Intake::unasked) {
    drop(std::move(then));
    return drop(std::move(sink));
  }
  current.intake = sink ? Intake::passing : Intake::collecting;
  current.body_max = max;
  current.then = std::move(then);
  current.sink = std::move(sink);
  if (current.framing == BodyFraming::length && current.remaining > max)
    return fail_body(too_large(fmt::format("The body has {} bytes; {} are taken.", current.remaining, max)));
  const ServerLimits& limits = server_->options.limits;
  if (!current.arrived)
    read_until(now() + (current.intake == Intake::passing ? limits.body_pause : limits.body_time));
  if (current.wants_continue && in_.empty()) say_continue();
  proceed();
}

void Connection::say_continue() {
  now_->wants_continue = false;
  now_->writing = true;
  set_deadlines(read_deadline_, now() + server_->options.limits.write_time);
  socket_->write("HTTP/1.1 100 Continue\r\n\r\n", {}, [self = shared_from_this()](Outcome outcome) {
    if (self->state_ == State::closed) return;
    self->now_->writing = false;
    self->set_deadlines(self->read_deadline_, TimePoint::max());
    if (outcome != Outcome::done) return self->broken();
    if (self->now_->answered) self->write_next();
  });
}

/// Appends what has arrived, about `room` bytes at most.
Result<void> Connection::decode_body(std::string& out, std::size_t room) {
  Current& current = *now_;
  std::size_t used = 0;
  Result<void> result;
  while (!current.arrived && used < in_.size() && out.size() < room) {
    const std::string_view rest = std::string_view(in_).substr(used);
    if (current.framing == BodyFraming::length) {
      const std::size_t size =
          static_cast<std::size_t>(std::min<std::uint64_t>(rest.size(), current.remaining));
      out.append(rest.substr(0, size));
      current.remaining -= size;
      used += size;
      current.arrived = current.remaining == 0;
    } else if (current.framing == BodyFraming::until_close) {
      out.append(rest);
      used += rest.size();
    } else {
      const auto step = current.chunks.step(rest);
      if (!step) {
        result = std::unexpected(step.error());
        break;
      }
      out.append(step->data);
      used += step->consumed;
      current.arrived = step->finished;
    }
  }
  in_.erase(0, used);
  return result;
}

void Connection::take_body() {
  Current& current = *now_;
  if (current.intake == Intake::unasked || current.intake == Intake::over || current.sink_busy) return;
  std::string piece;
  const std::uint64_t before = current.record.bytes_in;
  if (const auto decoded = decode_body(piece, body_piece_bytes); !decoded)
    return fail_body(from_error(decoded.error()));
  current.record.bytes_in += piece.size();
  if (current.framing == BodyFraming::until_close && peer_ended_) current.arrived = true;
  if (current.record.bytes_in > current.body_max && current.intake != Intake::discarding)
    return fail_body(too_large(fmt::format("The body has more than {} bytes.", current.body_max)));
  const bool broke_off = !current.arrived && peer_ended_ && in_.empty();
  if (broke_off && piece.empty()) return fail_body(bad_request("The body of the request broke off."));
  switch (current.intake) {
    case Intake::collecting:
      current.collected += piece;
      if (current.arrived) {
        current.intake = Intake::over;
        read_until(TimePoint::max());
        server_->workers.post([then = std::move(current.then),
                               body = std::move(current.collected)]() mutable { then(std::move(body)); });
        current.then = nullptr;
      }
      break;
    case Intake::passing:
      if (current.record.bytes_in != before && !current.arrived) read_until(pause_deadline());
      if (!piece.empty() || current.arrived) return hand_on(std::move(piece));
      break;
    case Intake::discarding:
      if (current.arrived) {
        current.intake = Intake::over;
        if (current.answer_sent) return next_request();
      }
      break;
    default: break;
  }
  // There may be more in `in_` than one piece.
  if (!piece.empty() && (current.arrived || !in_.empty() || peer_ended_) && current.intake != Intake::over)
    take_body();
}

/// One piece, and the end where that was all.
void Connection::hand_on(std::string piece) {
  Current& current = *now_;
  current.sink_busy = true;
  current.sink_woken = false;
  read_until(TimePoint::max());  // The wait is ours.
  const bool last = current.arrived;
  server_->workers.post([self = shared_from_this(), serial = serial_, sink = current.sink,
                         piece = std::move(piece), last]() mutable {
    const auto said = hand_to(*sink, piece, last);
    sink.reset();
    self->post(serial, [last, said](Connection& connection) { connection.on_taken(said, last); });
  });
}

void Connection::on_taken(std::optional<BodySink::Then> said, bool last) {
  Current& current = *now_;
  const bool waits = said == BodySink::Then::wait && current.intake == Intake::passing;
  if (waits && !current.sink_woken) {
    current.sink_waits = true;
    return;
  }
  current.sink_busy = false;
  if (!said) return fail_body(internal_error());
  if (last && !waits) {
    current.intake = Intake::over;
    drop(std::move(current.sink));
    current.sink = nullptr;
    if (current.answer_sent) return next_request();
  } else if (current.intake == Intake::passing && !current.arrived) {
    read_until(pause_deadline());
  }
  proceed();
}

void Connection::take_more() {
  now_->sink_woken = true;
  if (std::exchange(now_->sink_waits, false)) on_taken(BodySink::Then::wait, now_->arrived);
}

void Connection::fail_body(const ApiError& error) {
  Current& current = *now_;
  current.keep_alive = false;
  current.intake = Intake::over;
  read_until(TimePoint::max());
  drop(std::move(current.then));
  drop(std::move(current.sink));
  current.then = nullptr;
  current.sink = nullptr;
  if (current.answer_sent) return linger();
  answer(to_response(error));
}

// --- Answers ---------------------------------------------------------------------------------------------

void Connection::forget() {
  if (!now_->answered) answer(to_response(internal_error()));
}

void Connection::answer(Response response, Body body) {
  Current& current = *now_;
  if (current.answered) return drop(std::shared_ptr<BodySource>(std::move(response.source)));
  current.answered = true;
  if (server_->stopping) current.keep_alive = false;
  const bool goes_on = body == Body::goes_on && current.intake == Intake::passing;
  if (current.intake != Intake::over && !goes_on) {
    drop(std::move(current.then));
    current.then = nullptr;
    if (std::exchange(current.sink_waits, false)) current.sink_busy = false;
    if (!current.sink_busy) drop(std::move(current.sink));
    // A body of unknown length may never end; one that waits for a "100 Continue" may or may not come.
    const bool short_rest = current.arrived || (current.framing == BodyFraming::length &&
                                                current.remaining <= discard_max && !current.wants_continue);
    if (!short_rest) current.keep_alive = false;
    if (current.keep_alive) {
      current.intake = current.arrived && !current.sink_busy ? Intake::over : Intake::discarding;
    } else {
      current.intake = Intake::over;
    }
    read_until(TimePoint::max());
  }
  if (!write_head(response)) {
    response = to_response(internal_error());
    if (!write_head(response)) return broken();
  }
  current.record.status = response.status;
  current.source = std::move(response.source);
  if (!current.handed_over && (current.head_only || has_no_body(response.status))) {
    response.body.clear();
    drop(std::move(current.source));
    current.source = nullptr;
  }
  current.response = std::move(response);
  if (!current.writing) write_next();
}

/// False: something in it cannot be written (a line break in a field).
bool Connection::write_head(Response& response) {
  Current& current = *now_;
  current.head.clear();
  current.chunked = false;
  wire::HeadWriter writer(current.head);
  writer.status_line(response.status, reason_phrase(response.status));
  writer.field("Date", http_date(server_->clock.wall()));
  writer.field("X-Content-Type-Options", "nosniff");
  for (const Field& field : response.fields) writer.field(field.name, field.value);
  if (current.handed_over) return writer.end();
  if (!has_no_body(response.status)) {
    if (response.length) {
      writer.content_length(*response.length);
    } else if (!response.source) {
      writer.content_length(response.body.size());
    } else if (current.minor_version > 0) {
      current.chunked = true;
      writer.chunked();
    } else {
      current.keep_alive = false;  // RFC 9112 §6.3: it ends with the connection.
    }
  }
  if (!current.keep_alive) {
    writer.field("Connection", "close");
  } else if (current.minor_version == 0) {
    writer.field("Connection", "keep-alive");
  }
  return writer.end();
}

void Connection::write_next() {
  Current& current = *now_;
  std::string_view piece;
  if (current.source) {
    if (current.head.empty() && current.piece.empty() && current.piece_end.empty()) return pull();
    piece = current.piece;
  } else {
    piece = std::string_view(current.response.body).substr(current.sent, body_piece_bytes);
    current.sent += piece.size();
    if (current.head.empty() && piece.empty()) return answer_complete();
  }
  current.record.bytes_out += piece.size();
  current.writing = true;
  set_deadlines(read_deadline_, now() + write_time());
  const auto on_done = [self = shared_from_this()](Outcome outcome) { self->on_written(outcome); };
  if (current.piece_end.empty()) return socket_->write(current.head, piece, on_done);
  current.piece += current.piece_end;
  socket_->write(current.head, current.piece, on_done);
}

void Connection::on_written(Outcome outcome) {
  if (state_ == State::closed) return;
  Current& current = *now_;
  current.writing = false;
  set_deadlines(read_deadline_, TimePoint::max());
  if (outcome != Outcome::done) return broken();
  current.head.clear();
  current.piece.clear();
  current.piece_end.clear();
  if (current.after_piece == BodySource::Then::end) return answer_complete();
  if (current.after_piece == BodySource::Then::wait && !std::exchange(current.woken, false)) {
    current.source_waits = true;
    current.piece.shrink_to_fit();
    return;
  }
  write_next();
}

void Connection::wake() {
  Current& current = *now_;
  current.woken = true;
  if (!current.source_waits) return;
  current.woken = false;
  current.source_waits = false;
  pull();
}

void Connection::pull() {
  Current& current = *now_;
  if (std::exchange(current.pulling, true)) return;
  server_->workers.post([self = shared_from_this(), serial = serial_, source = current.source]() mutable {
    std::string piece(body_piece_bytes, '\0');
    const BodySource::Piece said = ask(*source, piece);
    piece.resize(std::min(said.size, piece.size()));
    source.reset();
    self->post(serial, [piece = std::move(piece), said](Connection& connection) mutable {
      connection.on_piece(std::move(piece), said);
    });
  });
}

void Connection::on_piece(std::string piece, BodySource::Piece said) {
  Current& current = *now_;
  current.pulling = false;
  current.source_bytes += piece.size();
  const auto& length = current.response.length;
  const bool too_long = length && current.source_bytes > *length;
  const bool too_short = length && said.then == BodySource::Then::end && current.source_bytes < *length;
  if (said.then == BodySource::Then::broken || too_long || too_short) return broken();
  current.after_piece = said.then;
  const bool ends = said.then == BodySource::Then::end;
  if (current.chunked && (!piece.empty() || ends)) {
    char size_line[20];
    if (!piece.empty()) {
      current.head.assign(size_line, wire::chunk_prefix(piece.size(), size_line));
      current.piece_end = "\r\n";
    }
    if (ends) current.piece_end += "0\r\n\r\n";
  }
  current.piece = std::move(piece);
  const bool nothing = current.head.empty() && current.piece.empty() && current.piece_end.empty();
  if (!nothing) return write_next();
  on_written(Outcome::done);
}

void Connection::answer_complete() {
  Current& current = *now_;
  record(AccessRecord::End::complete);
  current.answer_sent = true;
  --server_->requests;
  drop(std::move(current.source));
  drop(std::move(current.gone));
  current.source = nullptr;
  current.gone = nullptr;
  if (current.intake == Intake::passing && !current.arrived) {  // Nobody waits for the rest any more.
    drop(std::move(current.sink));
    current.sink = nullptr;
    current.intake = Intake::over;
    current.keep_alive = false;
  }
  if (!current.keep_alive || server_->stopping) return linger();
  if (current.intake == Intake::over) return next_request();
  read_until(now() + server_->options.limits.linger_time);
  proceed();
}

void Connection::next_request() {
  if (!now_->keep_alive) return linger();
  now_.reset();
  ++serial_;
  state_ = State::head;
  if (server_->stopping && in_.empty()) return finish();
  read_until(now() + server_->options.limits.idle_time);
  take_head();
}

void Connection::record(AccessRecord::End end) {
  AccessRecord& record = now_->record;
  record.took = now() - now_->started;
  record.end = end;
  if (server_->log) server_->log(record);
}

// --- What others speak ------------------------------------------------------------------------------------

void Connection::hand_over(Response response, std::shared_ptr<BodySink> sink) {
  Current& current = *now_;
  if (current.answered || !current.wants_websocket || !in_.empty() || reading_) {
    drop(std::move(sink));
    drop(std::shared_ptr<BodySource>(std::move(response.source)));
    current.keep_alive = false;
    return answer(to_response(bad_request("Nothing may follow before the upgrade was answered.")));
  }
  response.status = 101;
  current.handed_over = true;
  current.keep_alive = false;
  current.framing = BodyFraming::until_close;
  current.arrived = peer_ended_;
  current.intake = Intake::passing;
  current.body_max = std::numeric_limits<std::uint64_t>::max();
  current.sink = std::move(sink);
  answer(std::move(response), Body::goes_on);
  if (state_ == State::call) proceed();
}

// --- WebSocket -------------------------------------------------------------------------------------------

void Connection::upgrade(const Request& request, std::unique_ptr<WebSocketHandler> handler,
                         std::size_t message_bytes_max) {
  Current& current = *now_;
  if (current.answered) return;
  if (auto error = judge_websocket(request)) return answer(to_response(*error));
  // RFC 6455 §4.1: the client waits for the answer.
  if (!in_.empty() || reading_) {
    current.keep_alive = false;
    return answer(to_response(bad_request("Nothing may follow before the upgrade was answered.")));
  }
  current.answered = true;
  current.answer_sent = true;  // It counts as a connection from now on, and no longer as a request.
  current.record.status = 101;
  --server_->requests;
  drop(std::move(current.gone));
  state_ = State::websocket;
  read_until(TimePoint::max());
  const ServerLimits& limits = server_->options.limits;
  auto frames = socket_->make_websocket(request, {message_bytes_max, limits.websocket_closing_time});
  websocket_ = std::make_shared<OpenWebSocket>(
      server_, socket_, std::move(frames), std::move(handler),
      [self = shared_from_this()](const OpenWebSocket::Summary& summary) {
        self->now_->record.bytes_in = summary.bytes_in;
        self->now_->record.bytes_out = summary.bytes_out;
        self->record(summary.code == 1006 ? AccessRecord::End::broken : AccessRecord::End::complete);
        self->websocket_.reset();
        if (!summary.linger) return self->finish();
        self->socket_->on_deadline(self, [connection = self.get()] { connection->on_deadline(); });
        self->now_->arrived = summary.code != 1006;  // Else it may be in the middle of a message.
        self->linger();
      });
  websocket_->start();
  if (server_->stopping) wind_down();
}

}  // namespace postern::control
