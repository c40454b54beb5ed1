#include "dns/name_table.h"

#include <atomic>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace postern::dns {
namespace {

std::string name(int i) { return "host" + std::to_string(i) + ".example"; }

IpAddress given(NameTable& table, std::string_view host, NameUse use = NameUse::allowed) {
  auto address = table.address_for(host, use);
  if (!address) {
    ADD_FAILURE() << address.error().detail;
    return {};
  }
  return *address;
}

TEST(NameTable, ANameKeepsItsAddressAndTheAddressItsName) {
  NameTable table;
  IpAddress a = given(table, "a.example");
  IpAddress b = given(table, "b.example");
  EXPECT_NE(a, b);
  EXPECT_EQ(given(table, "a.example"), a);
  EXPECT_EQ(table.name_of(a), "a.example");
  EXPECT_EQ(table.name_of(b), "b.example");
}

TEST(NameTable, AnAddressThatWasNotGivenHasNoName) {
  NameTable table({}, 1000);
  EXPECT_EQ(table.name_of(IpAddress::v4(0x64400000 + 1000)), std::nullopt);
  given(table, "a.example");
  given(table, "d.example", NameUse::denied);
  EXPECT_EQ(table.name_of(IpAddress::v4(0x64400000 + 1000)), "a.example");
  for (const char* other :
       {"100.64.3.233", "100.64.3.231", "0.0.0.0", "255.255.255.255", "192.0.2.1", "::", "::1"}) {
    EXPECT_EQ(table.name_of(*IpAddress::parse(other)), std::nullopt) << other;
  }
}

TEST(NameTable, AMappedAddressIsTheSameAddress) {
  NameTable table({}, 1000);
  given(table, "a.example");
  EXPECT_EQ(table.name_of(*IpAddress::parse("::ffff:100.64.3.232")), "a.example");
  EXPECT_TRUE(NameTable::is_synthetic(*IpAddress::parse("::ffff:100.64.3.232")));
}

TEST(NameTable, AddressesComeFromTheSharedSpaceBeyondPosternsOwn) {
  for (std::uint32_t start : {0u, 255u, 256u, 1u << 21, (1u << 22) - 1, 0xffffffffu}) {
    NameTable table({.allowed_max = 300, .denied_max = 20}, start);
    for (int i = 0; i < 300; ++i) EXPECT_TRUE(NameTable::is_synthetic(given(table, name(i)))) << start;
    for (int i = 300; i < 330; ++i) {
      IpAddress address = given(table, name(i), NameUse::denied);
      EXPECT_TRUE(NameTable::is_synthetic(address)) << start;
      EXPECT_NE(address, *IpAddress::parse("100.127.255.255"));
    }
  }
  for (int i = 0; i < 100; ++i) {
    NameTable table;
    EXPECT_TRUE(NameTable::is_synthetic(given(table, "a.example")));
  }
}

TEST(NameTable, TheEdgesOfTheSyntheticSpace) {
  EXPECT_FALSE(NameTable::is_synthetic(*IpAddress::parse("100.63.255.255")));
  EXPECT_FALSE(NameTable::is_synthetic(*IpAddress::parse("100.64.0.255")));
  EXPECT_TRUE(NameTable::is_synthetic(*IpAddress::parse("100.64.1.0")));
  EXPECT_TRUE(NameTable::is_synthetic(*IpAddress::parse("100.127.255.255")));
  EXPECT_FALSE(NameTable::is_synthetic(*IpAddress::parse("100.128.0.0")));
  EXPECT_FALSE(NameTable::is_synthetic(*IpAddress::parse("2001:db8::1")));
}

TEST(NameTable, TwoSandboxesSeldomShareAddresses) {
  std::set<IpAddress> firsts;
  for (int i = 0; i < 20; ++i) {
    NameTable table;
    firsts.insert(given(table, "a.example"));
  }
  EXPECT_GT(firsts.size(), 10u);
}

TEST(NameTable, WhenAllowedAddressesRunOutTheOldNamesStay) {
  NameTable table({.allowed_max = 3, .denied_max = 2}, 1000);
  std::vector<IpAddress> addresses;
  for (int i = 0; i < 3; ++i) addresses.push_back(given(table, name(i)));
  auto beyond = table.address_for(name(3), NameUse::allowed);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().reason, Reason::overloaded);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(given(table, name(i)), addresses[static_cast<std::size_t>(i)]);
    EXPECT_EQ(table.name_of(addresses[static_cast<std::size_t>(i)]), name(i));
  }
  EXPECT_TRUE(table.address_for("denied.example", NameUse::denied))
      << "denied names have addresses of their own";
}

TEST(NameTable, TheLeastRecentlyAskedForDeniedNameIsRecycled) {
  NameTable table({.allowed_max = 3, .denied_max = 2}, 1000);
  IpAddress a = given(table, "a.example", NameUse::denied);
  IpAddress b = given(table, "b.example", NameUse::denied);
  EXPECT_EQ(given(table, "a.example", NameUse::denied), a);
  EXPECT_EQ(given(table, "c.example", NameUse::denied), b);
  EXPECT_EQ(table.name_of(b), "c.example");
  EXPECT_EQ(table.name_of(a), "a.example");
  EXPECT_EQ(given(table, "b.example", NameUse::denied), a);
  EXPECT_EQ(table.name_of(a), "b.example");
}

TEST(NameTable, ManyDeniedNamesNeverTouchAnAllowedAddress) {
  NameTable table({.allowed_max = 100, .denied_max = 50});
  std::set<IpAddress> allowed;
  for (int i = 0; i < 50; ++i) allowed.insert(given(table, name(i)));
  std::set<IpAddress> denied;
  for (int i = 1000; i < 3000; ++i) denied.insert(given(table, name(i), NameUse::denied));
  for (int i = 50; i < 100; ++i) allowed.insert(given(table, name(i)));
  EXPECT_EQ(allowed.size(), 100u);
  EXPECT_EQ(denied.size(), 50u);
  for (const IpAddress& address : denied) EXPECT_FALSE(allowed.contains(address));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(table.name_of(given(table, name(i))), name(i));
}

TEST(NameTable, ADeniedNameThatIsAllowedLaterMovesToAnAddressOfItsOwn) {
  NameTable table({.allowed_max = 3, .denied_max = 1}, 1000);
  IpAddress shared = given(table, "a.example", NameUse::denied);
  IpAddress own = given(table, "a.example", NameUse::allowed);
  EXPECT_NE(own, shared);
  EXPECT_EQ(table.name_of(shared), "a.example") << "until it is recycled";
  given(table, "b.example", NameUse::denied);
  EXPECT_EQ(table.name_of(shared), "b.example");
  EXPECT_EQ(given(table, "a.example", NameUse::denied), own) << "denied again, it keeps what it was given";
  EXPECT_EQ(table.name_of(own), "a.example");
}

TEST(NameTable, NamesOfImpossibleLengthAreRefused) {
  NameTable table;
  EXPECT_EQ(table.address_for("", NameUse::allowed).error().reason, Reason::malformed_host);
  EXPECT_EQ(table.address_for(std::string(256, 'a'), NameUse::denied).error().reason, Reason::malformed_host);
  EXPECT_TRUE(table.address_for(std::string(255, 'a'), NameUse::denied));
}

TEST(NameTable, ManyLoopsAgree) {
  NameTable table({.allowed_max = 500, .denied_max = 20});
  constexpr int loops = 4;
  std::vector<std::vector<IpAddress>> seen(loops);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int loop = 0; loop < loops; ++loop) {
    threads.emplace_back([&, loop] {
      for (int i = 0; i < 500; ++i) {
        auto address = table.address_for(name(i), NameUse::allowed);
        auto denied = table.address_for("d" + name(i * loops + loop), NameUse::denied);
        if (!address || !denied || table.name_of(*address) != name(i) || !table.name_of(*denied)) ++wrong;
        seen[static_cast<std::size_t>(loop)].push_back(address.value_or(IpAddress()));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  for (const auto& addresses : seen) EXPECT_EQ(addresses, seen[0]);
  EXPECT_EQ(std::set<IpAddress>(seen[0].begin(), seen[0].end()).size(), 500u);
}

}  // namespace
}  // namespace postern::dns
