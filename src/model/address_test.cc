#include "model/address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <random>
#include <sys/socket.h>
#include <sys/un.h>

namespace postern {
namespace {

IpAddress address(std::string_view text) {
  const auto parsed = IpAddress::parse(text);
  EXPECT_TRUE(parsed) << text;
  return parsed.value_or(IpAddress());
}

Cidr network(std::string_view text) {
  const auto parsed = Cidr::parse(text);
  EXPECT_TRUE(parsed) << text;
  return parsed.value_or(Cidr());
}

TEST(Address, DottedDecimalIsReadAndWritten) {
  for (const char* text : {"0.0.0.0", "1.2.3.4", "10.0.0.1", "255.255.255.255", "192.168.100.9"}) {
    EXPECT_TRUE(address(text).is_v4()) << text;
    EXPECT_EQ(address(text).to_string(), text);
  }
  EXPECT_EQ(address("1.2.3.4").v4_host_order(), 0x01020304u);
  EXPECT_EQ(IpAddress::v4(0x01020304u), address("1.2.3.4"));
  EXPECT_EQ(IpAddress(), address("0.0.0.0"));
}

// Threat 60: forms that inet_aton() would read are no addresses here.
TEST(Address, LooseIpv4FormsAreNotAddresses) {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {""sv,           "1"sv,          "1.2.3"sv,     "1.2.3.4."sv,          ".1.2.3.4"sv,  "1..3.4"sv,
        "1.2.3.4.5"sv,  "01.2.3.4"sv,   "1.2.3.04"sv,  "0x7f.0.0.1"sv,        "256.1.1.1"sv, "1.1.1.256"sv,
        "1.2.3.1000"sv, "2130706433"sv, " 1.2.3.4"sv,  "1.2.3.4 "sv,          "+1.2.3.4"sv,  "1.2.3.-4"sv,
        "1.2.3.4\0"sv,  "1.2.3.4\n"sv,  "1.2.3.4/8"sv, "\xef\xbc\x91.2.3.4"sv}) {
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  }
}

TEST(Address, Ipv6IsWrittenInItsOneShortForm) {
  const std::pair<const char*, const char*> cases[] = {
      {"::", "::"},
      {"::1", "::1"},
      {"1::", "1::"},
      {"2001:DB8::1", "2001:db8::1"},
      {"2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"},
      {"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},  // a single zero group is not shortened
      {"2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"},
      {"2001:0:0:1:0:0:0:1", "2001:0:0:1::1"},        // the longest run
      {"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},  // the first of equals
      {"1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"},
      {"0:0:3:4:5:6:7:8", "::3:4:5:6:7:8"},
      {"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"},
      {"::ffff:1.2.3.4", "::ffff:102:304"},
      {"::13.1.68.3", "::d01:4403"},
      {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
  };
  for (const auto& [text, canonical] : cases) {
    EXPECT_FALSE(address(text).is_v4()) << text;
    EXPECT_EQ(address(text).to_string(), canonical) << text;
  }
}

// Threat 61: a zone id would name another interface's neighbour.
TEST(Address, MalformedIpv6IsRefused) {
  using namespace std::string_view_literals;
  for (const std::string_view text : {":"sv,
                                      ":::"sv,
                                      "::1::"sv,
                                      "1:2:3:4:5:6:7"sv,
                                      "1:2:3:4:5:6:7:8:9"sv,
                                      "1:2:3:4:5:6:7:8::"sv,
                                      "12345::"sv,
                                      "::g"sv,
                                      "[::1]"sv,
                                      "fe80::1%lo"sv,
                                      "fe80::1%251"sv,
                                      "::1 "sv,
                                      "::1\0"sv,
                                      "::ffff:1.2.3"sv,
                                      "::ffff:1.2.3.04"sv,
                                      "::ffff:1.2.3.256"sv,
                                      "::1.2.3.4:5"sv,
                                      "1.2.3.4::"sv,
                                      "::1/128"sv,
                                      "1:"sv,
                                      ":1"sv,
                                      "0000000000000000000000000000000000000000000000000000000000000::1"sv}) {
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  }
}

TEST(Address, TheTextOfAnyAddressReadsBackAsThatAddress) {
  std::mt19937 random(20260101);  // NOLINT: a fixed seed, so that a failure repeats
  for (int round = 0; round < 20'000; ++round) {
    std::array<std::uint8_t, 16> bytes{};
    for (auto& byte : bytes) byte = random() % 3 == 0 ? static_cast<std::uint8_t>(random()) : 0;
    const IpAddress six = IpAddress::v6(bytes);
    ASSERT_EQ(address(six.to_string()), six);
    const IpAddress four = IpAddress::v4(static_cast<std::uint32_t>(random()));
    ASSERT_EQ(address(four.to_string()), four);
    // The C library must agree, but for embedded IPv4, which it writes in dots.
    std::array<char, INET6_ADDRSTRLEN> text{};
    inet_ntop(AF_INET6, bytes.data(), text.data(), text.size());
    if (std::string_view(text.data()).find('.') == std::string_view::npos) {
      ASSERT_EQ(six.to_string(), text.data());
    }
  }
}

TEST(Address, OnlyMappedAddressesAreUnmapped) {
  EXPECT_EQ(address("::ffff:10.0.0.1").unmapped(), address("10.0.0.1"));
  EXPECT_EQ(address("10.0.0.1").unmapped(), address("10.0.0.1"));
  for (const char* text : {"::10.0.0.1", "::1", "64:ff9b::10.0.0.1", "1::ffff:10.0.0.1", "::ffff:0:a00:1"}) {
    EXPECT_EQ(address(text).unmapped(), address(text)) << text;
  }
  EXPECT_NE(address("::ffff:10.0.0.1"), address("10.0.0.1"));
  EXPECT_NE(address("100::"), address("1.0.0.0"));
}

TEST(Endpoint, GoesThroughASocketAddressUnchanged) {
  for (const char* text : {"1.2.3.4", "0.0.0.0", "::1", "2001:db8::1", "::ffff:1.2.3.4"}) {
    const Endpoint before{address(text), 8443};
    sockaddr_storage storage;
    const unsigned length = before.to_sockaddr(storage);
    EXPECT_EQ(length, before.address.is_v4() ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    const auto& generic = reinterpret_cast<const sockaddr&>(storage);
    EXPECT_EQ(Endpoint::from_sockaddr(generic), before) << text;
    EXPECT_EQ(IpAddress::from_sockaddr(generic), before.address) << text;
  }
  EXPECT_EQ((Endpoint{address("1.2.3.4"), 80}.to_string()), "1.2.3.4:80");
  EXPECT_EQ((Endpoint{address("::1"), 65535}.to_string()), "[::1]:65535");
}

TEST(Endpoint, OtherFamiliesHaveNoAddress) {
  sockaddr_storage storage{};
  storage.ss_family = AF_UNIX;
  EXPECT_FALSE(Endpoint::from_sockaddr(reinterpret_cast<const sockaddr&>(storage)));
  EXPECT_FALSE(IpAddress::from_sockaddr(reinterpret_cast<const sockaddr&>(storage)));
}

TEST(Cidr, HoldsItsFirstAndLastAddressAndNoNeighbour) {
  struct Case {
    const char *network, *first, *last, *before, *after;
  };
  for (const Case& c : {
           Case{"10.0.0.0/8", "10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"},
           Case{"172.16.0.0/12", "172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"},
           Case{"192.0.2.128/31", "192.0.2.128", "192.0.2.129", "192.0.2.127", "192.0.2.130"},
           Case{"192.0.2.7/32", "192.0.2.7", "192.0.2.7", "192.0.2.6", "192.0.2.8"},
           Case{"fd00::/8", "fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::"},
           Case{"2001:db8::/33", "2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff",
                "2001:db7::", "2001:db8:8000::"},
           Case{"::1/128", "::1", "::1", "::", "::2"},
       }) {
    const Cidr cidr = network(c.network);
    EXPECT_EQ(cidr.to_string(), c.network);
    EXPECT_TRUE(cidr.contains(address(c.first))) << c.network;
    EXPECT_TRUE(cidr.contains(address(c.last))) << c.network;
    EXPECT_FALSE(cidr.contains(address(c.before))) << c.network;
    EXPECT_FALSE(cidr.contains(address(c.after))) << c.network;
  }
}

TEST(Cidr, FamiliesAreDistinct) {
  EXPECT_TRUE(network("0.0.0.0/0").contains(address("255.1.2.3")));
  EXPECT_FALSE(network("0.0.0.0/0").contains(address("::")));
  EXPECT_FALSE(network("0.0.0.0/0").contains(address("::ffff:1.2.3.4")));
  EXPECT_TRUE(network("::/0").contains(address("ff::1")));
  EXPECT_FALSE(network("::/0").contains(address("1.2.3.4")));
}

TEST(Cidr, ATypoIsNoNetwork) {
  for (const char* text : {"", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08",
                           "10.0.0.0/8 ", "10.0.0.1/8", "10/8", "fd00::1/8", "fd00::/129", "[fd00::]/8",
                           "::/1000", "10.0.0.0/8/8", "10.0.0.0/255.0.0.0", "192.0.2.129/31"}) {
    EXPECT_FALSE(Cidr::parse(text)) << text;
  }
}

// Threats 59, 61: every block of the IANA special-purpose registries, at both of its ends.
TEST(IsPublic, NoSpecialPurposeBlockMayBeReached) {
  for (const char* text : {
           "0.0.0.0",
           "0.255.255.255",
           "10.0.0.0",
           "10.255.255.255",
           "100.64.0.0",
           "100.127.255.255",
           "127.0.0.0",
           "127.0.0.1",
           "127.255.255.255",
           "169.254.0.0",
           "169.254.255.255",
           "172.16.0.0",
           "172.31.255.255",
           "192.0.0.0",
           "192.0.0.255",
           "192.0.2.0",
           "192.0.2.255",
           "192.88.99.0",
           "192.88.99.255",
           "192.168.0.0",
           "192.168.255.255",
           "198.18.0.0",
           "198.19.255.255",
           "198.51.100.0",
           "198.51.100.255",
           "203.0.113.0",
           "203.0.113.255",
           "224.0.0.0",
           "239.255.255.255",
           "240.0.0.0",
           "255.255.255.254",
           "255.255.255.255",
           "::",
           "::1",
           "100::",
           "100::ffff:ffff:ffff:ffff",
           "2001::",
           "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
           "2001:2::1",
           "2001:20::1",
           "2001:db8::",
           "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
           "3fff::",
           "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
           "5f00::",
           "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
           "fc00::",
           "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
           "fe80::",
           "febf::1",
           "fec0::",
           "feff::1",
           "ff00::",
           "ff02::1",
           "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
           // outside 2000::/3: not global unicast, or not allocated at all
           "1fff::1",
           "4000::1",
           "8000::1",
           "a000::1",
           "e000::1",
       }) {
    EXPECT_FALSE(is_public(address(text))) << text;
  }
}

TEST(IsPublic, TheNeighboursOfThoseBlocksMayBeReached) {
  for (const char* text : {
           "1.0.0.0",
           "9.255.255.255",
           "11.0.0.0",
           "100.63.255.255",
           "100.128.0.0",
           "126.255.255.255",
           "128.0.0.0",
           "168.63.129.15",
           "168.63.129.17",
           "169.253.255.255",
           "169.255.0.0",
           "172.15.255.255",
           "172.32.0.0",
           "191.255.255.255",
           "192.0.1.0",
           "192.0.1.255",
           "192.0.3.0",
           "192.88.98.255",
           "192.88.100.0",
           "192.167.255.255",
           "192.169.0.0",
           "198.17.255.255",
           "198.20.0.0",
           "198.51.99.255",
           "198.51.101.0",
           "203.0.112.255",
           "203.0.114.0",
           "223.255.255.255",
           "8.8.8.8",
           "2000::",
           "2001:200::",
           "2001:4860:4860::8888",
           "2001:db7:ffff:ffff::1",
           "2001:db9::",
           "2003::",
           "2606:4700::1111",
           "2a00:1450:4001::200e",
           "3ffe:ffff::1",
           "3fff:1000::",
           "2600:1f18::1:5efe:1:1",
       }) {
    EXPECT_TRUE(is_public(address(text))) << text;
  }
}

// Threat 59.
TEST(IsPublic, NoCloudsMetadataMayBeReached) {
  for (const char* text : {"169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200",
                           "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"}) {
    EXPECT_FALSE(is_public(address(text))) << text;
  }
}

// Threat 61: whatever IPv4 is inside, a translator would reach an address that nobody judged.
TEST(IsPublic, NoIpv6FormThatEmbedsIpv4MayBeReached) {
  for (const char* text : {
           "::ffff:127.0.0.1",
           "::ffff:8.8.8.8",
           "::ffff:169.254.169.254",  // mapped
           "::ffff:0:127.0.0.1",      // translated (SIIT)
           "::127.0.0.1",
           "::8.8.8.8",  // compatible
           "64:ff9b::127.0.0.1",
           "64:ff9b::8.8.8.8",
           "64:ff9b::10.0.0.1",  // NAT64
           "64:ff9b:1::10.0.0.1",
           "64:ff9b:1:ffff::1",  // NAT64, local use
           "2002:7f00:1::",
           "2002:808:808::1",
           "2002:a9fe:a9fe::",  // 6to4
           "2001:0:4136:e378:8000:63bf:3fff:fdd2",
           "2001::f5ff:fffe",  // Teredo
           "2a00:1450::5efe:127.0.0.1",
           "2a00:1450::5efe:8.8.8.8",  // ISATAP
           "2a00:1450::200:5efe:10.0.0.1",
           "2600:1:2:3:0:5efe:10.0.0.1",  // ISATAP
           "fe80::5efe:10.0.0.1",         // ISATAP
       }) {
    EXPECT_FALSE(is_public(address(text))) << text;
  }
}

}  // namespace
}  // namespace postern
