#include "policy/carry_over.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

namespace postern::policy {
namespace {

using testing::HasSubstr;
using testing::Not;

Document read(const std::string& text) {
  auto document = parse_document(text, Format::yaml, UnknownFields::tolerate, References::accept);
  if (!document) throw std::runtime_error(describe(document.error(), "policy.yaml"));
  return std::move(*document);
}

std::string rule(const std::string& hosts, const std::string& header, const std::string& name = "r") {
  return fmt::format("rules:\n  - name: {}\n    match_hosts: [{}]\n    headers: [{{{}}}]\n", name, hosts,
                     header);
}
const std::string given = "name: X-Key, type: opaque, value: canary";
const std::string left_out = "name: X-Key, type: opaque";

/// "kept", "empty", or the problem.
std::string carried(const std::string& update, const std::string& stored) {
  Document fresh = read(update);
  Document old = read(stored);
  const auto problems = carry_over(fresh, old);
  if (!problems.empty()) return describe(problems, "policy.yaml");
  return fresh.rules.at(0).headers.at(0).value.empty() ? "empty" : "kept";
}

TEST(CarryOver, AValueThatIsLeftOutStaysWhatItWas) {
  EXPECT_EQ(carried(rule("a.example.com", left_out), rule("a.example.com", given)), "kept");
  EXPECT_EQ(carried(rule("a.example.com", "name: x-kEY, type: opaque"), rule("a.example.com", given)),
            "kept");
  EXPECT_EQ(
      carried(rule("a.example.com", "name: X-Key, type: opaque, value: \"\""), rule("a.example.com", given)),
      "kept");
  EXPECT_EQ(
      carried(
          "rules:\n  - {name: first, match_hosts: [b.example.com], headers: [{name: X-Key, type: opaque}]}\n",
          rule("a.example.com", given)),
      "empty")
      << "another rule";
}

TEST(CarryOver, WhatIsGivenWins) {
  Document update = read(rule("a.example.com", "name: X-Key, type: opaque, value: new"));
  Document stored = read(rule("a.example.com", given));
  EXPECT_TRUE(carry_over(update, stored).empty());
  EXPECT_FALSE(stored.rules[0].headers[0].value.empty()) << "what was stored is not moved";
  Document referring = read(rule("a.example.com", "name: X-Key, type: opaque, from: \"file:a\""));
  EXPECT_TRUE(carry_over(referring, stored).empty());
  EXPECT_TRUE(referring.rules[0].headers[0].value.empty());
}

TEST(CarryOver, AnotherHeaderOrTypeGetsNothing) {
  EXPECT_EQ(carried(rule("a.example.com", "name: X-Other, type: opaque"), rule("a.example.com", given)),
            "empty");
  EXPECT_EQ(carried(rule("a.example.com", left_out),
                    rule("a.example.com", "name: X-Key, type: plaintext, value: canary")),
            "empty");
  EXPECT_EQ(carried(rule("a.example.com", left_out), rule("a.example.com", left_out)), "empty");
}

TEST(CarryOver, FewerHostsKeepItAndOthersDoNot) {
  const auto hosts = [](const std::string& update, const std::string& stored) {
    return carried(rule(update, left_out), rule(stored, given));
  };
  EXPECT_EQ(hosts("a.example.com", "a.example.com, b.example.com"), "kept");
  EXPECT_EQ(hosts("x.example.com", "\"*.example.com\""), "kept");
  EXPECT_EQ(hosts("\"*.x.example.com\"", "\"*.example.com\""), "kept");
  for (const auto& [update, stored] : std::vector<std::pair<std::string, std::string>>{
           {"evil.example.net", "a.example.com"},
           {"a.example.com, evil.example.net", "a.example.com"},
           {"\"*.example.com\"", "a.example.com"},
           {"\"*.a.example.com\"", "a.example.com"},
           {"example.com", "\"*.example.com\""},
           {"\"*.example.com\"", "\"*.x.example.com\""},
           {"evilexample.com", "\"*.example.com\""},
       }) {
    const std::string said = hosts(update, stored);
    EXPECT_THAT(said, HasSubstr("rules[0].headers[0].value: the stored value is not kept")) << update;
    EXPECT_THAT(said, Not(HasSubstr("canary")));
  }
}

std::string oauth2(const std::string& url, const std::string& secret,
                   const std::string& host = "a.example.com") {
  return fmt::format(
      "rules:\n  - name: r\n    type: oauth2\n    match_hosts: [{}]\n    oauth2: {{token_url: \"{}\", "
      "client_id: me, "
      "client_secret: {{type: opaque{}}}}}\n",
      host, url, secret);
}

TEST(CarryOver, ASecretOfATypeIsKeptForTheSameEndpointOnly) {
  const auto kept = [](const std::string& update, const std::string& stored) {
    Document fresh = read(update);
    Document old = read(stored);
    const auto problems = carry_over(fresh, old);
    const bool there = !std::get<Oauth2Auth>(fresh.rules.at(0).provider).client_secret->value.empty();
    EXPECT_EQ(there, problems.empty());
    return there;
  };
  const std::string stored = oauth2("https://login.example.com/token", ", value: canary");
  EXPECT_TRUE(kept(oauth2("https://login.example.com/token", ""), stored));
  EXPECT_FALSE(kept(oauth2("https://evil.example.net/token", ""), stored));
  EXPECT_FALSE(kept(oauth2("https://login.example.com/evil/token", ""), stored));
  EXPECT_FALSE(kept(oauth2("https://login.example.com:8443/token", ""), stored));
  EXPECT_FALSE(kept(oauth2("http://login.example.com/token", ""), stored));
  EXPECT_FALSE(kept(oauth2("https://login.example.com/token", "", "evil.example.net"), stored));
}

TEST(CarryOver, AnotherTypeGetsNothing) {
  Document update =
      read("rules:\n  - {name: r, type: gcp, gcp: {scopes: [a], service_account_json: {type: opaque}}}\n");
  Document stored = read(
      "rules:\n  - {name: r, type: github_app, github_app: {app_id: 1, installation_id: 2, private_key: "
      "{type: opaque, "
      "value: canary}}}\n");
  EXPECT_TRUE(carry_over(update, stored).empty());
  EXPECT_TRUE(std::get<GcpAuth>(update.rules[0].provider).service_account_json.value.empty());
}

TEST(CarryOver, ACallbacksValueIsKeptForItsUrl) {
  const auto callback = [](const std::string& url, const std::string& value) {
    return fmt::format(
        "  - {{match_hosts: [a.example.com], url: \"{}\", ttl_seconds: 60, request_headers: [{{name: X-Key, "
        "type: "
        "opaque{}}}]}}\n",
        url, value);
  };
  Document stored = read("callbacks:\n" + callback("https://one.example.com/", ", value: one") +
                         callback("https://two.example.com/", ", value: two") +
                         callback("https://one.example.com/", ", value: another"));
  Document update =
      read("callbacks:\n" + callback("https://two.example.com/", "") +
           callback("https://one.example.com/", "") + callback("https://evil.example.net/", "") +
           callback("https://one.example.com/", "") + callback("https://one.example.com/", ""));
  EXPECT_TRUE(carry_over(update, stored).empty());
  std::string kept;
  for (const Callback& one : update.callbacks) kept += one.request_headers[0].value.empty() ? '-' : 'x';
  EXPECT_EQ(kept, "xx-x-");
}

TEST(CarryOver, AValueDoesNotFollowARewriteToAnotherHost) {
  const std::string plain = rule("a.example.com", given);
  const auto sent_to = [](const std::string& header, const std::string& where) {
    return rule("a.example.com", header) + "    rewrite: {" + where + "}\n";
  };
  EXPECT_THAT(carried(sent_to(left_out, "host: evil.example.net"), plain), HasSubstr("not kept"));
  EXPECT_THAT(carried(rule("a.example.com", left_out), sent_to(given, "host: b.example.com")),
              HasSubstr("not kept"));
  EXPECT_THAT(
      carried(sent_to(left_out, "host: b.example.com, scheme: http"), sent_to(given, "host: b.example.com")),
      HasSubstr("not kept"));
  EXPECT_EQ(carried(sent_to(left_out, "host: b.example.com, path_prefix: /x"),
                    sent_to(given, "host: b.example.com")),
            "kept");
}

}  // namespace
}  // namespace postern::policy
