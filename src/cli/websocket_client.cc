#include "cli/websocket_client.h"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <poll.h>
#include <vector>

#include "credential/base64.h"
#include "credential/random.h"
#include "wire/http1.h"

namespace postern::cli {

namespace {

constexpr int handshake_milliseconds = 120'000;  // a sandbox may have to be woken
constexpr std::size_t piece_bytes = 64 * 1024;
constexpr std::size_t refusal_bytes_max = 64 * 1024;

std::string random_bytes(std::size_t size) {
  std::string bytes(size, '\0');
  credential::fill_at_random(std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

/// RFC 6455 §4.2.2: what proves that the server read our key.
std::string accept_of(const std::string& key) {
  const std::string text = key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  ::EVP_Digest(text.data(), text.size(), digest.data(), &size, ::EVP_sha1(), nullptr);
  std::string out;
  credential::append_base64({reinterpret_cast<const char*>(digest.data()), size}, out);
  return out;
}

std::string_view value_of(const std::vector<HeaderField>& fields, std::string_view name) {
  for (const HeaderField& field : fields)
    if (wire::same_name(field.name, name)) return field.value;
  return {};
}

}  // namespace

std::optional<FrameReader::Message> FrameReader::next() {
  while (!broken_) {
    if (bytes_.size() < 2) return std::nullopt;
    const auto byte = [this](std::size_t i) { return static_cast<unsigned char>(bytes_[i]); };
    std::size_t head = 2;
    std::uint64_t size = byte(1) & 0x7F;
    const std::size_t more = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (bytes_.size() < head + more) return std::nullopt;
    if (more > 0) size = 0;
    for (; head < 2 + more; ++head) size = size << 8 | byte(head);
    const unsigned char first = byte(0);
    const bool control = (first & 0x08) != 0;
    // RFC 6455 §5.1, §5.2, §5.5: servers do not mask, nothing was agreed on, control frames are small.
    if ((first & 0x70) != 0 || (byte(1) & 0x80) != 0 || size > message_bytes_max ||
        (control && (size > 125 || (first & 0x80) == 0))) {
      broken_ = true;
      break;
    }
    if (bytes_.size() < head + size) return std::nullopt;
    auto message = take(first, std::string_view(bytes_).substr(head, size));
    bytes_.erase(0, head + size);
    if (message) return message;
  }
  return std::nullopt;
}

std::optional<FrameReader::Message> FrameReader::take(unsigned char first, std::string_view payload) {
  const auto kind = static_cast<Kind>(first & 0x0F);
  switch (kind) {
    case Kind::close:
    case Kind::ping:
    case Kind::pong: return Message{kind, std::string(payload)};
    case Kind::text:
    case Kind::binary:
      broken_ |= started_.has_value();
      started_ = Message{kind, {}};
      break;
    default: broken_ |= (first & 0x0F) != 0 || !started_;  // 0: a message goes on
  }
  if (broken_ || started_->data.size() + payload.size() > message_bytes_max) {
    broken_ = true;
    return std::nullopt;
  }
  started_->data += payload;
  if ((first & 0x80) == 0) return std::nullopt;
  return std::exchange(started_, std::nullopt);
}

std::string client_frame(FrameReader::Kind kind, std::string_view payload) {
  std::string frame(1, static_cast<char>(0x80 | static_cast<unsigned char>(kind)));
  const auto length = [&frame](std::uint64_t size, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
      frame += static_cast<char>(size >> shift & 0xFF);
  };
  if (payload.size() < 126) {
    length(0x80 | payload.size(), 1);
  } else if (payload.size() <= 0xFFFF) {
    length(0x80 | 126, 1);
    length(payload.size(), 2);
  } else {
    length(0x80 | 127, 1);
    length(payload.size(), 8);
  }
  const std::string mask = random_bytes(4);
  frame += mask;
  for (std::size_t i = 0; i < payload.size(); ++i) frame += static_cast<char>(payload[i] ^ mask[i % 4]);
  return frame;
}

Asked<WebSocketClient> WebSocketClient::open(ApiClient client, const std::string& path) {
  auto link = std::move(client).into_link();
  if (!link) return std::unexpected(std::move(link.error()));
  WebSocketClient made(std::move(*link));
  if (auto shaken = made.shake_hands(path); !shaken) return std::unexpected(std::move(shaken.error()));
  return made;
}

bool WebSocketClient::wait_for(short events) const {
  pollfd waiting{link_->descriptor(), events, 0};
  return ::poll(&waiting, 1, handshake_milliseconds) > 0;
}

Asked<void> WebSocketClient::shake_hands(const std::string& path) {
  const auto silent = [] {
    return std::unexpected(
        ClientFailure{ClientExit::unreachable, "the server broke the connection off, or says nothing", {}});
  };
  std::string key;
  credential::append_base64(random_bytes(16), key);
  std::string request = link_->request_head(path);
  request +=
      "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key +
      "\r\n\r\n";
  std::size_t sent = 0;
  while (sent < request.size()) {
    const auto moved = link_->write(std::string_view(request).substr(sent));
    if (!moved ? !wait_for(POLLOUT) : *moved == 0) break;
    sent += moved.value_or(0);
  }
  ::explicit_bzero(request.data(), request.size());  // The key of the API.
  if (sent < request.size()) return silent();

  std::string answer;
  wire::HeadScanner scanner;
  std::vector<char> piece(piece_bytes);
  Result<std::size_t> head = 0;
  while (head && *head == 0) {
    const auto moved = link_->read(piece);
    if (!moved ? !wait_for(POLLIN) : *moved == 0) return silent();
    answer.append(piece.data(), moved.value_or(0));
    head = scanner.scan(answer);
  }
  std::vector<HeaderField> storage;
  ResponseHead response;
  if (!head ||
      !wire::parse_response_head(std::string_view(answer).substr(0, *head), "GET", storage, response))
    return refused("the server's answer is no HTTP");
  if (response.status == 101 && wire::has_token(value_of(storage, "Upgrade"), "websocket") &&
      value_of(storage, "Sec-WebSocket-Accept") == accept_of(key)) {
    reader_.add(std::string_view(answer).substr(*head));
    return {};
  }
  if (response.status == 101) return refused("the server's answer is no WebSocket");
  // Why not, in what came with it.
  const std::size_t size = std::min<std::size_t>(
      response.framing == BodyFraming::length ? response.content_length : 0, refusal_bytes_max);
  while (answer.size() < *head + size) {
    const auto moved = link_->read(piece);
    if (!moved ? !wait_for(POLLIN) : *moved == 0) break;
    answer.append(piece.data(), moved.value_or(0));
  }
  return std::unexpected(failure_of(response.status, answer.substr(*head)));
}

void WebSocketClient::write_some() {
  while (!waiting_.empty()) {
    const auto moved = link_->write(waiting_);
    if (!moved) return;
    deaf_ = *moved == 0;
    waiting_.erase(0, deaf_ ? waiting_.size() : *moved);
  }
}

bool WebSocketClient::read_some() {
  char piece[piece_bytes];
  const auto moved = link_->read(piece);
  if (moved && *moved == 0) return false;
  reader_.add({piece, moved.value_or(0)});
  return true;
}

std::optional<WebSocketClient::Message> WebSocketClient::next() {
  while (auto message = reader_.next()) {
    switch (message->kind) {
      case Kind::text:
      case Kind::binary: return message;
      case Kind::ping: send(Kind::pong, message->data); break;
      case Kind::close: over_ = true; break;
      default: break;
    }
  }
  return std::nullopt;
}

}  // namespace postern::cli
