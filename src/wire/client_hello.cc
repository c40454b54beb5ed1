#include "wire/client_hello.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "wire/byte_reader.h"

namespace postern::wire {
namespace {

constexpr std::size_t record_header_bytes = 5;
constexpr std::size_t handshake_header_bytes = 4;
constexpr std::size_t fragment_bytes_max = 16384;  // RFC 8446 §5.1
constexpr std::uint8_t handshake_record = 22;
constexpr std::uint8_t client_hello_message = 1;

constexpr std::uint16_t tls10 = 0x0301;
constexpr std::uint16_t tls12 = 0x0303;
constexpr std::uint16_t tls13 = 0x0304;

// IANA "TLS ExtensionType Values"
constexpr std::uint16_t server_name_extension = 0;
constexpr std::uint16_t alpn_extension = 16;
constexpr std::uint16_t pre_shared_key_extension = 41;
constexpr std::uint16_t supported_versions_extension = 43;
constexpr std::uint16_t encrypted_client_hello_extension = 0xfe0d;

std::unexpected<Error> malformed(const char* detail) {
  return fail(Reason::malformed_client_hello, detail, Side::sandbox);
}

std::unexpected<Error> not_tls(const char* detail) {
  return fail(Reason::protocol_not_allowed, detail, Side::sandbox);
}

std::size_t fragment_length(std::string_view header) {
  return static_cast<std::size_t>(static_cast<std::uint8_t>(header[3])) << 8 |
         static_cast<std::uint8_t>(header[4]);
}

/// Judges as much of a record header as is there. `first` is the record that says which protocol this is.
Result<void> check_record_header(std::string_view header, bool first) {
  auto at = [&](std::size_t index) { return static_cast<std::uint8_t>(header[index]); };
  if (!header.empty() && at(0) != handshake_record) {
    if (!first) return malformed("A record of another type interrupts the ClientHello.");
    // RFC 6101 appendix E: the high bit of a two-byte length, then message type 1.
    if (header.size() >= 3 && (at(0) & 0x80) != 0 && at(2) == client_hello_message) {
      return not_tls("The client speaks SSL 2.0, which is not offered.");
    }
    return not_tls("The first byte is not that of a TLS handshake.");
  }
  if (header.size() >= 2 && at(1) != 3) {
    return first ? not_tls("The second byte is not that of a TLS record.")
                 : malformed("A record has no TLS version.");
  }
  if (header.size() >= 3 && at(2) == 0) return not_tls("The client speaks SSL 3.0, which is not offered.");
  if (header.size() >= 3 && at(2) > 3) return malformed("A record has an unknown TLS version.");
  return {};
}

struct Flight {
  std::string joined;        ///< Used only when the message spans records.
  std::string_view message;  ///< The handshake message with its header, complete.
};

void join_fragments(std::string_view records, std::string& joined) {
  while (!records.empty()) {
    const std::size_t length = fragment_length(records);
    joined.append(records.substr(record_header_bytes, length));
    records.remove_prefix(record_header_bytes + length);
  }
}

/// Finds the handshake message within the records. False: more bytes are needed. Nothing is copied before all
/// of it is there, so that a client that sends byte by byte only makes us step over record headers.
Result<bool> find_message(std::string_view bytes, Flight& flight) {
  std::size_t at = 0;
  std::size_t have = 0;                       // bytes of the message in complete or partial records so far
  std::size_t need = handshake_header_bytes;  // and how many it will be, once its header is read
  std::array<std::uint8_t, handshake_header_bytes> message_header{};
  while (have < need) {
    std::string_view header = bytes.substr(at, record_header_bytes);
    if (auto checked = check_record_header(header, at == 0); !checked) {
      return std::unexpected(checked.error());
    }
    if (header.size() < record_header_bytes) return false;
    const std::size_t length = fragment_length(header);
    // RFC 8446 §5.1: zero-length fragments of handshake types must not be sent.
    if (length == 0 || length > fragment_bytes_max) return malformed("A record's length is out of bounds.");
    std::string_view fragment = bytes.substr(at + record_header_bytes, length);
    for (std::size_t i = 0; i < fragment.size() && have + i < handshake_header_bytes; ++i) {
      message_header[have + i] = static_cast<std::uint8_t>(fragment[i]);
    }
    if (have == 0 && !fragment.empty() && message_header[0] != client_hello_message) {
      return malformed("The first handshake message is not a ClientHello.");
    }
    have += fragment.size();
    if (have >= handshake_header_bytes) {
      need = handshake_header_bytes + (static_cast<std::size_t>(message_header[1]) << 16 |
                                       static_cast<std::size_t>(message_header[2]) << 8 | message_header[3]);
      if (need + record_header_bytes > client_hello_bytes_max)
        return malformed("The ClientHello is too long.");
      // Measured by the record's promise, so that the answer does not depend on how much of it has arrived.
      if (have - fragment.size() + length > need)
        return malformed("Bytes follow the ClientHello in its record.");
    }
    if (fragment.size() < length) return false;
    at += record_header_bytes + length;
    if (at > client_hello_bytes_max) return malformed("The ClientHello's records are too long.");
  }
  if (at == record_header_bytes + need) {
    flight.message = bytes.substr(record_header_bytes, need);
  } else {
    flight.joined.reserve(need);
    join_fragments(bytes.substr(0, at), flight.joined);
    flight.message = flight.joined;
  }
  return true;
}

/// RFC 6066 §3. Exactly one name of type host_name: of two, the TLS library might choose the other.
Result<void> read_server_name(std::string_view body, ClientHello& hello) {
  ByteReader reader(body);
  ByteReader list(reader.take_with_u16_length());
  if (!reader.finished()) return malformed("The server_name list's length is wrong.");
  constexpr std::uint8_t host_name = 0;
  if (list.u8() != host_name) return malformed("The server_name is not a host_name.");
  std::string_view name = list.take_with_u16_length();
  if (!list.finished()) return malformed("The server_name list is not exactly one entry.");
  if (name.empty() || name.size() > server_name_bytes_max)
    return malformed("The server_name's length is out of bounds.");
  bool visible = std::ranges::all_of(name, [](char c) { return c > 0x20 && c < 0x7f; });
  if (!visible) return malformed("The server_name holds a byte that is not visible ASCII.");
  hello.server_name = name;
  return {};
}

/// RFC 7301 §3.1.
Result<void> read_alpn(std::string_view body, ClientHello& hello) {
  ByteReader reader(body);
  ByteReader list(reader.take_with_u16_length());
  if (!reader.finished() || list.remaining() == 0) return malformed("The ALPN list's length is wrong.");
  while (list.ok() && list.remaining() > 0) {
    std::string_view protocol = list.take_with_u8_length();
    if (protocol.empty()) return malformed("An ALPN protocol name is empty or cut short.");
    if (hello.alpn.size() == client_hello_alpn_max)
      return malformed("There are too many ALPN protocol names.");
    hello.alpn.emplace_back(protocol);
  }
  return {};
}

/// RFC 8446 §4.2.1.
Result<void> read_supported_versions(std::string_view body, ClientHello& hello) {
  ByteReader reader(body);
  ByteReader list(reader.take_with_u8_length());
  if (!reader.finished() || list.remaining() == 0 || list.remaining() % 2 != 0) {
    return malformed("The supported_versions list's length is wrong.");
  }
  while (list.remaining() > 0) hello.tls13 |= list.u16() == tls13;
  return {};
}

Result<void> read_extension(std::uint16_t type, std::string_view body, ClientHello& hello) {
  switch (type) {
    case server_name_extension: return read_server_name(body, hello);
    case alpn_extension: return read_alpn(body, hello);
    case supported_versions_extension: return read_supported_versions(body, hello);
    case encrypted_client_hello_extension: hello.encrypted_client_hello = true; return {};
    default: return {};
  }
}

Result<void> read_extensions(std::string_view bytes, ClientHello& hello) {
  std::array<std::uint16_t, client_hello_extensions_max> seen{};
  std::size_t count = 0;
  ByteReader reader(bytes);
  while (reader.remaining() > 0) {
    std::uint16_t type = reader.u16();
    std::string_view body = reader.take_with_u16_length();
    if (!reader.ok()) return malformed("An extension is cut short.");
    if (count == seen.size()) return malformed("There are too many extensions.");
    // RFC 8446 §4.2: more than one extension of a type must not be; which one counts would be anybody's
    // guess.
    const auto end = seen.begin() + count;
    if (std::find(seen.begin(), end, type) != end) return malformed("An extension is sent twice.");
    seen[count++] = type;
    // RFC 8446 §4.2.11
    if (type == pre_shared_key_extension && reader.remaining() > 0)
      return malformed("pre_shared_key is not last.");
    if (auto read = read_extension(type, body, hello); !read) return read;
  }
  return {};
}

/// RFC 8446 §4.1.2, which is RFC 5246 §7.4.1.2 with fixed values.
Result<ClientHello> read_hello(std::string_view body) {
  ByteReader reader(body);
  std::uint16_t version = reader.u16();
  reader.take(32);  // random
  std::string_view session_id = reader.take_with_u8_length();
  std::string_view cipher_suites = reader.take_with_u16_length();
  std::string_view compression_methods = reader.take_with_u8_length();
  if (!reader.ok()) return malformed("The ClientHello is cut short.");
  if (version < tls10 || version > tls12) return malformed("The ClientHello's version is unknown.");
  if (session_id.size() > 32) return malformed("The session id is too long.");
  if (cipher_suites.empty() || cipher_suites.size() % 2 != 0)
    return malformed("The cipher suites' length is wrong.");
  if (!compression_methods.contains('\0')) return malformed("The null compression method is not offered.");

  ClientHello hello;
  if (reader.remaining() == 0)
    return hello;  // RFC 5246 §7.4.1.2: without extensions there is no length either
  std::string_view extensions = reader.take_with_u16_length();
  if (!reader.finished()) return malformed("The extensions' length is wrong.");
  if (auto read = read_extensions(extensions, hello); !read) return std::unexpected(read.error());
  return hello;
}

}  // namespace

Result<std::optional<ClientHello>> parse_client_hello(std::string_view bytes) {
  Flight flight;
  auto found = find_message(bytes, flight);
  if (!found) return std::unexpected(found.error());
  if (!*found) {
    if (bytes.size() >= client_hello_bytes_max) return malformed("The ClientHello is too long.");
    return std::nullopt;
  }
  auto hello = read_hello(flight.message.substr(handshake_header_bytes));
  if (!hello) return std::unexpected(hello.error());
  return std::move(*hello);
}

}  // namespace postern::wire
