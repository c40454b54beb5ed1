#include "api/tunnel.h"

#include <algorithm>
#include <map>
#include <utility>

#include "api/port_connection.h"
#include "api/yamux.h"

namespace postern::api {

namespace {

using control::WebSocketSession;

constexpr std::size_t message_bytes = 64 * 1024;  // far below the 1 MiB at which clients give up
constexpr std::size_t header_bytes = 3;
constexpr char header_version = 1;
enum Status : char { connected = 0, port_refused = 1, dial_failed = 2, unsupported_version = 3 };

// A client that has ended its direction mostly reads no more, and does not say so; and one that was told of
// the end may never end its own: such a stream goes when nothing has moved for so long.
constexpr std::chrono::seconds half_open_patience{60};

class Tunnel;

/// One stream, and the connection that it is.
class Road final : public PortConnection::User, io::Timer {
 public:
  Road(Tunnel& tunnel, Yamux::StreamId stream, io::Loop& loop)
      : Timer(loop), tunnel_(tunnel), stream_(stream), loop_(loop) {}

  void from_client(std::string_view bytes);
  void client_ended();
  void to_client_sent(std::size_t bytes);
  /// Nothing is done for it any more.
  void stop() { clear(); }

 private:
  void linger();
  void begin();
  void refuse(Status why);
  void pass(std::string_view bytes);
  void tell(std::string_view bytes);

  void connected(std::string_view bytes) override;
  void received(std::string_view bytes) override { tell(bytes); }
  void ended() override;
  void sent(std::uint32_t bytes) override;
  void over() override;
  void on_timer() override;

  Tunnel& tunnel_;
  const Yamux::StreamId stream_;
  io::Loop& loop_;
  std::string header_;
  std::unique_ptr<PortConnection> connection_;
  bool told_status_ = false;
  bool lingering_ = false;
  std::size_t not_ours_ = 0;  ///< Bytes for the client that did not come from the connection: the status.
};

/// The end on the box loop.
class Tunnel final : public box::Guest, Yamux::Events {
 public:
  explicit Tunnel(io::Loop& loop) : loop_(loop) {}

  // ---- from the handler, on workers

  void open(const std::shared_ptr<WebSocketSession>& session) {
    post([session](Tunnel& self) {
      if (self.box() == nullptr) return session->close(1001, "the sandbox has ended");
      self.session_ = session;
      self.look();
    });
  }
  void message(std::string bytes) {
    post([bytes = std::move(bytes)](Tunnel& self) {
      if (self.session_ == nullptr) return;
      (void)self.yamux_.take(bytes);
      self.taking_ = false;
      self.look();
    });
  }
  void room() {
    post([](Tunnel& self) { self.look(); });
  }
  void gone() {
    post([](Tunnel& self) {
      self.session_ = nullptr;
      self.finish();
    });
  }

  // ---- on the loop

  Yamux& yamux() { return yamux_; }
  /// There is something to send, perhaps. Not at once: much may come in one turn.
  void look() {
    if (std::exchange(looking_, true)) return;
    post([](Tunnel& self) {
      self.looking_ = false;
      self.pump();
    });
  }
  /// Not at once: it may be in the middle of something.
  void drop(Yamux::StreamId stream) {
    const auto found = roads_.find(stream);
    if (found == roads_.end()) return;
    const std::shared_ptr<Road> road(std::move(found->second));
    roads_.erase(found);
    road->stop();
    loop_.post([self = shared_from_this(), road] {});
  }

 private:
  void post(std::move_only_function<void(Tunnel&)> job) {
    loop_.post([self = std::static_pointer_cast<Tunnel>(shared_from_this()), job = std::move(job)]() mutable {
      job(*self);
    });
  }

  void opened(Yamux::StreamId stream) override {
    roads_[stream] = std::make_shared<Road>(*this, stream, loop_);
  }
  Road* find(Yamux::StreamId stream) {
    const auto found = roads_.find(stream);
    return found == roads_.end() ? nullptr : found->second.get();
  }
  void received(Yamux::StreamId stream, std::string_view bytes) override {
    if (Road* const road = find(stream)) road->from_client(bytes);
  }
  void ended(Yamux::StreamId stream) override {
    if (Road* const road = find(stream)) road->client_ended();
  }
  void gone(Yamux::StreamId stream) override { drop(stream); }
  void sent(Yamux::StreamId stream, std::size_t bytes) override {
    if (Road* const road = find(stream)) road->to_client_sent(bytes);
  }

  void on_box_end() override {
    if (session_) session_->close(1001, "the sandbox has ended");
    finish();
  }

  void pump() {
    while (session_) {
      if (held_.empty()) held_ = yamux_.pull(message_bytes);
      if (held_.empty()) break;
      const auto answer = session_->send_binary(held_);
      if (answer == WebSocketSession::Sent::full) return;  // room() comes.
      held_.clear();
      if (answer == WebSocketSession::Sent::closed) return finish();
    }
    if (session_ == nullptr) return;
    if (yamux_.state() != Yamux::State::open) {
      session_->close(yamux_.state() == Yamux::State::gone ? 1000 : 1002, {});
      return finish();
    }
    if (!taking_ && yamux_.wants_input()) {
      taking_ = true;
      session_->resume();
    }
  }

  void finish() {
    if (session_) std::exchange(session_, nullptr)->resume();
    while (!roads_.empty()) drop(roads_.begin()->first);
    leave();
  }

  io::Loop& loop_;
  std::shared_ptr<WebSocketSession> session_;
  Yamux yamux_{*this};
  std::map<Yamux::StreamId, std::shared_ptr<Road>> roads_;
  std::string held_;
  bool looking_ = false;
  bool taking_ = false;  ///< The next message has been asked for.
};

// ---- one stream

void Road::from_client(std::string_view bytes) {
  if (header_.size() < header_bytes) {
    const std::string_view part = bytes.substr(0, header_bytes - header_.size());
    header_ += part;
    bytes.remove_prefix(part.size());
    tunnel_.yamux().credit(stream_, static_cast<std::uint32_t>(part.size()));
    if (header_.size() < header_bytes) return;
    begin();
  }
  if (!bytes.empty()) pass(bytes);
}

void Road::begin() {
  const auto byte = [this](std::size_t i) { return static_cast<unsigned char>(header_[i]); };
  const auto port = static_cast<std::uint16_t>(byte(1) << 8 | byte(2));
  if (header_[0] != header_version) return refuse(unsupported_version);
  if (port == 0) return refuse(port_refused);
  connection_ = std::make_unique<PortConnection>(*tunnel_.box(), port, *this);
  if (!connection_->alive()) refuse(dial_failed);
}

void Road::refuse(Status why) {
  told_status_ = true;
  const char status = why;
  tunnel_.yamux().send(stream_, {&status, 1});
  tunnel_.yamux().finish(stream_);
  tunnel_.look();
  linger();
}

/// Its window is no larger than the connection's, so that all of it has room there.
void Road::pass(std::string_view bytes) {
  if (!connection_ || !connection_->alive() || !connection_->send(bytes))
    tunnel_.yamux().credit(stream_, static_cast<std::uint32_t>(bytes.size()));
}

void Road::client_ended() {
  if (!told_status_ && !connection_) return on_timer();  // It never said what it wants.
  if (connection_) connection_->finish();
  linger();
}

void Road::linger() {
  lingering_ = true;
  set(loop_.now() + half_open_patience);
}

void Road::to_client_sent(std::size_t bytes) {
  const std::size_t own = std::min(bytes, not_ours_);
  not_ours_ -= own;
  if (connection_ && connection_->alive() && bytes > own)
    connection_->taken(static_cast<std::uint32_t>(bytes - own));
  if (lingering_) linger();
}

void Road::tell(std::string_view bytes) {
  tunnel_.yamux().send(stream_, bytes);
  tunnel_.look();
}

void Road::connected(std::string_view bytes) {
  told_status_ = true;
  not_ours_ = 1;
  const char status = Status::connected;
  tell({&status, 1});
  if (!bytes.empty()) tell(bytes);
}

void Road::ended() {
  tunnel_.yamux().finish(stream_);
  tunnel_.look();
}

void Road::sent(std::uint32_t bytes) {
  tunnel_.yamux().credit(stream_, bytes);
  tunnel_.look();
}

void Road::over() {
  if (!told_status_) return refuse(dial_failed);
  tunnel_.yamux().finish(stream_);
  tunnel_.look();
  linger();
}

void Road::on_timer() {
  tunnel_.yamux().reset(stream_);
  tunnel_.look();
  tunnel_.drop(stream_);
}

// ---- the end on the connection

class TunnelSocket final : public control::WebSocketHandler {
 public:
  explicit TunnelSocket(std::shared_ptr<Tunnel> tunnel) : tunnel_(std::move(tunnel)) {}
  ~TunnelSocket() override { tunnel_->gone(); }

 private:
  void on_open(const std::shared_ptr<WebSocketSession>& session) override {
    session->pause();
    session_ = session;
    tunnel_->open(session);
  }
  void on_message(std::string_view data, Kind kind) override {
    if (kind != Kind::binary) return session_->close(1003, "messages should be binary");
    session_->pause();
    tunnel_->message(std::string(data));
  }
  void on_room() override { tunnel_->room(); }
  void on_closed(int, std::string_view) override {}

  const std::shared_ptr<Tunnel> tunnel_;
  std::shared_ptr<WebSocketSession> session_;
};

}  // namespace

void tunnel(const std::shared_ptr<control::Call>& call, BoxDoor& door, const control::Principal& caller) {
  door.with_box(caller, call->request().parameter("sandbox_id"), [call](auto box) {
    if (!box) return call->answer(box.error());
    const auto tunnel = std::make_shared<Tunnel>((*box)->loop);
    tunnel->enter(**box);
    call->upgrade(std::make_unique<TunnelSocket>(tunnel));
  });
}

}  // namespace postern::api
