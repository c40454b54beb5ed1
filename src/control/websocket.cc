#include "control/websocket.h"

#include <chrono>
#include <exception>
#include <utility>

namespace postern::control {

namespace {

TimePoint now() { return std::chrono::steady_clock::now(); }

}  // namespace

void OpenWebSocket::post(std::move_only_function<void(OpenWebSocket&)> job) {
  server_->transport->post(socket_->lane(),
                           [self = shared_from_this(), job = std::move(job)]() mutable { job(*self); });
}

template <class Then>
auto OpenWebSocket::under_way(Then then) {
  ++under_way_;
  return [self = shared_from_this(), then = std::move(then)]<class... Result>(Result&&... result) mutable {
    then(*self, std::forward<Result>(result)...);
    // A session may be kept by its handler for long, with timers of Beast in it.
    if (--self->under_way_ == 0 && self->ending_) self->frames_.reset();
  };
}

void OpenWebSocket::start() {
  socket_->on_deadline(weak_from_this(), [this] { on_timer(); });
  frames_->accept(under_way([](OpenWebSocket& self, Outcome outcome) {
    if (outcome != Outcome::done) return self.cut();
    if (self.ending_) return;
    self.open_ = true;
    self.look_at_ = now() + self.server_->options.limits.websocket_idle_time / 2;
    self.set_timer();
    self.next_call();
    self.read();
    self.flush();
  }));
}

/// Twice in the time that is allowed. A peer that is not being read from is not silent, but we are deaf.
void OpenWebSocket::on_timer() {
  const TimePoint time = now();
  if (ending_) return;
  if (write_deadline_ <= time) return cut();
  if (look_at_ <= time) {
    look_at_ = time + server_->options.limits.websocket_idle_time / 2;
    const bool heard = frames_->activity() != activity_;
    activity_ = frames_->activity();
    quiet_ = heard || !reading_ ? 0 : quiet_ + 1;
    if (quiet_ > 1) return cut();
    if (quiet_ == 1 && !pinging_ && !close_said_) {
      pinging_ = true;
      frames_->ping(under_way([](OpenWebSocket& self, Outcome) { self.pinging_ = false; }));
    }
  }
  set_timer();
}

WebSocketSession::Sent OpenWebSocket::send(WebSocketFrame frame) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return Sent::closed;
    if (queued_bytes_ >= queue_bytes_max) {
      full_ = true;
      return Sent::full;
    }
    queued_bytes_ += frame.data.size();
  }
  post([frame = std::move(frame)](OpenWebSocket& self) mutable {
    if (self.ending_) return;
    self.outgoing_.push_back(std::move(frame));
    self.flush();
  });
  return Sent::taken;
}

void OpenWebSocket::pause() {
  post([](OpenWebSocket& self) { self.paused_ = true; });
}

void OpenWebSocket::resume() {
  post([](OpenWebSocket& self) {
    self.paused_ = false;
    self.next_call();
  });
}

void OpenWebSocket::close(int code, std::string_view reason) {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  post([code, why = std::string(reason)](OpenWebSocket& self) mutable {
    if (self.closing_ || self.ending_) return;
    self.closing_ = Ending{code, std::move(why)};
    self.flush();
  });
}

void OpenWebSocket::read() {
  if (!open_ || reading_ || received_ || ending_) return;
  reading_ = true;
  frames_->read(under_way([](OpenWebSocket& self, Outcome outcome, WebSocketFrame frame) {
    self.on_read(outcome, std::move(frame));
  }));
}

void OpenWebSocket::on_read(Outcome outcome, WebSocketFrame frame) {
  reading_ = false;
  if (ending_) return;
  if (outcome != Outcome::done) {
    if (close_said_ && !close_over_ && outcome != Outcome::ended) {
      reading_failed_ = true;  // Closing reads by itself, and says how it went.
      return;
    }
    const bool said = outcome == Outcome::ended || close_agreed_;
    // What is still under way would never end, on a connection that lingers.
    const Manner manner = writing_ || pinging_ ? Manner::cut : Manner::linger;
    return end(said ? frames_->peer_code() : 1006, said ? frames_->peer_reason() : std::string(), manner);
  }
  summary_.bytes_in += frame.data.size();
  received_ = std::move(frame);
  next_call();
}

void OpenWebSocket::flush() {
  if (!open_ || writing_ || ending_) return;
  if (outgoing_.empty()) return say_close();
  writing_ = true;
  being_written_ = std::move(outgoing_.front());
  outgoing_.pop_front();
  write_deadline_ = now() + server_->options.limits.websocket_write_time;
  set_timer();
  frames_->write(being_written_,
                 under_way([](OpenWebSocket& self, Outcome outcome) { self.on_written(outcome); }));
}

void OpenWebSocket::on_written(Outcome outcome) {
  writing_ = false;
  if (ending_) return;
  write_deadline_ = TimePoint::max();
  set_timer();
  const std::size_t size = being_written_.data.size();
  being_written_ = {};
  if (outcome != Outcome::done) {
    // The peer closes, or is gone: reading says which. Until then nothing is held back any more.
    outgoing_.clear();
    paused_ = false;
    const std::lock_guard lock(mutex_);
    closed_ = true;
  } else {
    summary_.bytes_out += size;
    const std::lock_guard lock(mutex_);
    queued_bytes_ -= size;
    if (full_ && queued_bytes_ <= queue_bytes_low) {
      full_ = false;
      room_to_tell_ = true;
    }
  }
  next_call();
  read();
  if (outcome == Outcome::done) flush();
}

void OpenWebSocket::say_close() {
  if (!closing_ || close_said_) return;
  close_said_ = true;
  frames_->close(closing_->code, closing_->reason,
                 under_way([](OpenWebSocket& self, Outcome outcome) { self.on_closed(outcome); }));
}

void OpenWebSocket::on_closed(Outcome outcome) {
  close_over_ = true;
  close_agreed_ = outcome == Outcome::done;
  if (reading_failed_) return on_read(Outcome::failed, {});
  paused_ = false;
  next_call();
  read();  // Says that it is over.
}

void OpenWebSocket::end(int code, std::string reason, Manner manner) {
  if (ending_) return;
  summary_.code = code;
  summary_.linger = manner == Manner::linger;
  ending_ = Ending{code, std::move(reason)};
  outgoing_.clear();
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  write_deadline_ = TimePoint::max();
  look_at_ = TimePoint::max();
  set_timer();
  if (manner == Manner::cut) socket_->close();
  if (under_way_ == 0) frames_.reset();
  next_call();
}

void OpenWebSocket::next_call() {
  if (calling_) return;
  if (open_ && !opening_told_) {
    opening_told_ = true;
    return call_handler([](OpenWebSocket& self) { self.handler_->on_open(self.shared_from_this()); },
                        [](OpenWebSocket&) {});
  }
  if (received_ && (!paused_ || ending_)) {
    // The frame stays where it is: nothing else is read until the handler is done with it.
    return call_handler(
        [](OpenWebSocket& self) {
          using Kind = WebSocketHandler::Kind;
          self.handler_->on_message(self.received_->data, self.received_->text ? Kind::text : Kind::binary);
        },
        [](OpenWebSocket& self) {
          self.received_.reset();
          self.read();
        });
  }
  if (room_to_tell_ && !ending_) {
    room_to_tell_ = false;
    return call_handler([](OpenWebSocket& self) { self.handler_->on_room(); }, [](OpenWebSocket&) {});
  }
  if (!ending_ || !on_end_) return;
  call_handler(
      [](OpenWebSocket& self) {
        if (self.opening_told_) self.handler_->on_closed(self.ending_->code, self.ending_->reason);
        self.handler_.reset();
      },
      [](OpenWebSocket& self) {
        if (const OnEnd told = std::exchange(self.on_end_, nullptr)) told(self.summary_);
      });
}

void OpenWebSocket::call_handler(std::move_only_function<void(OpenWebSocket&)> call,
                                 std::move_only_function<void(OpenWebSocket&)> after) {
  calling_ = true;
  // Also when the job is never run: the destructor of what stands behind it is what goes on.
  struct Then {
    std::shared_ptr<OpenWebSocket> self;
    std::move_only_function<void(OpenWebSocket&)> after;
    Then(std::shared_ptr<OpenWebSocket> of, std::move_only_function<void(OpenWebSocket&)> next)
        : self(std::move(of)), after(std::move(next)) {}
    Then(Then&&) = default;
    Then(const Then&) = delete;
    ~Then() {
      if (!self) return;
      OpenWebSocket& socket = *self;
      socket.post([after = std::move(after)](OpenWebSocket& on_lane) mutable {
        on_lane.calling_ = false;
        after(on_lane);
        on_lane.next_call();
      });
    }
  };
  server_->workers.post(
      [then = Then(shared_from_this(), std::move(after)), call = std::move(call)]() mutable {
        try {
          call(*then.self);
        } catch (const std::exception&) {
          then.self->close(1011, "internal error");
        }
      });
}

}  // namespace postern::control
