#include "intake/first_flight.h"

#include "wire/http1.h"

namespace postern::intake {

namespace {

// The longest registered method has 17 characters; what has no space by then is no request line.
constexpr std::size_t method_bytes_max = 18;

enum class Guess : std::uint8_t { yes, no, unsure };

// Any token and a space (RFC 9112 §3.1), also after an empty line, as lenient origins read it. The strict
// parser decides what it is worth.
Guess looks_like_http(std::string_view bytes) {
  while (!bytes.empty() && (bytes[0] == '\r' || bytes[0] == '\n')) bytes.remove_prefix(1);
  for (std::size_t i = 0; i < bytes.size() && i < method_bytes_max; ++i) {
    if (bytes[i] == ' ') return i > 0 ? Guess::yes : Guess::no;
    if (!wire::is_field_name(bytes.substr(i, 1))) return Guess::no;
  }
  return bytes.size() < method_bytes_max ? Guess::unsure : Guess::no;
}

/// The bytes that were looked at so far. Whoever serves the connection reads them again.
class Glimpse {
 public:
  Glimpse(io::TcpStream& stream, io::BufferPool& buffers) : stream_(stream), bytes_(buffers) {}
  Glimpse(const Glimpse&) = delete;
  ~Glimpse() { stream_.unread(std::move(bytes_)); }

  std::string_view bytes() const { return bytes_.bytes(); }
  /// False at the end of the stream.
  io::Task<Result<bool>> more(TimePoint deadline) {
    // While nothing comes no block is held.
    if (bytes_.empty()) co_await co_await stream_.wait_readable(deadline);
    const std::size_t count = co_await co_await stream_.read(bytes_.room(bytes_max), deadline);
    bytes_.filled(count);
    co_return count > 0;
  }

 private:
  static constexpr std::size_t bytes_max = wire::client_hello_bytes_max * 2;
  io::TcpStream& stream_;
  io::Buffer bytes_;
};

Error ended() {
  return Error{Reason::sandbox_closed, Side::sandbox, Retry::never,
               "the connection ended before it said anything"};
}

}  // namespace

io::Task<Result<wire::ClientHello>> client_hello(io::TcpStream& sandbox, io::BufferPool& buffers,
                                                 TimePoint deadline) {
  Glimpse glimpse(sandbox, buffers);
  while (true) {
    const bool more = co_await co_await glimpse.more(deadline);
    if (!more) co_return std::unexpected(ended());
    auto hello = co_await wire::parse_client_hello(glimpse.bytes());
    if (hello) co_return std::move(*hello);
  }
}

io::Task<Result<FirstFlight>> first_flight(io::TcpStream& sandbox, io::BufferPool& buffers,
                                           TimePoint deadline) {
  Glimpse glimpse(sandbox, buffers);
  while (true) {
    const bool more = co_await co_await glimpse.more(deadline);
    const std::string_view bytes = glimpse.bytes();
    if (!more) co_return bytes.empty() ? Result<FirstFlight>(std::unexpected(ended())) : FirstFlight{};
    const Guess http = looks_like_http(bytes);
    if (http == Guess::yes) co_return FirstFlight{Speech::http, {}};
    if (bytes[0] != 0x16) {
      if (http == Guess::no) co_return FirstFlight{};
      continue;
    }
    auto hello = wire::parse_client_hello(bytes);
    if (!hello) co_return FirstFlight{};  // Some other protocol whose first byte is 0x16.
    if (*hello) co_return FirstFlight{Speech::tls, std::move(**hello)};
  }
}

}  // namespace postern::intake
