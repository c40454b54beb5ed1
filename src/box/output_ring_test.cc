#include "box/output_ring.h"

#include <gtest/gtest.h>
#include <random>

namespace postern::box {
namespace {

TEST(OutputRing, KeepsTheEndByItsPlace) {
  OutputRing ring(8);
  EXPECT_EQ(ring.copy(0, 10), "");
  ring.append("abc");
  EXPECT_EQ(ring.copy(0, 10), "abc");
  EXPECT_EQ(ring.copy(1, 1), "b");
  EXPECT_EQ(ring.copy(3, 10), "");
  ring.append("defgh");
  EXPECT_EQ(ring.begin(), 0u);
  ring.append("ij");
  EXPECT_EQ(ring.begin(), 2u);
  EXPECT_EQ(ring.copy(2, 10), "cdefghij");
  EXPECT_EQ(ring.copy(1, 10), "") << "gone";
  ring.append("0123456789abcdef");
  EXPECT_EQ(ring.end(), 26u);
  EXPECT_EQ(ring.copy(18, 10), "89abcdef");
}

TEST(OutputRing, IsTheEndOfTheWholeForAnyPieces) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    OutputRing ring(1 + random() % 64);
    std::string whole;
    for (int i = 0; i < 50; ++i) {
      std::string piece(random() % 100, 0);
      for (char& c : piece) c = static_cast<char>(random());
      ring.append(piece);
      whole += piece;
      ASSERT_EQ(ring.end(), whole.size());
      ASSERT_EQ(ring.copy(ring.begin(), 1000), whole.substr(ring.begin()));
      const std::uint64_t from = ring.begin() + random() % 10;
      ASSERT_EQ(ring.copy(from, 5), from < whole.size() ? whole.substr(from, 5) : "");
    }
  }
}

std::string chunk(std::string_view bytes, bool ended = false, std::size_t max = 100) {
  std::size_t used = 0;
  std::string out = utf8_chunk(bytes, ended, max, used);
  EXPECT_EQ(out.size(), used) << "places stay right";
  return out;
}

TEST(Utf8Chunk, HasWholeCharactersOnly) {
  EXPECT_EQ(chunk("a\u00e9\u20ac\U0001f600"), "a\u00e9\u20ac\U0001f600");
  EXPECT_EQ(chunk("a\xe2\x82"), "a") << "the rest may come";
  EXPECT_EQ(chunk("a\xe2\x82", true), "a??") << "it never came";
  EXPECT_EQ(chunk("\xf0\x9f\x98"), "");
  EXPECT_EQ(chunk("a\u20acb", false, 3), "a") << "not split by the limit either";
  EXPECT_EQ(chunk("a\u20acb", false, 4), "a\u20ac");
  EXPECT_EQ(chunk(""), "");
}

TEST(Utf8Chunk, WhatIsNoneIsReplacedByteByByte) {
  EXPECT_EQ(chunk("a\xff\xfe"
                  "b"),
            "a??b");
  EXPECT_EQ(chunk("\xc0\xaf"), "??") << "longer than need be";
  EXPECT_EQ(chunk("\xe0\x80\x80"), "???");
  EXPECT_EQ(chunk("\xed\xa0\x80"), "???") << "a surrogate";
  EXPECT_EQ(chunk("\xf4\x90\x80\x80"), "????");
  EXPECT_EQ(chunk("\xe2\x28\xa1"), "?(?");
  EXPECT_EQ(chunk("\x80"), "?");
}

TEST(Utf8Chunk, OfAnyPiecesIsThatOfTheWhole) {
  std::mt19937 random(2);
  for (int round = 0; round < 500; ++round) {
    std::string whole;
    for (int i = 0; i < 40; ++i)
      whole += random() % 3 == 0 ? static_cast<char>(random())
                                 : std::string("\u20ac\U0001f600\u00e9").at(random() % 9);
    std::size_t used = 0;
    const std::string expected = utf8_chunk(whole, true, 10'000, used);
    std::string out, waiting;
    for (std::size_t at = 0; at < whole.size();) {
      const std::size_t size = std::min<std::size_t>(1 + random() % 5, whole.size() - at);
      waiting += whole.substr(at, size);
      at += size;
      out += utf8_chunk(waiting, at == whole.size(), 10'000, used);
      waiting.erase(0, used);
    }
    ASSERT_EQ(out, expected);
  }
}

}  // namespace
}  // namespace postern::box
