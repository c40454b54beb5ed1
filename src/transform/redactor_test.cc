#include "transform/redactor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

#include "base/units.h"

namespace postern::transform {
namespace {

using testing::HasSubstr;

using Set = std::shared_ptr<const DetectorSet>;

Set all_detectors(std::vector<DetectorSpec> more = {}) {
  std::vector<DetectorSpec> specs;
  for (std::string_view name : builtin_detectors()) specs.push_back({std::string(name)});
  specs.insert(specs.end(), more.begin(), more.end());
  auto set = DetectorSet::compile(specs);
  if (!set) {
    ADD_FAILURE() << set.error()[0].sentence;
    std::abort();
  }
  return *set;
}

Set only(std::string name) {
  return DetectorSet::compile(std::vector<DetectorSpec>{{std::move(name)}}).value();
}

Set pattern(std::string text, std::optional<std::string> replace = {}) {
  return DetectorSet::compile(std::vector<DetectorSpec>{{"", std::move(text), std::move(replace)}}).value();
}

std::string redact(const Set& set, std::string_view text) {
  Redactor redactor(set);
  return std::string(redactor.pass(text, true));
}

constexpr std::string_view pem_body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
constexpr std::string_view token =
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P";

std::string pem(std::string_view newline, std::string_view label = "RSA PRIVATE KEY") {
  std::string out = "-----BEGIN " + std::string(label) + "-----";
  for (int i = 0; i < 3; ++i) out += std::string(newline) + std::string(pem_body);
  return out + std::string(newline) + "-----END " + std::string(label) + "-----";
}

TEST(Detectors, FindWhatTheyAreNamedFor) {
  const Set set = all_detectors();
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"write to jane.doe+x@mail.example.co.uk.", "write to [email]."},
      {"<a_b@x-y.io>", "<[email]>"},
      {R"({"m":"hi\njohn@x.com\u00e9jo@x.org"})", R"({"m":"hi\n[email]\u00e9[email]"})"},
      {"call +49 (0)30 1234567 now", "call [phone] now"},
      {"call +14155550123.", "call [phone]."},
      {"(212) 555-0187", "[phone]"},
      {"1-800-555-0199, 212.555.0187", "[phone], [phone]"},
      {"card 4111 1111 1111 1111!", "card [credit_card]!"},
      {"card 4111-1111-1111-1111", "card [credit_card]"},
      {"card 378282246310005, 3782 822463 10005", "card [credit_card], [credit_card]"},
      {"ssn 078-05-1120", "ssn [us_ssn]"},
      {"DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432", "[iban] and [iban]"},
      {"host 192.168.10.7:8080 http://10.0.0.1/x", "host [ipv4]:8080 http://[ipv4]/x"},
      {R"({"key":"\nAKIAIOSFODNN7EXAMPLE"})", R"({"key":"\n[aws_access_key]"})"},
      {"token=ghp_" + std::string(36, 'a') + "&x", "token=[github_token]&x"},
      {"github_pat_" + std::string(82, 'Z'), "[github_token]"},
      {"Bearer " + std::string(token) + " end", "Bearer [jwt] end"},
      {"a " + pem("\n") + " b", "a [private_key] b"},
      {"\"a " + pem("\\n") + "\\n\"", "\"a [private_key]\\n\""},
      {pem("\\\\n", "PRIVATE KEY") + "x", "[private_key]x"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(expected, redact(set, text));
}

TEST(Detectors, LeaveAloneWhatOnlyLooksAlike) {
  const Set set = all_detectors();
  for (const char* text : {
           "icon@2x.png",
           "lodash@4.17.21",
           "git@github.com:a/b.git",
           "@user",
           "a@b",
           "a@localhost",
           "x@@y.com@",
           "2024-05-17T12:34:56.123456+01:00",
           "+0200",
           "3.14159265358979",
           "0.8444218515250481",
           "550e8400-e29b-41d4-a716-446655440000",
           "4111111111111112",
           "4111 1111 1111 1112",
           "1234567890123456",
           "41111111111111111111111",
           "x4111111111111111",
           "000-12-3456",
           "666-12-3456",
           "900-12-3456",
           "123-00-4567",
           "123-45-0000",
           "1123-45-6789",
           "123-45-67890",
           "DE89 3704 0044 0532 0130 01",
           "XX89370400440532013000",
           "1.2.3",
           "v1.2.3.4",
           "version 1.2.3.4",
           "\"version\": \"10.0.0.1\"",
           "pkg==1.2.3.4",
           "1.2.3.4.5",
           "256.1.1.1",
           "Chrome/120.0.0.1",
           "01.2.3.4",
           "AKIA123",
           "AKIAIOSFODNN7EXAMPLEX",
           "XAKIAIOSFODNN7EXAMPLE",
           "ghp_short",
           "eyJhbGciOiJIUzI1NiJ9",
           "eyJhbGciOiJIUzI1NiJ9.x",
           "-----BEGIN PRIVATE KEY----- is how it begins",
           "-----BEGIN CERTIFICATE-----\nMIIB",
           "-----END PRIVATE KEY-----",
           "123-456-7890",
           "555-0123",
           "200 300 4000",
           "1700000000000",
           "@@ -1,4 +1,4 @@",
       })
    EXPECT_EQ(text, redact(set, text));
}

TEST(Detectors, EveryIbanCountryCodeIsCheckedForItsLength) {
  const Set set = only("iban");
  EXPECT_EQ("[iban]", redact(set, "NO9386011117947"));
  EXPECT_EQ("[iban]", redact(set, "LC14BOSL123456789012345678901234"));
  EXPECT_EQ("NO93860111179471", redact(set, "NO93860111179471"));
}

TEST(Redactor, APatternIsReplacedByWhatItsPolicySays) {
  EXPECT_EQ("see [ticket], [ticket]x",
            redact(pattern("ACME-[0-9]{6}", "[ticket]"), "see ACME-123456, ACME-999999x"));
  EXPECT_EQ("[redacted]", redact(pattern("(?i)secret-\\w{1,8}"), "SECRET-abc"));
  EXPECT_EQ("xfoo [redacted] foox", redact(pattern("\\bfoo\\b"), "xfoo foo foox"));
  EXPECT_EQ("", redact(pattern("x{3}", ""), "xxx"));
}

TEST(Redactor, TheLongestOfAPatternIsTaken) {
  EXPECT_EQ("[redacted]c", redact(pattern("ab|abab"), "ababc"));
  EXPECT_EQ("[redacted]", redact(pattern("a{1,5}?"), "aaaaa"));
}

TEST(Redactor, WhatOverlapsIsOneCutNamedAfterTheFirst) {
  const Set set = all_detectors({{"tail", "doe@[a-z]{1,9}\\.com-[0-9]{4}"}});
  EXPECT_EQ("<[email]>", redact(set, "<john.doe@x.com-1234>"));
}

TEST(Redactor, ANumberOfJsonBecomesAText) {
  const Set set = all_detectors();
  EXPECT_EQ(R"({"card": "[credit_card]"})", redact(set, R"({"card": 4111111111111111})"));
  EXPECT_EQ(R"({"cards":["[credit_card]",1]})", redact(set, R"({"cards":[4111111111111111,1]})"));
  EXPECT_EQ(R"({"a":"{\"card\":\"[credit_card]\"}"})", redact(set, R"({"a":"{\"card\":4111111111111111}"})"));
  EXPECT_EQ(R"({"card":"4: [credit_card]"})", redact(set, R"({"card":"4: 4111111111111111"})"));
}

TEST(Redactor, CountsByDetector) {
  const Set set = all_detectors();
  Redactor redactor(set);
  redactor.pass("a@x.com b@x.com 192.168.0.1", true);
  EXPECT_EQ((DetectorCounts{2, 0, 0, 0, 0, 1, 0, 0, 0, 0}), redactor.counts());
  EXPECT_TRUE(redactor.changed());
  redactor.pass("c@x.com", true);
  EXPECT_EQ(3U, redactor.counts()[0]);
}

TEST(Redactor, NothingIsHeldBackThatBeginsNothing) {
  const Set set = all_detectors({{"", "ACME-[0-9]{6}"}});
  Redactor redactor(set);
  for (const char* event :
       {"data: {\"text\":\"Hello\"}\n\n", "data: {\"n\":12345}\n\n", "data: [DONE]\n\n", "plain text. "})
    EXPECT_EQ(event, redactor.pass(event, false));
}

TEST(Redactor, OnlyAPossibleBeginningIsHeldBack) {
  const Set set = all_detectors({{"", "ACME-[0-9]{6}"}});
  const auto held = [&](std::string_view text) {
    Redactor redactor(set);
    return std::string(text.substr(redactor.pass(text, false).size()));
  };
  EXPECT_EQ("joh", held("mail to joh"));
  EXPECT_EQ("john@x.co", held("mail to <john@x.co"));
  EXPECT_EQ("555-01", held("call: 555-01"));
  EXPECT_EQ("-----BEGIN PRIV", held("a: -----BEGIN PRIV"));
  EXPECT_EQ("ACME-12", held("{ACME-12"));
  EXPECT_EQ("ACME-123456", held("{ACME-123456"));
  EXPECT_EQ("", held("mail to "));
  EXPECT_EQ("-----", held("a: -----BEGIN CERTIFICATE-----").substr(0, 5));
}

TEST(Redactor, WhatIsHeldBackHasABound) {
  const Set set = all_detectors({{"", "[a-zA-Z0-9_.%+@-]{4,255}!"}});
  Redactor redactor(set);
  std::mt19937 random(1);
  std::size_t in = 0, out = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string piece(1 + random() % 40, "ab0-.@+%_eyJ"[random() % 12]);
    in += piece.size();
    out += redactor.pass(piece, false).size();
    ASSERT_LE(in, out + 5 * KiB);
  }
}

TEST(Redactor, AKeyIsDroppedAsItComes) {
  const Set set = only("private_key");
  Redactor redactor(set);
  std::string out(redactor.pass("-----BEGIN PRIVATE KEY-----\n" + std::string(pem_body), false));
  for (int i = 0; i < 100; ++i) out += redactor.pass("\n" + std::string(pem_body), false);
  EXPECT_EQ("[private_key]", out);
  out += redactor.pass("\n-----END PRIVATE KEY-----\nmore", true);
  EXPECT_EQ("[private_key]\nmore", out);
}

TEST(Redactor, AKeyWithoutAnEndStopsWhereAStringDoes) {
  const Set set = only("private_key");
  EXPECT_EQ(R"({"k":"[private_key]","b":1})",
            redact(set, "{\"k\":\"-----BEGIN PRIVATE KEY-----\\n" + std::string(pem_body) + "\",\"b\":1}"));
  EXPECT_EQ(
      R"("{\"k\":\"[private_key]\",\"b\":1}")",
      redact(set, R"("{\"k\":\"-----BEGIN PRIVATE KEY-----\\n)" + std::string(pem_body) + R"(\",\"b\":1}")"));
}

TEST(Finder, SaysWhichAsSoonAsItIsCertain) {
  const Set set = all_detectors();
  Finder finder(set);
  EXPECT_EQ(std::nullopt, finder.pass("my key is AKIAIOSFODNN7EX", false));
  EXPECT_EQ(15U, finder.held());
  EXPECT_EQ(6U, finder.pass("AMPLE and", false));
  EXPECT_EQ("aws_access_key", set->name(6));
  Finder other(set);
  EXPECT_EQ(0U, other.whole("a@x.com"));
  EXPECT_EQ(std::nullopt, other.whole("nobody"));
  EXPECT_EQ(0U, find_in_form(other, "u=a%40x.com"));
}

TEST(Redactor, WhatWasGivenUpInTheMiddleIsForgotten) {
  const Set set = all_detectors({{"word", "w[a-z]{3,40}1"}});
  for (const char* begun : {"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "mail jo@x",
                            "call +1 212 555", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "wabcdef"}) {
    Redactor(set).pass(begun, false);  // Its memory goes to the next of this thread.
    Redactor next(set);
    EXPECT_EQ("MIIEvQIBADAN.com 0187 nothing1", next.pass("MIIEvQIBADAN.com 0187 nothing1", true)) << begun;
    EXPECT_FALSE(next.changed());
    Finder(set).pass(begun, false);
    Finder finder(set);
    EXPECT_EQ(std::nullopt, finder.whole("MIIEvQIBADAN.com 0187 nothing1")) << begun;
    EXPECT_EQ(0U, finder.held());
  }
}

TEST(DetectorSet, NothingShorterThanItsShortestHoldsAnything) {
  const Set set = all_detectors();
  ASSERT_EQ(set->shortest(), 6U);
  EXPECT_EQ("[email]", redact(set, "a@b.co"));
  constexpr std::string_view alphabet = "ay1@.+-: ";
  std::vector<std::string> texts = {""};
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(texts[i], redact(set, texts[i]));
    if (texts[i].size() + 1 < set->shortest())
      for (const char c : alphabet) texts.push_back(texts[i] + c);
  }
  EXPECT_EQ("[redacted]", Redactor(all_detectors({{"x", "x"}})).whole("x"));
}

TEST(Redactor, FormsAreReadDecodedAndOnlyWhatChangesIsWrittenAnew) {
  Redactor redactor(all_detectors());
  EXPECT_EQ("?q=hello+world&mail=%5Bemail%5D&x=%7e",
            redact_form(redactor, "?q=hello+world&mail=jo%40x.com&x=%7e"));
  EXPECT_EQ("p=%5Bphone%5D&e=call%20%5Bphone%5D",
            redact_form(redactor, "p=%2B1+212+555+0187&e=call+%28212%29+555-0187"));
  EXPECT_EQ("%5Bemail%5D=1", redact_form(redactor, "jo@x.com=1"));
  EXPECT_EQ(std::nullopt, redact_form(redactor, "a=%zz&b=%4&c=%"));
  EXPECT_EQ(std::nullopt, redact_form(redactor, ""));
  EXPECT_EQ((DetectorCounts{2, 2, 0, 0, 0, 0, 0, 0, 0, 0}), redactor.take_counts());
  EXPECT_EQ("id [email]", redactor.whole("id jo@x.com"));
  EXPECT_EQ(std::nullopt, redactor.whole("id jo and nobody"));
  EXPECT_EQ(1U, redactor.counts()[0]);
}

TEST(Redactor, KnowsTextByItsType) {
  for (const char* type :
       {"", "text/plain", "Text/Event-Stream; charset=utf-8", "application/json", "application/problem+json",
        "image/svg+xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "application/x-ndjson", "application/yaml", "application/graphql", "application/javascript"})
    EXPECT_TRUE(is_text_like(type)) << type;
  for (const char* type :
       {"application/octet-stream", "image/png", "application/grpc", "application/pdf", "font/woff2"})
    EXPECT_FALSE(is_text_like(type)) << type;
}

TEST(DetectorSet, ComplaintsNameTheSpec) {
  const std::vector<DetectorSpec> specs = {{"email"}, {"e-mail"},          {"", "a+"},
                                           {"email"}, {"", "ok", "\"x\""}, {"jwt", "x"}};
  const auto set = DetectorSet::compile(specs);
  ASSERT_FALSE(set);
  std::string all;
  for (const auto& complaint : set.error())
    all += std::to_string(complaint.index) + " " + complaint.sentence + "\n";
  EXPECT_THAT(all, HasSubstr("1 there is no detector 'e-mail'; there are email, phone"));
  EXPECT_THAT(all, HasSubstr("2 the pattern has no upper bound for '+': write {1,64}"));
  EXPECT_THAT(all, HasSubstr("3 'email' is there twice"));
  EXPECT_THAT(all, HasSubstr("4 'replace' is printable ASCII"));
  EXPECT_THAT(all, HasSubstr("5 'jwt' is the name of a detector"));
  EXPECT_FALSE(DetectorSet::compile({}));
  EXPECT_FALSE(DetectorSet::compile(std::vector<DetectorSpec>(65, {"", "x"})));
}

// --- properties ---

std::string pass_in_pieces(const Set& set, std::string_view text, std::mt19937& random, std::size_t piece_max,
                           DetectorCounts& counts) {
  Redactor redactor(set);
  std::string out;
  while (!text.empty()) {
    const std::size_t size = std::min<std::size_t>(text.size(), random() % (piece_max + 1));
    // A copy of its own, so that a sanitizer sees what is looked at too late.
    out += redactor.pass(std::string(text.substr(0, size)), false);
    text.remove_prefix(size);
  }
  out += redactor.pass({}, true);
  counts = redactor.counts();
  return out;
}

/// Texts in which shapes begin, break off, touch and overlap.
std::string tangle(std::mt19937& random, std::size_t parts) {
  static const std::vector<std::string> vocabulary = {"a",
                                                      "john.doe",
                                                      "@",
                                                      "x.com",
                                                      "mail.example.org",
                                                      ".",
                                                      "-",
                                                      " ",
                                                      "+",
                                                      "1",
                                                      "49",
                                                      "212",
                                                      "555",
                                                      "0187",
                                                      "(212)",
                                                      "4111",
                                                      "1111",
                                                      "4111111111111111",
                                                      "378282246310005",
                                                      "078-05-1120",
                                                      "123-45-",
                                                      "6789",
                                                      "DE89",
                                                      "3704 0044 0532 0130 00",
                                                      "GB82WEST12345698765432",
                                                      "192.168.",
                                                      "10.7",
                                                      "10.0.0.1",
                                                      "AKIA",
                                                      "IOSFODNN7EXAMPLE",
                                                      "ghp_",
                                                      std::string(36, 'q'),
                                                      "github_pat_",
                                                      std::string(82, 'Z'),
                                                      "-----",
                                                      "BEGIN ",
                                                      "RSA ",
                                                      "PRIVATE KEY",
                                                      "-----BEGIN PRIVATE KEY-----",
                                                      "\n",
                                                      "\\n",
                                                      "\\",
                                                      "\"",
                                                      "\\\"",
                                                      "-----END PRIVATE KEY-----",
                                                      "-----END ",
                                                      std::string(pem_body),
                                                      "eyJ",
                                                      std::string(token),
                                                      "eyJhbGciOiJIUzI1NiJ9",
                                                      "%",
                                                      "%40",
                                                      "\\u00e9",
                                                      "version ",
                                                      "v",
                                                      "/",
                                                      "_",
                                                      "ACME-",
                                                      "123456",
                                                      "ababab",
                                                      "foo",
                                                      "\xc3\xa9",
                                                      std::string(70, 'w'),
                                                      "{\"card\": ",
                                                      ",",
                                                      ":",
                                                      "[",
                                                      "}"};
  std::string out;
  for (std::size_t i = 0; i < parts; ++i) {
    const std::string& part = vocabulary[random() % vocabulary.size()];
    out += random() % 8 ? part : part.substr(0, random() % (part.size() + 1));
  }
  return out;
}

TEST(Redactor, AnyPiecesGiveWhatTheWholeGives) {
  const Set set = all_detectors({{"ticket", "ACME-[0-9]{6}"},
                                 {"ab", "(?:ab){2,5}a?"},
                                 {"word", "\\bfoo\\b"},
                                 {"any", "w[a-z.@0-9]{3,40}1"}});
  std::mt19937 random(20261130);
  for (int round = 0; round < 3'000; ++round) {
    const std::string text = tangle(random, 1 + random() % 24);
    Redactor redactor(set);
    const std::string whole(redactor.pass(text, true));
    for (std::size_t piece_max : {1, 2, 7, 60}) {
      DetectorCounts counts;
      ASSERT_EQ(whole, pass_in_pieces(set, text, random, piece_max, counts))
          << "round " << round << ": " << text;
      ASSERT_EQ(redactor.counts(), counts) << text;
    }
  }
}

TEST(Redactor, WhatIsPlantedNeverComesThroughAndAllElseStays) {
  const Set set = all_detectors();
  const std::vector<std::pair<std::string, std::string>> planted = {
      {"jane.doe@example.com", "[email]"},
      {"4111-1111-1111-1111", "[credit_card]"},
      {"078-05-1120", "[us_ssn]"},
      {"AKIAIOSFODNN7EXAMPLE", "[aws_access_key]"},
      {"ghp_" + std::string(36, 'x'), "[github_token]"},
      {std::string(token), "[jwt]"},
      {pem("\n"), "[private_key]"},
      {"(212) 555-0187", "[phone]"}};
  std::mt19937 random(42);
  for (int round = 0; round < 400; ++round) {
    std::string text, expected;
    for (int i = 0; i < 12; ++i) {
      std::string filler(random() % 300, ' ');
      for (char& c : filler) c = static_cast<char>(random() % 4 ? 'a' + random() % 26 : ' ');
      text += filler + " <";
      expected += filler + " <";
      const auto& [value, name] = planted[random() % planted.size()];
      text += value + "> ";
      expected += name + "> ";
    }
    DetectorCounts counts;
    ASSERT_EQ(expected, pass_in_pieces(set, text, random, 1 + random() % 500, counts));
  }
}

TEST(Redactor, BytesOfAnyKindPassUnchangedWithoutMatches) {
  const Set set = all_detectors();
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::string text(random() % 4000, '\0');
    for (char& c : text) c = static_cast<char>(0x80 | random());
    DetectorCounts counts;
    ASSERT_EQ(text, pass_in_pieces(set, text, random, 1 + random() % 400, counts));
  }
}

}  // namespace
}  // namespace postern::transform
