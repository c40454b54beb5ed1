#include "api/service_exchange.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <fmt/format.h>
#include <utility>

#include "api/files.h"
#include "api/pipe.h"
#include "api/port_connection.h"
#include "platform/answer.h"
#include "wire/http1.h"
#include "wire/http_writer.h"

namespace postern::api {

namespace {

using control::ApiError;
using control::BodySink;
using control::Call;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr std::uint64_t body_bytes_max = std::uint64_t{64} << 30;  // as of uploads
constexpr std::size_t piece_bytes = 64 * KiB;
constexpr int informational_max = 16;  // RFC 9110 §15.2; more say nothing more

constexpr seconds dial_time{10};  // inside one machine; a box may be busy
// From the last byte of the request on: a program may think, but whoever waits for longer has given up.
constexpr minutes head_time{5};
// Nothing in either direction. Event streams and WebSockets ping far more often.
constexpr minutes quiet_time{30};

/// The SDKs know this token.
ApiError unreachable(std::string message) {
  return platform::api_error(502, "ConnectionError", std::move(message));
}
ApiError cut_off() {
  return control::forbidden("Access to this service was taken back while the request was under way.");
}

/// What HEAD is told: the length of what GET would get.
std::optional<std::uint64_t> length_of(const ResponseHead& head) {
  for (const HeaderField& field : head.fields) {
    if (!wire::same_name(field.name, "Content-Length")) continue;
    std::uint64_t length = 0;
    const std::string_view text = field.value;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    if (error == std::errc{} && end == text.data() + text.size()) return length;
  }
  return std::nullopt;
}

/// The end on the box loop.
class Exchange final : public box::Guest, public PortConnection::User, io::Timer {
 public:
  Exchange(box::OpenBox& box, ServiceRequest request)
      : Timer(box.loop),
        loop_(box.loop),
        call_(std::move(request.call)),
        way_(std::move(request.way)),
        method_(call_->request().method),
        websocket_(call_->request().wants_websocket),
        chunked_upload_(call_->request().has_body && !call_->request().body_size),
        pipe_(std::make_shared<Pipe>(call_)),
        seat_(std::move(request.seat)),
        waiting_(std::move(request.head)) {}

  void begin(box::OpenBox& box);

  // ---- from the sink, on workers

  bool is_over() const { return over_; }
  void add(std::string bytes) {
    post([bytes = std::move(bytes)](Exchange& self) {
      if (self.box() == nullptr) return self.call_->take_more();
      self.holding_ = true;
      self.frame(bytes);
      self.pass_on();
    });
  }
  void upload_ended() {
    post([](Exchange& self) {
      if (self.box() == nullptr) return;
      if (self.state_ == State::tunnel) return self.connection_->finish();
      if (self.chunked_upload_) self.waiting_ += "0\r\n\r\n";
      self.pass_on();
    });
  }
  /// The caller has gone, or was told what is wrong.
  void give_up() {
    post([](Exchange& self) { self.fail(box_gone()); });
  }

 private:
  enum class State : std::uint8_t { dialling, head, body, tunnel };

  template <class Do>
  void post(Do job) {
    loop_.post([self = std::static_pointer_cast<Exchange>(shared_from_this()),
                job = std::move(job)]() mutable { job(*self); });
  }

  void frame(std::string_view bytes);
  void pass_on();
  void look_for_head();
  void answer(const ResponseHead& head);
  std::unique_ptr<control::BodySource> source();
  void take_body(std::string_view bytes);
  void take_chunks(std::string_view bytes);
  void put(std::string_view data, std::size_t used);
  void taken(std::size_t bytes);
  void moved();
  void no_more();
  void complete();
  void fail(const ApiError& error);
  void finish();

  void connected(std::string_view bytes) override;
  void received(std::string_view bytes) override;
  void ended() override { no_more(); }
  void sent(std::uint32_t) override {
    moved();
    pass_on();
  }
  void over() override;
  void on_box_end() override { fail(box_gone()); }
  void on_timer() override;

  io::Loop& loop_;
  const std::shared_ptr<Call> call_;
  const ServiceWay way_;
  const std::string method_;
  const bool websocket_;
  const bool chunked_upload_;
  const std::shared_ptr<Pipe> pipe_;
  std::shared_ptr<ServiceUse::Seat> seat_;
  std::unique_ptr<PortConnection> connection_;
  State state_ = State::dialling;

  std::string waiting_;  ///< For the box: a head, or one framed piece.
  std::size_t passed_ = 0;
  bool holding_ = false;  ///< The sink waits.
  std::atomic<bool> over_ = false;

  std::string head_;  ///< Received of it.
  wire::HeadScanner scanner_;
  std::vector<HeaderField> fields_;
  int informational_ = 0;
  BodyFraming framing_ = BodyFraming::none;
  std::uint64_t remaining_ = 0;
  wire::ChunkDecoder chunks_;
};

class RequestSink final : public BodySink {
 public:
  explicit RequestSink(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~RequestSink() override {
    if (!ended_) exchange_->give_up();
  }

 private:
  Then take(std::string_view piece) override {
    if (exchange_->is_over()) return Then::more;
    exchange_->add(std::string(piece));
    return Then::wait;
  }
  void end() override {
    ended_ = true;
    exchange_->upload_ended();
  }

  const std::shared_ptr<Exchange> exchange_;
  bool ended_ = false;
};

void Exchange::begin(box::OpenBox& box) {
  enter(box);
  const auto self = std::static_pointer_cast<Exchange>(shared_from_this());
  connection_ = std::make_unique<PortConnection>(box, way_.place.port, *this);
  if (!connection_->alive())
    return fail(box.link.alive() ? control::overloaded("Too much is going on in this sandbox.") : box_gone());
  set(loop_.now() + dial_time);
  pass_on();
  call_->on_gone([self] { self->give_up(); }, Call::Half::is_gone);
  if (call_->request().has_body) call_->stream_body(body_bytes_max, std::make_shared<RequestSink>(self));
  // The seat is ours: it must not hold us.
  seat_->when_cut([&loop = loop_, weak = weak_from_this()] {
    loop.post([weak] {
      if (const auto alive = weak.lock()) static_cast<Exchange&>(*alive).fail(cut_off());
    });
  });
}

// ---- toward the box

void Exchange::frame(std::string_view bytes) {
  if (!chunked_upload_ || state_ == State::tunnel) {
    waiting_ += bytes;
    return;
  }
  char size_line[20];
  waiting_.append(size_line, wire::chunk_prefix(bytes.size(), size_line));
  waiting_ += bytes;
  waiting_ += "\r\n";
}

void Exchange::pass_on() {
  if (!connection_ || !connection_->alive()) return;
  while (passed_ < waiting_.size()) {
    const std::string_view piece = std::string_view(waiting_).substr(passed_, piece_bytes);
    if (!connection_->send(piece)) return;
    passed_ += piece.size();
  }
  waiting_.clear();
  passed_ = 0;
  if (std::exchange(holding_, false)) call_->take_more();
}

// ---- from the box

void Exchange::connected(std::string_view bytes) {
  state_ = State::head;
  set(loop_.now() + head_time);
  if (!bytes.empty()) received(bytes);
}

void Exchange::received(std::string_view bytes) {
  if (state_ != State::head) {
    moved();
    return take_body(bytes);
  }
  head_ += bytes;
  look_for_head();
}

/// Interim answers are dropped: "100 Continue" was said by us, and nobody waits for the others.
void Exchange::look_for_head() {
  while (true) {
    const auto size = scanner_.scan(head_);
    if (!size)
      return fail(unreachable(fmt::format("The service's answer is no HTTP: {}.", size.error().detail)));
    if (*size == 0) return;
    ResponseHead head;
    const auto parsed =
        wire::parse_response_head(std::string_view(head_).substr(0, *size), method_, fields_, head);
    if (!parsed)
      return fail(unreachable(fmt::format("The service's answer is no HTTP: {}.", parsed.error().detail)));
    connection_->taken(static_cast<std::uint32_t>(*size));
    const bool interim = head.status < 200 && head.status != 101;
    if (interim && ++informational_ > informational_max)
      return fail(unreachable("The service says too much before it answers."));
    if (!interim) {
      answer(head);
      if (box() == nullptr) return;
      const std::string rest = head_.substr(*size);
      head_.clear();
      head_.shrink_to_fit();
      if (!rest.empty()) take_body(rest);
      return;
    }
    head_.erase(0, *size);
  }
}

std::unique_ptr<control::BodySource> Exchange::source() {
  const auto post = [&loop = loop_, weak = weak_from_this()](auto job) {
    loop.post([weak, job = std::move(job)] {
      if (const auto alive = weak.lock()) job(static_cast<Exchange&>(*alive));
    });
  };
  return pipe_->source([post](std::size_t bytes) { post([bytes](Exchange& self) { self.taken(bytes); }); },
                       [post] { post([](Exchange& self) { self.fail(box_gone()); }); });
}

void Exchange::answer(const ResponseHead& head) {
  const bool granted = head.status == 101;
  if (granted && (!websocket_ || !wire::has_token(head.upgrade, "websocket")))
    return fail(unreachable("The service switched to a protocol that nobody asked for."));
  control::Response response = answer_of_box(head, way_);
  framing_ = head.framing;
  remaining_ = head.content_length;
  state_ = granted ? State::tunnel : State::body;
  set(loop_.now() + quiet_time);
  response.source = source();
  if (granted) {
    framing_ = BodyFraming::until_close;
    const auto self = std::static_pointer_cast<Exchange>(shared_from_this());
    return call_->hand_over(std::move(response), std::make_shared<RequestSink>(self));
  }
  if (head.framing == BodyFraming::length) response.length = head.content_length;
  if (method_ == "HEAD") response.length = length_of(head);
  call_->answer_while_receiving(std::move(response));
  if (framing_ == BodyFraming::none || (framing_ == BodyFraming::length && remaining_ == 0)) complete();
}

void Exchange::put(std::string_view data, std::size_t used) {
  if (!data.empty()) pipe_->put(data);
  if (used > data.size()) connection_->taken(static_cast<std::uint32_t>(used - data.size()));
}

void Exchange::take_body(std::string_view bytes) {
  switch (framing_) {
    case BodyFraming::none: return;
    case BodyFraming::until_close: return put(bytes, bytes.size());
    case BodyFraming::length: {
      const std::string_view data =
          bytes.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), remaining_)));
      remaining_ -= data.size();
      put(data, data.size());
      if (remaining_ == 0) complete();  // What follows is nobody's answer.
      return;
    }
    case BodyFraming::chunked: return take_chunks(bytes);
  }
}

void Exchange::take_chunks(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto step = chunks_.step(bytes);
    if (!step) return fail(box_gone());
    put(step->data, step->consumed);
    if (step->finished) return complete();
    bytes.remove_prefix(step->consumed);
  }
}

void Exchange::taken(std::size_t bytes) {
  if (!connection_ || !connection_->alive()) return;
  connection_->taken(static_cast<std::uint32_t>(bytes));
  moved();
}

/// A head that trickles gains nothing by it.
void Exchange::moved() {
  if (state_ == State::head) set(loop_.now() + head_time);
  if (state_ == State::body || state_ == State::tunnel) set(loop_.now() + quiet_time);
}

void Exchange::no_more() {
  if (state_ == State::head || state_ == State::dialling)
    return fail(unreachable("The service closed the connection without a whole answer."));
  if (framing_ == BodyFraming::until_close) return complete();
  fail(box_gone());
}

void Exchange::over() {
  if (state_ != State::dialling) return no_more();
  fail(unreachable(fmt::format("Nothing in this sandbox listens on port {}.", way_.place.port)));
}

void Exchange::on_timer() {
  if (state_ == State::dialling)
    return fail(unreachable(fmt::format("Port {} of this sandbox does not answer.", way_.place.port)));
  if (state_ == State::head)
    return fail(platform::api_error(504, "GatewayTimeout", "The service did not answer in time."));
  fail(box_gone());
}

// ---- ends

void Exchange::complete() {
  pipe_->end();
  finish();
}

/// The first answer counts: where there is one already it is cut.
void Exchange::fail(const ApiError& error) {
  if (over_) return;
  pipe_->cut();
  call_->answer(error);
  finish();
}

void Exchange::finish() {
  clear();
  over_ = true;
  if (std::exchange(holding_, false)) call_->take_more();
  connection_.reset();
  seat_.reset();
  leave();
}

}  // namespace

void exchange_with_service(box::OpenBox& box, ServiceRequest request) {
  std::make_shared<Exchange>(box, std::move(request))->begin(box);
}

}  // namespace postern::api
