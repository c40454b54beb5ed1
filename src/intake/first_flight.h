#pragma once
// What speaks on a new connection, told from its first bytes. They are put back: whoever serves it reads them
// again.

#include <optional>

#include "io/buffer.h"
#include "io/stream.h"
#include "wire/client_hello.h"

namespace postern::intake {

enum class Speech : std::uint8_t {
  tls,    ///< A complete ClientHello is there.
  http,   ///< Looks like a request line.
  other,  ///< Something else.
};

struct FirstFlight {
  Speech speech = Speech::other;
  wire::ClientHello hello;  ///< With Speech::tls.
};

/// Waits for a whole ClientHello, over segments and records. Errors: protocol_not_allowed (not TLS),
/// malformed_client_hello, sandbox_timeout, sandbox_closed.
io::Task<Result<wire::ClientHello>> client_hello(io::TcpStream& sandbox, io::BufferPool& buffers,
                                                 TimePoint deadline);

/// Waits for the first bytes and tells what they are. Errors: sandbox_timeout, sandbox_closed, cancelled.
io::Task<Result<FirstFlight>> first_flight(io::TcpStream& sandbox, io::BufferPool& buffers,
                                           TimePoint deadline);

}  // namespace postern::intake
