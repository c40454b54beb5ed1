#include "policy/pattern.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::policy {
namespace {

using testing::HasSubstr;
using Form = DestinationPattern::Form;

void accepts(std::string_view text, Form form, std::string_view name,
             std::optional<std::uint16_t> port = {}) {
  const auto pattern = parse_destination_pattern(text);
  ASSERT_TRUE(pattern) << pattern.error();
  EXPECT_EQ(pattern->form, form) << text;
  EXPECT_EQ(pattern->text, name) << text;
  EXPECT_EQ(pattern->port, port) << text;
}

std::string refusal(std::string_view text) {
  const auto pattern = parse_destination_pattern(text);
  return pattern ? fmt::format("{} was accepted", text) : pattern.error();
}

TEST(DestinationPattern, EveryDocumentedFormIsRead) {
  accepts("example.com", Form::host, "example.com");
  accepts("example.com:8443", Form::host, "example.com", 8443);
  accepts("*.example.com", Form::subdomains, "example.com");
  accepts("*.example.com:443", Form::subdomains, "example.com", 443);
  accepts("*", Form::everything, "");
  accepts("*:443", Form::everything, "", 443);
  accepts("*.com", Form::subdomains, "com");  // access, not credentials: the author may
  accepts("~^(a|b)\\.example\\.com$", Form::regex, "^(a|b)\\.example\\.com$");
  accepts("~a:443", Form::regex, "a:443");  // no port suffix is parsed
  accepts("1.2.3.4", Form::host, "1.2.3.4");
  accepts("1.2.3.4:80", Form::host, "1.2.3.4", 80);
  accepts("[::1]:22", Form::host, "::1", 22);
  accepts("[2001:DB8:0::1]", Form::host, "2001:db8::1");
  accepts("10.0.0.0/8", Form::network, "");
  accepts("fd00::/8", Form::network, "");
  accepts("example.com:65535", Form::host, "example.com", 65535);
}

TEST(DestinationPattern, NamesBecomeCanonical) {
  accepts("EXAMPLE.Com.", Form::host, "example.com");
  accepts("bücher.example", Form::host, "xn--bcher-kva.example");
  accepts("*.BÜCHER.example:443", Form::subdomains, "xn--bcher-kva.example", 443);
  accepts("ex\u00adample.com", Form::host, "example.com");  // soft hyphen, UTS-46
  accepts("example\uff0ecom", Form::host, "example.com");   // full-width dot
}

TEST(DestinationPattern, WhatDoesNotParseIsRefusedWithTheAcceptedForms) {
  for (const char* bad : {"",
                          "example.com:abc",
                          "example.com:99999",
                          "example.com:0",
                          "example.com:",
                          "*:0",
                          "*:",
                          "*:x",
                          "*:70000",
                          "*.",
                          "*.*",
                          "**",
                          "*example.com",
                          "a.*.com",
                          "10.0.0.0/8:80",
                          "10.0.0.0/33",
                          "10.0.0.1/8",
                          "fd00::/129",
                          "::1",
                          "::1:22",
                          "[::1",
                          "[::1]x",
                          "https://example.com",
                          "example.com/path",
                          "user@example.com",
                          "exa mple.com",
                          "a..b",
                          "*.1.2.3.4",
                          "1.2.3.4.5",
                          "010.1.1.1",
                          "0x7f.1",
                          "1.2.3",
                          "16909060",
                          "~",
                          "~(",
                          "~[a",
                          "~a{1001}",
                          "~\\p{Greek",
                          "~bücher",
                          "example.com:443:443",
                          "a%62c.com",
                          "*.example.com:"}) {
    EXPECT_THAT(refusal(bad), HasSubstr("is not a destination: ")) << bad;
    EXPECT_THAT(refusal(bad), HasSubstr("(accepted: host, host:PORT, ")) << bad;
  }
  EXPECT_THAT(refusal(std::string_view("a\0b.com", 7)), HasSubstr("'a\\x00b.com' is not a destination"));
  EXPECT_THAT(refusal("https://example.com"), HasSubstr("leave the scheme out"));
  EXPECT_THAT(refusal("example.com/path"), HasSubstr("leave the path out"));
  EXPECT_THAT(refusal("10.0.0.0/8:80"), HasSubstr("a network takes no port"));
  EXPECT_THAT(refusal("::1"), HasSubstr("in brackets"));
  EXPECT_THAT(refusal("0x7f.1"), HasSubstr("write the address as 127.0.0.1"));
  EXPECT_THAT(refusal(std::string(2000, 'a')), HasSubstr("longer than 1024 bytes"));
}

std::string host_refusal(std::string_view text) {
  const auto pattern = parse_host_pattern(text);
  return pattern ? fmt::format("{} was accepted", text) : pattern.error();
}

TEST(HostPattern, IsAHostOrAStarBeforeARegistrableDomain) {
  const auto exact = parse_host_pattern("API.github.com.");
  ASSERT_TRUE(exact);
  EXPECT_EQ(exact->host, "api.github.com");
  EXPECT_FALSE(exact->subdomains);
  const auto star = parse_host_pattern("*.github.com");
  ASSERT_TRUE(star);
  EXPECT_EQ(star->host, "github.com");
  EXPECT_TRUE(star->subdomains);
  EXPECT_TRUE(parse_host_pattern("*.eu.example.co.uk"));
  EXPECT_TRUE(parse_host_pattern("localhost"));
}

TEST(HostPattern, ACredentialNeverGoesToWholeSuffixes) {
  for (const char* bad : {"*.com", "*.co.uk", "*.github.io", "*.internal", "*.xn--p1ai"}) {
    EXPECT_THAT(host_refusal(bad), HasSubstr("anybody may register a name under")) << bad;
  }
  for (const char* bad : {"*", "*."}) EXPECT_THAT(host_refusal(bad), HasSubstr("every host")) << bad;
}

TEST(HostPattern, SchemePortAndPathAreRefusedWithAdvice) {
  EXPECT_THAT(host_refusal("https://a.com"), HasSubstr("leave the scheme out"));
  EXPECT_THAT(host_refusal("a.com:443"), HasSubstr("leave the port out"));
  EXPECT_THAT(host_refusal("*.a.com:443"), HasSubstr("leave the port out"));
  EXPECT_THAT(host_refusal("a.com/v1"), HasSubstr("leave the path out"));
  EXPECT_THAT(host_refusal("u@a.com"), HasSubstr("leave the user name out"));
  for (const char* bad : {"", "a..com", "a.*.com", "*a.com", "**.a.com", "a com", "~a", "10.0.0.0/8",
                          "*.1.2.3.4", "010.1.1.1", "a.com:", "::1"}) {
    EXPECT_THAT(host_refusal(bad), HasSubstr("cannot be a rule's host")) << bad;
  }
}

bool path_matches(std::string_view pattern, std::string_view path) {
  const auto parsed = parse_path_pattern(pattern);
  if (!parsed) ADD_FAILURE() << parsed.error();
  return parsed && parsed->matches(path);
}

TEST(PathPattern, ExactPrefixSuffixAndAny) {
  EXPECT_TRUE(path_matches("/v1/runs", "/v1/runs"));
  EXPECT_FALSE(path_matches("/v1/runs", "/v1/runs/"));
  EXPECT_FALSE(path_matches("/v1/runs", "/v1/Runs"));
  EXPECT_TRUE(path_matches("*/runs", "/v1/runs"));
  EXPECT_TRUE(path_matches("*/runs", "/runs"));
  EXPECT_FALSE(path_matches("*/runs", "/v1/xruns"));
  EXPECT_FALSE(path_matches("*/runs", "/v1/runs/"));
  EXPECT_TRUE(path_matches("*.json", "/a/b.json"));
  EXPECT_FALSE(path_matches("*.json", "/a/b.jsonx"));
  EXPECT_TRUE(path_matches("*", "/anything"));
  EXPECT_TRUE(path_matches("/*", "/anything"));
  EXPECT_TRUE(path_matches("/**", "/"));
}

TEST(PathPattern, APrefixEndsAtASegmentBoundary) {
  for (const char* pattern : {"/v1/*", "/v1/**"}) {
    EXPECT_TRUE(path_matches(pattern, "/v1/"));
    EXPECT_TRUE(path_matches(pattern, "/v1/a/b"));
    EXPECT_FALSE(path_matches(pattern, "/v10"));
    EXPECT_FALSE(path_matches(pattern, "/v1"));
    EXPECT_FALSE(path_matches(pattern, "/v10/a"));
    EXPECT_FALSE(path_matches(pattern, "//v1/a"));
  }
}

TEST(PathPattern, IsHeldInTheCanonicalFormOfRequests) {
  EXPECT_TRUE(path_matches("/%7euser/*", "/~user/x"));
  EXPECT_TRUE(path_matches("/caf%c3%a9", "/caf%C3%A9"));
  EXPECT_TRUE(path_matches("*%7e", "/x~"));
  EXPECT_TRUE(path_matches("/a//b", "/a//b"));  // empty segments stay
  EXPECT_FALSE(path_matches("/a//b", "/a/b"));
}

TEST(PathPattern, WhatCouldNeverMatchIsRefused) {
  for (const char* bad :
       {"",       "v1",     "v1/*",        "/a%2Fb", "/a%5cb", "/a\\b", "/a/../b", "/a/./b", "/..",
        "/a/..",  "*/../b", "/a/%2e%2e/b", "/a%00",  "/a b",   "/é",    "/a?b",    "/a#b",   "/v1*",
        "/a/*/b", "/*/b",   "**",          "*a*",    "/a/***", "/a%0a", "/a\n"}) {
    const auto pattern = parse_path_pattern(bad);
    ASSERT_FALSE(pattern) << bad;
    EXPECT_THAT(pattern.error(), HasSubstr("is not a path pattern: ")) << bad;
    EXPECT_THAT(pattern.error(), HasSubstr("(accepted: /exact, /prefix/*, */suffix, *)")) << bad;
  }
}

std::string pieces(std::string_view text) {
  const auto parsed = parse_template(text);
  if (!parsed) return "error: " + parsed.error();
  std::string out;
  for (const auto& piece : parsed->pieces) out += fmt::format("[{}{}]", piece.is_key ? "$" : "", piece.text);
  return out;
}

TEST(Template, TextAndKeysInTurn) {
  EXPECT_EQ(pieces("Bearer {OPENAI_API_KEY}"), "[Bearer ][$OPENAI_API_KEY]");
  EXPECT_EQ(pieces("{a}{_b1}"), "[$a][$_b1]");
  EXPECT_EQ(pieces("{{{K}}}"), "[{][$K][}]");
  EXPECT_EQ(pieces("a{{b}}c"), "[a{b}c]");
  EXPECT_EQ(pieces(""), "");
}

TEST(Template, ALoneBraceIsAnError) {
  for (const char* bad :
       {"{", "}", "a{b", "a}b", "{}", "{a b}", "{1a}", "{a-b}", "{a{b}", "{{{", "}}}", "{ a}", "{é}"}) {
    EXPECT_THAT(pieces(bad), testing::StartsWith("error: ")) << bad;
  }
  EXPECT_THAT(pieces("ab}"), HasSubstr("a lone } at byte 3 (a literal brace is written }})"));
  EXPECT_THAT(pieces("ab{c"), HasSubstr("the { at byte 3 is never closed (a literal brace is written {{)"));
}

}  // namespace
}  // namespace postern::policy
