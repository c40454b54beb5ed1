#pragma once
// The first flight of a TLS client (RFC 8446 §4.1.2, RFC 6066 §3), read without a TLS library so that the
// name can be judged before anything is decrypted or answered.
//
// The TLS library reads the same bytes again later. So that both see one and the same name, whatever leaves
// room for two readings is refused here: duplicate extensions, a second name, lengths that do not add up,
// bytes behind the message.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace postern::wire {

inline constexpr std::size_t client_hello_bytes_max = 16 * KiB;  // post-quantum hellos are about 2 KiB
inline constexpr std::size_t client_hello_extensions_max =
    128;                                                  // clients send about 20; bounds the duplicate check
inline constexpr std::size_t client_hello_alpn_max = 64;  // bounds what 16 KiB can make us allocate
inline constexpr std::size_t server_name_bytes_max = 255;  // RFC 1035 §2.3.4

struct ClientHello {
  std::string server_name;        ///< As sent: one host_name of visible ASCII; empty if absent. Not yet a
                                  ///< canonical host: it may be an address or carry a trailing dot.
  std::vector<std::string> alpn;  ///< In the client's order.
  bool encrypted_client_hello = false;  ///< The ECH extension is present: server_name is the outer name.
  bool tls13 = false;                   ///< supported_versions offers 1.3.
};

/// Reads a ClientHello that may be split over TLS records and TCP segments. `bytes` is everything received so
/// far. nullopt: more is needed, which is never said once client_hello_bytes_max (record headers included)
/// are there. While it is incomplete only record headers are looked at, so calling again after each segment
/// is cheap (5 µs at worst, with one-byte records). Records behind the ClientHello (early data) are not
/// looked at.
///
/// Errors, all by the sandbox: malformed_client_hello, protocol_not_allowed (it is not TLS, or SSL 2 or 3;
/// told from the first byte on).
Result<std::optional<ClientHello>> parse_client_hello(std::string_view bytes);

}  // namespace postern::wire
