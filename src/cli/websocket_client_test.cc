#include "cli/websocket_client.h"

#include <gtest/gtest.h>

#include "cli/client_command.h"

namespace postern::cli {
namespace {

using Kind = FrameReader::Kind;

std::string frame(unsigned char first, const std::string& payload) {
  std::string out{static_cast<char>(first), static_cast<char>(payload.size())};
  return out + payload;
}

/// "text:payload …", or "broken", of bytes that come one by one.
std::string read(const std::string& bytes) {
  FrameReader reader;
  std::string out;
  for (const char c : bytes) {
    reader.add({&c, 1});
    while (const auto message = reader.next())
      out += std::to_string(static_cast<int>(message->kind)) + ":" + message->data + " ";
  }
  return out + (reader.broken() ? "broken" : "");
}

TEST(FrameReader, MessagesComeWholeHoweverTheyWereCut) {
  EXPECT_EQ(read(frame(0x81, "a") + frame(0x82, "")), "1:a 2: ");
  EXPECT_EQ(read(frame(0x01, "a") + frame(0x89, "p") + frame(0x00, "b") + frame(0x80, "c")), "9:p 1:abc ");
  EXPECT_EQ(read(std::string("\x82\x7e\x00\x7e", 4) + std::string(126, 'x')),
            "2:" + std::string(126, 'x') + " ");
  EXPECT_EQ(read(std::string("\x82\x7f\0\0\0\0\0\0\0\1y", 11)), "2:y ");
}

TEST(FrameReader, WhatNoServerSaysEndsIt) {
  for (const std::string& bytes :
       {frame(0xC1, ""), frame(0x83, ""), frame(0x8B, ""), std::string("\x81\x81"), frame(0x80, ""),
        frame(0x09, ""), frame(0x01, "a") + frame(0x81, "b"), std::string("\x89\x7e\x00\x7e", 4),
        std::string("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff")})
    EXPECT_EQ(read(bytes + "more"), "broken");
}

TEST(FrameReader, AMessageOfPiecesHasALimit) {
  FrameReader reader;
  const std::string piece = std::string("\x02\x7f\0\0\0\0\0\x10\0\0", 10) + std::string(1 << 20, 'x');
  std::string next = piece;
  next[0] = 0;
  reader.add(piece);
  EXPECT_FALSE(reader.next());
  for (int i = 0; i < 3; ++i) reader.add(next);
  EXPECT_FALSE(reader.next());
  EXPECT_FALSE(reader.broken());
  reader.add(next);
  EXPECT_FALSE(reader.next());
  EXPECT_TRUE(reader.broken());
}

TEST(ClientFrame, IsMaskedAndSaysItsLength) {
  for (const std::size_t size : {0, 1, 125, 126, 65535, 65536}) {
    const std::string payload(size, 'p');
    const std::string made = client_frame(Kind::binary, payload);
    const std::size_t head = size < 126 ? 2 : size < 65536 ? 4 : 10;
    ASSERT_EQ(made.size(), head + 4 + size);
    EXPECT_EQ(static_cast<unsigned char>(made[0]), 0x82);
    EXPECT_NE(made[1] & 0x80, 0);
    for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(made[head + 4 + i] ^ made[head + i % 4], 'p');
  }
}

TEST(Spans, AreReadAndWritten) {
  EXPECT_EQ(parse_span("90s"), std::chrono::seconds(90));
  EXPECT_EQ(parse_span("2d"), std::chrono::days(2));
  EXPECT_EQ(parse_span("0"), std::chrono::seconds(0));
  for (const char* wrong : {"", "1", "m", "1.5h", "-1s", "1w", "99999999999s", "999999d", "1h30m"})
    EXPECT_FALSE(parse_span(wrong)) << wrong;
  EXPECT_EQ(span_text(90), "90s");
  EXPECT_EQ(span_text(600), "10m");
  EXPECT_EQ(span_text(172'800), "2d");
}

TEST(TextTable, CellsAreHarmlessAndStandBelowEachOther) {
  TextTable table({"NAME", "B"});
  table.add({"a\x1b[31m\n", std::string(100, 'x')});
  EXPECT_EQ(table.text(), "NAME     B\na?[31m?  " + std::string(57, 'x') + "...\n");
}

}  // namespace
}  // namespace postern::cli
