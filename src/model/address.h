#pragma once
// IP addresses as values: strict text forms, networks, and which addresses a sandbox may never reach.
//
// There is one reading of a text and one text per address, so that what was judged is what is dialled. The
// loose forms of inet_aton() (octal, hexadecimal, short) exist only in wire/host, where a URL may carry them.

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

struct sockaddr;
struct sockaddr_storage;

namespace postern {

/// An IPv4 or IPv6 address in network byte order. IPv4-mapped IPv6 stays IPv6 unless `unmapped()` is asked.
class IpAddress {
 public:
  IpAddress() = default;  ///< 0.0.0.0
  static IpAddress v4(std::uint32_t host_order);
  static IpAddress v4(std::array<std::uint8_t, 4> network_order);
  static IpAddress v6(std::array<std::uint8_t, 16> network_order);
  /// Strict: dotted decimal of four parts without leading zeros, or RFC 4291 text without zone or brackets.
  static std::optional<IpAddress> parse(std::string_view text);
  /// AF_INET or AF_INET6; anything else is nullopt. `address` must be as long as its family says.
  static std::optional<IpAddress> from_sockaddr(const sockaddr& address);

  bool is_v4() const { return is_v4_; }
  std::uint32_t v4_host_order() const;                                  ///< Requires is_v4().
  const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }  ///< IPv4 in the first four.
  /// ::ffff:a.b.c.d as IPv4; any other address unchanged.
  IpAddress unmapped() const;
  /// RFC 5952 §4, no brackets. Always hexadecimal groups, also where IPv4 is embedded, as URL serializers
  /// write it: "::ffff:102:304".
  std::string to_string() const;
  auto operator<=>(const IpAddress&) const = default;

 private:
  bool is_v4_ = true;
  std::array<std::uint8_t, 16> bytes_{};
};

struct Endpoint {
  IpAddress address;
  std::uint16_t port = 0;
  /// "1.2.3.4:80" or "[::1]:80".
  std::string to_string() const;
  /// Fills `out` and returns its length for bind()/connect().
  unsigned to_sockaddr(sockaddr_storage& out) const;
  static std::optional<Endpoint> from_sockaddr(const sockaddr& address);
  auto operator<=>(const Endpoint&) const = default;
};

/// A network such as 10.0.0.0/8 or fd00::/8. Host bits must be zero.
class Cidr {
 public:
  static std::optional<Cidr> parse(std::string_view text);
  /// Families are distinct: an IPv4 network does not hold ::ffff:a.b.c.d.
  bool contains(const IpAddress& address) const;
  std::string to_string() const;
  bool operator==(const Cidr&) const = default;

 private:
  IpAddress base_;
  unsigned prefix_ = 0;
};

/// True when a sandbox may reach the address: globally routable unicast only. False for private, loopback,
/// link-local, CGNAT, multicast, documentation, benchmarking, reserved, unspecified and cloud-metadata
/// addresses (IANA special-purpose registries), and for every IPv6 form that embeds an IPv4 address, whatever
/// that is (mapped, compatible, NAT64 64:ff9b::/96 and 64:ff9b:1::/48, 6to4, Teredo, ISATAP): a translator on
/// the path would turn it into an address that was not judged. A network's own NAT64 prefix (RFC 6052 §2.2)
/// cannot be told from other addresses.
bool is_public(const IpAddress& address);

}  // namespace postern
