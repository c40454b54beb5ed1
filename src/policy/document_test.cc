#include "policy/document.h"

#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "policy/tree.h"

namespace postern::policy {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

Document yaml(std::string_view text, UnknownFields unknown = UnknownFields::refuse) {
  auto document = parse_document(text, Format::yaml, unknown);
  if (!document) {
    ADD_FAILURE() << describe(document.error(), "policy.yaml");
    return {};
  }
  return std::move(*document);
}

/// Every problem, one line each; empty when the text is accepted.
std::string problems(std::string_view text, Format format = Format::yaml,
                     UnknownFields unknown = UnknownFields::refuse) {
  const auto document = parse_document(text, format, unknown);
  return document ? "" : describe(document.error(), format == Format::json ? "policy.json" : "policy.yaml");
}

std::string json_problems(std::string_view text, UnknownFields unknown = UnknownFields::refuse) {
  return problems(text, Format::json, unknown);
}

/// A whole document around one more line of a rule, which then stands on line 4.
std::string rule_with(std::string_view line) {
  return fmt::format("rules:\n  - name: r\n    match_hosts: [a.example.com]\n    {}\n", line);
}
std::string header_with(std::string_view fields) {
  return rule_with(fmt::format("headers: [{{{}}}]", fields));
}

TEST(Document, ReadsEveryField) {
  const Document document = yaml(R"(
description: what it is for
access_control:
  allow_list: [api.example.com, "*.example.org:443"]
rules:
  - name: first
    description: of the rule
    enabled: false
    action: allow
    match_hosts: [api.example.com, "*.example.org"]
    match_paths: [/v1/*, /exact, "*/runs", "*"]
    match_methods: [GET, HEAD]
    match_headers: ["x-team: blue : green"]
    headers:
      - {name: Authorization, type: workspace_secret, value: "Bearer {KEY}"}
      - {name: X-Plain, type: plaintext, value: "as {is}"}
      - {name: X-Opaque, type: opaque, value: hidden}
    env_vars: {A_TOKEN: placeholder, B: ""}
  - name: second
    match_hosts: [b.example.com]
    action: deny
)");
  EXPECT_EQ(document.description, "what it is for");
  ASSERT_TRUE(document.access_control);
  EXPECT_EQ(document.access_control->kind, AccessControl::Kind::allow_list);
  ASSERT_EQ(document.access_control->entries.size(), 2u);
  EXPECT_EQ(document.access_control->entries[1].pattern.port, 443);
  ASSERT_EQ(document.rules.size(), 2u);
  const Rule& rule = document.rules[0];
  EXPECT_EQ(rule.name, "first");
  EXPECT_EQ(rule.at, (Position{6, 5}));
  EXPECT_EQ(rule.description, "of the rule");
  EXPECT_FALSE(rule.enabled);
  EXPECT_EQ(rule.action, Action::allow);
  ASSERT_EQ(rule.match_hosts.size(), 2u);
  EXPECT_TRUE(rule.match_hosts[1].pattern.subdomains);
  ASSERT_EQ(rule.match_paths.size(), 4u);
  EXPECT_EQ(rule.match_methods, (std::vector<std::string>{"GET", "HEAD"}));
  ASSERT_EQ(rule.match_headers.size(), 1u);
  EXPECT_EQ(rule.match_headers[0].name, "x-team");
  EXPECT_EQ(rule.match_headers[0].value, "blue : green");
  ASSERT_EQ(rule.headers.size(), 3u);
  EXPECT_EQ(rule.headers[0].type, HeaderType::workspace_secret);
  EXPECT_EQ(rule.headers[0].text, "Bearer {KEY}");
  EXPECT_EQ(rule.headers[1].text, "as {is}");
  EXPECT_FALSE(rule.headers[2].value.empty());
  EXPECT_TRUE(rule.headers[2].text.empty());
  ASSERT_EQ(rule.env_vars.size(), 2u);
  EXPECT_EQ(rule.env_vars[0].name, "A_TOKEN");
  EXPECT_EQ(document.rules[1].action, Action::deny);
}

TEST(Document, JsonAndYamlMeanTheSame) {
  const std::string_view text =
      R"({"rules": [{"name": "r", "match_hosts": ["a.example.com"], "headers": []}], "access_control": {"deny_list": ["b.com"]}})";
  const auto from_json = parse_document(text, Format::json);
  ASSERT_TRUE(from_json);
  EXPECT_EQ(print(*from_json), print(yaml(text)));
  EXPECT_EQ(format_of("policy.json"), Format::json);
  EXPECT_EQ(format_of("policy.yml"), Format::yaml);
}

TEST(Document, EveryMistakeIsToldAtOnceWithFileLineColumnAndKey) {
  const std::string all = problems(R"(rules:
  - name: one
    match_host: [a.example.com]
    headers:
      - name: Authorization
        type: secret
        value: x
  - name: one
    match_hosts: [https://b.example.com]
    enabled: yes
)");
  EXPECT_THAT(all, HasSubstr("policy.yaml:2:5: rules[0]: a rule needs 'match_hosts'"));
  EXPECT_THAT(
      all, HasSubstr("policy.yaml:3:5: rules[0].match_host: unknown field 'match_host' (accepted: name, "));
  EXPECT_THAT(
      all, HasSubstr("policy.yaml:6:15: rules[0].headers[0].type: 'secret' is not a header type (accepted: "
                     "workspace_secret, plaintext, opaque)\n"));
  EXPECT_THAT(
      all, HasSubstr("policy.yaml:8:11: rules[1].name: 'one' is the name of another rule already (line 2)"));
  EXPECT_THAT(all, HasSubstr("policy.yaml:9:19: rules[1].match_hosts[0]: 'https://b.example.com' cannot be a "
                             "rule's host: leave the scheme out"));
  EXPECT_THAT(all, HasSubstr("policy.yaml:10:14: rules[1].enabled: must be true or false, not a string\n"));
  EXPECT_EQ(std::ranges::count(all, '\n'), 6);
}

TEST(Document, JsonMistakesHaveLineAndColumnToo) {
  EXPECT_EQ(
      json_problems(
          "{\n  \"rules\": [\n    {\"name\": \"r\\\"\\u00e9\", \"match_hosts\": [\"a.com\", 12]}\n  ]\n}"),
      "policy.json:3:52: rules[0].match_hosts[1]: must be a string, not a number: write it in quotes\n");
  EXPECT_EQ(json_problems("{\"rulez\": []}").substr(0, 43), "policy.json:1:2: rulez: unknown field 'rule");
  EXPECT_THAT(json_problems("{\"description\": \"é\", \"rules\": true}"),
              StartsWith("policy.json:1:31: rules: must be a list, not a truth value"));
  EXPECT_THAT(json_problems("{\n\"rules\": [\n{]\n}"),
              StartsWith("policy.json:3:1: rules[0]: not valid JSON: syntax error"));
  EXPECT_THAT(json_problems("{\"a\": 1,\n \"a\": 2}", UnknownFields::tolerate),
              StartsWith("policy.json:2:2: key 'a' appears twice"));
}

TEST(Document, TextBehindTheDocumentIsRefused) {
  EXPECT_THAT(json_problems("{} {}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(json_problems("{}x"), HasSubstr("not valid JSON"));
  EXPECT_EQ(json_problems("{} \n"), "");
  EXPECT_THAT(problems("rules: []\n---\nrules: []\n"), HasSubstr("a second YAML document"));
  EXPECT_THAT(problems("rules: []\n...\nrules: []\n"), Not(""));
}

TEST(Document, AnEmptyOneIsAMistake) {
  EXPECT_EQ(problems(""), "policy.yaml:1:1: the document is empty\n");
  EXPECT_THAT(problems("# only a comment\n"), HasSubstr("empty"));
  EXPECT_THAT(problems("---\n"), HasSubstr("must be a mapping, not nothing"));
  EXPECT_THAT(json_problems(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(problems("- a\n"), HasSubstr("must be a mapping, not a list"));
  EXPECT_EQ(problems("{}"), "");
}

TEST(Document, ADuplicateKeyIsRefusedAtAnyDepth) {
  EXPECT_EQ(problems("rules: []\nrules: []\n"),
            "policy.yaml:2:1: key 'rules' appears twice in the same mapping (first on line 1)\n");
  EXPECT_THAT(problems(rule_with("env_vars: {A: x, A: y}")),
              HasSubstr("policy.yaml:4:22: rules[0].env_vars: key 'A' appears twice"));
}

TEST(Document, YamlThatHidesOrMultipliesIsRefused) {
  EXPECT_THAT(problems("description: &a x\n"), HasSubstr("anchors (&name) are not supported"));
  EXPECT_THAT(problems("rules: &a\n  - b\n"), HasSubstr("anchors (&name) are not supported"));
  EXPECT_THAT(problems("a: &a [x]\nb: *a\n", Format::yaml, UnknownFields::tolerate), HasSubstr("anchors"));
  EXPECT_THAT(problems("description: !!binary aGk=\n"), HasSubstr("tags (!type) are not supported"));
  EXPECT_THAT(problems("<<: {rules: []}\n", Format::yaml, UnknownFields::tolerate), HasSubstr("merge keys"));
  EXPECT_THAT(problems("? [a, b]\n: c\n"), HasSubstr("a key must be a plain text"));
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'j'; ++c)
    bomb += fmt::format("{0}: &{0} [*{1},*{1},*{1},*{1},*{1},*{1}]\n", c, static_cast<char>(c - 1));
  EXPECT_THAT(problems(bomb, Format::yaml, UnknownFields::tolerate), HasSubstr("anchors"));
}

TEST(Document, AnUnquotedStarSaysThatItNeedsQuotes) {
  EXPECT_THAT(problems("access_control:\n  allow_list: [*.github.com]\n"),
              AllOf(StartsWith("policy.yaml:2:"), HasSubstr("needs quotes, as in \"*.example.com\"")));
  EXPECT_THAT(problems("access_control:\n  allow_list:\n    - *\n"), HasSubstr("needs quotes"));
  EXPECT_THAT(problems("access_control:\n  allow_list:\n    - *:443\n"), HasSubstr("needs quotes"));
}

TEST(Document, AForgottenQuoteDoesNotSwallowWhatFollows) {
  // The parser alone reads one long description here, and the sandbox may reach everything.
  for (const std::string quote : {"'", "\""}) {
    const std::string text = "description: " + quote + "open\naccess_control:\n  allow_list: []\n";
    EXPECT_EQ(problems(text), "policy.yaml:1:14: description: not valid YAML: this quote is never closed\n");
    EXPECT_EQ(problems("# é\r\ndescription: " + quote + "é open\r\nrules: []\r\n"),
              "policy.yaml:2:14: description: not valid YAML: this quote is never closed\n");
    EXPECT_THAT(problems(quote + "description: x\n"), HasSubstr("this quote is never closed"));
    EXPECT_EQ(problems("description: " + quote + "two\n  lines" + quote + "\n"), "");
    EXPECT_EQ(problems(quote + "description" + quote + ": " + quote + "é" + quote + "\n"), "");
  }
  EXPECT_THAT(problems("description: 'it''s''\n"), HasSubstr("never closed"));
  EXPECT_THAT(problems("description: \"x\\\"\n"), HasSubstr("never closed"));
  EXPECT_EQ(problems("description: 'it''s'\n"), "");
  EXPECT_EQ(problems("description: \"x\\\\\"\n"), "");
  EXPECT_EQ(problems("description: |\n  it's\nrules: []\n"), "");
  EXPECT_EQ(problems("description: >-\n  say \"\n"), "");
  EXPECT_EQ(problems("\xef\xbb\xbf"
                     "description: 'a'\n"),
            "");
}

TEST(Document, TemplatesWithoutQuotesAreExplained) {
  EXPECT_THAT(problems(rule_with("headers:\n    - {name: A, type: workspace_secret, value: {KEY}}")),
              HasSubstr("must be a string, not a mapping: a text that begins with { or ["));
  EXPECT_THAT(problems("access_control: {allow_list: [[::1]]}"),
              HasSubstr("must be a string, not a list: a text that begins with"));
}

TEST(Document, StrayTextAroundTheDocumentIsRefused) {
  for (const char* text : {"rules: []\n}\n", "rules: []\n]\n", "{} x\n", "{}\n{}\n", "rules: []\n- a\n",
                           "rules: [] x\n", "{rules: []]\n", "rules: [\n", "- rules: []\nrules: []\n",
                           "rules: []\n access_control: {}\n", "%FOO\n---\n{}\n..\nx"}) {
    EXPECT_THAT(problems(text, Format::yaml, UnknownFields::tolerate), Not("")) << text;
  }
}

TEST(Document, DepthSizeAndNumberAreBounded) {
  const std::string deep(5000, '[');
  EXPECT_THAT(problems(deep), Not(""));
  EXPECT_THAT(json_problems(deep), HasSubstr("nested deeper than 32 levels"));
  EXPECT_THAT(json_problems(std::string(5000, '[') + std::string(5000, ']')), HasSubstr("nested deeper"));
  EXPECT_THAT(json_problems(std::string(document_bytes_max + 1, ' ')),
              HasSubstr(fmt::format("a policy has at most {}", document_bytes_max)));
  std::string many = "{\"x\": [0";
  for (int i = 0; i < 450'000; ++i) many += ",0";
  EXPECT_THAT(json_problems(many + "]}", UnknownFields::tolerate), HasSubstr("more than 400000 values"));
  std::string rules = "{\"rules\": [";
  for (std::size_t i = 0; i <= rules_max; ++i)
    rules += fmt::format("{}{{\"name\":\"{}\",\"match_hosts\":[\"a.com\"]}}", i ? "," : "", i);
  EXPECT_THAT(json_problems(rules + "]}"), HasSubstr("rules: 100001 entries: at most 100000 are accepted"));
}

// Each is read and let go: as a tree they would be more than the limit of its values.
TEST(Document, AHundredThousandRulesAreReadAndProblemsKeepTheirPlace) {
  std::string text = "{\"rules\": [\n";
  for (std::size_t i = 0; i < rules_max; ++i) {
    text += fmt::format(
        R"({}{{"name": "rule {}", "match_hosts": ["{}.example.com"], "match_paths": ["/v1/{}/*"], )"
        R"("headers": [{{"name": "Authorization", "type": "workspace_secret", "value": "Bearer {{KEY}}"}}]}})",
        i ? ",\n" : "", i, i, i);
  }
  const auto document = parse_document(text + "], \"description\": \"x\"}", Format::json);
  ASSERT_TRUE(document);
  EXPECT_EQ(document->rules.size(), rules_max);
  EXPECT_EQ(document->rules.back().match_paths.at(0).text, "/v1/99999/*");
  const std::size_t last = text.rfind("99999.example.com");
  text[last] = '*';
  EXPECT_THAT(json_problems(text + "], \"descriptio\": \"x\"}"),
              AllOf(StartsWith("policy.json:100001:40: rules[99999].match_hosts[0]: "),
                    HasSubstr("\npolicy.json:100001:189: descriptio: unknown field")));
}

TEST(Document, ProblemsAreToldInTheOrderOfTheText) {
  EXPECT_EQ(problems("x: 1\nrules:\n  - {name: a}\naccess_control: {}\n"),
            "policy.yaml:1:1: x: unknown field 'x' (accepted: rules, callbacks, access_control, description, "
            "limits, "
            "no_proxy)\n"
            "policy.yaml:3:5: rules[0]: a rule needs 'match_hosts', the hosts that it is for\n"
            "policy.yaml:4:17: access_control: none of allow_list and deny_list is set: exactly one is "
            "accepted\n");
}

TEST(Document, OneLineOfManyMistakesIsCutShort) {
  std::string text = "{\"access_control\": {\"allow_list\": [\"\"";
  for (int i = 0; i < 500; ++i) text += ",\"\"";
  EXPECT_EQ(std::ranges::count(json_problems(text + "]}}"), '\n'), static_cast<std::ptrdiff_t>(problems_max));
}

TEST(Document, OnlyUtf8WithoutControlCharactersIsRead) {
  EXPECT_EQ(problems("description: a\nx: \xff\n"), "policy.yaml:2:4: byte 0xff is not UTF-8\n");
  EXPECT_THAT(problems("description: \xc0\xaf"), HasSubstr("not UTF-8"));          // overlong
  EXPECT_THAT(problems("description: \xed\xa0\x80"), HasSubstr("not UTF-8"));      // surrogate
  EXPECT_THAT(problems("description: \xf4\x90\x80\x80"), HasSubstr("not UTF-8"));  // beyond Unicode
  EXPECT_THAT(problems("description: \xe2\x82"), HasSubstr("not UTF-8"));          // cut
  EXPECT_THAT(json_problems("{\"description\": \"\xff\"}"),
              HasSubstr("policy.json:1:18: byte 0xff is not UTF-8"));
  EXPECT_THAT(problems("\xff\xfer\0u\0"), HasSubstr("not UTF-8"));  // UTF-16
  EXPECT_EQ(problems("\xef\xbb\xbfrules: []\n"), "");
  EXPECT_EQ(problems("description: grüße 😀\n"), "");
}

TEST(Document, AControlCharacterCannotCutItShort) {
  // yaml-cpp reads 0x04 as the end of the file: the deny list below would be gone.
  EXPECT_THAT(problems("description: x\n\x04\naccess_control: {deny_list: [a.com]}\n"),
              HasSubstr("2:1: control character 0x04"));
  EXPECT_THAT(problems(std::string_view("rules: []\n\0access_control: {}", 28)),
              HasSubstr("control character 0x00"));
}

TEST(Document, UnknownFieldsAreRefusedInFilesAndToleratedByTheApi) {
  for (const std::string text : {"extra: 1\n", "access_control: {allow_list: [], extra: 1}\n"}) {
    EXPECT_THAT(problems(text), HasSubstr("unknown field 'extra' (accepted: ")) << text;
    EXPECT_EQ(problems(text, Format::yaml, UnknownFields::tolerate), "") << text;
  }
  EXPECT_THAT(problems(rule_with("extra: 1")), HasSubstr("policy.yaml:4:5: rules[0].extra: unknown field"));
  EXPECT_EQ(problems(rule_with("extra: 1"), Format::yaml, UnknownFields::tolerate), "");
  EXPECT_THAT(problems(header_with("name: A, type: plaintext, value: x, extra: 1")),
              HasSubstr("rules[0].headers[0].extra: unknown field"));
}

TEST(Document, AFieldLeftEmptyIsNotTheSameAsAbsentInAFile) {
  // "match_paths:" and nothing would silently mean every path.
  EXPECT_EQ(problems(rule_with("match_paths:")),
            "policy.yaml:4:5: rules[0].match_paths: is empty: give it a value or leave it out\n");
  EXPECT_EQ(problems(rule_with("match_paths:"), Format::yaml, UnknownFields::tolerate), "");
  EXPECT_THAT(problems("access_control:\n"), HasSubstr("access_control: is empty"));
  EXPECT_EQ(problems("access_control:\n  allow_list:\n"),
            "policy.yaml:2:3: access_control.allow_list: is empty: give it a value or leave it out\n");
  EXPECT_THAT(problems("access_control: {allow_list: null}", Format::yaml, UnknownFields::tolerate),
              HasSubstr("exactly one"));
}

TEST(Document, WhatThisVersionCannotDoIsRefusedByName) {
  for (const auto unknown : {UnknownFields::refuse, UnknownFields::tolerate}) {
    EXPECT_THAT(problems(rule_with("type: other"), Format::yaml, unknown),
                HasSubstr("'other' is not a rule type"));
    for (const std::string type : {"aws", "gcp", "azure", "oauth2", "github_app"}) {
      EXPECT_THAT(problems(rule_with("type: " + type), Format::yaml, unknown),
                  HasSubstr(fmt::format("a rule of type {0} needs '{0}', its settings", type)));
      EXPECT_THAT(problems(rule_with(type + ": {x: y}"), Format::yaml, unknown),
                  HasSubstr(fmt::format("rules[0].{0}: belongs to rules with 'type: {0}'", type)));
    }
  }
}

TEST(Document, StepsThatLookIntoRequestsAreRead) {
  const std::string text = rule_with(R"(transform:
      request:
        - redact: [email, {pattern: "ACME-[0-9]{6}", replace: "[ticket]"}]
        - block: [private_key]
        - require:
            max_body_bytes: 1000
            content_types: [Application/JSON, text/*]
            json_schema: {type: object, required: [model], properties: {n: {maximum: 4.5}}})");
  const auto document = parse_document(text, Format::yaml);
  ASSERT_TRUE(document);
  const auto& steps = document->rules[0].treatment->transform->request;
  ASSERT_EQ(steps.size(), 3u);
  const auto& redact = std::get<Redact>(steps[0]).detectors;
  ASSERT_EQ(redact.set->size(), 2u);
  EXPECT_EQ(redact.set->name(0), "email");
  EXPECT_EQ(redact.set->replacement(1), "[ticket]");
  EXPECT_EQ(std::get<Block>(steps[1]).detectors.set->name(0), "private_key");
  const auto& require = std::get<Require>(steps[2]);
  EXPECT_EQ(require.max_body_bytes, 1000u);
  EXPECT_THAT(require.content_types, testing::ElementsAre("application/json", "text/*"));
  EXPECT_TRUE(require.schema->validate(R"({"model": "m", "n": 4.5})"));
  EXPECT_FALSE(require.schema->validate(R"({"n": 4})"));
  EXPECT_EQ(print(*parse_document(print(*document), Format::json)), print(*document));
  EXPECT_THAT(print(*document), HasSubstr(R"("json_schema")"));
}

TEST(Document, StepsThatAreNotUnderstoodAreNeverPassedOver) {
  const auto with = [](const std::string& step) { return rule_with("transform: {request: [" + step + "]}"); };
  for (const auto unknown : {UnknownFields::refuse, UnknownFields::tolerate}) {
    const auto said = [&](const std::string& step) { return problems(with(step), Format::yaml, unknown); };
    EXPECT_THAT(said("redact: [e-mail]"), HasSubstr("rules[0].transform.request[0].redact[0]: "));
    EXPECT_THAT(said("redact: [email, {pattern: 'a+'}]"), HasSubstr("redact[1]: "));
    EXPECT_THAT(said("redact: [{pattern: 'a{1,9}', with: x}]"), HasSubstr("with"));
    EXPECT_THAT(said("block: []"), HasSubstr("block"));
    EXPECT_THAT(said("require: {max_body: 3}"), HasSubstr("max_body"));
    EXPECT_THAT(said("require: {max_body_bytes: -1}"), HasSubstr("a whole number from 0"));
    EXPECT_THAT(said("require: {content_types: [json]}"), HasSubstr("'json' is no media type"));
    EXPECT_THAT(said("require: {json_schema: {type: objekt}}"), HasSubstr("require.json_schema: "));
    EXPECT_THAT(said("require: {json_schema: {}, max_body_bytes: 99999999}"), HasSubstr("16777216"));
    EXPECT_THAT(said("redakt: [email]"), HasSubstr("exactly one of set_header, remove_header, redact"));
  }
}

TEST(Document, LimitsAreOfARuleAndOfTheSandbox) {
  const auto document = parse_document(
      "limits: {requests_per_day: 100}\n" + rule_with("limits: {requests_per_second: 5, tokens_per_day: 0}"),
      Format::yaml);
  ASSERT_TRUE(document);
  EXPECT_EQ(document->limits->requests_per_day, 100u);
  EXPECT_FALSE(document->limits->requests_per_second);
  EXPECT_EQ(document->rules[0].limits()->requests_per_second, 5u);
  EXPECT_EQ(document->rules[0].limits()->tokens_per_day, 0u);
  EXPECT_EQ(print(*parse_document(print(*document), Format::json)), print(*document));
  EXPECT_THAT(problems(rule_with("limits: {requests_per_second: 0}")), HasSubstr("a whole number from 1"));
  EXPECT_THAT(problems(rule_with("limits: {requests_per_hour: 5}")), HasSubstr("requests_per_hour"));
  EXPECT_THAT(problems(rule_with("limits: {requests_per_hour: 5}"), Format::yaml, UnknownFields::tolerate),
              HasSubstr("limits nothing"));
}

TEST(Document, OperationsAreOneOrTwoWords) {
  const auto document = parse_document(
      rule_with("match_operations: ['query *', mutation addComment, 'tools/call search_*', eth_*]"),
      Format::yaml);
  ASSERT_TRUE(document);
  const auto& patterns = document->rules[0].match_operations;
  ASSERT_EQ(patterns.size(), 4u);
  EXPECT_TRUE(patterns[0].matches({"query", "viewer"}));
  EXPECT_FALSE(patterns[0].matches({"mutation", "viewer"}));
  EXPECT_TRUE(patterns[1].matches({"mutation", "addComment"}));
  EXPECT_FALSE(patterns[1].matches({"mutation", "addComments"}));
  EXPECT_TRUE(patterns[2].matches({"tools/call", "search_code"}));
  EXPECT_FALSE(patterns[2].matches({"tools/call", "delete"}));
  EXPECT_TRUE(patterns[3].matches({"eth_call", "x"}));
  EXPECT_EQ(print(*parse_document(print(*document), Format::json)), print(*document));
  for (const std::string wrong : {"''", "' a'", "'a b c'", "'a*b'", "'a '", "'a b*c'"})
    EXPECT_THAT(problems(rule_with("match_operations: [" + wrong + "]")), HasSubstr("match_operations[0]"));
}

TEST(Document, ARewriteSaysWhereAndWithWhat) {
  const Document document = yaml(rule_with(
      "rewrite: {host: \"Mirror.example.ORG.\", scheme: http, path_prefix: /npm/, host_header: preserve, "
      "credentials: redact}"));
  const Rewrite* rewrite = document.rules.at(0).rewrite();
  ASSERT_NE(rewrite, nullptr);
  EXPECT_EQ(rewrite->host.name, "mirror.example.org");
  EXPECT_FALSE(rewrite->tls);
  EXPECT_EQ(rewrite->port, 80);
  EXPECT_EQ(rewrite->path_prefix, "/npm");
  EXPECT_TRUE(rewrite->preserve_host);
  EXPECT_EQ(rewrite->credentials, SentCredentials::redact);
  EXPECT_TRUE(document.rules.at(0).judges_paths()) << "a path that is joined to another must be one path";
  const Document least = yaml(rule_with("rewrite: {host: mirror.example.org}"));
  EXPECT_EQ(least.rules.at(0).rewrite()->port, 443);
  EXPECT_EQ(least.rules.at(0).rewrite()->credentials, SentCredentials::strip);
}

TEST(Document, ATransformHasStepsInOrder) {
  const Document document = yaml(rule_with(
      "transform: {request: [set_header: {name: X-Team, value: \"{sandbox.name}/{{a}}\"}, remove_header: "
      "X-Debug], response: {scrub_secrets: false}}"));
  ASSERT_TRUE(document.rules.at(0).treatment && document.rules.at(0).treatment->transform);
  const Transform& transform = *document.rules.at(0).treatment->transform;
  ASSERT_EQ(transform.request.size(), 2);
  EXPECT_EQ(std::get<SetHeader>(transform.request[0]).pieces,
            (std::vector<std::variant<std::string, Variable>>{Variable::sandbox_name, "/{a}"}));
  EXPECT_EQ(std::get<RemoveHeader>(transform.request[1]).name, "X-Debug");
  EXPECT_EQ(transform.scrub_secrets, false);
}

TEST(Document, WhatATreatmentCannotMeanIsRefused) {
  const auto refused = [](const std::string& line, const std::string& because) {
    EXPECT_THAT(problems(rule_with(line)), HasSubstr(because)) << line;
    EXPECT_THAT(problems(rule_with(line), Format::yaml, UnknownFields::tolerate), HasSubstr(because)) << line;
  };
  refused("rewrite: {port: 443}", "rules[0].rewrite: a rewrite needs a 'host'");
  refused("rewrite: {host: 10.0.0.1}", "rules[0].rewrite.host: is an address");
  refused("rewrite: {host: b.example.com, port: 0}", "a whole number from 1 to 65535");
  refused("rewrite: {host: b.example.com, scheme: ftp}",
          "'ftp' is not accepted here (accepted: https, http)");
  refused("rewrite: {host: b.example.com, credentials: all}", "(accepted: strip, redact, keep)");
  refused("rewrite: {host: b.example.com, path_prefix: npm}", "rules[0].rewrite.path_prefix: is not a path");
  refused("rewrite: {host: b.example.com, path_prefix: \"/a/%2e%2e\"}", "path_prefix: is not a path");
  refused("transform: {request: [encrypt: yes]}", "rules[0].transform.request[0]: is no step");
  refused("transform: {request: [set_header: {name: Host, value: x}]}", "belongs to the connection");
  refused("transform: {request: [set_header: {name: X, value: \"{API_KEY}\"}]}", "begins no variable");
  refused(
      "headers: [{name: X-Key, type: plaintext, value: x}]\n    transform: {request: [remove_header: x-key]}",
      "among the rule's own 'headers'");
  EXPECT_THAT(
      problems(
          "rules: [{name: r, match_hosts: [a.example.com], action: deny, rewrite: {host: b.example.com}}]"),
      HasSubstr("a rule whose action is deny sends nothing"));
  EXPECT_THAT(problems(rule_with("rewrite: {host: b.example.com, extra: 1}")),
              HasSubstr("unknown field 'extra'"));
}

TEST(Document, TreatmentsArePrintedAsTheyWereRead) {
  const std::string text = rule_with(
      "rewrite: {host: b.example.com, port: 8443, path_prefix: /p, credentials: keep}\n    transform: "
      "{request: "
      "[set_header: {name: X-A, value: \"{workspace.id}\"}, remove_header: X-B], response: {scrub_secrets: "
      "true}}");
  const std::string once = print(yaml(text));
  const auto again = parse_document(once, Format::json);
  ASSERT_TRUE(again) << once;
  EXPECT_EQ(print(*again), once);
  EXPECT_THAT(once,
              testing::AllOf(HasSubstr("\"port\": 8443"), HasSubstr("{workspace.id}"),
                             HasSubstr("\"remove_header\": \"X-B\""), HasSubstr("\"scrub_secrets\": true")));
}

constexpr std::string_view providers = R"(
rules:
  - name: cloud
    type: aws
    aws:
      access_key_id: {type: workspace_secret, value: "{AWS_ID}"}
      secret_access_key: {type: opaque, value: hidden-aws}
    env_vars: {AWS_REGION: eu-central-1}
  - name: google
    type: gcp
    match_hosts: [storage.googleapis.com]
    gcp: {service_account_json: {type: workspace_secret, value: "{GCP}"}, scopes: [a, b]}
  - name: storage
    type: azure
    azure: {storage_account: acme01, account_key: {type: opaque, value: hidden-azure}}
  - name: service
    type: oauth2
    match_hosts: [api.example.com]
    oauth2:
      token_url: https://login.example.com/token
      client_id: me
      client_secret: {type: opaque, value: hidden-oauth}
      scopes: [read]
  - name: refreshing
    type: oauth2
    match_hosts: [b.example.com]
    oauth2:
      token_url: https://login.example.com/token
      grant: refresh_token
      client_id: me
      refresh_token: {type: opaque, value: hidden-refresh}
  - name: git
    type: github_app
    github_app:
      app_id: 12345
      installation_id: "678"
      private_key: {type: workspace_secret, value: "{APP_KEY}"}
      permissions: {contents: read}
)";

TEST(Document, ProvidersHaveTheirHostsPlaceholdersAndSettings) {
  const Document document = yaml(providers);
  ASSERT_EQ(document.rules.size(), 6u);
  const Rule& aws = document.rules[0];
  EXPECT_EQ(type_of(aws.provider), "aws");
  ASSERT_EQ(aws.match_hosts.size(), 3u);
  EXPECT_EQ(aws.match_hosts[0].text, "*.amazonaws.com");
  EXPECT_FALSE(std::get<AwsAuth>(aws.provider).secret_access_key.value.empty());
  EXPECT_TRUE(aws.injects_credential()) << "so it is refused over plain HTTP";
  EXPECT_EQ(document.rules[1].match_hosts.size(), 1u) << "narrowed";
  EXPECT_EQ(document.rules[2].match_hosts[0].pattern.host, "acme01.blob.core.windows.net");
  EXPECT_EQ(std::get<Oauth2Auth>(document.rules[3].provider).token_url.host.name, "login.example.com");
  EXPECT_EQ(std::get<Oauth2Auth>(document.rules[4].provider).grant, Oauth2Auth::Grant::refresh_token);
  EXPECT_EQ(std::get<GithubAppAuth>(document.rules[5].provider).app_id, "12345");
  const std::string printed = print(document);
  EXPECT_THAT(printed, Not(HasSubstr("hidden")));
  EXPECT_THAT(printed, Not(HasSubstr("amazonaws"))) << "its hosts are the type's, not the document's";
  const auto again = parse_document(printed, Format::json);
  ASSERT_TRUE(again) << describe(again.error(), "printed");
}

constexpr std::string_view federations = R"(
rules:
  - name: cloud
    type: aws
    aws:
      role_arn: arn:aws-us-gov:iam::123456789012:role/team/agents
      session_tags: {team: "r d", cost/center: "4711"}
      subject_scope: tag:blue
  - name: google
    type: gcp
    gcp:
      workload_identity_provider: //iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/agents/providers/postern
      service_account_email: robot@acme.iam.gserviceaccount.com
  - name: entra
    type: azure
    azure:
      tenant_id: 11111111-2222-3333-4444-555555555555
      client_id: AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee
      resources: [https://vault.azure.net, https://management.azure.com]
      subject_scope: workspace
)";

TEST(Document, WorkloadIdentitiesStandInThePlaceOfSecrets) {
  const Document document = yaml(federations);
  ASSERT_EQ(document.rules.size(), 3u);
  const AwsRole& role = *std::get<AwsAuth>(document.rules[0].provider).role;
  EXPECT_EQ(role.partition, "aws-us-gov");
  ASSERT_EQ(role.session_tags.size(), 2u);
  EXPECT_EQ(role.session_tags[1].value, "4711");
  EXPECT_EQ(role.subject.tag, "blue");
  EXPECT_TRUE(document.rules[0].signs());
  const GcpAuth& gcp = std::get<GcpAuth>(document.rules[1].provider);
  EXPECT_EQ(gcp.scopes, std::vector<std::string>{"https://www.googleapis.com/auth/cloud-platform"});
  EXPECT_EQ(gcp.federation->subject.tag, "");
  const Rule& entra = document.rules[2];
  EXPECT_FALSE(entra.signs()) << "a token is put on the request";
  EXPECT_TRUE(entra.injects_credential());
  ASSERT_EQ(entra.match_hosts.size(), 2u);
  EXPECT_EQ(entra.match_hosts[0].text, "*.vault.azure.net");
  EXPECT_EQ(entra.match_hosts[1].text, "management.azure.com");
  EXPECT_TRUE(document.rules[0].token_subject() && document.rules[1].token_subject() &&
              entra.token_subject());
  EXPECT_EQ(yaml(providers).rules[0].token_subject(), nullptr);
  const std::string printed = print(document);
  const auto again = parse_document(printed, Format::json);
  ASSERT_TRUE(again) << describe(again.error(), "printed");
  EXPECT_EQ(print(*again), printed);
}

TEST(Document, HostsOfEntrasResourcesAreTheirOwn) {
  EXPECT_EQ(azure_resource_of("acme.blob.core.windows.net"), AzureResource::storage);
  EXPECT_EQ(azure_resource_of("acme.vault.azure.net"), AzureResource::vault);
  EXPECT_EQ(azure_resource_of("management.azure.com"), AzureResource::management);
  EXPECT_EQ(azure_resource_of("acme.openai.azure.com"), AzureResource::cognitive_services);
  for (const char* other : {"blob.core.windows.net", "evilvault.azure.net", "x.management.azure.com",
                            "azure.com", "acme.vault.azure.net.evil.example.com", ""})
    EXPECT_EQ(azure_resource_of(other), std::nullopt) << other;
}

TEST(Document, WorkloadIdentitiesThatCannotWorkAreRefusedByPlace) {
  const auto aws = [](const std::string& fields) {
    return problems("rules:\n  - {name: r, type: aws, aws: {" + fields + "}}\n");
  };
  const std::string role = "role_arn: 'arn:aws:iam::123456789012:role/a'";
  EXPECT_EQ(aws(role), "");
  EXPECT_THAT(aws(role + ", access_key_id: {type: opaque, value: a}"),
              HasSubstr("rules[0].aws.access_key_id: does not belong beside 'role_arn'"));
  EXPECT_THAT(aws("access_key_id: {type: opaque, value: a}, secret_access_key: {type: opaque, value: b}, "
                  "session_tags: {a: b}"),
              HasSubstr("rules[0].aws.session_tags: does not belong beside 'access_key_id'"));
  EXPECT_EQ(aws("access_key_id: {type: opaque, value: a}, secret_access_key: {type: opaque, value: b}, "
                "role_arn: ''"),
            "")
      << "the SDKs' form of a rule with keys";
  for (const std::string arn :
       {"x", "arn:aws:iam::123456789012:user/a", "arn:aws:iam::12345678901:role/a",
        "arn:aws:iam::123456789012:role/", "arn:aws:iam:eu-west-1:123456789012:role/a",
        "arn:other:iam::123456789012:role/a", "arn:aws:s3::123456789012:role/a",
        "arn:aws:iam::123456789012:role/a b", "arn:aws:iam::123456789012:role/a/"})
    EXPECT_THAT(aws("role_arn: '" + arn + "'"), HasSubstr("rules[0].aws.role_arn: is not the ARN of a role"))
        << arn;
  EXPECT_THAT(aws(role + ", session_tags: {'aws:x': y}"), HasSubstr("are reserved"));
  EXPECT_THAT(aws(role + ", session_tags: {'LangSmith:x': y}"), HasSubstr("are reserved"));
  EXPECT_THAT(aws(role + ", session_tags: {a: x, A: y}"), HasSubstr("is there already"));
  EXPECT_THAT(aws(role + ", session_tags: {a: ''}"), HasSubstr("is no value of a tag"));
  EXPECT_THAT(aws(role + ", session_tags: {a: x/y}"), HasSubstr("is no value of a tag"));
  EXPECT_THAT(aws(role + ", session_tags: {'a\"b': x}"), HasSubstr("is no key of a tag"));
  EXPECT_THAT(aws(role + ", session_tags: {" + std::string(129, 'k') + ": x}"),
              HasSubstr("is no key of a tag"));
  std::string many;
  for (int i = 0; i < 51; ++i) many += fmt::format("k{}: v, ", i);
  EXPECT_THAT(aws(role + ", session_tags: {" + many + "}"), HasSubstr("51 tags: at most 50"));
  for (const std::string scope : {"sandbox", "tag:", "tag:a b", ""})
    EXPECT_THAT(aws(role + ", subject_scope: '" + scope + "'"),
                HasSubstr("subject_scope: is not a scope (accepted: workspace, tag:ID)"))
        << scope;

  const auto gcp = [](const std::string& fields) {
    return problems("rules:\n  - {name: r, type: gcp, gcp: {" + fields + "}}\n");
  };
  const std::string provider =
      "workload_identity_provider: "
      "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q";
  EXPECT_EQ(gcp(provider), "");
  EXPECT_THAT(gcp(provider + "/r"), HasSubstr("is not a provider's full name"));
  EXPECT_THAT(gcp("workload_identity_provider: https:" + provider.substr(28)),
              HasSubstr("is not a provider's full name"));
  EXPECT_THAT(gcp(provider + ", service_account_json: {type: opaque, value: x}"),
              HasSubstr("does not belong beside"));
  for (const std::string account : {"robot", "robot@", "@acme", "robot/../x@acme", "a b@acme", "a@b@c"})
    EXPECT_THAT(gcp(provider + ", service_account_email: '" + account + "'"),
                HasSubstr("is not a service account"))
        << account;

  const auto azure = [](const std::string& fields, const std::string& more = "") {
    return problems("rules:\n  - {name: r, type: azure, azure: {" + fields + "}" + more + "}\n");
  };
  const std::string entra =
      "tenant_id: 11111111-2222-3333-4444-555555555555, client_id: 11111111-2222-3333-4444-555555555555";
  EXPECT_EQ(azure(entra), "");
  EXPECT_EQ(azure(entra, ", match_hosts: [acme.blob.core.windows.net], match_paths: [/a/*]"), "");
  EXPECT_THAT(azure(entra, ", match_hosts: [evil.example.com]"),
              HasSubstr("is not one of this type's hosts"));
  EXPECT_THAT(
      azure(entra + ", resources: [https://vault.azure.net]", ", match_hosts: [acme.blob.core.windows.net]"),
      HasSubstr("is not one of this type's hosts (accepted: *.vault.azure.net"));
  EXPECT_THAT(azure(entra + ", resources: [https://graph.microsoft.com]"), HasSubstr("is not a resource"));
  EXPECT_THAT(azure(entra + ", storage_account: acme"), HasSubstr("does not belong beside 'tenant_id'"));
  EXPECT_THAT(azure("tenant_id: common, client_id: x"),
              AllOf(HasSubstr("tenant_id: is not a GUID"), HasSubstr("client_id: is not a GUID")));
  EXPECT_THAT(azure("tenant_id: 11111111-2222-3333-4444-555555555555"), HasSubstr("needs 'client_id'"));
}

TEST(Document, ProvidersThatCannotWorkAreRefusedByPlace) {
  const auto rule = [](const std::string& fields) {
    return problems("rules:\n  - {name: r, " + fields + "}\n");
  };
  const std::string aws =
      "type: aws, aws: {access_key_id: {type: opaque, value: a}, secret_access_key: {type: opaque, value: "
      "b}}";
  EXPECT_EQ(rule(aws), "");
  EXPECT_THAT(rule("type: aws, aws: {}"), AllOf(HasSubstr("needs 'access_key_id', a secret"),
                                                HasSubstr("needs 'secret_access_key', a secret")));
  EXPECT_THAT(
      rule("type: aws, aws: {access_key_id: AKIAcanary, secret_access_key: {type: opaque, value: b}}"),
      AllOf(HasSubstr("never plain text"), Not(HasSubstr("canary"))));
  EXPECT_THAT(rule("type: aws, aws: {access_key_id: {type: plaintext, value: canary}, secret_access_key: "
                   "{type: opaque, value: b}}"),
              AllOf(HasSubstr("'plaintext' is not a secret's type"), Not(HasSubstr("canary"))));
  EXPECT_THAT(rule(aws + ", match_hosts: [evil.example.com]"),
              HasSubstr("rules[0].match_hosts[0]: 'evil.example.com' is not one of this type's hosts"));
  EXPECT_THAT(rule(aws + ", match_hosts: [s3.amazonaws.com.evil.example.com]"), HasSubstr("is not one of"));
  EXPECT_THAT(rule(aws + ", match_paths: [/x]"), HasSubstr("belongs to no rule that signs"));
  EXPECT_THAT(rule(aws + ", headers: []"), HasSubstr("rules[0].headers: unknown field"));
  EXPECT_THAT(rule(aws + ", action: deny"), HasSubstr("a rule with a type allows"));
  EXPECT_THAT(rule(aws + ", env_vars: {AWS_CA_BUNDLE: x}"),
              HasSubstr("env_vars.AWS_CA_BUNDLE: is set by this rule's type itself"));
  EXPECT_THAT(problems("rules: [{name: a, " + aws + "}, {name: b, enabled: false, " + aws + "}]"),
              HasSubstr("is the second rule of type aws"));
  EXPECT_THAT(rule("type: azure, azure: {storage_account: Acme, account_key: {type: opaque, value: b}}"),
              HasSubstr("is not a storage account"));
  EXPECT_THAT(rule("type: azure, azure: {storage_account: acme}"), HasSubstr("exactly one of"));
  EXPECT_THAT(rule("type: azure, match_hosts: [a.example.com], azure: {storage_account: acme, sas_token: "
                   "{type: opaque, value: b}}"),
              HasSubstr("belongs to no azure rule"));
  EXPECT_THAT(rule("type: gcp, gcp: {service_account_json: {type: opaque, value: b}}"),
              HasSubstr("needs 'scopes'"));
  EXPECT_THAT(
      rule("type: oauth2, oauth2: {token_url: x, client_id: a}"),
      AllOf(HasSubstr("a rule needs 'match_hosts'"), HasSubstr("oauth2.token_url: must begin with https://"),
            HasSubstr("needs 'client_secret'")));
  EXPECT_THAT(rule("type: oauth2, match_hosts: [a.example.com], oauth2: {token_url: 'https://l.example.com', "
                   "grant: password, client_id: a, client_secret: {type: opaque, value: b}}"),
              HasSubstr("'password' is not a grant"));
  EXPECT_THAT(rule("type: github_app, github_app: {app_id: 1, installation_id: ../x, private_key: {type: "
                   "opaque, value: b}}"),
              HasSubstr("installation_id: is not a number"));
}

TEST(Document, CallbacksAreReadAndPrinted) {
  const std::string_view text = R"(
callbacks:
  - match_hosts: [api.example.com, "*.internal.example.com"]
    url: https://creds.example.com/issue?team=a
    ttl_seconds: 60
    request_headers:
      - {name: Authorization, type: opaque, value: hidden}
      - {name: X-Team, type: plaintext, value: blue}
  - match_hosts: [b.example.com]
    url: http://127.0.0.1:9000
    ttl_seconds: 3600
    full_request: true
)";
  const Document document = yaml(text);
  ASSERT_EQ(document.callbacks.size(), 2u);
  const Callback& first = document.callbacks[0];
  EXPECT_EQ(first.match_hosts.size(), 2u);
  EXPECT_EQ(first.url.host.name, "creds.example.com");
  EXPECT_EQ(first.url.target, "/issue?team=a");
  EXPECT_EQ(first.ttl, std::chrono::seconds(60));
  EXPECT_FALSE(first.full_request);
  ASSERT_EQ(first.request_headers.size(), 2u);
  EXPECT_FALSE(first.request_headers[0].value.empty());
  EXPECT_TRUE(document.callbacks[1].full_request);
  EXPECT_FALSE(document.callbacks[1].url.tls);
  const std::string printed = print(document);
  EXPECT_THAT(printed, Not(HasSubstr("hidden")));
  EXPECT_EQ(print(yaml(printed)), [&] {
    std::string again = printed;  // What is never printed is not there when it is read again.
    again.replace(again.find("\"is_set\": true"), 14, "\"is_set\": false");
    return again;
  }());
}

TEST(Document, CallbacksThatCannotWorkAreRefusedByPlace) {
  const auto with = [](const std::string& fields) {
    return problems(
        "callbacks:\n  - {match_hosts: [a.example.com], url: 'https://c.example.com/', ttl_seconds: 60" +
        fields + "}\n");
  };
  EXPECT_EQ(with(""), "");
  EXPECT_THAT(problems("callbacks: [{}]"),
              AllOf(HasSubstr("a callback needs 'match_hosts'"), HasSubstr("a callback needs a 'url'"),
                    HasSubstr("a callback needs 'ttl_seconds'")));
  EXPECT_THAT(with(", ttl: 1"), HasSubstr("callbacks[0].ttl: unknown field 'ttl'"));
  EXPECT_THAT(with(", request_headers: [{name: content-TYPE, type: plaintext, value: x}]"),
              HasSubstr("callbacks[0].request_headers[0].name: 'content-TYPE' is set by Postern itself"));
  EXPECT_THAT(with(", request_headers: [{name: X-LangSmith-Signature-JWT, type: plaintext, value: x}]"),
              HasSubstr("is set by Postern itself"));
  EXPECT_THAT(with(", request_headers: [{name: Host, type: plaintext, value: x}]"),
              HasSubstr("belongs to the connection"));
  EXPECT_THAT(with(", request_headers: [{name: X, type: workspace_secret, value: '{A}'}]"),
              HasSubstr("'workspace_secret' is not a header type (accepted: plaintext, opaque)"));
  const auto ttl = [](const std::string& value) {
    return problems(
        "callbacks: [{match_hosts: [a.example.com], url: 'https://c.example.com/', ttl_seconds: " + value +
        "}]");
  };
  for (const std::string bad : {"59", "3601", "-60", "60.5", "1e3", "99999999999999999999"})
    EXPECT_THAT(ttl(bad), HasSubstr("whole seconds from 60 to 3600")) << bad;
  EXPECT_THAT(ttl("'60'"), HasSubstr("must be a number"));
  EXPECT_THAT(problems("callbacks: [{match_hosts: ['*.com'], url: 'https://user:hunter22@c.example.com/', "
                       "ttl_seconds: 60}]"),
              AllOf(HasSubstr("callbacks[0].match_hosts[0]"),
                    HasSubstr("callbacks[0].url: must not have a user"), Not(HasSubstr("hunter22"))));
}

/// What is wrong with a document that the operator wrote.
std::string own_problems(std::string_view text) {
  const auto document = parse_document(text, Format::yaml, UnknownFields::refuse, References::accept);
  return document ? "" : describe(document.error(), "policy.yaml");
}

TEST(Document, AReferenceIsReadFromTheOperatorsOwnFilesOnly) {
  const std::string header = header_with("name: X-Key, type: opaque, from: \"cmd:touch /tmp/x\"");
  const std::string provider =
      "rules:\n  - {name: r, type: gcp, gcp: {scopes: [a], service_account_json: {type: opaque, from: "
      "\"file:/etc/shadow\"}}}\n";
  const std::string callback =
      "callbacks:\n  - {match_hosts: [a.example.com], url: \"https://b.example.com\", ttl_seconds: 60, "
      "request_headers: [{name: X-Key, type: opaque, from: \"vault:secret/a#b\"}]}\n";
  for (const std::string& text : {header, provider, callback}) {
    EXPECT_EQ(own_problems(text), "");
    for (const UnknownFields unknown : {UnknownFields::refuse, UnknownFields::tolerate})
      EXPECT_THAT(problems(text, Format::yaml, unknown),
                  AllOf(HasSubstr(".from: is only read from files that the operator gives"),
                        Not(HasSubstr("/etc/shadow"))));
  }
}

TEST(Document, AReferenceStandsInPlaceOfAnOpaqueValue) {
  const auto from = [](std::string_view fields) {
    return own_problems(header_with(fmt::format("name: X-Key, {}", fields)));
  };
  EXPECT_EQ(from("type: opaque, from: \"file:a\""), "");
  EXPECT_THAT(from("type: opaque, value: v, from: \"file:a\""),
              HasSubstr("exactly one of 'value' and 'from'"));
  EXPECT_THAT(from("type: plaintext, from: \"file:a\""), HasSubstr("belongs to the type opaque"));
  EXPECT_THAT(from("type: workspace_secret, from: \"file:a\""), HasSubstr("belongs to the type opaque"));
  for (const char* none : {"file:", "cmd:", "vault:", "a", "value:x", "http://x", "File:a", ":a"})
    EXPECT_THAT(from(fmt::format("type: opaque, from: \"{}\"", none)),
                HasSubstr("from: is not file:PATH, cmd:COMMAND or vault:PATH#FIELD"))
        << none;
  EXPECT_THAT(from("type: opaque, from: 7"), HasSubstr("must be a string"));
}

TEST(Document, ReferencesAreListedByPlace) {
  const auto document = parse_document(R"(
rules:
  - {name: a, match_hosts: [a.example.com], headers: [{name: X, type: opaque, value: v}, {name: Y, type: opaque, from: "file:y"}]}
  - {name: off, match_hosts: [a.example.com], enabled: false, headers: [{name: X, type: opaque, from: "file:off"}]}
  - {name: o, type: oauth2, match_hosts: [b.example.com], oauth2: {token_url: "https://c.example.com/", client_id: me, client_secret: {type: opaque, from: "file:s"}}}
callbacks:
  - {match_hosts: [d.example.com], url: "https://e.example.com", ttl_seconds: 60, request_headers: [{name: Z, type: opaque, from: "file:z"}]}
)",
                                       Format::yaml, UnknownFields::refuse, References::accept);
  ASSERT_TRUE(document) << describe(document.error(), "policy.yaml");
  std::string all;
  for (const Reference& reference : references_of(document->rules, document->callbacks))
    all += fmt::format("{} {}\n", reference.where, reference.text);
  EXPECT_EQ(all,
            "rules[0].headers[1].from file:y\nrules[2].oauth2.client_secret.from file:s\n"
            "callbacks[0].request_headers[0].from file:z\n");
}

TEST(Document, NoProxyIsAcceptedWithAWarning) {
  const Document document = yaml("no_proxy: [localhost]\n");
  ASSERT_EQ(document.warnings.size(), 1u);
  EXPECT_EQ(describe(document.warnings[0], "p"),
            "p:1:11: no_proxy: is deprecated and has no effect: leave it out");
  EXPECT_THAT(problems("no_proxy: [1]\n"), HasSubstr("no_proxy[0]: must be a string"));
}

TEST(Document, AccessControlHasExactlyOneList) {
  EXPECT_THAT(problems("access_control: {allow_list: [a.com], deny_list: [b.com]}"),
              HasSubstr("each of allow_list and deny_list is set: exactly one"));
  EXPECT_THAT(problems("access_control: {allow_list: [a.com], deny_list: []}"), HasSubstr("exactly one"));
  EXPECT_THAT(problems("access_control: {}"), HasSubstr("none of allow_list and deny_list is set"));
  EXPECT_THAT(problems("access_control: [a.com]"), HasSubstr("must be a mapping, not a list"));
  EXPECT_EQ(problems("access_control: {allow_list: []}"), "");
}

TEST(Document, ABrokenEntryIsNamed) {
  EXPECT_THAT(
      problems("access_control:\n  deny_list:\n    - good.com\n    - example.com:abc\n"),
      AllOf(StartsWith(
                "policy.yaml:4:7: access_control.deny_list[1]: 'example.com:abc' is not a destination: "),
            HasSubstr("(accepted: host, host:PORT, *.example.com,")));
}

TEST(Document, RuleNamesArePresentShortAndPrintable) {
  EXPECT_THAT(problems("rules: [{match_hosts: [a.com]}]"), HasSubstr("rules[0]: a rule needs a 'name'"));
  EXPECT_THAT(problems("rules: [{name: '', match_hosts: [a.com]}]"), HasSubstr("must have 1 to 128 bytes"));
  EXPECT_THAT(problems("rules: [{name: \"a\\nb\", match_hosts: [a.com]}]"),
              HasSubstr("no control characters"));
  EXPECT_THAT(problems("rules: [{name: 12, match_hosts: [a.com]}]"),
              HasSubstr("must be a string, not a number: write it in quotes"));
  EXPECT_THAT(problems("rules: [{name: " + std::string(129, 'n') + ", match_hosts: [a.com]}]"),
              HasSubstr("1 to 128"));
  EXPECT_THAT(problems("rules: [a]"), HasSubstr("rules[0]: must be a mapping, not a string"));
}

TEST(Document, RulesNeedHosts) {
  EXPECT_THAT(problems("rules: [{name: r, match_hosts: []}]"), HasSubstr("a rule needs at least one host"));
  EXPECT_THAT(problems("rules: [{name: r, match_hosts: a.com}]"), HasSubstr("must be a list, not a string"));
  EXPECT_THAT(problems("rules: [{name: r, match_hosts: ['*.com']}]"),
              HasSubstr("anybody may register a name under com"));
}

TEST(Document, DescriptionsAreCountedInCharacters) {
  std::string text;
  for (int i = 0; i < 1024; ++i) text += "é";
  EXPECT_EQ(problems("description: " + text), "");
  EXPECT_THAT(problems("description: " + text + "x"),
              HasSubstr("description: 1025 characters: at most 1024 are accepted"));
  EXPECT_THAT(problems(rule_with("description: " + text + "x")),
              HasSubstr("rules[0].description: 1025 characters"));
}

TEST(Document, MethodsAreInCapitals) {
  EXPECT_THAT(problems(rule_with("match_methods: [get]")),
              HasSubstr("'get' is not a method (accepted: names in capitals"));
  EXPECT_THAT(problems(rule_with("match_methods: ['GET ']")), HasSubstr("is not a method"));
  EXPECT_THAT(problems(rule_with("match_methods: ['']")), HasSubstr("is not a method"));
  EXPECT_THAT(problems(rule_with("action: block")),
              HasSubstr("'block' is not an action (accepted: allow, deny)"));
}

TEST(Document, HeaderConditionsAreNameColonValue) {
  for (const char* bad : {"x-team", "X-Team: a", "x team: a", ": a", "'x-a : b'"}) {
    EXPECT_THAT(problems(rule_with(fmt::format("match_headers: [\"{}\"]", bad))),
                HasSubstr("must be \"name: value\""))
        << bad;
  }
  EXPECT_THAT(problems(rule_with("match_headers: [\"x-a: b\\nc\"]")), HasSubstr("control characters"));
}

TEST(Document, HeadersOfTheConnectionCannotBeInjected) {
  for (const char* name :
       {"Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Trailer", "Keep-Alive",
        "Proxy-Authorization", "proxy-connection", "Expect", "Sec-WebSocket-Key", "HTTP2-Settings"}) {
    EXPECT_THAT(problems(header_with(fmt::format("name: {}, type: plaintext, value: x", name))),
                HasSubstr(fmt::format("rules[0].headers[0].name: '{}' belongs to the connection", name)));
  }
  for (const char* name : {"'a b'", "''", "'a:'", "'é'", "\"a\\r\\n\""}) {
    EXPECT_THAT(problems(header_with(fmt::format("name: {}, type: plaintext, value: x", name))),
                HasSubstr("is not a header name"))
        << name;
  }
}

TEST(Document, AHeaderIsSetOncePerRule) {
  EXPECT_THAT(
      problems(rule_with(
          "headers: [{name: X-A, type: plaintext, value: x}, {name: x-a, type: plaintext, value: y}]")),
      HasSubstr("rules[0].headers[1].name: 'x-a' is set twice"));
  // "_" and "-" are distinct (section 5).
  EXPECT_EQ(problems(rule_with(
                "headers: [{name: X-A, type: plaintext, value: x}, {name: X_A, type: plaintext, value: y}]")),
            "");
}

TEST(Document, ALineBreakInAValueIsRefused) {
  for (const char* type : {"plaintext", "opaque", "workspace_secret"}) {
    for (const char* bad : {"a\\rb", "a\\nb", "a\\0b", "a\\x7fb", "a\\x01"}) {
      EXPECT_THAT(problems(header_with(fmt::format("name: X, type: {}, value: \"{}\"", type, bad))),
                  HasSubstr("rules[0].headers[0].value: holds CR, LF, NUL"))
          << type << " " << bad;
    }
  }
}

TEST(Document, HeadersNeedNameTypeAndValue) {
  EXPECT_THAT(problems(header_with("type: plaintext, value: x")), HasSubstr("a header needs a 'name'"));
  EXPECT_THAT(problems(header_with("name: X, value: x")),
              HasSubstr("a header needs a 'type' (accepted: workspace_secret, plaintext, opaque)"));
  EXPECT_THAT(problems(header_with("name: X, type: plaintext")),
              HasSubstr("a plaintext header needs a 'value'"));
  EXPECT_THAT(problems(header_with("name: X, type: workspace_secret")),
              HasSubstr("a workspace_secret header needs a 'value'"));
  EXPECT_EQ(problems(header_with("name: X, type: opaque")), "");  // the stored value stays
  EXPECT_EQ(problems(header_with("name: X, type: opaque, is_set: true")), "");
  EXPECT_EQ(problems(header_with("name: X, type: plaintext, value: ''")), "");
  EXPECT_THAT(
      problems(header_with(fmt::format("name: X, type: plaintext, value: {}", std::string(20000, 'x')))),
      HasSubstr("at most 16384"));
}

TEST(Document, TemplatesAreCheckedWhenRead) {
  EXPECT_THAT(problems(header_with("name: X, type: workspace_secret, value: 'Bearer {A'")),
              HasSubstr("is never closed"));
  EXPECT_THAT(problems(header_with("name: X, type: workspace_secret, value: 'Bearer A}'")),
              HasSubstr("a lone }"));
  EXPECT_THAT(problems(header_with("name: X, type: workspace_secret, value: 'Bearer {a b}'")),
              HasSubstr("does not hold a secret's name"));
  EXPECT_THAT(problems(header_with("name: X, type: workspace_secret, value: '{{A}}'")),
              HasSubstr("names no secret"));
}

TEST(Document, AMessageNeverHoldsAHeadersValue) {
  // People paste credentials into the wrong type, the wrong field, and broken syntax.
  const std::string canary = "sk-canary-31337";
  for (const std::string& text : {
           header_with(fmt::format("name: X, type: workspace_secret, value: 'Bearer {}'", canary)),
           header_with(fmt::format("name: X, type: workspace_secret, value: '{{{}}}'", canary)),
           header_with(fmt::format("name: X, type: plaintext, value: \"{}\\n\"", canary)),
           header_with(fmt::format("name: 'Authorization: {}', type: plaintext, value: x", canary)),
           header_with(fmt::format("name: X, type: plaintext, value: [{}]", canary)),
           rule_with(fmt::format("match_headers: ['{}']", canary)),
           rule_with(fmt::format("env_vars: {{A: [{}]}}", canary)),
           rule_with(fmt::format("headers: [{{value: '{}", canary)),
       }) {
    EXPECT_THAT(problems(text), AllOf(Not(""), Not(HasSubstr("canary")))) << text;
  }
  for (const std::string text :
       {R"({"rules": [{"headers": [{"value": "sk-canary-1\q"}]}]})", R"({"value": "sk-canary-1)",
        R"({"value": sk-canary-1})", R"({"value": "sk-canary-1" "sk-canary-2"})"}) {
    EXPECT_THAT(json_problems(text), AllOf(HasSubstr("not valid JSON"), Not(HasSubstr("canary")))) << text;
  }
}

TEST(Document, ADenyingRuleSetsNoHeaders) {
  EXPECT_THAT(problems(rule_with("action: deny\n    headers: [{name: X, type: plaintext, value: x}]")),
              HasSubstr("policy.yaml:5:14: rules[0].headers: a rule whose action is deny"));
}

TEST(Document, VariablesHaveNamesAndTextValues) {
  EXPECT_THAT(problems(rule_with("env_vars: {1A: x}")),
              HasSubstr("rules[0].env_vars.1A: is not a variable name"));
  EXPECT_THAT(problems(rule_with("env_vars: {A=B: x}")), HasSubstr("is not a variable name"));
  EXPECT_THAT(problems(rule_with("env_vars: {A: 12}")),
              HasSubstr("must be a string, not a number: write it in quotes"));
  EXPECT_THAT(problems(rule_with("env_vars: {A: true}")),
              HasSubstr("must be a string, not a truth value: write it in quotes"));
  EXPECT_THAT(problems(rule_with("env_vars: {A: }")), HasSubstr("must be a string, not nothing"));
  EXPECT_THAT(problems(rule_with("env_vars: {A: \"x\\0y\"}")), HasSubstr("no NUL"));
  EXPECT_THAT(problems(rule_with("env_vars: [A]")), HasSubstr("must be a mapping"));
  EXPECT_EQ(problems(rule_with("env_vars: {A: '12', B: no, C: 1.2.3, D: 2026-11-23}")), "");
}

TEST(Document, PlainYamlScalarsAreReadByTheCoreSchema) {
  for (const char* number :
       {"1", "-1", "+1.5", "0x1F", "0o17", "1e3", ".5", "5.", "1.5E-7", ".inf", "-.INF", ".nan"}) {
    EXPECT_THAT(problems(fmt::format("description: {}", number)), HasSubstr("not a number")) << number;
  }
  for (const char* text : {"1.2.3", "0x", "1e", ".", "yes", "off", "12:30", "0o8", "1_000"}) {
    EXPECT_EQ(problems(fmt::format("description: {}", text)), "") << text;
  }
  for (const char* truth : {"true", "False", "TRUE"}) {
    EXPECT_THAT(problems(fmt::format("description: {}", truth)), HasSubstr("not a truth value")) << truth;
    EXPECT_EQ(problems(fmt::format("description: '{}'", truth)), "") << truth;
    EXPECT_EQ(problems(rule_with(fmt::format("enabled: {}", truth))), "") << truth;
  }
}

TEST(Document, ThePrintedFormIsReadAgainAndHoldsNoSecret) {
  const Document document = yaml(R"(
description: d
access_control: {deny_list: ["*.example.com:443", "~a.*b"]}
rules:
  - name: r
    description: e
    enabled: false
    match_hosts: ["*.example.com"]
    match_paths: [/a/*]
    match_methods: [GET]
    match_headers: ["x-a: b"]
    headers:
      - {name: A, type: opaque, value: canary-secret}
      - {name: B, type: workspace_secret, value: "{K}"}
      - {name: C, type: opaque}
    env_vars: {V: w}
  - {name: s, match_hosts: [b.com], action: deny}
)");
  const std::string printed = print(document);
  EXPECT_THAT(printed, Not(HasSubstr("canary")));
  EXPECT_THAT(printed, AllOf(HasSubstr("\"is_set\": true"), HasSubstr("\"is_set\": false")));
  auto again = parse_document(printed, Format::json);
  ASSERT_TRUE(again) << describe(again.error(), "printed");
  // Opaque values do not come back; all else does.
  std::string expected = printed;
  expected.replace(expected.find("\"is_set\": true"), 14, "\"is_set\": false");
  EXPECT_EQ(print(*again), expected);
}

TEST(Document, AFileThatCannotBeReadSaysSo) {
  const auto missing = load_document("/nonexistent/policy.yaml");
  ASSERT_FALSE(missing);
  EXPECT_EQ(describe(missing.error(), "/nonexistent/policy.yaml"),
            "/nonexistent/policy.yaml: cannot be read: No such file or directory\n");
  EXPECT_THAT(describe(load_document("/").error(), "/"), HasSubstr("cannot be read: Is a directory"));
  EXPECT_THAT(describe(load_document("/dev/zero").error(), "z"),
              HasSubstr(fmt::format("at most {}", document_bytes_max)));
}

TEST(Document, EveryExampleIsAccepted) {
  const auto folder = std::filesystem::path(POSTERN_SOURCE_DIR) / "examples";
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".yaml") continue;
    ++count;
    const auto document = load_document(file.path());
    EXPECT_TRUE(document) << describe(document.error(), file.path().string());
  }
  EXPECT_GE(count, 5);
}

}  // namespace
}  // namespace postern::policy
