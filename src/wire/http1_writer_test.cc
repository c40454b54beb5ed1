#include <functional>
#include <gtest/gtest.h>
#include <string>

#include "wire/http1_test_kit.h"
#include "wire/http_writer.h"

namespace postern::wire {
namespace {

using namespace std::string_literals;

/// What stands in a buffer that held "before" after `write` and end().
std::string written(const std::function<void(HeadWriter&)>& write) {
  std::string buffer = "before|";
  HeadWriter writer(buffer);
  write(writer);
  const bool ended = writer.end();
  EXPECT_EQ(ended, buffer != "before|");
  return buffer.substr(7);
}

TEST(Http1Writer, WritesARequestHead) {
  EXPECT_EQ(
      written([](HeadWriter& writer) {
        writer.request_line("POST", "/a?b");
        writer.field("Host", "a.example");
        writer.field("X-Empty", "");
        writer.content_length(18446744073709551615u);
      }),
      "POST /a?b HTTP/1.1\r\nHost: a.example\r\nX-Empty: \r\nContent-Length: 18446744073709551615\r\n\r\n");
}

TEST(Http1Writer, WritesAResponseHead) {
  EXPECT_EQ(written([](HeadWriter& writer) {
              writer.status_line(200, "");
              writer.chunked();
            }),
            "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n");
}

TEST(Http1Writer, NothingIsWrittenWhenAnyPartCouldSplitTheHead) {  // threats 38, 41
  for (const std::string& bad : {"a\r\nEvil: 1"s, "a\rb"s, "a\nb"s, "a\0b"s, "\r\n\r\n"s, "a\x7f"s}) {
    EXPECT_EQ(written([&](HeadWriter& writer) { writer.request_line(bad, "/"); }), "");
    EXPECT_EQ(written([&](HeadWriter& writer) { writer.request_line("GET", "/" + bad); }), "");
    EXPECT_EQ(written([&](HeadWriter& writer) { writer.status_line(200, bad); }), "");
    EXPECT_EQ(written([&](HeadWriter& writer) {
                writer.request_line("GET", "/");
                writer.field("Authorization", bad);
                writer.field("Host", "a");
              }),
              "");
    EXPECT_EQ(written([&](HeadWriter& writer) {
                writer.request_line("GET", "/");
                writer.field(bad, "1");
              }),
              "");
  }
}

TEST(Http1Writer, AHeadHasOneStartLineAndOneLength) {
  const auto start = [](HeadWriter& writer) { writer.status_line(200, "OK"); };
  EXPECT_EQ(written([](HeadWriter&) {}), "");
  EXPECT_EQ(written([](HeadWriter& writer) { writer.field("A", "b"); }), "");
  EXPECT_EQ(written([&](HeadWriter& writer) { start(writer), start(writer); }), "");
  EXPECT_EQ(written([&](HeadWriter& writer) { start(writer), writer.request_line("GET", "/"); }), "");
  EXPECT_EQ(written([&](HeadWriter& writer) { start(writer), writer.chunked(), writer.content_length(1); }),
            "");
  EXPECT_EQ(written([&](HeadWriter& writer) { start(writer), writer.chunked(), writer.chunked(); }), "");
  EXPECT_EQ(written([&](HeadWriter& writer) {
              start(writer), writer.content_length(1), writer.field("content-length", "1");
            }),
            "");
  for (int status : {-1, 0, 99, 1000}) {
    EXPECT_EQ(written([&](HeadWriter& writer) { writer.status_line(status, "OK"); }), "");
  }
  for (const char* target : {"", "/a b", "/#a", "/\xc3\xa9"}) {
    EXPECT_EQ(written([&](HeadWriter& writer) { writer.request_line("GET", target); }), "");
  }
}

TEST(Http1Writer, AHeadThatWasNotEndedWasNotWritten) {
  std::string buffer = "before|";
  {
    HeadWriter(buffer).request_line("GET", "/");
  }
  EXPECT_EQ(buffer, "before|");
}

TEST(Http1Writer, AnEndedHeadIsTheCallers) {
  std::string buffer;
  {
    HeadWriter writer(buffer);
    writer.request_line("GET", "/");
    ASSERT_TRUE(writer.end());
    writer.field("Late", "1");
    EXPECT_FALSE(writer.end());
  }
  EXPECT_EQ(buffer, "GET / HTTP/1.1\r\n\r\n");
}

TEST(Http1Writer, ChunkSizesAreReadBackByTheDecoder) {
  for (std::size_t size : {std::size_t{1}, std::size_t{10}, std::size_t{255}, std::size_t{65536}}) {
    char prefix[20];
    const std::string body =
        std::string(prefix, chunk_prefix(size, prefix)) + std::string(size, 'x') + "\r\n";
    ChunkDecoder decoder;
    const Result<ChunkDecoder::Step> step = decoder.step(body);
    ASSERT_TRUE(step);
    EXPECT_EQ(step->data.size(), size);
  }
  char out[20];
  EXPECT_EQ(std::string(out, chunk_prefix(0, out)), "0\r\n");
  EXPECT_EQ(std::string(out, chunk_prefix(SIZE_MAX, out)), "ffffffffffffffff\r\n");
}

/// Writes what was parsed, with nothing of its own.
std::string rewritten(const kit::Message& message, bool request) {
  std::string buffer;
  HeadWriter writer(buffer);
  if (request) writer.request_line(message.method, message.target);
  if (!request) writer.status_line(message.status, message.reason_phrase);
  for (const auto& [name, value] : message.fields) writer.field(name, value);
  EXPECT_TRUE(writer.end());
  return buffer;
}

TEST(Http1RoundTrip, WhatIsWrittenIsReadTheSameAndHoldsOnlyWhatWasParsed) {
  const std::string requests[] = {
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      "\r\nPOST /a?b=c HTTP/1.1\r\nhost:a:80\r\nX: \t y \t\r\nContent-Length:  007\r\n\r\n",
      "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\nConnection: close, x\r\n\r\n",
      "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Text: "
      "\xc3\xa9\ty\r\n\r\n",
      "OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\nExpect: 100-continue\r\n\r\n",
  };
  for (const std::string& bytes : requests) {
    const kit::Reading first = kit::read(kit::Kind::requests, bytes);
    ASSERT_EQ(first.messages.size(), 1u) << bytes;
    const std::string again = rewritten(first.messages[0], true);
    EXPECT_EQ(kit::read(kit::Kind::requests, again).messages, first.messages) << bytes;
    EXPECT_EQ(rewritten(kit::read(kit::Kind::requests, again).messages[0], true), again);
    EXPECT_LE(again.size(), bytes.size() + first.messages[0].fields.size())
        << "a space after each colon at most";
  }
  const std::string responses[] = {
      "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 301\r\nLocation: /\r\nTransfer-Encoding: chunked\r\n\r\n",
      "HTTP/1.1 101 \xc3\xa9\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
      "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: \"a\"\r\n\r\n",
  };
  for (const std::string& bytes : responses) {
    const kit::Reading first = kit::read(kit::Kind::responses, bytes);
    ASSERT_EQ(first.messages.size(), 1u) << bytes;
    const std::string again = rewritten(first.messages[0], false);
    EXPECT_EQ(kit::read(kit::Kind::responses, again).messages, first.messages) << bytes;
  }
}

}  // namespace
}  // namespace postern::wire
