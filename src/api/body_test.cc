#include "api/body.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::api {
namespace {

using testing::HasSubstr;

policy::Node body(std::string_view text) {
  auto read = read_body(text);
  if (!read) throw std::runtime_error(read.error().body);
  return std::move(*read);
}

TEST(Body, IsAMappingOrNothing) {
  EXPECT_TRUE(body("").members.empty());
  EXPECT_TRUE(body(" \r\n").members.empty());
  EXPECT_EQ(read_body("[1]").error().status, 422);
  EXPECT_EQ(read_body("\"text\"").error().status, 422);
  for (const char* broken : {"{", "{\"a\": 1,}", "{\"a\": 1} x", "{\"a\": 1, \"a\": 2}", "{'a': 1}", "\xff"})
    EXPECT_EQ(read_body(broken).error().status, 400) << broken;
}

TEST(BodyFields, OfTheRightKindAreRead) {
  const auto tree = body(R"({"t": "x", "n": 5, "f": true, "m": {"a": "b"}, "l": ["c"], "o": {"i": null}})");
  BodyFields fields(tree);
  EXPECT_EQ(fields.text("t"), "x");
  EXPECT_EQ(fields.integer("n", 0, 5), 5);
  EXPECT_EQ(fields.flag("f"), true);
  EXPECT_EQ(fields.strings("m", 1)->at("a"), "b");
  EXPECT_EQ(fields.list("l", 1)->front(), "c");
  EXPECT_FALSE(BodyFields(*fields.mapping("o")).has("i")) << "null is as good as absent";
  EXPECT_FALSE(fields.text("none"));
  EXPECT_TRUE(fields.good());
}

TEST(BodyFields, ThatAreWrongAreAllNamed) {
  const auto tree =
      body(R"({"t": 1, "n": 1.5, "big": 99999999999999999999, "f": "true", "m": {"a": 1}, "l": "c",
                             "o": {"x": 1}, "zero": "a\u0000b"})");
  BodyFields fields(tree);
  EXPECT_FALSE(fields.text("t"));
  EXPECT_FALSE(fields.integer("n", 0, 5));
  EXPECT_FALSE(fields.integer("big", 0, INT64_MAX));
  EXPECT_FALSE(fields.flag("f"));
  fields.strings("m", 5);
  EXPECT_FALSE(fields.list("l", 5));
  EXPECT_FALSE(fields.text("zero"));
  BodyFields inner(*fields.mapping("o"), "o");
  EXPECT_FALSE(inner.text("x"));
  fields.take_problems(inner);
  EXPECT_FALSE(fields.good());
  const auto refusal = fields.refusal();
  EXPECT_EQ(refusal.status, 422);
  for (const char* place :
       {R"(["body","t"])", R"(["body","n"])", R"(["body","big"])", R"(["body","f"])", R"(["body","m","a"])",
        R"(["body","l"])", R"(["body","zero"])", R"(["body","o","x"])"})
    EXPECT_THAT(refusal.body, HasSubstr(place));
}

TEST(BodyFields, AreLimited) {
  const auto tree = body(R"({"t": "four", "m": {"a": "1", "b": "2"}, "l": ["1", "2"]})");
  BodyFields fields(tree);
  EXPECT_FALSE(fields.text("t", 3));
  EXPECT_FALSE(fields.strings("m", 1));
  EXPECT_FALSE(fields.list("l", 1));
  EXPECT_FALSE(fields.good());
}

}  // namespace
}  // namespace postern::api
