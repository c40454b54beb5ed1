#include "wire/path.h"

#include <gtest/gtest.h>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

namespace postern::wire {
namespace {

using namespace std::string_view_literals;

bool points_into(std::string_view part, std::string_view whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

void expect_path(std::string_view target, std::string_view canonical) {
  std::string scratch;
  const CanonicalPath result = canonical_path(target, scratch);
  EXPECT_EQ(result.path, canonical) << target;
  EXPECT_EQ(result.ambiguity, nullptr) << target << ": " << result.ambiguity;
}

void expect_ambiguous(std::string_view target, std::string_view why) {
  std::string scratch;
  const CanonicalPath result = canonical_path(target, scratch);
  ASSERT_NE(result.ambiguity, nullptr) << target << " gave " << result.path;
  EXPECT_EQ(result.ambiguity, why) << target;
}

TEST(Path, ACanonicalPathIsTheInputItself) {
  for (const std::string_view target : {"/"sv,
                                        "/v1/chat/completions"sv,
                                        "/a//b/"sv,
                                        "//"sv,
                                        "/.well-known/x"sv,
                                        "/..."sv,
                                        "/.../x"sv,
                                        "/a./b.."sv,
                                        "/..a"sv,
                                        "/.a"sv,
                                        "/a;x=1/b"sv,
                                        "/@scope%3Aname"sv,
                                        "/caf%C3%A9"sv,
                                        "/%E0%A4%95"sv,
                                        "/%F0%9F%98%80"sv,
                                        "/a%20b"sv,
                                        "/100%25"sv,
                                        "/100%25/x"sv,
                                        "/a%2525"sv,
                                        "/a%3Fb%23c"sv,
                                        "/-._~!$&'()*+,;=:@"sv,
                                        "*"sv}) {
    std::string scratch;
    const CanonicalPath result = canonical_path(target, scratch);
    EXPECT_EQ(result.path, target);
    EXPECT_EQ(result.path.data(), target.data()) << target;
    EXPECT_EQ(result.ambiguity, nullptr) << target << ": " << result.ambiguity;
    EXPECT_TRUE(scratch.empty()) << target;
  }
}

TEST(Path, TheQueryIsSetApartAndKeptAsSent) {
  for (const auto& [target, path, query] : {
           std::tuple{"/a?b=c"sv, "/a"sv, "?b=c"sv},
           std::tuple{"/a?"sv, "/a"sv, "?"sv},
           std::tuple{"/a"sv, "/a"sv, ""sv},
           std::tuple{"/a/../b?x=/../y"sv, "/b"sv, "?x=/../y"sv},
           std::tuple{"/%61?x=%61%2f%zz?y\\\xff"sv, "/a"sv, "?x=%61%2f%zz?y\\\xff"sv},
           std::tuple{"/?/admin"sv, "/"sv, "?/admin"sv},
       }) {
    std::string scratch;
    const CanonicalPath result = canonical_path(target, scratch);
    EXPECT_EQ(result.path, path);
    EXPECT_EQ(result.query, query);
    EXPECT_EQ(result.ambiguity, nullptr) << target;
    EXPECT_TRUE(result.query.empty() || points_into(result.query, target));
  }
}

TEST(Path, EscapesOfUnreservedCharactersAreDecoded) {
  expect_path("/%61dmin", "/admin");
  expect_path("/%41%7A%30%2D%5F%7e", "/Az0-_~");
  expect_path("/a%2Eb", "/a.b");
  expect_path("/a%2Eb/../c", "/c");  // the escape was no part of the dot segment
  expect_path("/%7euser/", "/~user/");
}

TEST(Path, OtherEscapesGetUpperCaseDigits) {
  expect_path("/%c3%a9", "/%C3%A9");
  expect_path("/%3a%40", "/%3A%40");
  expect_path("/a%3fb", "/a%3Fb");
}

TEST(Path, PrintableBytesThatNoPathMayHaveAreEscaped) {
  expect_path("/a|b", "/a%7Cb");
  expect_path("/\"<>^`{}", "/%22%3C%3E%5E%60%7B%7D");
  expect_path("/a%7cb", "/a%7Cb");
}

// Threat 54: `/repos/../admin` is `/admin`, for the rules and for the origin.
TEST(Path, DotSegmentsAreRemoved) {
  for (const auto& [target, canonical] : {
           std::pair{"/repos/../admin"sv, "/admin"sv},
           std::pair{"/a/b/c/./../../g"sv, "/a/g"sv},  // RFC 3986 §5.2.4
           std::pair{"/mid/content=5/../6"sv, "/mid/6"sv},
           std::pair{"/."sv, "/"sv},
           std::pair{"/.."sv, "/"sv},
           std::pair{"/../../.."sv, "/"sv},
           std::pair{"/../a"sv, "/a"sv},
           std::pair{"/./a"sv, "/a"sv},
           std::pair{"/a/."sv, "/a/"sv},
           std::pair{"/a/.."sv, "/"sv},
           std::pair{"/a/b/.."sv, "/a/"sv},
           std::pair{"/a/b/../"sv, "/a/"sv},
           std::pair{"/a//../b"sv, "/a/b"sv},
           std::pair{"/a/..//b"sv, "//b"sv},
           std::pair{"//.."sv, "/"sv},
           std::pair{"/.//a"sv, "//a"sv},
           std::pair{"/a/./b"sv, "/a/b"sv},
           std::pair{"/a/...//./x"sv, "/a/...//x"sv},
       }) {
    expect_path(target, canonical);
  }
}

// Threat 54.
TEST(Path, EmptySegmentsAndParametersAreKept) {
  expect_path("//admin", "//admin");
  expect_path("/a//b///", "/a//b///");
  expect_path("/admin;x", "/admin;x");
  expect_path("/admin;x=1/%62", "/admin;x=1/b");
}

TEST(Path, LenientReadingsAreGivenWhereThereAreAny) {
  for (const std::string_view strict : {"/", "/admin", "/admin/", "/a:b/c,d", "/a.b/~c", "*"})
    EXPECT_FALSE(lenient_path(strict).has_value()) << strict;
  const std::tuple<std::string_view, std::string_view, std::string_view> readings[] = {
      {"//admin", "/admin", "/admin"},
      {"//", "/", "/"},
      {"/a///b//", "/a/b/", "/a/b/"},
      {"/admin;x", "/admin;x", "/admin"},
      {"/a;x/b;y=1/;z/c", "/a;x/b;y=1/;z/c", "/a/b/c"},
      {"/a%3Bx", "/a;x", "/a"},
      {"/a%3Ab%40%2C", "/a:b@,", "/a:b@,"},
      {"/a%3Fb/c", "/a%3Fb/c", "/a"},
      {"/a%23b", "/a%23b", "/a"},
      {"/%20%E2%82%AC%22", "/%20%E2%82%AC%22", "/%20%E2%82%AC%22"},
      {"/%253A", "/%253A", "/%253A"},
      {"/100%", "/100%", "/100%"},
  };
  for (const auto& [path, decoded, bare] : readings) {
    const auto lenient = lenient_path(path);
    ASSERT_TRUE(lenient.has_value()) << path;
    EXPECT_EQ(lenient->decoded, decoded) << path;
    EXPECT_EQ(lenient->bare, bare) << path;
  }
}

// Threat 54: the path is still given in its one form, but some server reads another.
TEST(Path, EncodedDotSegmentsAreAmbiguous) {
  for (const auto& [target, canonical] : {
           std::pair{"/repos/%2e%2e/admin"sv, "/admin"sv},
           std::pair{"/repos/%2E./admin"sv, "/admin"sv},
           std::pair{"/repos/.%2e/admin"sv, "/admin"sv},
           std::pair{"/repos/%2e/admin"sv, "/repos/admin"sv},
           std::pair{"/repos/%2e%2e"sv, "/"sv},
           std::pair{"/%2e"sv, "/"sv},
       }) {
    std::string scratch;
    EXPECT_EQ(canonical_path(target, scratch).path, canonical);
    expect_ambiguous(target, "an encoded dot segment");
  }
}

TEST(Path, EncodedSlashesAndBackslashesAreAmbiguous) {
  for (const char* target : {"/a%2fb", "/a%2Fb", "/repos/..%2fadmin", "/%2f", "/@scope%2fname"}) {
    expect_ambiguous(target, "an encoded slash");
  }
  for (const char* target : {"/a%5cb", "/repos/..%5Cadmin"}) expect_ambiguous(target, "an encoded backslash");
  for (const char* target : {"/a\\b", "/repos\\..\\admin", "/\\evil.example"}) {
    expect_ambiguous(target, "a backslash");
  }
}

TEST(Path, DoublyEncodedCharactersAreAmbiguous) {
  for (const char* target : {"/%252e%252e/admin", "/%252E", "/a%252fb", "/a%255cb", "/a%2500", "/%2561dmin",
                             "/%25252e", "/%252525252f", "/%25%32%65", "/%252%65", "/%25%32e", "/a%250d"}) {
    expect_ambiguous(target, "a doubly encoded character");
  }
  expect_path("/100%25zz", "/100%25zz");
  expect_path("/%2520", "/%2520");
}

TEST(Path, OverlongUtf8IsAmbiguous) {
  for (const char* target : {"/%c0%ae%c0%ae/admin", "/%C0%AF", "/%c1%9c", "/%e0%80%af", "/%E0%9F%BF",
                             "/%f0%80%80%af", "/%F0%8F%BF%BF"}) {
    expect_ambiguous(target, "an overlong UTF-8 sequence");
  }
  expect_path("/%e0%a0%80", "/%E0%A0%80");
  expect_path("/%f0%90%80%80", "/%F0%90%80%80");
  expect_path("/%e0", "/%E0");
}

TEST(Path, DotSegmentsWithParametersAreAmbiguous) {
  for (const char* target : {"/repos/..;/admin", "/repos/..;x=1/admin", "/a/.;/b", "/a/..;", "/a/%2e%2e;/b",
                             "/a/..%3B/b", "/a/..%3b/b", "/a/.%3b"}) {
    expect_ambiguous(target, "a dot segment with parameters");
  }
  expect_path("/a/...;x", "/a/...;x");
  expect_path("/a;../b", "/a;../b");
}

TEST(Path, BrokenEscapesAreAmbiguous) {
  for (const char* target :
       {"/%", "/%a", "/%zz", "/a%2", "/%u002e", "/%%32e", "/% 41", "/%-1", "/%2g", "/%+f"}) {
    expect_ambiguous(target, "a broken percent-escape");
  }
  std::string scratch;
  EXPECT_EQ(canonical_path("/%%32e%32e/x", scratch).path, "/%252e2e/x");  // and never "/%2e..."
}

// Threats 53, 54, 55.
TEST(Path, BytesThatNoTargetHasAreAmbiguous) {
  expect_ambiguous("/a\0b"sv, "a control character");
  expect_ambiguous("/a\tb", "a control character");
  expect_ambiguous("/a\r\nb", "a control character");
  expect_ambiguous("/a\x7f", "a control character");
  expect_ambiguous("/a b", "a space");
  expect_ambiguous("/caf\xc3\xa9", "a byte that is not ASCII");
  expect_ambiguous("/a\xff", "a byte that is not ASCII");
  expect_ambiguous("/a#b", "a fragment");
  expect_ambiguous("/a#?b", "a fragment");
  expect_ambiguous("/a?b#c", "a fragment");
  expect_ambiguous("/a?b\0"sv, "a control character");
  expect_ambiguous("/a?b c", "a space");
  expect_ambiguous("/a?b\r\n", "a control character");
  for (const char* target : {"/a%00b", "/%00", "/a%0d%0aX:y", "/%1f", "/%7F", "/%09"}) {
    expect_ambiguous(target, "an encoded control character");
  }
}

TEST(Path, WhatIsNotOriginFormIsAmbiguous) {
  for (const std::string_view target :
       {""sv, "?"sv, "admin"sv, "../admin"sv, "a/../b"sv, "http://example.com/"sv, "example.com:443"sv,
        "**"sv, "*/x"sv, "%2fadmin"sv}) {
    expect_ambiguous(target, "no leading slash");
  }
}

// Threat 55: neither case nor Unicode forms are touched.
TEST(Path, CaseAndUnicodeFormsStayApart) {
  expect_path("/Admin", "/Admin");
  expect_path("/%C3%A9", "/%C3%A9");
  expect_path("/e%CC%81", "/e%CC%81");
  expect_path("/%EF%BC%8F", "/%EF%BC%8F");  // full-width slash
}

std::string random_target(std::mt19937& random) {
  static constexpr std::string_view pieces[] = {
      "/",   "/",    "/",    ".",   "..",  "%",   "%2",  "%2e", "%2E", "%2f", "%5c", "%25",
      "%32", "%65",  "25",   "2e",  "e",   "a",   "B",   ";",   "%3b", "\\",  "?",   "#",
      " ",   "\0"sv, "\xc3", "%c0", "%ae", "%e0", "%80", "%00", "|",   "%7c", "*",   "~"};
  std::string target = random() % 8 == 0 ? "" : "/";
  for (unsigned n = random() % 14; n != 0; --n) target += pieces[random() % std::size(pieces)];
  return target;
}

TEST(Path, TheCanonicalFormIsAFixedPoint) {
  std::mt19937 random(54);  // NOLINT: a fixed seed, so that a failure repeats
  int unambiguous = 0;
  for (int round = 0; round < 300'000; ++round) {
    const std::string target = random_target(random);
    std::string scratch;
    const CanonicalPath once = canonical_path(target, scratch);
    std::string scratch_again;
    const CanonicalPath again = canonical_path(once.path, scratch_again);
    ASSERT_EQ(again.path, once.path) << target;
    ASSERT_EQ(again.query, "") << target;
    if (once.ambiguity != nullptr) continue;
    ++unambiguous;
    // The fast scan and the writer agree about what is canonical.
    ASSERT_EQ(again.ambiguity, nullptr) << target;
    ASSERT_EQ(again.path.data(), once.path.data()) << target;
    ASSERT_TRUE(scratch_again.empty()) << target;
  }
  EXPECT_GT(unambiguous, 10'000);
}

TEST(Path, NoDotSegmentSurvives) {
  std::mt19937 random(55);  // NOLINT: a fixed seed, so that a failure repeats
  for (int round = 0; round < 100'000; ++round) {
    const std::string target = random_target(random);
    if (!target.starts_with('/')) continue;
    std::string scratch;
    const std::string path = std::string(canonical_path(target, scratch).path) + "/";
    ASSERT_EQ(path.find("/./"), std::string::npos) << target;
    ASSERT_EQ(path.find("/../"), std::string::npos) << target;
    ASSERT_TRUE(path.starts_with('/')) << target;
  }
}

TEST(Path, ScratchIsReusedAndItsOldTextIsGone) {
  std::string scratch = "old text that must not come back";
  EXPECT_EQ(canonical_path("/%61", scratch).path, "/a");
  EXPECT_EQ(canonical_path("/b/../c", scratch).path, "/c");
}

TEST(Path, AHugeTargetIsHandledInLinearTime) {
  std::string deep;
  for (int i = 0; i < 200'000; ++i) deep += "/a";
  for (int i = 0; i < 200'000; ++i) deep += "/..";
  expect_path(deep + "/x", "/x");
  std::string dotted;
  for (int i = 0; i < 200'000; ++i) dotted += "/.a";
  expect_path(dotted, dotted);
}

}  // namespace
}  // namespace postern::wire
