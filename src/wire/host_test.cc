#include "wire/host.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace postern::wire {
namespace {

using nlohmann::json;
using namespace std::string_view_literals;

std::string name_of(std::string_view raw) {
  const auto host = canonical_host(raw);
  return host ? host->name : "refused: " + host.error().detail;
}

void expect_refused(std::string_view raw) {
  const auto host = canonical_host(raw);
  ASSERT_FALSE(host) << "accepted: " << raw << " as " << host->name;
  EXPECT_EQ(host.error().reason, Reason::malformed_host);
  EXPECT_FALSE(host.error().detail.empty());
}

void expect_literal(std::string_view raw, std::string_view address) {
  const auto host = canonical_host(raw);
  ASSERT_TRUE(host) << raw << ": " << host.error().detail;
  EXPECT_EQ(host->literal, IpAddress::parse(address)) << raw;
  EXPECT_EQ(host->name, address) << raw;
}

TEST(Host, ACanonicalNameStaysAsItIs) {
  for (const char* name : {"example.com", "a", "xn--bcher-kva.example", "_acme-challenge.example.com",
                           "a.b.c.d.e", "r3---sn-4g5e6nz7.googlevideo.com", "-x.example", "x-.example",
                           "1.2.3.4.example", "123.example", "0x7f.example", "1e100.net", "a.b1"}) {
    EXPECT_EQ(name_of(name), name);
    EXPECT_FALSE(canonical_host(name)->literal) << name;
  }
}

// Threat 51.
TEST(Host, CaseAndOneTrailingDotMakeNoOtherHost) {
  EXPECT_EQ(name_of("EXAMPLE.Com"), "example.com");
  EXPECT_EQ(name_of("example.com."), "example.com");
  EXPECT_EQ(name_of("EXAMPLE.COM."), "example.com");
  EXPECT_EQ(name_of("XN--BCHER-KVA.example"), "xn--bcher-kva.example");
  for (const char* raw : {"example.com..", "EXAMPLE.com..", ".", "..", ".example.com", "a..b", "A..b", ""}) {
    expect_refused(raw);
  }
}

// Threat 50: neither a prefix nor a suffix of text is a subdomain; the names stay apart.
TEST(Host, LookalikesOfAHostStayOtherHosts) {
  for (const char* raw : {"evilgithub.com", "github.com.evil", "github.com.evil.example", "www.github.com"}) {
    EXPECT_NE(name_of(raw), "github.com");
    EXPECT_EQ(name_of(raw), raw);
  }
}

// Threat 51: what belongs to a URL's other parts is refused, not guessed at.
TEST(Host, PartsOfAUrlAreNoHost) {
  for (const char* raw : {"github.com:443",
                          "user@github.com",
                          "github.com/x",
                          "github.com?x",
                          "github.com#x",
                          "https://github.com",
                          "github.com\\.evil.example",
                          "[github.com]",
                          "[1.2.3.4]",
                          "[::1",
                          "::1",
                          "[::1]:80",
                          "[]",
                          "[",
                          "]",
                          "[::1]]",
                          "github.com ",
                          " github.com",
                          "a b",
                          "a\tb",
                          "a\nb",
                          "a\rb",
                          "a|b",
                          "a^b",
                          "a<b>",
                          "a%2eb",
                          "%67ithub.com",
                          "a\x7f"}) {
    expect_refused(raw);
  }
}

TEST(Host, CharactersThatNoHostNameHasAreRefused) {
  for (const char* raw : {"*.github.com", "*", "a\"b", "a'b", "a{b}", "a,b", "a;b", "a=b", "a!b", "a$b",
                          "a&b", "a(b)", "a+b", "a`b", "a~b"}) {
    expect_refused(raw);
  }
}

// Threat 52: one name per appearance, or none.
TEST(Host, UnicodeBecomesTheALabelsOfUts46) {
  EXPECT_EQ(name_of("bücher.example"), "xn--bcher-kva.example");
  EXPECT_EQ(name_of("BÜCHER.Example"), "xn--bcher-kva.example");
  EXPECT_EQ(name_of("bu\u0308cher.example"), "xn--bcher-kva.example");  // combining form
  EXPECT_EQ(name_of("faß.de"), "xn--fa-hia.de");                        // non-transitional
  EXPECT_EQ(name_of("ｇｉｔｈｕｂ.com"), "github.com");                 // full width
  EXPECT_EQ(name_of("github。com"), "github.com");                      // ideographic full stop
  EXPECT_EQ(name_of("github．com"), "github.com");                      // full-width full stop
  EXPECT_EQ(name_of("github｡com"), "github.com");                       // half-width full stop
  EXPECT_EQ(name_of("github.com。"), "github.com");                     // and as the trailing dot
  EXPECT_EQ(name_of("git\u00adhub.com"), "github.com");                 // soft hyphen
  EXPECT_EQ(name_of("git\u200bhub.com"), "github.com");                 // zero-width space
  EXPECT_EQ(name_of("\u212aernel.org"), "kernel.org");                  // Kelvin sign
  EXPECT_EQ(name_of("gіthub.com"), "xn--gthub-n2e.com");                // Cyrillic і: visibly another name
}

TEST(Host, UnicodeThatIsReadInTwoWaysIsRefused) {
  for (const std::string_view raw : {
           "FA\u1e9e.de"sv,  // capital sharp s: "ss" or "ß", by the reader's Unicode version
           "\u00ad"sv,
           "a.\u00ad.b"sv,    // nothing left of a label
           "a\u2025b.com"sv,  // two-dot leader: empty label
           "a\uff0fb.com"sv,
           "a\uff1ab"sv,  // full-width slash, colon
           "a\uff20b.com"sv,
           "a\uff05b.com"sv,  // full-width at sign, percent
           "a\u2100b.com"sv,  // "a/c"
           "\u200dx.com"sv,
           "a\u200cb.com"sv,  // joiners out of context
           "\u05d0a.com"sv,   // bidi
           "\u0301x.com"sv,   // starts with a combining mark
           "xn--a.\u00df"sv,  // a label that is no punycode beside a mapped one
           "a\u202eb.com"sv,
           "\ufffd.com"sv,
           "\x80.com"sv,
           "a\xff.com"sv,
           "\xc0\xae.com"sv,
           "\xed\xa0\x80.com"sv,
           "\xf4\x90\x80\x80.com"sv,
           "\xc3"sv,  // not UTF-8, overlong, surrogate, too large, cut off
       }) {
    expect_refused(raw);
  }
}

// Threat 53: a NUL would end the name for a C library and not for the policy.
TEST(Host, NulIsRefused) {
  for (const std::string_view raw :
       {"\0"sv, "github.com\0.evil.example"sv, "github.com\0"sv, "\0github.com"sv,
        "b\u00fccher.de\0.evil.example"sv, "[::1\0]"sv, "1.2.3.4\0"sv}) {
    expect_refused(raw);
  }
}

// Threat 60.
TEST(Host, EveryIpv4FormOfAUrlIsTheSameLiteral) {
  for (const char* raw : {"127.0.0.1", "127.0.0.1.", "2130706433", "017700000001", "0x7f000001", "0X7F000001",
                          "127.1", "127.0.1", "0x7f.1", "0177.0.0.1", "0x7f.0x0.0x0.0x1",
                          "127.0x00000000000000.0000.01", "１２７.0.0.1", "127。0。0。1"}) {
    expect_literal(raw, "127.0.0.1");
  }
  expect_literal("0", "0.0.0.0");
  expect_literal("0x", "0.0.0.0");
  expect_literal("0xa9fea9fe", "169.254.169.254");
  expect_literal("2852039166", "169.254.169.254");
  expect_literal("169.254.43518", "169.254.169.254");
  expect_literal("4294967295", "255.255.255.255");
}

// Threat 60: never a name, so that no resolver gets to read it in its own way.
TEST(Host, WhatEndsInANumberButIsNoIpv4IsRefused) {
  for (const char* raw :
       {"256.1.1.1", "1.2.3.4.5", "1.2.3.08", "09", "1.2.3.256", "4294967296", "1.2.65536.1", "0x100000000",
        "99999999999999999999999999", "0xffffffffffffffffffffffff", "foo.1", "foo.0x", "foo.09",
        "1.2.3.0x1g.1", "1..2", "a.1.2.3.4", "github.com.0"}) {
    expect_refused(raw);
  }
}

// Threat 61: a literal stays what it is; whether it may be reached is model/address's question.
TEST(Host, Ipv6InBracketsIsALiteralInItsShortForm) {
  expect_literal("[::1]", "::1");
  expect_literal("[2001:DB8:0:0:0:0:0:1]", "2001:db8::1");
  expect_literal("[::ffff:127.0.0.1]", "::ffff:7f00:1");
  for (const char* raw : {"[fe80::1%eth0]", "[fe80::1%25eth0]", "[::1%]", "[1::2::3]", "[:]", "[::g]",
                          "[v1.x]", "[::1].", "[::1]a", "[[::1]]", "[ ::1]", "[::127.0.0.01]"}) {
    expect_refused(raw);
  }
}

TEST(Host, TheLengthLimitsOfDnsHold) {
  const std::string label63(63, 'a');
  const std::string name253 = label63 + "." + label63 + "." + label63 + "." + std::string(61, 'b');
  ASSERT_EQ(name253.size(), 253u);
  EXPECT_EQ(name_of(name253), name253);
  EXPECT_EQ(name_of(name253 + "."), name253);
  expect_refused(name253 + "b");
  expect_refused("A" + name253);
  EXPECT_EQ(name_of(label63 + ".com"), label63 + ".com");
  expect_refused(label63 + "a.com");
  expect_refused(label63 + "ü.com");
  expect_refused(std::string(100'000, 'a'));
  std::string hyphens;
  for (int i = 0; i < 100'000; ++i) hyphens += "\u00ad";
  expect_refused("a" + hyphens + ".com");
}

TEST(Host, CanonicalFormsAreFixedPoints) {
  const std::string_view alphabet[] = {"a",    "Z",      "0", "9", ".",  "-",  "_",      "x",
                                       "xn--", "0x",     "ü", "ß", "。", "１", "\u00ad", "ı",
                                       "א",    "\u0301", "[", "]", ":",  "*",  "%",      "\xff"};
  std::mt19937 random(7);  // NOLINT: a fixed seed, so that a failure repeats
  int accepted = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string raw;
    for (unsigned n = random() % 12; n != 0; --n) raw += alphabet[random() % std::size(alphabet)];
    const auto host = canonical_host(raw);
    if (!host) continue;
    ++accepted;
    const bool is_v6 = host->literal && !host->literal->is_v4();
    const auto again = canonical_host(is_v6 ? "[" + host->name + "]" : host->name);
    ASSERT_TRUE(again) << raw << " gave " << host->name;
    ASSERT_EQ(*again, *host) << raw;
  }
  EXPECT_GT(accepted, 1'000);
}

TEST(Authority, HostAndPortAreTakenApart) {
  const auto plain = parse_authority("Example.com");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->host.name, "example.com");
  EXPECT_FALSE(plain->port);
  const auto with_port = parse_authority("example.com.:8443");
  ASSERT_TRUE(with_port);
  EXPECT_EQ(with_port->host.name, "example.com");
  EXPECT_EQ(with_port->port, 8443);
  const auto six = parse_authority("[::1]:65535");
  ASSERT_TRUE(six);
  EXPECT_EQ(six->host.literal, IpAddress::parse("::1"));
  EXPECT_EQ(six->port, 65535);
  const auto six_alone = parse_authority("[::1]");
  ASSERT_TRUE(six_alone);
  EXPECT_FALSE(six_alone->port);
  EXPECT_EQ(parse_authority("0x7f.1:80")->host.name, "127.0.0.1");
}

// Threat 51.
TEST(Authority, WhatIsNotHostAndPortIsRefused) {
  for (const std::string_view raw : {""sv,
                                     ":"sv,
                                     ":80"sv,
                                     "example.com:"sv,
                                     "example.com:0"sv,
                                     "example.com:080"sv,
                                     "example.com:65536"sv,
                                     "example.com:99999999999"sv,
                                     "example.com:+80"sv,
                                     "example.com:-1"sv,
                                     "example.com: 80"sv,
                                     "example.com:80 "sv,
                                     "example.com:8x"sv,
                                     "example.com:0x50"sv,
                                     "example.com:80:80"sv,
                                     "::1"sv,
                                     "::1:80"sv,
                                     "[::1]80"sv,
                                     "[::1]:"sv,
                                     "[::1]x:80"sv,
                                     "[::1"sv,
                                     "::1]:80"sv,
                                     "user@example.com"sv,
                                     "user:secret@example.com:80"sv,
                                     "user@[::1]:80"sv,
                                     "github.com:80@evil.example"sv,
                                     "a,b"sv,
                                     "example.com:80\0"sv,
                                     "example.com\0:80"sv,
                                     "example.com/x:80"sv,
                                     "example.com:80/x"sv,
                                     "a b:80"sv}) {
    const auto authority = parse_authority(raw);
    EXPECT_FALSE(authority) << raw;
    if (!authority) {
      EXPECT_EQ(authority.error().reason, Reason::malformed_host) << raw;
    }
  }
}

TEST(PublicSuffix, NamesUnderWhichAnybodyMayRegister) {
  for (const char* name : {"com", "co.uk", "github.io", "s3.amazonaws.com", "xn--p1ai", "notlisted"}) {
    EXPECT_TRUE(is_public_suffix(name)) << name;
    EXPECT_EQ(registrable_domain(name), "") << name;
  }
  for (const char* name : {"github.com", "example.co.uk", "me.github.io", "a.b.notlisted"}) {
    EXPECT_FALSE(is_public_suffix(name)) << name;
  }
  EXPECT_FALSE(is_public_suffix(""));
  EXPECT_EQ(registrable_domain(""), "");
}

TEST(PublicSuffix, TheRegistrableDomainIsAViewIntoTheName) {
  const std::string_view name = "a.b.example.co.uk";
  const std::string_view domain = registrable_domain(name);
  EXPECT_EQ(domain, "example.co.uk");
  EXPECT_EQ(domain.data(), name.data() + 4);
  EXPECT_EQ(registrable_domain("example.co.uk"), "example.co.uk");
  // A view that does not end where its buffer ends.
  EXPECT_EQ(registrable_domain("www.example.comx"sv.substr(0, 15)), "example.com");
}

// ---- public vectors ----

#define VECTORS_OR_SKIP(folder)                              \
  const char* const folder = std::getenv("POSTERN_VECTORS"); \
  if (folder == nullptr) GTEST_SKIP() << "POSTERN_VECTORS is not set: the public vectors were not run"

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// JSON that may hold lone surrogates, which no UTF-8 text can: they become U+FFFD, as in a URL parser.
json parse_json_vectors(std::string text) {
  const auto surrogate = [&text](std::size_t at) {
    return at + 6 <= text.size() && text[at] == '\\' && text[at + 1] == 'u' && (text[at + 2] | 0x20) == 'd'
               ? text[at + 3] | 0x20
               : 0;
  };
  for (std::size_t i = 0; i + 6 <= text.size(); ++i) {
    if (text[i] != '\\') continue;
    const int kind = surrogate(i);
    const bool high = kind == '8' || kind == '9' || kind == 'a' || kind == 'b';
    const bool low = kind >= 'c' && kind <= 'f';
    const int next = high ? surrogate(i + 6) : 0;
    if (high && next >= 'c' && next <= 'f') {
      i += 11;
    } else if (high || low) {
      text.replace(i, 6, "\\ufffd");
      i += 5;
    } else {
      ++i;  // an escape of two characters or more: its second is no backslash of its own
    }
  }
  return json::parse(text);
}

bool has_empty_label(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  return name.empty() || name.starts_with('.') || name.ends_with('.') ||
         name.find("..") != std::string_view::npos;
}

bool is_too_long(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  if (name.size() > 253) return true;
  for (std::size_t start = 0; start <= name.size();) {
    const std::size_t end = std::min(name.find('.', start), name.size());
    if (end - start > 63) return true;
    start = end + 1;
  }
  return false;
}

bool has_other_characters(std::string_view name) {
  return name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") != std::string_view::npos;
}

/// Rules by which Postern is stricter than WHATWG; each vector that falls under one must be refused.
bool is_refused_by_rule(std::string_view canonical) {
  return has_empty_label(canonical) || is_too_long(canonical) || has_other_characters(canonical);
}

std::string unbracketed_and_undotted(std::string name) {
  if (name.starts_with('[')) return name.substr(1, name.size() - 2);
  if (name.ends_with('.')) name.pop_back();  // WHATWG keeps the trailing dot
  return name;
}

// Differences beyond those rules, each listed below by the name that WHATWG gives it. They are exact: one
// that is new or goes away (a newer libidn2 knows more of Unicode) fails the test and asks for a decision.
//
// libidn2 has no CheckHyphens=false for names with Unicode in them. Names in ASCII ("r3---sn") are not
// concerned.
constexpr std::string_view hyphens = "hyphens";
// libidn2 applies the tables of IDNA2008 too: no symbols, no emoji, nothing newer than its Unicode version.
// The A-label of such a name is accepted, and that is what clients send.
constexpr std::string_view not_idna2008 = "not in IDNA2008";
// Capital sharp s: "ss" before Unicode 15.1, sharp s since.
constexpr std::string_view two_readings = "read in two ways";
constexpr std::string_view other = "for another reason";

using Refused = std::map<std::string_view, std::set<std::string>>;

std::string_view why(std::string_view detail) {
  if (detail.find("hyphen") != std::string_view::npos) return hyphens;
  if (detail.find("disallowed") != std::string_view::npos) return not_idna2008;
  if (detail.find("two ways") != std::string_view::npos) return two_readings;
  return other;
}

/// Compares one vector; what we refuse beyond the rules is added to `refused` as the name that WHATWG gives
/// it.
void compare(const std::string& input, const std::optional<std::string>& expected, Refused& refused) {
  const auto host = canonical_host(input);
  if (!expected) {
    EXPECT_FALSE(host) << "lenient: " << json(input).dump(-1, ' ', true) << " gave " << host->name;
    return;
  }
  if (is_refused_by_rule(*expected) && !expected->starts_with('[')) {
    EXPECT_FALSE(host) << json(input).dump(-1, ' ', true);
    return;
  }
  if (!host) {
    refused[why(host.error().detail)].insert(*expected);
    return;
  }
  EXPECT_EQ(host->name, unbracketed_and_undotted(*expected)) << json(input).dump(-1, ' ', true);
}

Refused run_to_ascii_vectors(const std::string& path) {
  Refused refused;
  int count = 0;
  for (const json& vector : parse_json_vectors(read_file(path))) {
    if (!vector.is_object()) continue;
    ++count;
    const json& output = vector.at("output");
    compare(vector.at("input").get<std::string>(),
            output.is_null() ? std::nullopt : std::optional(output.get<std::string>()), refused);
  }
  EXPECT_GT(count, 80);
  return refused;
}

const Refused to_ascii_refused = {
    {hyphens, {"-x.xn--zca", "ab--c.xn--zca", "x-.xn--zca", "xn----xhn", "xn--a---kp0a"}},
    {not_idna2008,
     {"lookout.net", "www.xn--lookoutnet-406e", "xn--g6h.net", "xn--r5g.com", "xn--s5a.com", "xn--snl.com"}},
    {two_readings, {"xn--zca.com", "xn--zca.foo.com"}},
};

const Refused idna_refused = {
    {hyphens,
     {"-.xn----ptf", "-.xn--6vj", "-.xn--ibf", "-.xn--xco", "xn----991iq40y.", "xn----o9p.xn--rc9a",
      "xn--4ca.-.c", "xn--4ca.-b.", "xn--4ca.b-.c", "xn--4ca.bc--de.f", "xn--59e.xn----5jd",
      "xn--fc9a.xn----qmg097k469k"}},
    {not_idna2008,
     {"ss.xn--lgd921mvv0m",
      "xn--1-5bt6845n.",
      "xn--1ch.xn--6-dl4s",
      "xn--20-9802c.xn--0w5a.xn--1-eg4e.",
      "xn--2kj7565l.xn--gdh",
      "xn--3xa.xn--1-gocmu97674d.",
      "xn--3xa403s.xn--epb",
      "xn--4xa.xn--1-gocmu97674d.",
      "xn--4xa203s.xn--epb",
      "xn--53h",
      "xn--6-8cb7433a2ba.xn--ss-2vq",
      "xn--6-8cb7433a2ba.xn--zca894k",
      "xn--7a",
      "xn--84-s850a.xn--59h6326e",
      "xn--9-i0j5967eg3qz.ss",
      "xn--9-mfs8024b.",
      "xn--de6h.xn--37e857h",
      "xn--dlj.xn--ss-jbe65aw27i",
      "xn--dlj.xn--zca912alh227g",
      "xn--fc9a.xn----qmg097k469k",
      "xn--hva754s.",
      "xn--hwe.xn--ss-ci1ub261a",
      "xn--hwe.xn--zca4946pblnc",
      "xn--hzb.xn--ukj4430l",
      "xn--ilj.xn--3xa",
      "xn--ilj.xn--4xa",
      "xn--ilj2659d.xn--5-dug9054m",
      "xn--jbf911clb.xn----p9j493ivi4l",
      "xn--ju8a625r.xn--hpb0073k",
      "xn--my8h.",
      "xn--p8e.xn--1ch3a7084l",
      "xn--p9ut19m.xn----mck373i",
      "xn--pkf",
      "xn--pt9c.xn--0kjya",
      "xn--r97c.",
      "xn--s5a04sn4u297k.xn--2e1b",
      "xn--skb.xn--g9e",
      "xn--skjy82u.xn--gdh",
      "xn--snl253bgitxhzwu2arn60c",
      "xn--ss-4epx629f.xn--ifh802b6a",
      "xn--u4e969b.xn--1ch",
      "xn--ve6h.xn--jgb1694kz0b2176a",
      "xn--zca.xn--lgd921mvv0m"}},
    {two_readings, {"xn--fa-hia.de"}},
};

const Refused url_refused = {{not_idna2008, {"xn--n3h"}}};

TEST(HostVectors, ToAsciiOfTheWebPlatformTests) {
  VECTORS_OR_SKIP(folder);
  EXPECT_THAT(run_to_ascii_vectors(std::string(folder) + "/wpt/toascii.json"),
              testing::ContainerEq(to_ascii_refused));
}

TEST(HostVectors, IdnaTestV2OfUnicode) {
  VECTORS_OR_SKIP(folder);
  EXPECT_THAT(run_to_ascii_vectors(std::string(folder) + "/wpt/IdnaTestV2.json"),
              testing::ContainerEq(idna_refused));
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_value(text[i + 1]) >= 0 && hex_value(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// The part of an absolute URL with a special scheme that the WHATWG host parser is given, percent-decoded;
/// nullopt when the input is relative, or fails for something else than its host (the port).
std::optional<std::string> host_of_special_url(std::string input) {
  while (!input.empty() && static_cast<unsigned char>(input.front()) <= 0x20) input.erase(0, 1);
  while (!input.empty() && static_cast<unsigned char>(input.back()) <= 0x20) input.pop_back();
  std::erase_if(input, [](char c) { return c == '\t' || c == '\n' || c == '\r'; });
  const std::size_t colon = input.find(':');
  if (colon == std::string::npos) return std::nullopt;
  std::string scheme = input.substr(0, colon);
  std::ranges::transform(scheme, scheme.begin(), [](unsigned char c) { return std::tolower(c); });
  if (!std::set<std::string>{"http", "https", "ws", "wss", "ftp"}.contains(scheme)) return std::nullopt;
  if (input.find_first_of("/\\", colon + 1) != colon + 1 ||
      input.find_first_of("/\\", colon + 2) != colon + 2) {
    return std::nullopt;  // "http:foo" depends on the base
  }
  const std::size_t start = input.find_first_not_of("/\\", colon + 1);
  if (start == std::string::npos) return "";
  std::string authority = input.substr(start, input.find_first_of("/\\?#", start) - start);
  authority.erase(0, authority.rfind('@') + 1);
  const std::size_t bracket = authority.rfind(']');
  const std::size_t port = authority.find(':', bracket == std::string::npos ? 0 : bracket);
  if (port != std::string::npos) {
    const std::string digits = authority.substr(port + 1);
    if (digits.find_first_not_of("0123456789") != std::string::npos || digits.size() > 5) return std::nullopt;
    if (!digits.empty() && std::stoi(digits) > 65535) return std::nullopt;
    authority.resize(port);
  }
  // Brackets are told before anything is decoded; a decoded bracket is only a forbidden character.
  std::string decoded = percent_decoded(authority);
  return decoded.starts_with('[') ? authority : decoded;
}

TEST(HostVectors, HostsOfSpecialUrlsOfTheWebPlatformTests) {
  VECTORS_OR_SKIP(folder);
  Refused refused;
  int valid = 0;
  int invalid = 0;
  for (const json& vector : parse_json_vectors(read_file(std::string(folder) + "/wpt/urltestdata.json"))) {
    if (!vector.is_object()) continue;
    const auto host = host_of_special_url(vector.at("input").get<std::string>());
    if (!host) continue;
    const bool fails = vector.contains("failure");
    ++(fails ? invalid : valid);
    compare(*host, fails ? std::nullopt : std::optional(vector.at("hostname").get<std::string>()), refused);
  }
  EXPECT_GT(valid, 150);
  EXPECT_GT(invalid, 100);
  EXPECT_THAT(refused, testing::ContainerEq(url_refused));
}

TEST(HostVectors, RegistrableDomainsOfThePublicSuffixList) {
  VECTORS_OR_SKIP(folder);
  std::istringstream lines(read_file(std::string(folder) + "/psl/tests.txt"));
  int count = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.starts_with("//") || line == "null null") continue;
    ++count;
    std::istringstream words(line);
    std::string input;
    std::string expected;
    words >> input >> expected;
    const auto host = canonical_host(input);
    if (expected == "null") {
      EXPECT_TRUE(!host || registrable_domain(host->name).empty()) << line;
      EXPECT_TRUE(!host || is_public_suffix(host->name)) << line;
    } else {
      ASSERT_TRUE(host) << line;
      EXPECT_EQ(registrable_domain(host->name), name_of(expected)) << line;
      EXPECT_FALSE(is_public_suffix(registrable_domain(host->name))) << line;
    }
  }
  EXPECT_GT(count, 70);
}

}  // namespace
}  // namespace postern::wire
