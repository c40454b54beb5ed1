// Host names: whatever is accepted is a fixed point, a DNS name or an address, and never both.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "wire/host.h"

namespace {

using postern::Host;
using namespace postern::wire;

void require(bool condition) {
  if (!condition) std::abort();
}

std::string in_url(const Host& host) {
  return host.literal && !host.literal->is_v4() ? "[" + host.name + "]" : host.name;
}

void check_name(std::string_view name) {
  require(!name.empty() && name.size() <= 253 && name.front() != '.' && name.back() != '.');
  require(name.find("..") == std::string_view::npos);
  require(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") == std::string_view::npos);
  require(!postern::IpAddress::parse(name));
  const std::string_view domain = registrable_domain(name);
  require(domain.empty() == is_public_suffix(name));
  require(name.ends_with(domain));
}

void check(const Host& host) {
  const auto again = canonical_host(in_url(host));
  require(again && *again == host);
  if (host.literal) {
    require(host.literal->to_string() == host.name);
  } else {
    check_name(host.name);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view raw(reinterpret_cast<const char*>(data), size);
  const auto host = canonical_host(raw);
  if (host) check(*host);
  const auto authority = parse_authority(raw);
  if (authority) {
    check(authority->host);
    require(authority->port != 0);
    require(host.has_value() != authority->port.has_value());
  }
  require(!host || authority);
  return 0;
}
