#include "http2/connection.h"

#include <cstring>

namespace postern::http2 {

namespace {

bool timed_out(const Error& error) {
  return error.reason == Reason::sandbox_timeout || error.reason == Reason::origin_timeout;
}

// What a peer that keeps to its window may still be sending.
constexpr std::size_t lingering_bytes_max = limits::connection_window_bytes;

}  // namespace

Connection::Connection(std::unique_ptr<io::Stream> stream, io::BufferPool& buffers, const Timing& timing,
                       Requests* requests)
    : loop_(stream->loop()),
      stream_(std::move(stream)),
      timing_(timing),
      requests_(requests),
      session_(loop_, requests ? Role::server : Role::client, *this),
      input_(buffers),
      output_(buffers),
      greeted_(loop_),
      begun_(loop_.now()),
      last_read_(loop_.now()) {}

Connection::~Connection() { clear_output(); }

// Toward an origin what was sent held credentials.
void Connection::clear_output() {
  const std::string_view sent = output_.bytes();
  if (!requests_ && !sent.empty()) explicit_bzero(const_cast<char*>(sent.data()), sent.size());
  output_.consume(sent.size());
}

void Connection::wants_write() {
  if (writer_idle_) loop_.defer(*this, stream_->fd());
}

void Connection::on_turn_end() {
  if (writer_idle_) work_.set();
}

io::Task<Result<void>> Connection::run() {
  io::Child writer(write_loop());
  Result<void> ended = co_await read_loop();
  closing_ = true;
  const bool transport_broke = write_error_ || (!ended && (ended.error().reason == Reason::sandbox_closed ||
                                                           ended.error().reason == Reason::origin_closed));
  if (write_error_) ended = std::unexpected(*write_error_);
  // What is left to say (GOAWAY with the reason) is said before the streams are told; but nobody is waited
  // for who does not read.
  if (writing_ && !ended)
    stream_->cancel_write();
  else if (writer_idle_)
    work_.set();
  co_await writer.join();
  Error why(Reason::cancelled, Side::self, Retry::never, "the connection has ended");
  if (!ended) why = ended.error();
  session_.fail(why);
  while (session_.wake()) continue;
  greeted_.notify();
  if (transport_broke) {
    stream_->reset_on_close();
  } else {
    stream_->shutdown_write();
    if (!ended) co_await linger();
  }
  co_return ended;
}

// Closing over unread bytes is a reset, which can overtake GOAWAY.
io::Task<void> Connection::linger() {
  const TimePoint end = loop_.now() + timing_.farewell;
  for (std::size_t discarded = 0; discarded < lingering_bytes_max;) {
    input_.consume(input_.size());
    auto count = co_await stream_->read(input_.room(limits::write_bytes), end);
    if (!count || *count == 0) co_return;
    discarded += *count;
  }
}

TimePoint Connection::next_deadline() {
  if (session_.within_head()) {
    if (!head_since_) head_since_ = loop_.now();
    return *head_since_ + timing_.head;
  }
  head_since_.reset();
  if (session_.frames_received() == 0 && requests_) return begun_ + timing_.first_bytes;
  if (session_.open_streams() == 0) return session_.idle_since() + timing_.idle;
  // Nobody is told when the last stream ends: it is looked at again before such a connection can be due.
  if (requests_) return loop_.now() + timing_.idle;
  return session_.ping_answered() ? last_read_ + timing_.ping_after : pinged_at_ + timing_.ping_answer;
}

// True: go on. False: the connection is to end in peace.
Result<bool> Connection::deadline_passed() {
  if (next_deadline() > loop_.now()) return true;  // Something has begun meanwhile.
  const Reason timeout = requests_ ? Reason::sandbox_timeout : Reason::origin_timeout;
  if (session_.within_head() || session_.frames_received() == 0)
    return fail(timeout, "nothing happened within the time limit", stream_->side());
  if (session_.open_streams() == 0) {
    session_.drain();
    return false;
  }
  if (!session_.ping_answered()) return fail(timeout, "the origin does not answer any more", stream_->side());
  session_.ping();
  pinged_at_ = loop_.now();
  return true;
}

io::Task<Result<void>> Connection::read_loop() {
  while (!session_.over()) {
    // It may have failed while nobody waited here.
    if (write_error_) co_return std::unexpected(*write_error_);
    input_.release();
    const TimePoint deadline = next_deadline();
    Result<std::size_t> got = 0;
    auto ready = co_await stream_->wait_readable(deadline);
    // With a part of a TLS record there it is here that the rest is waited for.
    if (ready)
      got = co_await stream_->read(input_.room(limits::write_bytes), deadline);
    else
      got = std::unexpected(std::move(ready.error()));
    if (write_error_) co_return std::unexpected(*write_error_);
    if (session_.over()) break;  // The last frame has been sent.
    if (!got && timed_out(got.error())) {
      const bool go_on = co_await deadline_passed();
      if (!go_on) co_return Result<void>{};
      continue;
    }
    const std::size_t count = co_await std::move(got);
    if (count == 0) {
      if (session_.open_streams() == 0) co_return Result<void>{};
      co_return fail(requests_ ? Reason::sandbox_closed : Reason::origin_closed, "the connection was closed",
                     stream_->side());
    }
    input_.filled(count);
    last_read_ = loop_.now();
    // Frames can be hundreds of requests: where others wait, they are let in between.
    while (!input_.empty()) {
      std::string_view piece = input_.bytes();
      if (loop_.shared()) piece = piece.substr(0, session_.length_of_few(piece));
      const std::uint64_t frames = session_.frames_received();
      auto received = session_.receive(piece);
      if (loop_.shared()) loop_.count_slice((session_.frames_received() - frames) * limits::frame_slice);
      input_.consume(piece.size());
      session_.wake();
      greeted_.notify();
      co_await std::move(received);
      while (session_.requests_wait()) {
        co_await stream_->turn();
        session_.wake();
      }
      if (!input_.empty()) co_await stream_->turn();
    }
    if (draining_ && session_.ping_answered()) session_.drain();
  }
  co_return session_.verdict();
}

io::Task<void> Connection::write_loop() {
  while (true) {
    // Whoever's piece is on its way may have the next one ready: it goes out in the same write.
    do session_.produce(output_);
    while (session_.wake() && output_.size() < limits::write_bytes);
    if (output_.empty()) {
      output_.release();
      if (session_.over()) stream_->cancel_read();
      if (closing_) co_return;
      writer_idle_ = true;
      work_.reset();
      co_await work_.wait();
      writer_idle_ = false;
      continue;
    }
    writing_ = true;
    const Duration longest = closing_ ? timing_.farewell : timing_.write;
    auto written = co_await stream_->write_all(output_.bytes(), loop_.now() + longest);
    writing_ = false;
    clear_output();
    if (!written) {
      if (!closing_) write_error_ = std::move(written.error());
      stream_->cancel_read();
      co_return;
    }
  }
}

io::Task<bool> Connection::greeting(TimePoint deadline) {
  while (session_.frames_received() == 0 && !closing_) {
    const io::Wait::Outcome how = co_await greeted_.until(deadline);
    if (how != io::Wait::Outcome::changed) co_return false;
  }
  co_return !closing_;
}

void Connection::drain() {
  if (std::exchange(draining_, true) || closing_) return;
  if (!requests_) return session_.drain();
  // RFC 9113 §6.8: when the answer to the ping is here the peer knows, and what it opened before has arrived.
  session_.announce_drain();
  session_.ping();
}

}  // namespace postern::http2
