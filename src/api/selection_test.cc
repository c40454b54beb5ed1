#include "api/selection.h"

#include <gtest/gtest.h>

namespace postern::api {
namespace {

constexpr const char* tag = "\"a,b\"";
constexpr const char* modified = "Fri, 02 Jan 2026 00:00:00 GMT";

Selection of(control::Fields fields, std::uint64_t size = 100, const char* method = "GET") {
  control::Request request;
  request.method = method;
  request.fields = std::move(fields);
  return select(request, tag, modified, size);
}

void expect_range(const char* text, int status, std::uint64_t first = 0, std::uint64_t length = 100) {
  const Selection part = of({{"Range", text}});
  EXPECT_EQ(part.status, status) << text;
  if (status == 416) return;
  EXPECT_EQ(part.first, first) << text;
  EXPECT_EQ(part.length, length) << text;
}

TEST(Selection, ARangeIsAPart) {
  expect_range("bytes=0-0", 206, 0, 1);
  expect_range("bytes=99-", 206, 99, 1);
  expect_range("bytes=10-1000", 206, 10, 90);
  expect_range("bytes=-1", 206, 99, 1);
  expect_range("bytes=-1000", 206, 0, 100);
  expect_range("bytes=5-99999999999999999999999999", 206, 5, 95);
  expect_range("bytes=0-18446744073709551615", 206, 0, 100);
}

TEST(Selection, BehindTheEndThereIsNothing) {
  expect_range("bytes=100-", 416);
  expect_range("bytes=18446744073709551615-18446744073709551615", 416);
  expect_range("bytes=-0", 416);
  EXPECT_EQ(of({{"Range", "bytes=0-"}}, 0).status, 416);
  EXPECT_EQ(of({{"Range", "bytes=-5"}}, 0).status, 416);
}

TEST(Selection, WhatIsNoRangeOrSeveralIsAsIfThereWereNone) {
  for (const char* text : {"", "bytes", "bytes=", "bytes=-", "bytes=a-", "bytes=5-4", "bytes=0-1,2-3",
                           "items=0-1", "bytes=+1-2", "bytes=1 - 2", "bytes=0x1-2", "bytes=--1"})
    expect_range(text, 200);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}, {"Range", "bytes=1-1"}}).status, 200);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}}, 100, "HEAD").status, 200);
}

TEST(Selection, ConditionsAreJudgedByTheTag) {
  EXPECT_EQ(of({{"If-None-Match", tag}}).status, 304);
  EXPECT_EQ(of({{"If-None-Match", "\"x\", W/\"a,b\""}}).status, 304);
  EXPECT_EQ(of({{"If-None-Match", "*"}}).status, 304);
  EXPECT_EQ(of({{"If-None-Match", "\"a\",\"b\""}}).status, 200);
  EXPECT_EQ(of({{"If-None-Match", "a,b"}}).status, 200);
  EXPECT_EQ(of({{"If-None-Match", "\"x\""}, {"If-Modified-Since", modified}}).status, 200);
  EXPECT_EQ(of({{"If-Modified-Since", modified}}).status, 304);
  EXPECT_EQ(of({{"If-Match", tag}}).status, 200);
  EXPECT_EQ(of({{"If-Match", "W/\"a,b\""}}).status, 412);
  EXPECT_EQ(of({{"If-Match", "\"x\""}}).status, 412);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}, {"If-Range", tag}}).status, 206);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}, {"If-Range", "W/\"a,b\""}}).status, 200);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}, {"If-Range", modified}}).status, 200);
  EXPECT_EQ(of({{"Range", "bytes=0-0"}, {"If-None-Match", tag}}).status, 304);
}

}  // namespace
}  // namespace postern::api
