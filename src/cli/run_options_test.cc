#include "cli/run_options.h"

#include <gtest/gtest.h>

namespace postern::cli {
namespace {

TEST(Overrides, TakeAnAddressWithAndWithoutAPort) {
  const auto map =
      parse_overrides({"api.example.com=127.0.0.1:8443", "api.example.com=[::1]:9443",
                       "db.example.com=10.0.0.7", "six.example.com=fd00::7", "SIX.example.com.=[fd00::8]"});
  ASSERT_TRUE(map) << map.error().detail;
  ASSERT_EQ(map->size(), 3u);
  const auto& api = map->at("api.example.com");
  ASSERT_EQ(api.size(), 2u) << "several entries are several addresses";
  EXPECT_EQ(api[0].address.to_string(), "127.0.0.1");
  EXPECT_EQ(api[0].port, 8443);
  EXPECT_EQ(api[1].address.to_string(), "::1");
  EXPECT_EQ(api[1].port, 9443);
  EXPECT_EQ(map->at("db.example.com")[0].port, std::nullopt);
  EXPECT_EQ(map->at("six.example.com").size(), 2u) << "names are canonical";
}

TEST(Overrides, WhatIsNoneIsNamedWithTheAcceptedForm) {
  for (const char* wrong :
       {"", "api.example.com", "=127.0.0.1", "api.example.com=", "api.example.com=other.example.com",
        "api.example.com=127.0.0.1:", "api.example.com=127.0.0.1:99999", "api.example.com=127.0.0.1:x",
        "api.example.com=1.2.3", "1.2.3.4=127.0.0.1", "api.example.com=[::1", "api.example.com=::1:80:x",
        "bad host=127.0.0.1"}) {
    const auto map = parse_overrides({wrong});
    ASSERT_FALSE(map) << wrong;
    EXPECT_EQ(map.error().reason, Reason::invalid_configuration);
    EXPECT_NE(map.error().detail.find("--resolve '" + std::string(wrong) + "'"), std::string::npos)
        << map.error().detail;
    EXPECT_NE(map.error().detail.find("HOST=IP[:PORT]"), std::string::npos);
  }
}

TEST(Networks, AreNetworksOrSingleAddresses) {
  const auto networks = parse_networks({"10.1.0.0/16", "192.168.7.4", "fd00:1::/64", "fd00::7"});
  ASSERT_TRUE(networks) << networks.error().detail;
  ASSERT_EQ(networks->size(), 4u);
  EXPECT_EQ((*networks)[1].to_string(), "192.168.7.4/32");
  EXPECT_EQ((*networks)[3].to_string(), "fd00::7/128");
}

TEST(Networks, WhatIsNoneIsNamed) {
  for (const char* wrong : {"", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "ten", "10.0.0.0/8 ", "::/129"}) {
    const auto networks = parse_networks({"10.1.0.0/16", wrong});
    ASSERT_FALSE(networks) << wrong;
    EXPECT_NE(networks.error().detail.find("--allow-private '" + std::string(wrong) + "'"), std::string::npos)
        << networks.error().detail;
  }
}

TEST(Listen, IsAnAddressWithAPort) {
  EXPECT_EQ(parse_listen("127.0.0.1:8080")->to_string(), "127.0.0.1:8080");
  EXPECT_EQ(parse_listen("[::1]:0")->to_string(), "[::1]:0");
  for (const char* wrong :
       {"", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "localhost:80"})
    EXPECT_FALSE(parse_listen(wrong)) << wrong;
}

}  // namespace
}  // namespace postern::cli
