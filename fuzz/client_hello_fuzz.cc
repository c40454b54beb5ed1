// What a ClientHello says may not depend on how TCP cut it: every prefix either asks for more or gives the
// same answer as the whole, and nothing accepted breaks the promises of wire/client_hello.h.

#include <cstdint>
#include <cstdlib>

#include "wire/client_hello.h"

using postern::wire::ClientHello;
using postern::wire::parse_client_hello;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const ClientHello& hello) {
  require(hello.server_name.size() <= postern::wire::server_name_bytes_max);
  for (char c : hello.server_name) require(c > 0x20 && c < 0x7f);
  require(hello.alpn.size() <= postern::wire::client_hello_alpn_max);
  for (const auto& protocol : hello.alpn) require(!protocol.empty() && protocol.size() <= 255);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto whole = parse_client_hello(bytes);
  if (whole && *whole) check(**whole);
  if (whole && !*whole) require(size < postern::wire::client_hello_bytes_max);

  // Small inputs at every cut, large ones at a few.
  const std::size_t step = size / 512 + 1;
  for (std::size_t cut = 0; cut < size; cut += step) {
    auto part = parse_client_hello(bytes.substr(0, cut));
    if (part && !*part) continue;
    if (part) {
      require(whole && *whole && (*part)->server_name == (*whole)->server_name &&
              (*part)->alpn == (*whole)->alpn);
    } else {
      require(!whole && part.error().reason == whole.error().reason);
    }
  }
  return 0;
}
