#include "cli/learn.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "policy/document.h"
#include "policy/snapshot.h"

namespace postern::cli {
namespace {

std::string call(const std::string& host, int port, const std::string& path,
                 const std::string& method = "GET", const std::string& more = "",
                 const std::string& decision = "allowed") {
  return fmt::format(R"({{"kind":"http","decision":"{}","method":"{}","host":"{}","port":{},"path":"{}"{}}})",
                     decision, method, host, port, path, more);
}

std::string learnt(const std::vector<std::string>& lines, LearntPaths paths = LearntPaths::exact,
                   bool failed = false) {
  Learnt out(paths, failed);
  for (const std::string& line : lines) out.add(line);
  return out.policy();
}

TEST(Learn, DestinationsHaveTheirPortsAndRulesTheirMethodsAndPaths) {
  const std::string policy =
      learnt({call("api.example.com", 443, "/v1/a"), call("api.example.com", 443, "/v1/b"),
              call("api.example.com", 443, "/v1/c", "POST"), call("api.example.com", 443, "/v1/c", "PUT"),
              R"({"kind":"tcp","decision":"allowed","host":"db.example.com","port":5432})",
              R"({"kind":"tls","decision":"allowed","host":"git.example.com","port":443})"});
  EXPECT_EQ(policy, R"(access_control:
  allow_list:
    - "api.example.com:443"
    - "db.example.com:5432"
    - "git.example.com:443"
rules:
  - name: "api.example.com 1"
    match_hosts:
      - api.example.com
    match_methods:
      - GET
    match_paths:
      - "/v1/a"
      - "/v1/b"
  - name: "api.example.com 2"
    match_hosts:
      - api.example.com
    match_methods:
      - POST
      - PUT
    match_paths:
      - "/v1/c"
  - name: "api.example.com: nothing else"
    match_hosts:
      - api.example.com
    action: deny
)");
}

TEST(Learn, OnlyWhatWasAllowedCounts) {
  const std::vector<std::string> lines = {
      call("denied.example.com", 443, "/", "GET", "", "denied"),
      call("failed.example.com", 443, "/", "GET", "", "failed"),
      call("begun.example.com", 443, "/", "GET", R"(,"phase":"begin")"),
      R"({"kind":"dns","decision":"denied","host":"name.example.com","port":53})",
      R"({"kind":"chain","event":"end"})",
      "no json",
      "[]",
      R"({"kind":"http","decision":"allowed","host":"x.example.com","port":"443"})",
      R"({"kind":"http","decision":"allowed","host":7,"port":443})"};
  EXPECT_EQ(learnt(lines), "access_control:\n  allow_list: []\n");
  EXPECT_NE(learnt(lines, LearntPaths::exact, true).find("failed.example.com:443"), std::string::npos);
  EXPECT_EQ(learnt(lines, LearntPaths::exact, true).find("denied"), std::string::npos);
}

TEST(Learn, PathsMayBeWiderOrLeftOut) {
  const std::vector<std::string> lines = {
      call("a.example.com", 443, "/v1/items/17"), call("a.example.com", 443, "/v1/items/18"),
      call("a.example.com", 443, "/status"), call("a.example.com", 443, "/")};
  const std::string prefix = learnt(lines, LearntPaths::prefix);
  EXPECT_NE(prefix.find("/v1/items/*\"\n"), std::string::npos) << prefix;
  EXPECT_NE(prefix.find("/status\"\n"), std::string::npos) << prefix;
  EXPECT_EQ(prefix.find("\"/*\"\n"), std::string::npos) << prefix;
  EXPECT_EQ(learnt(lines, LearntPaths::none).find("match_paths"), std::string::npos);
}

TEST(Learn, WhatCannotBeAPatternIsNamedByWhatStandsAboveIt) {
  const std::string long_name(2000, 'x');
  const std::string policy =
      learnt({call("a.example.com", 443, "/v1/a*b"), call("a.example.com", 443, "/v2/" + long_name),
              call("b.example.com", 443, "/*")});
  EXPECT_NE(policy.find("\"/v1/*\"\n"), std::string::npos) << policy;
  EXPECT_NE(policy.find("\"/v2/*\"\n"), std::string::npos) << policy;
}

TEST(Learn, WhateverASandboxCalledThingsThePolicyIsGood) {
  std::vector<std::string> lines;
  for (const char* path :
       {"/", "//", "/a b", "/%2e%2e/x", "/\\u0000", "/é", "/\\\"x", "/: #y", "/*", "/a/*/b", "/~x", "*"})
    lines.push_back(call("a.example.com", 8443, path));
  for (const char* method : {"GET", "get", "M-SEARCH", "\\\"x\\\": ", ""})
    lines.push_back(call("b.example.com", 443, "/x", method));
  for (const char* host : {"192.0.2.7", "2001:db8::1", "x_y.example.com", "localhost", "com", "-"})
    lines.push_back(call(host, 80, "/x"));
  for (const LearntPaths paths : {LearntPaths::exact, LearntPaths::prefix, LearntPaths::none}) {
    const std::string text = learnt(lines, paths);
    auto document = policy::parse_document(text, policy::Format::yaml);
    ASSERT_TRUE(document) << text << policy::describe(document.error(), "learnt");
    const auto compiled = policy::compile(std::move(*document));
    EXPECT_TRUE(compiled) << text << policy::describe(compiled.error(), "learnt");
  }
}

}  // namespace
}  // namespace postern::cli
