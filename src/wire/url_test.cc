#include "wire/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::wire {
namespace {

TEST(Url, IsTakenApart) {
  const Url url = parse_url("https://Creds.Example.com:8443/issue/v1?team=a%20b").value();
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.host.name, "creds.example.com");
  EXPECT_EQ(url.port, 8443);
  EXPECT_EQ(url.target, "/issue/v1?team=a%20b");
  EXPECT_EQ(url.text, "https://Creds.Example.com:8443/issue/v1?team=a%20b") << "byte for byte, for `aud`";
  EXPECT_EQ(url.origin(), "https://creds.example.com:8443");
}

TEST(Url, DefaultsAreFilledIn) {
  EXPECT_EQ(parse_url("https://a.example").value().target, "/");
  EXPECT_EQ(parse_url("https://a.example").value().port, 443);
  EXPECT_EQ(parse_url("https://a.example?x=1").value().target, "/?x=1");
  EXPECT_EQ(parse_url("http://a.example/").value().port, 80);
  EXPECT_FALSE(parse_url("http://a.example/").value().tls);
  EXPECT_EQ(parse_url("https://a.example:443/x").value().authority(), "a.example");
  EXPECT_EQ(parse_url("http://[::1]:9000/x").value().authority(), "[::1]:9000");
  EXPECT_EQ(parse_url("http://[::1]/x").value().origin(), "http://[::1]");
}

TEST(Url, WhatIsNotOneIsRefusedWithoutBeingQuoted) {
  for (const std::string bad : {"", "a.example", "ftp://a.example/", "HTTPS://a.example/", "https:///x",
                                "https://", "https://user:canary@a.example/", "https://a.example/#canary",
                                "https://a.example:0/", "https://a.example:99999/", "https://a.example/a b",
                                "https://a.example/\xc3\xa9", "https://a b/", "https://a.example/\r\nx"}) {
    const auto url = parse_url(bad);
    ASSERT_FALSE(url) << bad;
    EXPECT_EQ(url.error().reason, Reason::invalid_configuration);
    EXPECT_THAT(url.error().detail, testing::Not(testing::HasSubstr("canary")));
  }
  EXPECT_FALSE(parse_url("https://a.example/" + std::string(url_bytes_max, 'x')));
}

}  // namespace
}  // namespace postern::wire
