#pragma once
// A WebSocket to the server (RFC 6455), for the commands that have one: a client's half, on a connection of
// libcurl's, moved by whoever polls it. The server's frames are held to the RFC and bounded.

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "cli/api_client.h"

namespace postern::cli {

/// Frames of a server to messages.
class FrameReader {
 public:
  enum class Kind : unsigned char { text = 1, binary = 2, close = 8, ping = 9, pong = 10 };
  struct Message {
    Kind kind = Kind::text;
    std::string data;
  };
  static constexpr std::size_t message_bytes_max = 4 * 1024 * 1024;  // our server's have less than 1 MiB

  void add(std::string_view bytes) { bytes_ += bytes; }
  /// The next whole message; none yet, or none ever again when broken().
  std::optional<Message> next();
  /// What came is no WebSocket's.
  bool broken() const { return broken_; }

 private:
  std::optional<Message> take(unsigned char first, std::string_view payload);

  std::string bytes_;
  std::optional<Message> started_;  ///< A message in fragments.
  bool broken_ = false;
};

/// One frame of a client, masked (RFC 6455 §5.3).
std::string client_frame(FrameReader::Kind kind, std::string_view payload);

class WebSocketClient {
 public:
  using Kind = FrameReader::Kind;
  using Message = FrameReader::Message;

  /// Waits for the server, and for the sandbox that it may have to wake.
  static Asked<WebSocketClient> open(ApiClient client, const std::string& path);

  int descriptor() const { return link_->descriptor(); }
  void send(Kind kind, std::string_view payload) {
    if (!deaf_) waiting_ += client_frame(kind, payload);
  }
  /// Bytes that are not on their way yet.
  std::size_t waiting() const { return waiting_.size(); }

  /// Moves what can be moved without waiting. A server that hears no more may still have something to say.
  void write_some();
  /// False: the connection is over.
  bool read_some();
  /// The next text or binary message; pings are answered.
  std::optional<Message> next();
  /// The server says goodbye, or what no server says.
  bool over() const { return over_ || reader_.broken(); }

 private:
  explicit WebSocketClient(std::unique_ptr<ServerLink> link) : link_(std::move(link)) {}
  Asked<void> shake_hands(const std::string& path);
  bool wait_for(short events) const;

  std::unique_ptr<ServerLink> link_;
  FrameReader reader_;
  std::string waiting_;
  bool over_ = false;
  bool deaf_ = false;  ///< The server.
};

}  // namespace postern::cli
