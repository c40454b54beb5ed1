#include "policy/rule_index.h"

#include <fmt/format.h>
#include <functional>
#include <gtest/gtest.h>

namespace postern::policy {
namespace {

constexpr const char* api = "api.example.com";

/// The most rules that a policy can have, all for the same host unless `fill` says otherwise. What is counted
/// is how many of them a request has to be matched with: never time.
class ManyRulesTest : public testing::Test {
 protected:
  void make(const std::function<void(Rule&, std::size_t)>& fill) {
    rules_.resize(rules_max);
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      fill(rules_[i], i);
      if (rules_[i].match_hosts.empty()) rules_[i].match_hosts.push_back({api, {api, false}});
      index_.add(rules_[i], static_cast<std::uint32_t>(i));
    }
    index_.finish(rules_);
  }
  static void path(Rule& rule, const std::string& text) {
    rule.match_paths.push_back({text, parse_path_pattern(text).value()});
  }
  /// The rules that are left to be matched.
  std::vector<std::uint32_t> found(std::string_view method, std::string_view path,
                                   std::vector<HeaderField> fields = {}, const std::string& host = api) {
    CoveringRules covering = index_.covering(Host{host, {}});
    covering.keep_for({.method = method, .fields = fields, .readings = std::span(&path, 1)});
    std::vector<std::uint32_t> numbers;
    for (std::uint32_t number = covering.next(); number != no_rule && numbers.size() < 1000;
         number = covering.next())
      numbers.push_back(number);
    return numbers;
  }
  using Numbers = std::vector<std::uint32_t>;

  std::vector<Rule> rules_;
  RuleIndex index_;
};

TEST_F(ManyRulesTest, OneOfAsManyHostsIsFound) {
  make([](Rule& rule, std::size_t i) {
    const std::string name = fmt::format("h{}.example.com", i);
    rule.match_hosts.push_back({name, {name, i % 2 == 1}});
  });
  EXPECT_EQ(found("GET", "/", {}, "h77776.example.com"), Numbers{77776});
  EXPECT_EQ(found("GET", "/", {}, "h77777.example.com"), Numbers{});  // Only what is below it.
  EXPECT_EQ(found("GET", "/", {}, "a.b.h77777.example.com"), Numbers{77777});
}

TEST_F(ManyRulesTest, OneOfAsManyPathsIsFound) {
  make([](Rule& rule, std::size_t i) { path(rule, fmt::format("/r{}/{}", i, i % 2 ? "*" : "x")); });
  EXPECT_EQ(found("GET", "/r50000/x"), Numbers{50000});
  EXPECT_EQ(found("GET", "/r50001/y/z"), Numbers{50001});
  EXPECT_EQ(found("GET", "/r50001x"), Numbers{});
}

TEST_F(ManyRulesTest, OneOfAsManyEndingsIsFoundWhateverTheirLengths) {
  make([](Rule& rule, std::size_t i) {
    path(rule, fmt::format("*/{}{}/settings", std::string(i % 60, 'x'), i));
  });
  EXPECT_EQ(found("GET", "/a/xxx63/settings"), Numbers{63});
  EXPECT_EQ(found("GET", fmt::format("/a/b/{}99999/settings", std::string(39, 'x'))), Numbers{99999});
  EXPECT_EQ(found("GET", "/a/settings"), Numbers{});
}

TEST_F(ManyRulesTest, EndingsThatEndInEachOtherAreAllFound) {
  make([](Rule& rule, std::size_t i) {
    path(rule, i < 20 ? "*" + std::string(20 - i, 'a') + ".json" : fmt::format("*.{}", i));
  });
  EXPECT_EQ(found("GET", "/aaaa.json"), (Numbers{16, 17, 18, 19}));
  EXPECT_EQ(found("GET", "/b.json"), Numbers{});
  EXPECT_EQ(found("GET", "/aaaa.4242"), Numbers{4242});
}

TEST_F(ManyRulesTest, OneOfAsManyValuesOfAHeaderIsFound) {
  make([](Rule& rule, std::size_t i) {
    path(rule, "/v1/*");
    rule.match_headers.push_back({"x-env", "production"});  // All want this one.
    rule.match_headers.push_back({"x-team", fmt::format("team {}", i)});
  });
  EXPECT_EQ(found("GET", "/v1/x", {{"X-Env", "production"}, {"X-Team", "team 4711"}}), Numbers{4711});
  EXPECT_EQ(found("GET", "/v1/x", {{"X-Env", "production"}}), Numbers{});
  EXPECT_EQ(found("GET", "/v2/x", {{"X-Team", "team 4711"}}), Numbers{});
  // Many fields of the name are no way to make it look at all of them.
  const std::vector<HeaderField> same(250, {"x-team", "team 4711"});
  EXPECT_EQ(found("GET", "/v1/x", same), Numbers{4711});
}

TEST_F(ManyRulesTest, RulesForOtherMethodsAreNotLookedAt) {
  make([](Rule& rule, std::size_t i) {
    rule.action = Action::deny;
    rule.match_methods.emplace_back(i == 90000 ? "GET" : "DELETE");
  });
  EXPECT_EQ(found("GET", "/"), Numbers{90000});
  EXPECT_EQ(found("get", "/"), Numbers{90000});  // A rule that denies takes it too.
  EXPECT_EQ(found("PUT", "/"), Numbers{});
  EXPECT_EQ(found("PUT", "/", {{"X-Method-Override", "get"}}), Numbers{90000});
}

}  // namespace
}  // namespace postern::policy
