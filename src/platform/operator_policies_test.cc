#include "platform/operator_policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "platform/policies.h"
#include "policy/decide.h"
#include "store/sqlite_store.h"
#include "store/store_test_kit.h"

namespace postern::platform {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* remap = R"(
rules:
  - {name: npm, match_hosts: [npm.example.com], rewrite: {host: mirror.example.net}}
  - name: mirror
    match_hosts: [mirror.example.net]
    headers: [{name: Authorization, type: opaque, value: Bearer canary-operator}]
)";

class OperatorPoliciesTest : public testing::Test {
 protected:
  OperatorPoliciesTest()
      : store_(store::value(store::SqliteStore::open(directory_.path(), store::key(1), clock_))) {
    mine_ = store::value(store_->workspaces().create("mine")).id;
    other_ = store::value(store_->workspaces().create("other")).id;
  }
  static std::expected<OperatorPolicy, std::vector<policy::Problem>> read(const std::string& yaml) {
    auto document = policy::parse_document(yaml, policy::Format::yaml);
    if (!document) return std::unexpected(std::move(document.error()));
    return OperatorPolicy::make("operator.yaml", std::move(*document), {});
  }
  static std::shared_ptr<const OperatorPolicy> one(const std::string& yaml) {
    auto made = read(yaml);
    if (!made) throw std::runtime_error(policy::describe(made.error(), ""));
    return std::make_shared<const OperatorPolicy>(std::move(*made));
  }
  void use(const std::string& of_all, const std::string& of_mine = "") {
    auto all = std::make_shared<OperatorPolicies>();
    if (!of_all.empty()) all->of_all = one(of_all);
    if (!of_mine.empty()) all->of_workspaces[mine_.text] = one(of_mine);
    policies_.use(std::move(all));
  }
  std::expected<NewPolicy, PolicyRefusal> ask(const std::string& json, const store::WorkspaceId& workspace) {
    auto tree = policy::read_tree(json, policy::Format::json);
    if (!tree) throw std::runtime_error("no JSON");
    return policies_.check(workspace, &*tree, {});
  }
  NewPolicy check(const std::string& json) {
    auto made = ask(json, mine_);
    if (!made) throw std::runtime_error("refused");
    return std::move(*made);
  }
  std::vector<policy::Problem> problems(const std::string& json) {
    auto made = ask(json, mine_);
    if (made) return {};
    return std::get<std::vector<policy::Problem>>(made.error());
  }
  static std::vector<std::string> names(const NewPolicy& policy) {
    std::vector<std::string> out;
    for (const auto& rule : policy.egress->snapshot->rules()) out.push_back(rule.name);
    return out;
  }
  static Reason reason(const NewPolicy& policy, const std::string& name, const char* path = "/") {
    const Host host{name, {}};
    return policy::decide(
               *policy.egress->snapshot,
               {.host = host, .port = 443, .tls = true, .method = "GET", .path = path, .fields = {}})
        .reason;
  }

  ManualClock clock_;
  store::TestDirectory directory_;
  std::unique_ptr<store::SqliteStore> store_;
  store::WorkspaceId mine_, other_;
  std::vector<std::string> reports_;
  Policies policies_{*store_, {.report = [this](const std::string& what) { reports_.push_back(what); }}};
};

constexpr const char* own = R"({"rules": [{"name": "npm", "match_hosts": ["npm.example.com"],
  "headers": [{"name": "X-Own", "type": "opaque", "value": "canary-own"}]}]})";

TEST_F(OperatorPoliciesTest, TheirRulesStandFirstAndStayOutOfWhatIsKept) {
  use(remap, "rules: [{name: more, match_hosts: [more.example.com]}]");
  const NewPolicy made = check(own);
  EXPECT_THAT(names(made), ElementsAre("operator/more", "operator/npm", "operator/mirror", "npm"));
  ASSERT_EQ(made.egress->injections.of(2).size(), 1u);
  EXPECT_EQ(made.egress->injections.of(2)[0].name, "Authorization");
  EXPECT_EQ(made.egress->injections.of(3).size(), 1u);
  EXPECT_THAT(made.document.json,
              AllOf(HasSubstr("npm"), Not(HasSubstr("mirror")), Not(HasSubstr("operator"))));
  EXPECT_EQ(made.document.secrets.size(), 1u);
  auto other = ask(own, other_);
  ASSERT_TRUE(other);
  EXPECT_THAT(names(*other), ElementsAre("operator/npm", "operator/mirror", "npm"));
}

TEST_F(OperatorPoliciesTest, ProblemsPointIntoTheCallersDocument) {
  use(std::string(remap) +
      "callbacks:\n  - {match_hosts: [cb.example.com], url: 'https://cb.example.net/', ttl_seconds: 60}\n");
  const auto found = problems(R"({"rules": [{"name": "fine", "match_hosts": ["a.example.com"]},
    {"name": "bad", "match_hosts": ["b.example.com"], "headers": [{"name": "A", "type": "opaque"}]}],
    "callbacks": [{"match_hosts": ["c.example.com"], "url": "https://x.example.net/", "ttl_seconds": 60,
                   "request_headers": [{"name": "B", "type": "opaque"}]}]})");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].where, "rules[1].headers[0].value");
  EXPECT_EQ(found[1].where, "callbacks[0].request_headers[0].value");
}

TEST_F(OperatorPoliciesTest, ACallerCannotTakeTheirNamesOrTheirValues) {
  use(remap);
  const auto taken =
      problems(R"({"rules": [{"name": "operator/mirror", "match_hosts": ["a.example.com"]}]})");
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0].where, "rules[0].name");
  const auto left_out = problems(R"({"rules": [{"name": "mirror", "match_hosts": ["mirror.example.net"],
    "headers": [{"name": "Authorization", "type": "opaque"}]}]})");
  ASSERT_EQ(left_out.size(), 1u);
  EXPECT_THAT(left_out[0].message, HasSubstr("no value is set"));
  const auto key = problems(R"({"rules": [{"name": "a", "match_hosts": ["a.example.com"],
    "headers": [{"name": "A", "type": "workspace_secret", "value": "{operator:0:rules[1].headers[0]}"}]}]})");
  EXPECT_FALSE(key.empty());
  EXPECT_FALSE(problems(R"({"rules": [{"name": "a", "match_hosts": ["a.example.com"],
    "headers": [{"name": "A", "type": "opaque", "from": "operator:0:rules[1].headers[0]"}]}]})")
                   .empty());
}

TEST_F(OperatorPoliciesTest, ASecretOfTheWorkspaceIsLookedForInEachAndItsRuleDeniesWithout) {
  use(R"(
rules:
  - name: llm
    match_hosts: [llm.example.com]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {LLM}"}]
)");
  store::SecretChange change{"LLM", Secret("canary")};
  store::value(store_->secrets().change(other_, std::span(&change, 1)));
  EXPECT_EQ(reason(check("{}"), "llm.example.com"), Reason::denied_by_rule);
  EXPECT_EQ(reason(check("{}"), "else.example.com"), Reason::allowed);
  auto there = ask("{}", other_);
  ASSERT_TRUE(there);
  EXPECT_EQ(reason(*there, "llm.example.com"), Reason::allowed);
  ASSERT_EQ(reports_.size(), 1u);  // Once, however many boxes.
  EXPECT_THAT(reports_[0], AllOf(HasSubstr("operator/llm"), HasSubstr(mine_.text), HasSubstr("LLM")));
}

TEST_F(OperatorPoliciesTest, WhatTheyDenyIsDeniedAndAnAllowListOfTheirsReplacesTheCallers) {
  const char* mine = R"({"access_control": {"allow_list": ["a.example.com", "bad.example.com"]}})";
  use("access_control: {deny_list: [bad.example.com]}");
  EXPECT_EQ(reason(check(mine), "a.example.com"), Reason::allowed);
  EXPECT_EQ(reason(check(mine), "bad.example.com"), Reason::in_deny_list);
  EXPECT_EQ(reason(check(mine), "c.example.com"), Reason::not_in_allow_list);
  use("access_control: {allow_list: [c.example.com, d.example.com]}",
      "access_control: {deny_list: [d.example.com]}");
  EXPECT_EQ(reason(check(mine), "a.example.com"), Reason::not_in_allow_list);
  EXPECT_EQ(reason(check(mine), "c.example.com"), Reason::allowed);
  EXPECT_EQ(reason(check(mine), "d.example.com"), Reason::in_deny_list);
  EXPECT_THAT(check(mine).document.json, HasSubstr("a.example.com"));  // Kept, without effect.
}

TEST_F(OperatorPoliciesTest, TheLowestLimitHolds) {
  use("limits: {requests_per_day: 100, concurrent_requests: 4}");
  const NewPolicy made =
      check(R"({"limits": {"requests_per_day": 500, "requests_per_second": 2, "concurrent_requests": 1}})");
  const policy::Limits* limits = made.egress->snapshot->limits();
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->requests_per_day, 100u);
  EXPECT_EQ(limits->requests_per_second, 2u);
  EXPECT_EQ(limits->concurrent_requests, 1u);
}

TEST_F(OperatorPoliciesTest, AFileWithoutAValueIsRefusedWithItsPlace) {
  const auto made =
      read("rules: [{name: a, match_hosts: [a.example.com], headers: [{name: A, type: opaque}]}]");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error()[0].where, "rules[0].headers[0]");
  const auto long_name = read("rules: [{name: " + std::string(128, 'n') + ", match_hosts: [a.example.com]}]");
  ASSERT_FALSE(long_name);
  EXPECT_EQ(long_name.error()[0].where, "rules[0].name");
}

}  // namespace
}  // namespace postern::platform
