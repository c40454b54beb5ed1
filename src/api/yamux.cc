#include "api/yamux.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace postern::api {

namespace {

constexpr std::size_t header_bytes = 12;
constexpr std::uint8_t version = 0;

enum Type : std::uint8_t { data, window_update, ping, go_away };
enum Flag : std::uint16_t { syn = 1, ack = 2, fin = 4, rst = 8 };
constexpr std::uint16_t all_flags = syn | ack | fin | rst;
constexpr std::uint32_t protocol_error = 1;

std::uint32_t number(std::string_view bytes) {
  std::uint32_t out = 0;
  for (const char byte : bytes) out = out << 8 | static_cast<std::uint8_t>(byte);
  return out;
}

void append_number(std::uint32_t value, std::size_t size, std::string& out) {
  while (size-- > 0) out += static_cast<char>(value >> 8 * size & 0xff);
}

void append_header(std::uint8_t type, std::uint16_t flags, Yamux::StreamId stream, std::uint32_t length,
                   std::string& out) {
  append_number(version, 1, out);
  append_number(type, 1, out);
  append_number(flags, 2, out);
  append_number(stream, 4, out);
  append_number(length, 4, out);
}

}  // namespace

Yamux::Header Yamux::parse(std::string_view bytes) {
  return {static_cast<std::uint8_t>(bytes[1]), static_cast<std::uint16_t>(number(bytes.substr(2, 2))),
          number(bytes.substr(4, 4)), number(bytes.substr(8, 4))};
}

Yamux::Stream* Yamux::find(StreamId stream) {
  const auto found = streams_.find(stream);
  return found == streams_.end() ? nullptr : &found->second;
}

Yamux::State Yamux::break_off() {
  state_ = State::broken;
  owe(go_away, 0, 0, protocol_error);
  return state_;
}

// ---- from the peer

Yamux::State Yamux::take(std::string_view bytes) {
  while (state_ == State::open && !bytes.empty()) {
    if (data_left_ > 0) {
      const std::string_view piece = bytes.substr(0, data_left_);
      bytes.remove_prefix(piece.size());
      data_left_ -= static_cast<std::uint32_t>(piece.size());
      take_data(piece);
      if (data_left_ == 0) end_frame();
      continue;
    }
    const std::string_view piece = bytes.substr(0, header_bytes - header_.size());
    header_ += piece;
    bytes.remove_prefix(piece.size());
    if (header_.size() < header_bytes) break;
    const bool known = static_cast<std::uint8_t>(header_[0]) == version;
    const Header header = parse(header_);
    header_.clear();
    if (!known || !begin_frame(header)) return break_off();
  }
  return state_;
}

bool Yamux::begin_frame(const Header& header) {
  if ((header.flags & ~all_flags) != 0) return false;
  switch (header.type) {
    case data:
    case window_update: {
      if (header.stream == 0) return false;
      if ((header.flags & syn) != 0 && !open_stream(header.stream)) return false;
      frame_ = header;
      if (!(header.type == data ? begin_data(header) : update_window(header))) return false;
      if (data_left_ == 0) end_frame();
      return true;
    }
    case ping:
      if (header.stream != 0) return false;
      if ((header.flags & syn) != 0) owe(ping, ack, 0, header.length);
      return true;
    case go_away:
      if (header.stream != 0) return false;
      state_ = State::gone;
      return true;
    default: return false;
  }
}

/// False: it is not the peer's to open, or open already.
bool Yamux::open_stream(StreamId stream) {
  if (stream % 2 == 0 || streams_.contains(stream)) return false;
  if (streams_.size() >= streams_max) {
    owe(window_update, rst, stream, 0);
    return true;
  }
  streams_[stream];
  owe(window_update, ack, stream, 0);
  events_.opened(stream);
  return true;
}

bool Yamux::begin_data(const Header& header) {
  if (header.length > window_bytes) return false;  // No window was ever larger.
  data_left_ = header.length;
  Stream* const stream = find(header.stream);
  if (stream == nullptr) return true;  // It was reset, which the peer may not know yet.
  if (header.length > stream->may_receive || (header.length > 0 && stream->peer_ended)) return false;
  stream->may_receive -= header.length;
  return true;
}

bool Yamux::update_window(const Header& header) {
  Stream* const stream = find(header.stream);
  if (stream == nullptr) return true;
  stream->may_send += header.length;
  if (stream->may_send > std::numeric_limits<std::uint32_t>::max()) return false;
  take_turn(header.stream, *stream);
  return true;
}

void Yamux::take_data(std::string_view bytes) {
  if (find(frame_.stream) != nullptr) events_.received(frame_.stream, bytes);
}

void Yamux::end_frame() {
  const StreamId id = frame_.stream;
  Stream* const stream = find(id);
  if (stream == nullptr) return;
  if ((frame_.flags & rst) != 0) {
    streams_.erase(id);
    return events_.gone(id);
  }
  if ((frame_.flags & fin) == 0 || std::exchange(stream->peer_ended, true)) return;
  const bool over = stream->finished;
  if (over) streams_.erase(id);
  events_.ended(id);
  if (over) events_.gone(id);
}

// ---- to the peer

void Yamux::owe(std::uint8_t type, std::uint16_t flags, StreamId stream, std::uint32_t length) {
  append_header(type, flags, stream, length, owed_);
}

void Yamux::take_turn(StreamId id, Stream& stream) {
  const bool has_data = stream.sent < stream.unsent.size();
  const bool may = has_data ? stream.may_send > 0 : stream.finishing && !stream.finished;
  if (!may || stream.in_turn) return;
  stream.in_turn = true;
  turns_.push_back(id);
}

std::string Yamux::pull(std::size_t max) {
  std::string out = std::move(owed_);
  owed_.clear();
  while (state_ == State::open && out.size() < max && !turns_.empty()) {
    const StreamId id = turns_.front();
    turns_.pop_front();
    if (Stream* const stream = find(id); stream != nullptr && stream->in_turn) send_some(id, *stream, out);
  }
  return out;
}

void Yamux::send_some(StreamId id, Stream& stream, std::string& out) {
  stream.in_turn = false;
  const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(
      {stream.unsent.size() - stream.sent, stream.may_send, std::uint64_t{data_bytes_max}}));
  if (size > 0) {
    append_header(data, 0, id, static_cast<std::uint32_t>(size), out);
    out.append(stream.unsent, stream.sent, size);
    stream.sent += size;
    stream.may_send -= size;
  }
  bool over = false;
  if (stream.sent < stream.unsent.size()) {
    take_turn(id, stream);
  } else {
    stream.unsent.clear();
    stream.sent = 0;
    if (stream.finishing) {
      append_header(data, fin, id, 0, out);
      stream.finished = true;
      over = stream.peer_ended;
    }
  }
  if (over) streams_.erase(id);
  if (size > 0) events_.sent(id, size);
  if (over) events_.gone(id);
}

void Yamux::send(StreamId id, std::string_view bytes) {
  Stream* const stream = find(id);
  if (stream == nullptr || stream->finishing || bytes.empty()) return;
  stream->unsent.erase(0, std::exchange(stream->sent, 0));
  stream->unsent += bytes;
  take_turn(id, *stream);
}

void Yamux::finish(StreamId id) {
  Stream* const stream = find(id);
  if (stream == nullptr || stream->finishing) return;
  stream->finishing = true;
  take_turn(id, *stream);
}

void Yamux::reset(StreamId id) {
  if (streams_.erase(id) != 0) owe(window_update, rst, id, 0);
}

void Yamux::credit(StreamId id, std::uint32_t bytes) {
  Stream* const stream = find(id);
  if (stream == nullptr) return;
  stream->to_credit = std::min(stream->to_credit + bytes, window_bytes - stream->may_receive);
  if (stream->to_credit < window_bytes / 2 || stream->peer_ended) return;
  stream->may_receive += stream->to_credit;
  owe(window_update, 0, id, std::exchange(stream->to_credit, 0));
}

}  // namespace postern::api
