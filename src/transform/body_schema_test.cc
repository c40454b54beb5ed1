#include "transform/body_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>

namespace postern::transform {
namespace {

using testing::HasSubstr;
using testing::Not;

std::shared_ptr<const BodySchema> compiled(std::string_view schema) {
  auto made = BodySchema::compile(schema);
  if (!made) {
    ADD_FAILURE() << schema << ": " << made.error();
    std::abort();
  }
  return *made;
}

std::string complaint(std::string_view schema, std::string_view body) {
  const auto valid = compiled(schema)->validate(body);
  return valid ? "" : valid.error();
}

struct Case {
  const char* schema;
  std::vector<const char*> good, bad;
};

// python3-jsonschema says the same about them, but for multiples of 0.01, which it holds to binary fractions.
const std::vector<Case> cases = {
    {R"(true)", {"1", "{}"}, {}},
    {R"(false)", {}, {"1"}},
    {R"({"type":"integer"})", {"1", "-2", "1.0"}, {"1.5", "\"1\"", "true", "null"}},
    {R"({"type":"number"})", {"1", "1.5"}, {"\"1\"", "false"}},
    {R"({"type":["string","null"]})", {"\"\"", "null"}, {"0", "[]"}},
    {R"({"enum":["a",1,{"b":[2]}]})", {"\"a\"", "1", "1.0", "{\"b\":[2]}"}, {"\"b\"", "true", "{\"b\":[3]}"}},
    {R"({"const":false})", {"false"}, {"0", "null"}},
    {R"({"minimum":1,"exclusiveMaximum":3})", {"1", "2.9", "\"x\""}, {"0", "3"}},
    {R"({"maximum":3,"exclusiveMinimum":1})", {"3", "1.1"}, {"1", "3.1"}},
    {R"({"multipleOf":3})", {"9", "-9", "0"}, {"10", "-10", "1.5"}},
    {R"({"multipleOf":0.01})", {"0.07", "19.99", "3"}, {"0.075"}},
    {R"({"minLength":2,"maxLength":3})", {"\"ab\"", "\"\u00e4\u00f6\u00fc\"", "1"}, {"\"a\"", "\"abcd\""}},
    {R"({"pattern":"^a+$"})", {"\"aa\"", "3"}, {"\"ab\"", "\"\""}},
    {R"({"minItems":1,"maxItems":2})", {"[1]", "[1,2]", "{}"}, {"[]", "[1,2,3]"}},
    {R"({"uniqueItems":true})",
     {"[1,2,\"1\",true]", "[{\"a\":1},{\"a\":2}]"},
     {"[1,2,1]", "[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]", "[1,1.0]"}},
    {R"({"items":{"type":"string"}})", {"[]", "[\"a\"]"}, {"[\"a\",1]"}},
    {R"({"prefixItems":[{"type":"string"}],"items":false})", {"[]", "[\"a\"]"}, {"[1]", "[\"a\",1]"}},
    {R"({"contains":{"const":1},"minContains":2,"maxContains":3})",
     {"[1,1]", "[1,2,1,1]"},
     {"[1]", "[1,1,1,1]", "[]"}},
    {R"({"required":["a"],"properties":{"a":{"type":"integer"}}})",
     {"{\"a\":1}", "{\"a\":1,\"b\":2}", "[]"},
     {"{}", "{\"a\":\"1\"}"}},
    {R"({"properties":{"a":{}},"patternProperties":{"^x-":{"type":"string"}},"additionalProperties":false})",
     {"{\"a\":1,\"x-b\":\"c\"}"},
     {"{\"b\":1}", "{\"x-b\":1}"}},
    {R"({"additionalProperties":{"type":"integer"}})", {"{\"a\":1}"}, {"{\"a\":\"b\"}"}},
    {R"({"propertyNames":{"maxLength":2}})", {"{\"ab\":1}"}, {"{\"abc\":1}"}},
    {R"({"minProperties":1,"maxProperties":1})", {"{\"a\":1}"}, {"{}", "{\"a\":1,\"b\":1}"}},
    {R"({"dependentRequired":{"a":["b"]}})", {"{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"}, {"{\"a\":1}"}},
    {R"({"dependentSchemas":{"a":{"required":["b"]}}})", {"{}", "{\"a\":1,\"b\":1}"}, {"{\"a\":1}"}},
    {R"({"allOf":[{"minimum":1},{"maximum":2}]})", {"1", "2"}, {"0", "3"}},
    {R"({"anyOf":[{"type":"string"},{"minimum":5}]})", {"\"a\"", "5"}, {"4"}},
    {R"({"oneOf":[{"type":"integer"},{"minimum":5}]})", {"4", "5.5"}, {"5", "1.5"}},
    {R"({"not":{"type":"string"}})", {"1"}, {"\"a\""}},
    {R"({"if":{"type":"string"},"then":{"minLength":2},"else":{"minimum":2}})",
     {"\"ab\"", "2"},
     {"\"a\"", "1"}},
    {R"({"$defs":{"n":{"minimum":1}},"properties":{"a":{"$ref":"#/$defs/n","maximum":2}}})",
     {"{\"a\":1}"},
     {"{\"a\":0}", "{\"a\":3}"}},
    {R"({"properties":{"next":{"$ref":"#"}},"required":["v"]})",
     {"{\"v\":1,\"next\":{\"v\":2}}"},
     {"{\"v\":1,\"next\":{}}"}},
    {R"({"$defs":{"a/b~c":{"const":1}},"$ref":"#/$defs/a~1b~0c"})", {"1"}, {"2"}},
};

TEST(BodySchema, HoldsBodiesToTheirSchema) {
  for (const auto& one : cases) {
    const auto schema = compiled(one.schema);
    for (const char* body : one.good)
      EXPECT_TRUE(schema->validate(body))
          << one.schema << " " << body << ": " << schema->validate(body).error();
    for (const char* body : one.bad) EXPECT_FALSE(schema->validate(body)) << one.schema << " " << body;
  }
}

TEST(BodySchema, KnowsTheFormsOfDraft7) {
  const auto items = compiled(R"({"items":[{"type":"string"}],"additionalItems":false})");
  EXPECT_TRUE(items->validate(R"(["a"])"));
  EXPECT_FALSE(items->validate(R"(["a",1])"));
  const auto dependencies = compiled(
      R"({"definitions":{"x":{"required":["c"]}},"dependencies":{"a":["b"],"b":{"$ref":"#/definitions/x"}}})");
  EXPECT_FALSE(dependencies->validate(R"({"a":1})"));
  EXPECT_FALSE(dependencies->validate(R"({"b":1})"));
  EXPECT_TRUE(dependencies->validate(R"({"a":1,"b":1,"c":1})"));
}

TEST(BodySchema, SaysWhereAndNeverWhat) {
  constexpr std::string_view schema =
      R"({"properties":{"messages":{"items":{"properties":{"role":{"enum":["user"]},"n":{"type":"integer"}},
    "additionalProperties":false,"required":["role"]}},"extra":{"additionalProperties":{"type":"string"}}}})";
  EXPECT_EQ("at /messages/1/role: is none of the allowed values",
            complaint(schema, R"({"messages":[{"role":"user"},{"role":"s3cret"}]})"));
  EXPECT_EQ("at /messages/0: has a property that is not allowed",
            complaint(schema, R"({"messages":[{"role":"user","s3cret":1}]})"));
  EXPECT_EQ("at /messages/0: lacks the property 'role'", complaint(schema, R"({"messages":[{}]})"));
  EXPECT_EQ("at /extra/*: is not of the required type", complaint(schema, R"({"extra":{"s3cret":1}})"));
  EXPECT_EQ("at /: is not JSON", complaint(schema, "s3cret"));
  EXPECT_EQ("at /: is not JSON", complaint(schema, "{\"a\":\"\xff\"}"));
  EXPECT_EQ("at /: is not JSON", complaint(schema, ""));
}

TEST(BodySchema, ANameTwiceIsRefused) {
  EXPECT_EQ("at /: has a name twice in one object", complaint("true", R"({"a":{"b":1,"b":2}})"));
  EXPECT_EQ("at /: has a name twice in one object", complaint("true", R"({"a":1,"\u0061":2})"));
  EXPECT_EQ("", complaint("true", R"({"a":{"b":1},"b":2})"));
}

TEST(BodySchema, WhatWouldNotBeKeptIsRefused) {
  const std::vector<std::pair<std::string, const char*>> refused = {
      {R"({"properties":{"id":{"nullable":true}}})",
       "at /properties/id: the keyword 'nullable' is not known"},
      {R"({"$ref":"https://example.com/schema.json"})", "at /$ref: a $ref points into the schema itself"},
      {R"({"$ref":"other.json#/a"})", "nothing is fetched"},
      {R"({"$ref":"#/$defs/none"})", "leads nowhere"},
      {R"({"$ref":"#anchor"})", "is a JSON pointer"},
      {R"x({"pattern":"(a+)+\\1"})x", "RE2 does not take the expression"},
      {R"x({"pattern":"(?=a)"})x", "RE2 does not take the expression"},
      {R"({"type":"text"})", "at /type: this is no type"},
      {R"({"exclusiveMinimum":true})", "this is a number"},
      {R"({"minLength":-1})", "this is a count"},
      {R"({"multipleOf":0})", "above 0"},
      {R"({"allOf":[]})", "this is a list of schemas"},
      {R"({"items":3})", "at /items: a schema is an object or a boolean"},
      {R"({"unevaluatedProperties":false})", "not known"},
      {R"({"a":1,"a":2})", "at /: the schema has a name twice"},
      {R"({)", "at /: the schema is not JSON"},
      {std::string(300'000, ' '), "larger than"},
  };
  for (const auto& [schema, sentence] : refused) {
    const auto made = BodySchema::compile(schema);
    ASSERT_FALSE(made) << schema;
    EXPECT_THAT(made.error(), HasSubstr(sentence)) << schema;
  }
}

TEST(BodySchema, DepthHasALimit) {
  EXPECT_EQ("", complaint("true", std::string(128, '[') + std::string(128, ']')));
  EXPECT_EQ("at /: is nested deeper than 128",
            complaint("true", std::string(129, '[') + std::string(129, ']')));
  EXPECT_EQ("at /: is nested deeper than 128", complaint("true", std::string(1'000'000, '[')));
  EXPECT_EQ("", complaint("true", "\"" + std::string(1000, '[') + "\\\"[\""));
  EXPECT_FALSE(BodySchema::compile(std::string(1'000'000, '[')));
}

TEST(BodySchema, ASchemaThatLeadsToItselfEnds) {
  EXPECT_THAT(complaint(R"({"$ref":"#"})", "1"), HasSubstr("too deeply"));
  EXPECT_THAT(complaint(R"({"allOf":[{"$ref":"#"},{"$ref":"#"}]})", "1"), HasSubstr("too deeply"));
  EXPECT_THAT(
      complaint(R"({"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"})", "1"),
      HasSubstr("too deeply"));
  std::string chain = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 5000; ++i)
    chain += "\"d" + std::to_string(i) + "\":{\"$ref\":\"#/$defs/d" + std::to_string(i + 1) + "\"},";
  const auto made = BodySchema::compile(chain + R"("d5000":true}})");
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error(), HasSubstr("one $ref leads to the next too often"));
}

TEST(BodySchema, WorkHasALimit) {
  // Each level asks twice for the next: 2^40 ways.
  std::string schema = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 40; ++i) {
    const std::string next = R"({"$ref":"#/$defs/d)" + std::to_string(i + 1) + "\"}";
    schema += "\"d" + std::to_string(i) + R"(":{"anyOf":[)" + next + "," + next + "]},";
  }
  EXPECT_THAT(complaint(schema + R"("d40":false}})", "1"), HasSubstr("too much work"));
}

TEST(BodySchema, ManyUniqueItemsAreNoWork) {
  std::string body = "[";
  for (int i = 0; i < 200'000; ++i) body += std::to_string(i) + ",";
  EXPECT_EQ("", complaint(R"({"uniqueItems":true,"items":{"type":"integer"}})", body + "-1]"));
  EXPECT_EQ("at /: has an item twice", complaint(R"({"uniqueItems":true})", body + "77]"));
}

TEST(BodySchema, PatternsTakeLinearTime) {
  EXPECT_EQ("at /: does not match its pattern",
            complaint(R"x({"pattern":"^(a+)+$"})x", "\"" + std::string(1 << 20, 'a') + "b\""));
}

TEST(BodySchema, AnyBytesGetAnAnswer) {
  const auto schema = compiled(R"({"properties":{"a":{"$ref":"#"}},"items":{"$ref":"#"},"maxLength":5})");
  std::mt19937 random(9);
  constexpr std::string_view alphabet = "{}[]\",:\\ua0123.eE+-truefalsn ";
  for (int round = 0; round < 20'000; ++round) {
    std::string body;
    for (std::size_t size = random() % 24; size > 0; --size) body += alphabet[random() % alphabet.size()];
    (void)schema->validate(body);
  }
}

}  // namespace
}  // namespace postern::transform
