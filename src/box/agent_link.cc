#include "box/agent_link.h"

#include <cerrno>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utility>

namespace postern::box {

AgentLink::AgentLink(io::Loop& loop, Fd socket, io::Party party) : loop_(loop), socket_(std::move(socket)) {
  alive_ = loop_.add(socket_.get(), *this, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, party);
}

AgentLink::~AgentLink() {
  if (alive_) loop_.forget(socket_.get(), *this);
}

// ---- to the agent

std::uint32_t AgentLink::run(const RunRequest& request, Events& events) {
  const std::string bytes = encode(request);
  if (!alive_ || running_.size() >= commands_max || bytes.size() > frame_bytes_max) return 0;
  const std::uint32_t number = ++last_number_;
  running_[number].events = &events;
  send(FrameType::run, number, 0, {}, bytes);
  return number;
}

void AgentLink::forget(std::uint32_t command) {
  const auto found = running_.find(command);
  if (found == running_.end()) return;
  found->second.events = nullptr;
  // What it had said and nobody will take any more.
  for (const StreamId stream : {StreamId::standard_output, StreamId::standard_error}) {
    const std::uint32_t left = found->second.output_left[static_cast<int>(stream) - 1];
    if (left < window_bytes) taken(command, stream, window_bytes - left);
  }
}

bool AgentLink::input(std::uint32_t command, std::string_view bytes) {
  const auto found = running_.find(command);
  if (found == running_.end() || bytes.size() > window_bytes - found->second.input_out) return false;
  found->second.input_out += static_cast<std::uint32_t>(bytes.size());
  send(FrameType::input, command, 0, {}, bytes);
  return true;
}

void AgentLink::close_input(std::uint32_t command) { send(FrameType::close_input, command); }

void AgentLink::signal(std::uint32_t command, int number) {
  send(FrameType::signal, command, static_cast<std::uint32_t>(number));
}

void AgentLink::resize(std::uint32_t command, std::uint16_t rows, std::uint16_t columns) {
  send(FrameType::resize, command, std::uint32_t{rows} << 16 | columns);
}

void AgentLink::taken(std::uint32_t command, StreamId stream, std::uint32_t bytes) {
  const auto found = running_.find(command);
  if (found == running_.end() || bytes == 0) return;
  std::uint32_t& left = found->second.output_left[static_cast<int>(stream) - 1];
  left += std::min(bytes, window_bytes - left);
  send(FrameType::taken, command, bytes, stream);
}

void AgentLink::send(FrameType type, std::uint32_t command, std::uint32_t value, StreamId stream,
                     std::string_view bytes) {
  if (!alive_) return;
  append_frame(type, command, value, stream, bytes, unsent_);
  loop_.defer(*this);
}

void AgentLink::on_turn_end() {
  if (alive_ && !flush()) lose();
}

bool AgentLink::flush() {
  while (sent_ < unsent_.size()) {
    const ssize_t size = ::send(socket_.get(), unsent_.data() + sent_, unsent_.size() - sent_, MSG_NOSIGNAL);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN;  // The loop says when there is room again.
    sent_ += static_cast<std::size_t>(size);
  }
  unsent_.clear();
  sent_ = 0;
  return true;
}

// ---- from the agent

void AgentLink::on_ready(std::uint32_t events) {
  if (!alive_) return;
  if ((events & EPOLLOUT) != 0 && !flush()) return lose();
  if (!receive()) lose();
}

bool AgentLink::receive() {
  char piece[64 * 1024];
  while (true) {
    if (loop_.slice_spent()) {
      loop_.again(socket_.get());
      return true;
    }
    const ssize_t size = ::recv(socket_.get(), piece, sizeof piece, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return false;
    loop_.count_slice(static_cast<std::size_t>(size));
    received_.append(piece, static_cast<std::size_t>(size));
    const bool good = take_frames(
        received_, [this](const FrameHeader& header, std::string_view frame) { return take(header, frame); });
    if (!good) return false;
  }
}

bool AgentLink::take(const FrameHeader& header, std::string_view bytes) {
  const auto found = running_.find(header.command);
  if (found == running_.end()) return false;
  Running& running = found->second;
  if (header.type == FrameType::output) return take_output(header, running, bytes);
  Events* const events = running.events;
  switch (header.type) {
    case FrameType::started:
      if (events) events->started(static_cast<std::int32_t>(header.value));
      return true;
    case FrameType::ended:
      if (header.stream != StreamId::standard_output && header.stream != StreamId::standard_error)
        return false;
      if (events) events->output_ended(header.stream);
      return true;
    case FrameType::wanted:
      if (header.value > running.input_out) return false;
      running.input_out -= header.value;
      if (events) events->input_taken(header.value);
      return true;
    case FrameType::exited:
    case FrameType::refused: {
      running_.erase(found);
      const int value = static_cast<int>(header.value & 0xffff);
      if (!events) return true;
      if (header.type == FrameType::exited)
        events->exited(value);
      else
        events->refused(value);
      return true;
    }
    default: return false;
  }
}

bool AgentLink::take_output(const FrameHeader& header, Running& running, std::string_view bytes) {
  const unsigned stream = static_cast<unsigned>(header.stream) - 1;
  if (stream > 1 || bytes.size() > running.output_left[stream]) return false;
  running.output_left[stream] -= static_cast<std::uint32_t>(bytes.size());
  if (running.events)
    running.events->output(header.stream, bytes);
  else
    taken(header.command, header.stream, static_cast<std::uint32_t>(bytes.size()));
  return true;
}

void AgentLink::lose() {
  alive_ = false;
  loop_.forget(socket_.get(), *this);
  socket_.reset();
  // One by one: whoever is told may let go of others.
  while (!running_.empty()) {
    const auto last = running_.extract(running_.begin());
    if (last.mapped().events) last.mapped().events->lost();
  }
  if (auto told = std::exchange(when_lost_, nullptr)) told();
}

void AgentLink::close() {
  if (alive_) lose();
}

}  // namespace postern::box
