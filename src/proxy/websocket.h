#pragma once
// The handshake of WebSocket, for the hop on which HTTP/1.1 needs it and HTTP/2 does not (RFC 8441 §5).

#include <string>
#include <string_view>

namespace postern::proxy {

/// A fresh Sec-WebSocket-Key (RFC 6455 §4.1).
std::string websocket_key();
/// The Sec-WebSocket-Accept that belongs to it (RFC 6455 §4.2.2).
std::string websocket_accept(std::string_view key);

}  // namespace postern::proxy
