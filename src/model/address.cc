#include "model/address.h"

#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <cstring>
#include <netinet/in.h>
#include <sys/socket.h>

namespace postern {
namespace {

/// "255", "0"; not "", "00", "256", "+1".
std::optional<unsigned> parse_decimal(std::string_view text, unsigned maximum) {
  if (text.empty() || text.size() > 3 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  unsigned value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<unsigned>(c - '0');
  }
  if (value > maximum) return std::nullopt;
  return value;
}

std::optional<IpAddress> parse_v4(std::string_view text) {
  std::array<std::uint8_t, 4> parts{};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::size_t dot = i + 1 < parts.size() ? text.find('.') : text.size();
    if (dot == std::string_view::npos) return std::nullopt;
    const auto part = parse_decimal(text.substr(0, dot), 255);
    if (!part) return std::nullopt;
    parts[i] = static_cast<std::uint8_t>(*part);
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  return IpAddress::v4(parts);
}

std::optional<IpAddress> parse_v6(std::string_view text) {
  std::array<char, INET6_ADDRSTRLEN> terminated{};
  // inet_pton() reads a C string: a NUL inside would end the text early.
  if (text.size() >= terminated.size() || text.find('\0') != std::string_view::npos) return std::nullopt;
  text.copy(terminated.data(), text.size());
  std::array<std::uint8_t, 16> bytes{};
  if (inet_pton(AF_INET6, terminated.data(), bytes.data()) != 1) return std::nullopt;
  return IpAddress::v6(bytes);
}

struct Run {
  std::size_t start = 0;
  std::size_t length = 0;
};

/// RFC 5952 §4.2: the longest run of zero groups, the first of equals, never a single group.
Run longest_zero_run(const std::array<std::uint16_t, 8>& groups) {
  Run best;
  for (std::size_t i = 0; i < groups.size();) {
    std::size_t end = i;
    while (end < groups.size() && groups[end] == 0) ++end;
    if (end - i > best.length) best = {i, end - i};
    i = end + 1;
  }
  return best.length > 1 ? best : Run{};
}

std::string v6_text(const std::array<std::uint8_t, 16>& bytes) {
  std::array<std::uint16_t, 8> groups{};
  for (std::size_t i = 0; i < groups.size(); ++i) {
    groups[i] = static_cast<std::uint16_t>(bytes[2 * i] << 8 | bytes[2 * i + 1]);
  }
  const Run zeros = longest_zero_run(groups);
  std::array<char, INET6_ADDRSTRLEN> text{};
  char* out = text.data();
  for (std::size_t i = 0; i < groups.size();) {
    if (zeros.length != 0 && i == zeros.start) {
      *out++ = ':';
      *out++ = ':';
      i += zeros.length;
      continue;
    }
    if (i != 0 && out[-1] != ':') *out++ = ':';
    out = std::to_chars(out, text.data() + text.size(), groups[i], 16).ptr;
    ++i;
  }
  return {text.data(), out};
}

bool has_prefix(const std::array<std::uint8_t, 16>& bytes, const std::array<std::uint8_t, 16>& base,
                unsigned prefix) {
  const unsigned whole = prefix / 8;
  if (!std::equal(base.begin(), base.begin() + whole, bytes.begin())) return false;
  const unsigned rest = prefix % 8;
  return rest == 0 || ((bytes[whole] ^ base[whole]) & (0xff00u >> rest) & 0xffu) == 0;
}

struct V4Block {
  std::uint32_t base;
  unsigned prefix;
};

constexpr std::uint32_t quad(unsigned a, unsigned b, unsigned c, unsigned d) {
  return a << 24 | b << 16 | c << 8 | d;
}

// The IANA IPv4 Special-Purpose Address Registry (RFC 6890) and what is not in it but dangerous.
constexpr V4Block v4_refused[] = {
    {quad(0, 0, 0, 0), 8},         // "this network": Linux connects 0.0.0.0 to itself
    {quad(10, 0, 0, 0), 8},        // private
    {quad(100, 64, 0, 0), 10},     // CGNAT; holds Alibaba's metadata, 100.100.100.200
    {quad(127, 0, 0, 0), 8},       // loopback
    {quad(168, 63, 129, 16), 32},  // Azure's wire server: metadata at an address that looks public
    {quad(169, 254, 0, 0), 16},    // link-local; holds the usual metadata address, 169.254.169.254
    {quad(172, 16, 0, 0), 12},     // private
    {quad(192, 0, 0, 0), 24},      // protocol assignments; holds Oracle's metadata, 192.0.0.192
    {quad(192, 0, 2, 0), 24},      // documentation
    {quad(192, 88, 99, 0), 24},    // 6to4 relays
    {quad(192, 168, 0, 0), 16},    // private
    {quad(198, 18, 0, 0), 15},     // benchmarking
    {quad(198, 51, 100, 0), 24},   // documentation
    {quad(203, 0, 113, 0), 24},    // documentation
    {quad(224, 0, 0, 0), 3},       // multicast, reserved, broadcast
};

bool is_public_v4(std::uint32_t address) {
  return std::ranges::none_of(v4_refused, [address](const V4Block& block) {
    return ((address ^ block.base) >> (32 - block.prefix)) == 0;
  });
}

struct V6Block {
  std::array<std::uint8_t, 16> base;
  unsigned prefix;
};

// The exceptions inside global unicast, 2000::/3. Everything else that must be refused lies outside of it:
// ::, ::1, v4-compatible, v4-mapped, NAT64 (64:ff9b::), discard (100::), SRv6 (5f00::), ULA with Amazon's and
// Google's metadata (fc00::/7), link-local, site-local, multicast.
constexpr V6Block v6_refused[] = {
    {{0x20, 0x01}, 23},              // protocol assignments with Teredo, ORCHID, benchmarking
    {{0x20, 0x01, 0x0d, 0xb8}, 32},  // documentation
    {{0x20, 0x02}, 16},              // 6to4
    {{0x3f, 0xff}, 20},              // documentation (RFC 9637)
};

/// RFC 5214 §6.1: an interface identifier [0000|0200]:5efe:a.b.c.d under any prefix.
bool is_isatap(const std::array<std::uint8_t, 16>& bytes) {
  return (bytes[8] & 0xfcu) == 0 && bytes[9] == 0 && bytes[10] == 0x5e && bytes[11] == 0xfe;
}

bool is_public_v6(const std::array<std::uint8_t, 16>& bytes) {
  if ((bytes[0] & 0xe0u) != 0x20u || is_isatap(bytes)) return false;
  return std::ranges::none_of(
      v6_refused, [&bytes](const V6Block& block) { return has_prefix(bytes, block.base, block.prefix); });
}

bool host_bits_are_zero(const IpAddress& address, unsigned prefix) {
  const unsigned bits = address.is_v4() ? 32 : 128;
  for (unsigned bit = prefix; bit < bits; ++bit) {
    if ((address.bytes()[bit / 8] & (0x80u >> bit % 8)) != 0) return false;
  }
  return true;
}

}  // namespace

IpAddress IpAddress::v4(std::uint32_t host_order) {
  return v4(std::array{static_cast<std::uint8_t>(host_order >> 24),
                       static_cast<std::uint8_t>(host_order >> 16),
                       static_cast<std::uint8_t>(host_order >> 8), static_cast<std::uint8_t>(host_order)});
}

IpAddress IpAddress::v4(std::array<std::uint8_t, 4> network_order) {
  IpAddress address;
  std::ranges::copy(network_order, address.bytes_.begin());
  return address;
}

IpAddress IpAddress::v6(std::array<std::uint8_t, 16> network_order) {
  IpAddress address;
  address.is_v4_ = false;
  address.bytes_ = network_order;
  return address;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  return text.find(':') == std::string_view::npos ? parse_v4(text) : parse_v6(text);
}

std::optional<IpAddress> IpAddress::from_sockaddr(const sockaddr& address) {
  const auto endpoint = Endpoint::from_sockaddr(address);
  if (!endpoint) return std::nullopt;
  return endpoint->address;
}

std::uint32_t IpAddress::v4_host_order() const { return quad(bytes_[0], bytes_[1], bytes_[2], bytes_[3]); }

IpAddress IpAddress::unmapped() const {
  constexpr std::array<std::uint8_t, 16> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (is_v4_ || !has_prefix(bytes_, mapped, 96)) return *this;
  return v4(std::array{bytes_[12], bytes_[13], bytes_[14], bytes_[15]});
}

std::string IpAddress::to_string() const {
  if (!is_v4_) return v6_text(bytes_);
  std::array<char, INET_ADDRSTRLEN> text{};
  char* out = text.data();
  for (std::size_t i = 0; i < 4; ++i) {
    if (i != 0) *out++ = '.';
    out = std::to_chars(out, text.data() + text.size(), bytes_[i]).ptr;
  }
  return {text.data(), out};
}

std::string Endpoint::to_string() const {
  const std::string host = address.to_string();
  return (address.is_v4() ? host : "[" + host + "]") + ":" + std::to_string(port);
}

unsigned Endpoint::to_sockaddr(sockaddr_storage& out) const {
  std::memset(&out, 0, sizeof out);
  if (address.is_v4()) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    std::memcpy(&v4.sin_addr, address.bytes().data(), sizeof v4.sin_addr);
    std::memcpy(&out, &v4, sizeof v4);
    return sizeof v4;
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(port);
  std::memcpy(&v6.sin6_addr, address.bytes().data(), sizeof v6.sin6_addr);
  std::memcpy(&out, &v6, sizeof v6);
  return sizeof v6;
}

std::optional<Endpoint> Endpoint::from_sockaddr(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return Endpoint{IpAddress::v4(ntohl(v4.sin_addr.s_addr)), ntohs(v4.sin_port)};
  }
  if (address.sa_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), &v6.sin6_addr, bytes.size());
    return Endpoint{IpAddress::v6(bytes), ntohs(v6.sin6_port)};
  }
  return std::nullopt;
}

std::optional<Cidr> Cidr::parse(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const auto base = IpAddress::parse(text.substr(0, slash));
  if (!base) return std::nullopt;
  const auto prefix = parse_decimal(text.substr(slash + 1), base->is_v4() ? 32 : 128);
  // 10.1.2.3/8 is a slip of the pen: the author meant either one host or another network.
  if (!prefix || !host_bits_are_zero(*base, *prefix)) return std::nullopt;
  Cidr network;
  network.base_ = *base;
  network.prefix_ = *prefix;
  return network;
}

bool Cidr::contains(const IpAddress& address) const {
  return address.is_v4() == base_.is_v4() && has_prefix(address.bytes(), base_.bytes(), prefix_);
}

std::string Cidr::to_string() const { return base_.to_string() + "/" + std::to_string(prefix_); }

bool is_public(const IpAddress& address) {
  return address.is_v4() ? is_public_v4(address.v4_host_order()) : is_public_v6(address.bytes());
}

}  // namespace postern
