#include "policy/opaque_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policy/tree.h"

namespace postern::policy {
namespace {

constexpr std::string_view text = R"({
  "rules": [
    {"name": "open", "match_hosts": ["a.example.com"],
     "headers": [{"name": "A", "type": "plaintext", "value": "seen"}]},
    {"name": "shut", "match_hosts": ["b.example.com"],
     "headers": [{"name": "A", "type": "workspace_secret", "value": "{KEY}"},
                 {"name": "B", "type": "opaque", "value": "canary-1"},
                 {"name": "C", "type": "opaque"}]},
    {"name": "cloud", "type": "aws",
     "aws": {"access_key_id": {"type": "opaque", "value": "canary-2"},
             "secret_access_key": {"type": "opaque", "value": "canary-3"}}}],
  "callbacks": [{"match_hosts": ["c.example.com"], "url": "https://d.example.com/", "ttl_seconds": 60,
                 "request_headers": [{"name": "X", "type": "opaque", "value": "canary-4"}]}]})";

Document parsed(std::string_view json = text) {
  auto document = parse_document(json, Format::json, UnknownFields::tolerate);
  EXPECT_TRUE(document);
  return std::move(*document);
}

std::vector<std::string> places(const std::vector<PlacedValue>& values) {
  std::vector<std::string> out;
  for (const PlacedValue& value : values) out.push_back(value.place);
  return out;
}

std::vector<std::string> wheres(const std::vector<Problem>& problems) {
  std::vector<std::string> out;
  for (const Problem& problem : problems) out.push_back(problem.where);
  return out;
}

TEST(OpaqueValues, AreTakenFromEveryPlaceAndPutBackThere) {
  Document document = parsed();
  const std::string shown = print(document);
  auto values = take_opaque_values(document);
  EXPECT_THAT(places(values),
              testing::ElementsAre("rules[1].headers[1]", "rules[2].aws.access_key_id",
                                   "rules[2].aws.secret_access_key", "callbacks[0].request_headers[0]"));
  EXPECT_TRUE(document.rules[1].headers[1].value.empty());

  Document again = parsed(shown);
  put_opaque_values(again, std::move(values));
  EXPECT_EQ(print(again), shown);
  EXPECT_EQ(take_opaque_values(again).size(), 4u);
}

TEST(OpaqueValues, OfAPlaceThatIsGoneAreDropped) {
  Document document = parsed();
  auto values = take_opaque_values(document);
  Document other = parsed(R"({"rules": [{"name": "x", "match_hosts": ["a.example.com"]}]})");
  put_opaque_values(other, std::move(values));
  EXPECT_TRUE(take_opaque_values(other).empty());
}

TEST(Document, IsReadFromATreeAsFromItsText) {
  const auto tree = read_tree(R"({"name": "box", "proxy_config": )" + std::string(text) + "}", Format::json);
  ASSERT_TRUE(tree);
  auto document = read_document(*tree->find("proxy_config"));
  ASSERT_TRUE(document);
  EXPECT_EQ(print(*document), print(parsed()));

  // The same mistakes are found in the same places.
  const std::string broken = R"({"rules": [{"name": "a"}, {"nome": 1}], "access_control": 1})";
  const auto whole = read_tree("{\"p\": " + broken + "}", Format::json);
  const auto from_tree = read_document(*whole->find("p"));
  const auto from_text = parse_document(broken, Format::json, UnknownFields::tolerate);
  ASSERT_FALSE(from_tree);
  ASSERT_FALSE(from_text);
  EXPECT_EQ(wheres(from_tree.error()), wheres(from_text.error()));
  EXPECT_THAT(wheres(from_tree.error()), testing::Contains("rules[1]"));
}

}  // namespace
}  // namespace postern::policy
