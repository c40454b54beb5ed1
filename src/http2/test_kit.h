#pragma once
// For tests: one end of an HTTP/2 connection in memory, frames made and read by hand, and coroutines that
// note what a stream gives them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http2/session.h"

namespace postern::http2::kit {

using Pairs = std::vector<std::pair<std::string, std::string>>;

// ---- frames by hand (RFC 9113 §4.1, §6)

enum Type : std::uint8_t {
  data = 0,
  headers = 1,
  priority = 2,
  rst_stream = 3,
  settings = 4,
  push_promise = 5,
  ping = 6,
  goaway = 7,
  window_update = 8,
  continuation = 9,
};
inline constexpr std::uint8_t end_stream = 1, ack = 1, end_headers = 4, padded = 8;
inline constexpr std::string_view preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

inline std::string number32(std::uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}

inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t id, std::string_view payload) {
  std::string out = number32(static_cast<std::uint32_t>(payload.size())).substr(1);
  out += static_cast<char>(type);
  out += static_cast<char>(flags);
  return out + number32(id) + std::string(payload);
}

struct Frame {
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint32_t id = 0;
  std::string payload;
  std::uint32_t code() const {  ///< Of RST_STREAM; of GOAWAY it stands behind the last stream's number.
    std::uint32_t value = 0;
    for (const char c : std::string_view(payload).substr(type == goaway ? 4 : 0, 4))
      value = value << 8 | static_cast<unsigned char>(c);
    return value;
  }
};

/// Complete frames only.
inline std::vector<Frame> frames(std::string_view bytes) {
  std::vector<Frame> out;
  if (bytes.starts_with(preface)) bytes.remove_prefix(preface.size());
  const auto byte = [&](std::size_t at) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at]));
  };
  while (bytes.size() >= 9) {
    const std::size_t length = byte(0) << 16 | byte(1) << 8 | byte(2);
    if (bytes.size() < 9 + length) break;
    const std::uint32_t id = (byte(5) & 0x7f) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
    out.push_back({static_cast<std::uint8_t>(byte(3)), static_cast<std::uint8_t>(byte(4)), id,
                   std::string(bytes.substr(9, length))});
    bytes.remove_prefix(9 + length);
  }
  return out;
}

inline std::vector<Frame> of_type(std::string_view bytes, Type type) {
  std::vector<Frame> out;
  for (Frame& one : frames(bytes))
    if (one.type == type) out.push_back(std::move(one));
  return out;
}

/// RFC 7541 §5.1, behind a prefix of 7 bits.
inline std::string hpack_length(std::size_t length) {
  if (length < 127) return {static_cast<char>(length)};
  std::string out{'\x7f'};
  for (length -= 127; length >= 128; length /= 128) out += static_cast<char>(length % 128 | 128);
  return out + static_cast<char>(length);
}

/// RFC 7541 §6.2: literals without Huffman; `indexing` puts the field into the table.
enum class Indexing : std::uint8_t { none, incremental };
inline std::string literal(std::string_view name, std::string_view value,
                           Indexing indexing = Indexing::none) {
  std::string out{indexing == Indexing::none ? '\x00' : '\x40'};
  return out + hpack_length(name.size()) + std::string(name) + hpack_length(value.size()) +
         std::string(value);
}
inline std::string block(const Pairs& fields) {
  std::string out;
  for (const auto& [name, value] : fields) out += literal(name, value);
  return out;
}

inline const Pairs get_request{
    {":method", "GET"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/"}};
inline const Pairs post_request{
    {":method", "POST"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/"}};

// ---- one end

/// What a stream has given so far.
struct Seen {
  std::vector<std::pair<int, Pairs>> heads;  ///< Answers.
  std::string body;
  Pairs trailers;
  bool complete = false;
  std::optional<Error> error;
  bool over = false;

  int status() const { return heads.empty() ? 0 : heads.back().first; }
};

inline Pairs copy(std::span<const HeaderField> fields) {
  Pairs out;
  for (const HeaderField& field : fields) out.emplace_back(field.name, field.value);
  return out;
}

/// Reads a body to its end. Not a piece is asked for while `hold` is set.
inline io::Task<void> read_body(std::shared_ptr<Stream> stream, Seen& seen, TimePoint deadline) {
  while (true) {
    auto piece = co_await stream->read_body(deadline);
    if (!piece) {
      seen.error = std::move(piece.error());
      break;
    }
    seen.body += piece->data;
    if (!piece->last) continue;
    seen.complete = true;
    seen.trailers = copy(stream->trailers());
    break;
  }
  seen.over = true;
}

/// Reads an answer: heads until a final one, then the body.
inline io::Task<void> read_answer(std::shared_ptr<Stream> stream, Seen& seen, TimePoint deadline) {
  while (true) {
    auto head = co_await stream->next_head(deadline);
    if (!head) {
      seen.error = std::move(head.error());
      seen.over = true;
      co_return;
    }
    seen.heads.emplace_back((*head)->status, copy((*head)->fields));
    if ((*head)->status >= 200) break;
  }
  co_await read_body(std::move(stream), seen, deadline);
}

struct Sending {
  std::optional<Result<void>> result;
  bool done() const { return result && *result; }
};
inline io::Task<void> send(std::shared_ptr<Stream> stream, std::string_view bytes, bool last, Pairs trailers,
                           Sending& sending, TimePoint deadline) {
  std::vector<HeaderField> fields;
  for (const auto& [name, value] : trailers) fields.push_back({name, value});
  sending.result = co_await stream->send_body(BodyPiece{bytes, last, false}, fields, deadline);
}

inline bool send_head(Stream& stream, const Pairs& head, bool ends) {
  std::vector<Field> fields;
  for (const auto& [name, value] : head) fields.push_back({name, value});
  return stream.send_head(fields, ends);
}

class End final : Session::Owner {
 public:
  End(io::Loop& loop, Role role) : loop_(loop), session(loop, role, *this) {}

  /// Bytes from the peer.
  Result<void> feed(std::string_view bytes) {
    auto received = session.receive(bytes);
    session.wake();
    return received;
  }
  /// Everything that there is to be sent, and what whoever is woken by that adds.
  std::string take() {
    std::string out;
    io::Buffer buffer(buffers_);
    while (true) {
      session.produce(buffer);
      session.wake();
      if (buffer.empty()) return out;
      out += buffer.bytes();
      buffer.release();
    }
  }
  TimePoint soon() const { return loop_.now() + std::chrono::seconds(5); }

  /// Client: asks, and reads the answer into `seen`.
  std::shared_ptr<Stream> ask(const Pairs& head, Seen& seen, bool ends = true) {
    auto stream = session.open();
    if (!stream || !send_head(*stream, head, ends)) return nullptr;
    loop_.spawn(read_answer(stream, seen, soon()));
    return stream;
  }
  void read(std::shared_ptr<Stream> stream, Seen& seen) {
    loop_.spawn(read_body(std::move(stream), seen, soon()));
  }
  void send(std::shared_ptr<Stream> stream, std::string_view bytes, bool last, Sending& sending,
            Pairs trailers = {}) {
    loop_.spawn(kit::send(std::move(stream), bytes, last, std::move(trailers), sending, soon()));
  }

 private:
  void on_request(std::shared_ptr<Stream> stream) override { requests.push_back(std::move(stream)); }
  void on_refused_request(Error why) override { refused.push_back(std::move(why)); }
  void wants_write() override { wanted_write = true; }

  io::Loop& loop_;
  io::BufferPool buffers_;

 public:
  std::vector<std::shared_ptr<Stream>> requests;
  std::vector<Error> refused;
  bool wanted_write = false;
  Session session;
};

}  // namespace postern::http2::kit
