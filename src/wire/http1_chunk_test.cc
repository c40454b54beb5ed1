#include <gtest/gtest.h>
#include <string>

#include "wire/http1_test_kit.h"

namespace postern::wire {
namespace {

using namespace std::string_literals;

/// What a chunked body says: its data, then what is left, or "refused".
struct Decoded {
  std::string data;
  std::string rest;
  kit::Fields trailers;
  bool finished = false;
  bool refused = false;
  bool operator==(const Decoded&) const = default;
};

/// Decodes `bytes` given in pieces of `piece` bytes.
Decoded decode(const std::string& bytes, std::size_t piece = std::string::npos) {
  ChunkDecoder decoder;
  Decoded decoded;
  std::size_t at = 0;
  while (at < bytes.size() && !decoded.finished) {
    std::string_view input = std::string_view(bytes).substr(at, piece);
    while (!input.empty() && !decoded.finished) {
      const Result<ChunkDecoder::Step> step = decoder.step(input);
      if (!step) {
        decoded.refused = true;
        EXPECT_EQ(step.error().reason, Reason::malformed_request);
        EXPECT_FALSE(decoder.step("0\r\n\r\n")) << "refused once, refused for good";
        return decoded;
      }
      EXPECT_GT(step->consumed, 0u) << "no progress";
      decoded.data += step->data;
      decoded.finished = step->finished;
      input.remove_prefix(step->consumed);
      at += step->consumed;
    }
  }
  decoded.rest = bytes.substr(at);
  for (const HeaderField& field : decoder.trailers()) decoded.trailers.emplace_back(field.name, field.value);
  return decoded;
}

bool refused(const std::string& bytes) { return decode(bytes).refused; }

TEST(Http1Chunks, AreTakenApartWithoutCopying) {
  const std::string bytes = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
  ChunkDecoder decoder;
  const Result<ChunkDecoder::Step> step = decoder.step(bytes);
  ASSERT_TRUE(step);
  EXPECT_EQ(step->data, "hello");
  EXPECT_EQ(step->data.data(), bytes.data() + 3);
  EXPECT_EQ(step->consumed, 8u);
  EXPECT_EQ(decode(bytes).data, "hello world");
}

TEST(Http1Chunks, WhatFollowsTheLastChunkIsNotTouched) {
  const Decoded decoded = decode("1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n");
  EXPECT_TRUE(decoded.finished);
  EXPECT_EQ(decoded.data, "a");
  EXPECT_EQ(decoded.rest, "GET / HTTP/1.1\r\n");
  EXPECT_EQ(decode("0\r\nA: b\r\n\r\n\r\n").rest, "\r\n");
}

TEST(Http1Chunks, SizesAreHexadecimalInEitherCaseWithLeadingZeros) {
  EXPECT_EQ(decode("A\r\n0123456789\r\n0\r\n\r\n").data, "0123456789");
  EXPECT_EQ(decode("000a\r\n0123456789\r\n000\r\n\r\n").data, "0123456789");
}

TEST(Http1Chunks, ABadSizeIsRefused) {  // threat 28
  for (const std::string& bytes : {
           "\r\n"s,
           " 1\r\na"s,
           "1 \r\na"s,
           "\t1\r\n"s,
           "-1\r\n"s,
           "+1\r\n"s,
           "0x1\r\na"s,
           "g\r\n"s,
           "1g\r\n"s,
           "1\n"s,
           "1\ra"s,
           "1\r\r\n"s,
           "1.0\r\n"s,
           "1,1\r\n"s,
           "1\0\r\n"s,
           "\xb2\r\n"s,
           "00000000000000000\r\n"s,
           "10000000000000000\r\n"s,
           "ffffffffffffffff\r\n"s,
           "8000000000000000\r\n"s,
       }) {
    EXPECT_TRUE(refused(bytes)) << bytes;
  }
  EXPECT_FALSE(refused("7fffffffffffffff\r\n"));
}

TEST(Http1Chunks, DataEndsWhereItsSizeSaysWithCrLf) {  // threat 28
  EXPECT_TRUE(refused("3\r\nabcd\r\n0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nab\r\n0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nabc\n0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nabc\r0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nabc0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nabcd\n0\r\n\r\n"));
  EXPECT_TRUE(refused("3\r\nabc\r00\r\n\r\n"));
}

TEST(Http1Chunks, ExtensionsAreReadAndDropped) {
  for (const char* extension :
       {";a", ";a=b", ";a;b=c;d", ";a=\"b c\"", ";a=\"\"", ";a=\"\\\"\\\\\";b", ";a=\"\xc3\xa9\t\""}) {
    EXPECT_EQ(decode("1"s + extension + "\r\nx\r\n0" + extension + "\r\n\r\n").data, "x") << extension;
  }
}

TEST(Http1Chunks, ABadExtensionIsRefused) {  // threat 28
  for (const std::string& extension : {
           ";"s,         ";="s,     ";a="s,         ";;a"s,       ";a;"s,           "; a"s,
           " ;a"s,       ";a =b"s,  ";a= b"s,       ";a=b c"s,    ";a=\"b"s,        ";a=\"b\"c"s,
           ";a=b\"c\""s, ";\"a\""s, ";a=\"\r\n\""s, ";a=\"\n\""s, ";a=\"\\\r\n\""s, ";a=\"\0\""s,
           ";a\n"s,      ";a=b=c"s, ";a=\"b\" ;c"s, ";\x7f"s,
       }) {
    EXPECT_TRUE(refused("1" + extension + "\r\nx\r\n0\r\n\r\n")) << extension;
  }
}

TEST(Http1Chunks, ASizeLineHasALimit) {
  const auto line = [](std::size_t length) { return "1;" + std::string(length - 4, 'a') + "\r\n"; };
  EXPECT_FALSE(refused(line(chunk_line_bytes_max) + "x\r\n0\r\n\r\n"));
  EXPECT_TRUE(refused(line(chunk_line_bytes_max + 1) + "x\r\n0\r\n\r\n"));
  EXPECT_TRUE(refused("1;" + std::string(chunk_line_bytes_max, 'a'))) << "before the line's end is there";
  EXPECT_FALSE(refused(line(200) + "x\r\n" + line(200) + "x\r\n")) << "counted for each line anew";
}

TEST(Http1Chunks, TrailersAreFieldsOfTheirOwn) {
  const Decoded decoded = decode("0\r\nX-Sum: abc \r\ngrpc-status:0\r\nContent-Digest: d\r\n\r\n");
  EXPECT_TRUE(decoded.finished);
  EXPECT_EQ(decoded.trailers, (kit::Fields{{"X-Sum", "abc"}, {"grpc-status", "0"}, {"Content-Digest", "d"}}));
}

TEST(Http1Chunks, TrailersThatWouldChangeAJudgedMessageAreDropped) {  // threats 28, 39
  for (const char* name :
       {"Host", "Content-Length", "transfer-encoding", "Authorization", "Proxy-Authorization", "Cookie",
        "Set-Cookie", "Connection", "Upgrade", "TE", "Trailer", "Expect", "Content-Type", "Content-Encoding",
        "Content-Range", "Cache-Control", "If-Match", "Range", "Location"}) {
    const Decoded decoded = decode("0\r\n"s + name + ": x\r\nKept: y\r\n\r\n");
    EXPECT_TRUE(decoded.finished);
    EXPECT_EQ(decoded.trailers, (kit::Fields{{"Kept", "y"}})) << name;
  }
}

TEST(Http1Chunks, BadTrailersAreRefused) {  // threat 28
  for (const std::string& lines :
       {"A : b\r\n"s, " A: b\r\n"s, "A: b\r\n c\r\n"s, "A\r\n"s, ": b\r\n"s, "A: \0\r\n"s, "A: b\n"s,
        "A: b\rC: d\r\n"s, "\n"s, "GET / HTTP/1.1\r\n"s}) {
    EXPECT_TRUE(refused("0\r\n" + lines + "\r\n")) << lines;
  }
}

TEST(Http1Chunks, TrailersHaveALimit) {
  const auto section = [](std::size_t length) { return "A: " + std::string(length - 7, 'a') + "\r\n\r\n"; };
  EXPECT_TRUE(decode("0\r\n" + section(trailer_bytes_max)).finished);
  EXPECT_EQ(decode("0\r\n" + section(trailer_bytes_max) + "next").rest, "next");
  EXPECT_TRUE(refused("0\r\n" + section(trailer_bytes_max + 1)));
  std::string many = "0\r\n";
  for (std::size_t i = 0; i < head_fields_max; ++i) many += "A: b\r\n";
  EXPECT_TRUE(decode(many + "\r\n").finished);
  EXPECT_TRUE(refused(many + "A: b\r\n\r\n"));
}

TEST(Http1Chunks, TrailersStayValidWhenTheDecoderIsMoved) {
  ChunkDecoder first;
  ASSERT_TRUE(first.step("0\r\nA: b\r\n\r\n").value().finished);
  const ChunkDecoder second = std::move(first);
  ASSERT_EQ(second.trailers().size(), 1u);
  EXPECT_EQ(second.trailers()[0].value, "b");
}

TEST(Http1Chunks, AResetDecoderStartsAnew) {
  ChunkDecoder decoder;
  EXPECT_FALSE(decoder.step("1\r\nab"s + "c").value().finished);
  EXPECT_FALSE(decoder.step("bc"));
  decoder.reset();
  const Result<ChunkDecoder::Step> step = decoder.step("0\r\nA: b\r\n\r\n");
  ASSERT_TRUE(step);
  EXPECT_TRUE(step->finished);
  const Result<ChunkDecoder::Step> after = decoder.step("more");
  ASSERT_TRUE(after);
  EXPECT_EQ(after->consumed, 0u);
  EXPECT_TRUE(after->finished);
  decoder.reset();
  EXPECT_TRUE(decoder.trailers().empty());
  EXPECT_FALSE(decoder.step("0\r\n\nA: b and more")) << "a new section is looked at from its first byte";
}

TEST(Http1Chunks, PiecesOfAnySizeSayTheSame) {
  for (const std::string& bytes : {
           "5;a=\"\\\"x\"\r\nhello\r\n0010\r\n0123456789abcdef\r\n0;z\r\nA: b\r\nHost: x\r\n\r\nrest"s,
           "1\r\na\r\n0\r\n\r\n"s,
           "1\r\nab\r\n"s,
           "2;a=\r\n"s,
           "0\r\nA: b\r\n c\r\n\r\n"s,
           "1\r\na\r\n0\r\n\n"s,
       }) {
    const Decoded whole = decode(bytes);
    for (std::size_t piece = 1; piece < bytes.size(); ++piece) {
      EXPECT_EQ(decode(bytes, piece), whole) << bytes << " in pieces of " << piece;
    }
  }
}

}  // namespace
}  // namespace postern::wire
