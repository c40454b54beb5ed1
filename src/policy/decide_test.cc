#include "policy/decide.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <random>
#include <regex>

#include "wire/host.h"
#include "wire/path.h"

namespace postern::policy {
namespace {

using testing::HasSubstr;

Host host(std::string_view text) {
  auto canonical = wire::canonical_host(text);
  if (!canonical) ADD_FAILURE() << text << ": " << canonical.error().detail;
  return canonical ? *canonical : Host{};
}

std::shared_ptr<const Snapshot> snapshot(std::string_view text, const CompileOptions& options = {}) {
  auto document = parse_document(text, Format::yaml);
  if (!document) {
    ADD_FAILURE() << describe(document.error(), "policy.yaml");
    document.emplace();
  }
  auto compiled = compile(std::move(*document), options);
  if (!compiled) {
    ADD_FAILURE() << describe(compiled.error(), "policy.yaml");
    compiled = compile({});
  }
  return *compiled;
}

Reason judge(const Snapshot& policy, std::string_view name, std::uint16_t port, Transport transport) {
  const Host canonical = host(name);
  return judge_destination(policy, {canonical, port, transport}).reason;
}
Reason judge_https(const Snapshot& policy, std::string_view name) {
  return judge(policy, name, 443, Transport::tls);
}

struct Request {
  std::string host = "api.example.com";
  std::string method = "GET";
  std::string path = "/";
  bool tls = true;
  std::vector<HeaderField> fields = {};
};

Verdict verdict(const Snapshot& policy, const Request& request) {
  const Host canonical = host(request.host);
  return decide(policy, {canonical, static_cast<std::uint16_t>(request.tls ? 443 : 80), request.tls,
                         request.method, request.path, request.fields});
}
std::string rule_of(const Snapshot& policy, const Request& request) {
  const Verdict made = verdict(policy, request);
  if (made.rule == nullptr) return fmt::format("none, {}", token(made.reason));
  EXPECT_EQ(&policy.rules()[made.rule_index], made.rule);
  return fmt::format("{}, {}", made.rule->name, token(made.reason));
}

// ---- access control
// -------------------------------------------------------------------------------------------------

TEST(Destination, WithoutAccessControlEveryNameIsAllowedOnEveryPort) {
  const auto policy = snapshot("{}");
  EXPECT_EQ(judge_https(*policy, "example.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "example.com", 80, Transport::http), Reason::allowed);
  EXPECT_EQ(judge(*policy, "example.com", 5432, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge(*policy, "example.com", 8443, Transport::tls), Reason::allowed);
  EXPECT_EQ(policy->allowed_hint(), "every host name");
}

TEST(Destination, PortsOfTheWebSpeakTheWebOnly) {
  const auto policy = snapshot("{}");
  EXPECT_EQ(judge(*policy, "example.com", 80, Transport::tcp), Reason::protocol_not_allowed);
  EXPECT_EQ(judge(*policy, "example.com", 80, Transport::tls), Reason::protocol_not_allowed);
  EXPECT_EQ(judge(*policy, "example.com", 443, Transport::tcp), Reason::protocol_not_allowed);
  EXPECT_EQ(judge(*policy, "example.com", 443, Transport::http), Reason::protocol_not_allowed);
}

TEST(Destination, AnAllowListAllowsWhatItNamesAndNothingElse) {
  const auto policy = snapshot(
      R"(access_control: {allow_list: [a.com, "b.com:443", "*.c.com", "*.d.com:5432", "~x[0-9]+[.]e[.]com"]})");
  EXPECT_EQ(judge_https(*policy, "a.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "a.com", 22, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "b.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "b.com", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "x.c.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "x.y.z.c.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "c.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge(*policy, "x.d.com", 5432, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "x.d.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "x17.e.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "x17.e.com", 22, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "x17.e.com.evil.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "ax17.e.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "other.com"), Reason::not_in_allow_list);
}

TEST(Destination, ADenyListDeniesWhatItNamesAndNothingElse) {
  const auto policy = snapshot(R"(access_control: {deny_list: [a.com, "*.b.com", "*:25", "~.*paste.*"]})");
  EXPECT_EQ(judge_https(*policy, "a.com"), Reason::in_deny_list);
  EXPECT_EQ(judge_https(*policy, "x.a.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "b.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "x.b.com"), Reason::in_deny_list);
  EXPECT_EQ(judge(*policy, "mail.com", 25, Transport::tcp), Reason::in_deny_list);
  EXPECT_EQ(judge(*policy, "mail.com", 26, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "my.pastebin.com"), Reason::in_deny_list);
  EXPECT_EQ(policy->allowed_hint(), "every host name that is not denied");
}

TEST(Destination, AnEmptyAllowListClosesEverything) {
  const auto policy = snapshot("access_control: {allow_list: []}");
  EXPECT_EQ(judge_https(*policy, "a.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge(*policy, "8.8.8.8", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(policy->allowed_hint(), "nothing");
  EXPECT_EQ(judge_https(*snapshot("access_control: {deny_list: []}"), "a.com"), Reason::allowed);
}

TEST(Destination, LookalikesOfAnAllowedHostAreOtherHosts) {  // threats 50 to 52
  const auto policy = snapshot(R"(access_control: {allow_list: [github.com, "*.github.com"]})");
  for (const char* evil :
       {"evilgithub.com", "github.com.evil.com", "github.com.evil", "githubxcom.com", "github.co",
        "xn--gthub-cta.com", "gіthub.com" /* Cyrillic і */, "com", "hub.com"}) {
    EXPECT_EQ(judge_https(*policy, evil), Reason::not_in_allow_list) << evil;
  }
  for (const char* same : {"GitHub.COM", "github.com.", "git\u00adhub.com", "github\uff0ecom",
                           "API.github.com", "a.b.github.com"}) {
    EXPECT_EQ(judge_https(*policy, same), Reason::allowed) << same;
  }
}

TEST(Destination, LiteralAddressesAreOnlyReachedByPlainHttpOnPort80) {
  const auto policy = snapshot(
      R"(access_control: {allow_list: [1.2.3.4, "8.8.8.0/24", "[2606:4700::1]:80", "9.9.9.9:443", "*"]})");
  EXPECT_EQ(judge(*policy, "1.2.3.4", 80, Transport::http), Reason::allowed);
  EXPECT_EQ(judge(*policy, "8.8.8.8", 80, Transport::http), Reason::allowed);
  EXPECT_EQ(judge(*policy, "[2606:4700::1]", 80, Transport::http), Reason::allowed);
  EXPECT_EQ(judge(*policy, "[2606:4700::2]", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(judge(*policy, "9.9.9.9", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(judge(*policy, "8.8.4.4", 80, Transport::http), Reason::not_in_allow_list)
      << "* stands for names";
  for (const std::string_view listed : {"1.2.3.4", "8.8.8.8", "9.9.9.9"}) {
    EXPECT_EQ(judge_https(*policy, listed), Reason::literal_address);
    EXPECT_EQ(judge(*policy, listed, 22, Transport::tcp), Reason::literal_address);
    EXPECT_EQ(judge(*policy, listed, 80, Transport::tcp), Reason::literal_address);
    EXPECT_EQ(judge(*policy, listed, 8080, Transport::http), Reason::literal_address);
  }
  EXPECT_EQ(judge(*snapshot("{}"), "8.8.8.8", 80, Transport::http), Reason::allowed);
}

TEST(Destination, PrivateAddressesAreRefusedWhateverThePolicySays) {
  const auto policy = snapshot(
      R"(access_control: {allow_list: ["10.0.0.0/8", 127.0.0.1, 169.254.169.254, "[::1]", "[::ffff:10.0.0.1]"]})");
  for (const char* address : {"10.1.2.3", "127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]",
                              "0x7f000001", "2130706433", "100.64.0.1"}) {
    EXPECT_EQ(judge(*policy, address, 80, Transport::http), Reason::private_address) << address;
    EXPECT_EQ(judge(*snapshot("{}"), address, 80, Transport::http), Reason::private_address) << address;
  }
}

TEST(Destination, TheOperatorMayOpenPrivateNetworks) {
  CompileOptions options;
  options.allow_private = {*Cidr::parse("10.0.0.0/8")};
  const auto policy = snapshot("{}", options);
  EXPECT_EQ(judge(*policy, "10.1.2.3", 80, Transport::http), Reason::allowed);
  EXPECT_EQ(judge(*policy, "192.168.0.1", 80, Transport::http), Reason::private_address);
  EXPECT_EQ(
      judge(*snapshot("access_control: {allow_list: [a.com]}", options), "10.1.2.3", 80, Transport::http),
      Reason::not_in_allow_list);
}

TEST(Destination, DenyingEverythingClosesLiteralAddressesToo) {
  EXPECT_EQ(judge(*snapshot("access_control: {deny_list: ['*']}"), "8.8.8.8", 80, Transport::http),
            Reason::in_deny_list);
  EXPECT_EQ(judge(*snapshot("access_control: {deny_list: ['*:443']}"), "8.8.8.8", 80, Transport::http),
            Reason::allowed);
  EXPECT_EQ(judge(*snapshot("access_control: {deny_list: ['8.0.0.0/8']}"), "8.8.8.8", 80, Transport::http),
            Reason::in_deny_list);
}

TEST(Destination, CommandLinePatternsMergeWithTheDocument) {
  CompileOptions options;
  options.allow = {"extra.com"};
  options.deny = {"bad.a.com"};
  const auto listed = snapshot("access_control: {allow_list: ['*.a.com']}", options);
  EXPECT_EQ(judge_https(*listed, "extra.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*listed, "good.a.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*listed, "bad.a.com"), Reason::in_deny_list);
  EXPECT_EQ(judge_https(*listed, "other.com"), Reason::not_in_allow_list);

  const auto denying = snapshot("access_control: {deny_list: [extra.com]}", options);
  EXPECT_EQ(judge_https(*denying, "extra.com"), Reason::in_deny_list);
  EXPECT_EQ(judge_https(*denying, "bad.a.com"), Reason::in_deny_list);
  EXPECT_EQ(judge_https(*denying, "other.com"), Reason::allowed);

  options.allow = {"bad.a.com"};
  EXPECT_EQ(judge_https(*snapshot("{}", options), "bad.a.com"), Reason::in_deny_list) << "--deny wins";
}

TEST(Destination, ABrokenCommandLinePatternIsNamed) {
  CompileOptions options;
  options.allow = {"good.com", "bad.com:x"};
  options.deny = {"~("};
  const auto compiled = compile({}, options);
  ASSERT_FALSE(compiled);
  EXPECT_THAT(describe(compiled.error(), ""), HasSubstr("--allow[1]: 'bad.com:x' is not a destination"));
  EXPECT_THAT(describe(compiled.error(), ""),
              HasSubstr("--deny[0]: '~(' is not a destination: the regular expression is broken"));
}

TEST(Destination, HostsOfRulesAreTheNarrowDefault) {
  CompileOptions options{.allow = {"extra.com:443"}, .default_egress = DefaultEgress::hosts_of_rules};
  const auto policy = snapshot(R"(
rules:
  - {name: a, match_hosts: [a.com, "*.b.com"]}
  - {name: off, match_hosts: [off.com], enabled: false}
  - {name: closed, match_hosts: [closed.com], action: deny}
)",
                               options);
  EXPECT_EQ(judge_https(*policy, "a.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "a.com", 22, Transport::tcp), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "x.b.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "extra.com"), Reason::allowed);
  EXPECT_EQ(judge(*policy, "extra.com", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "b.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge_https(*policy, "off.com"), Reason::not_in_allow_list);
  EXPECT_EQ(judge(*policy, "closed.com", 22, Transport::tcp), Reason::not_in_allow_list)
      << "a denying rule opens nothing";
  EXPECT_EQ(judge(*policy, "8.8.8.8", 80, Transport::http), Reason::not_in_allow_list);
  EXPECT_EQ(policy->allowed_hint(), "a.com, *.b.com, extra.com:443");
  // A document with access_control says itself what it allows.
  EXPECT_EQ(judge_https(*snapshot("access_control: {deny_list: [x.com]}", options), "y.com"),
            Reason::allowed);
}

TEST(Destination, TheHintIsShort) {
  std::string text = "access_control: {allow_list: [";
  for (int i = 0; i < 40; ++i) text += fmt::format("h{}.com, ", i);
  const auto policy = snapshot(text + "]}");
  EXPECT_THAT(policy->allowed_hint(), HasSubstr("h11.com and 28 more"));
  const Host other = host("other.com");
  EXPECT_EQ(judge_destination(*policy, {other, 443, Transport::tls}).allowed_hint, policy->allowed_hint());
}

TEST(Destination, NamesAreOnlyResolvedWhenSomePortIsAllowed) {
  const auto listed = snapshot("access_control: {allow_list: ['a.com:5432', '*.b.com', '~x.*']}");
  EXPECT_TRUE(may_resolve(*listed, host("a.com")));
  EXPECT_TRUE(may_resolve(*listed, host("x.b.com")));
  EXPECT_TRUE(may_resolve(*listed, host("xyz")));
  EXPECT_FALSE(may_resolve(*listed, host("b.com")));
  EXPECT_FALSE(may_resolve(*listed, host("secret-data.evil.com")));
  const auto denying = snapshot("access_control: {deny_list: [a.com, 'b.com:443', '*.c.com']}");
  EXPECT_FALSE(may_resolve(*denying, host("a.com")));
  EXPECT_TRUE(may_resolve(*denying, host("b.com"))) << "other ports of it are open";
  EXPECT_FALSE(may_resolve(*denying, host("x.c.com")));
  EXPECT_TRUE(may_resolve(*denying, host("d.com")));
  EXPECT_FALSE(may_resolve(*denying, host("8.8.8.8")));
}

TEST(Destination, RegularExpressionsCannotBeMadeSlow) {  // threat 58
  const auto policy =
      snapshot("access_control: {deny_list: ['~(a+)+$', '~(.*)*(.*)*x', '~([a-z]+)*[.]evil[.]com']}");
  const Host long_name{std::string(63, 'a') + "." + std::string(63, 'a') + "." + std::string(63, 'a') + ".b",
                       std::nullopt};
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_EQ(judge_destination(*policy, {long_name, 443, Transport::tls}).reason, Reason::allowed);
  }
  EXPECT_EQ(judge_https(*policy, "aaaa"), Reason::in_deny_list);
}

TEST(Destination, AnAutomatonTooLargeForItsMemoryStillAnswers) {
  // Joined, these have exponentially many states; the answer must not become "no match".
  std::string text = "access_control:\n  deny_list:\n";
  for (int i = 0; i < 40; ++i) text += fmt::format("    - '~.*[a-m].{{{}}}[n-z0-9].*{}'\n", 20 + i, i % 10);
  const auto policy = snapshot(text);
  std::mt19937 random(7);
  int denied = 0;
  for (int round = 0; round < 300; ++round) {
    std::string name;
    for (int i = 0; i < 200; ++i) name += "abcdefghijklmnopqrstuvwxyz0123456789"[random() % 36];
    name += static_cast<char>('0' + round % 10);
    const Host canonical{name, std::nullopt};
    if (judge_destination(*policy, {canonical, 443, Transport::tls}).reason == Reason::in_deny_list) ++denied;
  }
  EXPECT_EQ(denied, 300);
}

// ---- rules
// ----------------------------------------------------------------------------------------------------------

TEST(Rules, TheFirstEnabledMatchWins) {  // threat 57
  const auto policy = snapshot(R"(
rules:
  - {name: off, match_hosts: [api.example.com], enabled: false}
  - {name: elsewhere, match_hosts: [other.example.com]}
  - {name: wild paths, match_hosts: ["*.example.com"], match_paths: [/wild/*]}
  - {name: exact, match_hosts: [api.example.com, "*.api.example.com"]}
  - {name: wild, match_hosts: ["*.example.com", api.example.com]}
  - {name: last, match_hosts: [api.example.com]}
)");
  EXPECT_EQ(rule_of(*policy, {}), "exact, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/wild/1"}), "wild paths, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "x.example.com"}), "wild, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "x.api.example.com"}), "exact, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "x.api.example.com", .path = "/wild/"}), "wild paths, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "example.com"}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "evilexample.com"}), "none, allowed");
}

TEST(Rules, AllConditionsMustHold) {
  const auto policy = snapshot(R"(
rules:
  - name: r
    match_hosts: [api.example.com]
    match_paths: [/v1/*, /exact]
    match_methods: [GET, POST]
    match_headers: ["x-team: Blue", "x-stage: dev"]
)");
  const std::vector<HeaderField> both = {{"X-Stage", "dev"}, {"X-TEAM", "Blue"}, {"x-team", "Blue"}};
  const std::vector<HeaderField> split = {{"X-Stage", "dev"}, {"X-TEAM", "Red"}, {"x-team", "Blue"}};
  EXPECT_EQ(rule_of(*policy, {.path = "/v1/x", .fields = split}), "none, allowed")
      << "origins differ in which one counts";
  EXPECT_EQ(rule_of(*policy, {.path = "/v1/x", .fields = both}), "r, allowed");
  EXPECT_EQ(rule_of(*policy, {.method = "POST", .path = "/exact", .fields = both}), "r, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/v10", .fields = both}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/V1/x", .fields = both}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.method = "PUT", .path = "/exact", .fields = both}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/exact", .fields = {{"x-team", "Blue"}}}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/exact", .fields = {{"x-team", "blue"}, {"x-stage", "dev"}}}),
            "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.path = "/exact", .fields = {{"x_team", "Blue"}, {"x-stage", "dev"}}}),
            "none, allowed");
}

TEST(Rules, ADenyingRuleDenies) {
  const auto policy = snapshot(R"(
rules:
  - {name: read, match_hosts: [api.example.com], match_methods: [GET, HEAD]}
  - {name: closed, match_hosts: [api.example.com], action: deny}
)");
  EXPECT_EQ(rule_of(*policy, {}), "read, allowed");
  EXPECT_EQ(rule_of(*policy, {.method = "POST"}), "closed, denied_by_rule");
}

TEST(Rules, MethodTricksNeverWiden) {  // threat 56
  const auto policy = snapshot(R"(
rules:
  - {name: no delete, match_hosts: [api.example.com], match_methods: [DELETE], action: deny}
  - {name: read, match_hosts: [api.example.com], match_methods: [GET, POST]}
)");
  EXPECT_EQ(rule_of(*policy, {.method = "get"}), "none, allowed")
      << "no credential for a method that is not GET";
  EXPECT_EQ(rule_of(*policy, {.method = "delete"}), "no delete, denied_by_rule");
  EXPECT_EQ(rule_of(*policy, {.method = "Delete"}), "no delete, denied_by_rule");
  for (const char* field : {"X-HTTP-Method-Override", "x-http-method", "X-Method-Override"}) {
    EXPECT_EQ(rule_of(*policy, {.method = "POST", .fields = {{field, "DELETE"}}}),
              "no delete, denied_by_rule")
        << field;
    EXPECT_EQ(rule_of(*policy, {.method = "POST", .fields = {{field, "delete"}}}),
              "no delete, denied_by_rule")
        << field;
    EXPECT_EQ(rule_of(*policy, {.method = "POST", .fields = {{field, "PUT"}}}), "none, allowed") << field;
    EXPECT_EQ(rule_of(*policy, {.method = "PUT", .fields = {{field, "GET"}}}), "none, allowed") << field;
    EXPECT_EQ(rule_of(*policy, {.method = "POST", .fields = {{field, "GET"}}}), "read, allowed") << field;
  }
}

TEST(Rules, PathTricksMeetTheirCanonicalFormOrAreAmbiguous) {  // threats 54 and 55
  const auto policy = snapshot(R"(
rules:
  - {name: closed, match_hosts: [api.example.com], match_paths: [/admin, /admin/*], action: deny}
  - {name: open, match_hosts: [api.example.com], match_paths: [/repos/*]}
)");
  EXPECT_TRUE(verdict(*policy, {}).judges_paths);
  const auto through = [&](std::string_view target) -> std::string {
    std::string scratch;
    const auto canonical = wire::canonical_path(target, scratch);
    if (canonical.ambiguity != nullptr) return "ambiguous";
    return rule_of(*policy, {.path = std::string(canonical.path)});
  };
  EXPECT_EQ(through("/repos/x"), "open, allowed");
  EXPECT_EQ(through("/repos/../admin"), "closed, denied_by_rule");
  EXPECT_EQ(through("/repos/./../admin/x?y"), "closed, denied_by_rule");
  EXPECT_EQ(through("/%61dmin"), "closed, denied_by_rule");
  EXPECT_EQ(through("/repos/%2e%2e/admin"), "ambiguous");
  EXPECT_EQ(through("/repos%2fx"), "ambiguous");
  EXPECT_EQ(through("/repos\\..\\admin"), "ambiguous");
  EXPECT_EQ(through("/Repos/x"), "none, allowed");
  EXPECT_EQ(through("//repos/x"), "none, allowed") << "a rule that allows matches exactly";
}

TEST(Rules, AClosedPathIsClosedInEveryFormThatALenientOriginReadsAsIt) {  // threat 54
  const auto policy = snapshot(R"(
rules:
  - {name: closed, match_hosts: [api.example.com], match_paths: [/admin, /admin/*, '/v1/users:batch', '/v1/x%3Ay', '*/keys'], action: deny}
  - {name: open, match_hosts: [api.example.com], match_paths: [/*]}
)");
  const auto through = [&](std::string_view target) -> std::string {
    std::string scratch;
    const auto canonical = wire::canonical_path(target, scratch);
    if (canonical.ambiguity != nullptr) return "ambiguous";
    return rule_of(*policy, {.path = std::string(canonical.path)});
  };
  for (const char* closed :
       {"/admin",        "/admin/",           "//admin",          "///admin//",          "/admin;x",
        "/admin;x=1;y",  "/admin;/",          "/;x/admin",        "/admin%3Bx",          "//admin;a/b",
        "/admin//users", "/%2Fadmin",         "/%61dmin;x",       "/admin%3Fx",          "/admin%23x",
        "/admin;x%3Fy",  "/v1/users%3Abatch", "/v1//users:batch", "/v1/users%3abatch;z", "/v1/x:y",
        "/v1/x%3Ay",     "/v2/keys",          "/v2/keys/",        "/v2/keys;x",          "/v2//keys",
        "/;/keys"}) {
    EXPECT_THAT(through(closed), testing::AnyOf("closed, denied_by_rule", "ambiguous")) << closed;
  }
  for (const char* open :
       {"/", "//", "/a;admin", "/a/admin", "/administrator", "/admin.txt", "/Admin", "/v1/users;batch",
        "/v1/users", "/public//admin", "/keys2", "/monkeys", "/a%20b", "/%3Fadmin"}) {
    EXPECT_EQ(through(open), "open, allowed") << open;
  }
}

TEST(Rules, TheDestinationIsJudgedFirst) {
  const auto policy =
      snapshot("access_control: {allow_list: [a.com]}\nrules: [{name: r, match_hosts: [api.example.com]}]");
  EXPECT_EQ(rule_of(*policy, {}), "none, not_in_allow_list");
  EXPECT_EQ(rule_of(*policy, {.host = "a.com"}), "none, allowed");
  EXPECT_EQ(rule_of(*snapshot("{}"), {.host = "8.8.8.8"}), "none, literal_address");
}

TEST(Rules, ACredentialDoesNotTravelInPlainText) {
  const std::string_view text = R"(
rules:
  - {name: plain, match_hosts: [plain.com], headers: [{name: X, type: plaintext, value: x}]}
  - {name: secret, match_hosts: [api.example.com], headers: [{name: X, type: workspace_secret, value: "{K}"}]}
)";
  EXPECT_EQ(rule_of(*snapshot(text), {.host = "plain.com", .tls = false}), "plain, allowed");
  EXPECT_EQ(rule_of(*snapshot(text), {.tls = false}), "secret, plaintext_credential");
  EXPECT_EQ(rule_of(*snapshot(text), {}), "secret, allowed");
  CompileOptions options;
  options.plaintext_credentials = PlaintextCredentials::allow;
  EXPECT_EQ(rule_of(*snapshot(text, options), {.tls = false}), "secret, allowed");
}

TEST(Rules, OnlyCoveredHostsAreDecrypted) {
  const auto policy = snapshot(R"(
rules:
  - {name: empty, match_hosts: [log.com]}
  - {name: off, match_hosts: [off.com], enabled: false}
  - {name: paths, match_hosts: ["*.paths.com"], match_paths: [/a]}
  - {name: every path, match_hosts: [every.com], match_paths: ["*"]}
)");
  const auto at = [&](std::string_view name, Transport transport = Transport::tls) {
    const Host canonical = host(name);
    return judge_destination(
        *policy,
        {canonical, static_cast<std::uint16_t>(transport == Transport::tls ? 443 : 5432), transport});
  };
  EXPECT_TRUE(at("log.com").intercept);
  EXPECT_FALSE(at("log.com").judges_paths);
  EXPECT_TRUE(at("log.com", Transport::tcp).intercept) << "HTTP and TLS may be spoken on any port";
  EXPECT_FALSE(at("off.com").intercept);
  EXPECT_FALSE(at("other.com").intercept);
  EXPECT_FALSE(at("paths.com").intercept);
  EXPECT_TRUE(at("x.paths.com").intercept);
  EXPECT_TRUE(at("x.paths.com").judges_paths);
  EXPECT_TRUE(at("every.com").intercept);
  EXPECT_FALSE(at("every.com").judges_paths);
}

TEST(Snapshot, VariablesOfEnabledRulesAreMergedAndTheLaterWins) {
  const auto policy = snapshot(R"(
rules:
  - {name: a, match_hosts: [a.com], env_vars: {A: one, B: two}}
  - {name: b, match_hosts: [a.com], env_vars: {B: three, C: four}}
  - {name: c, match_hosts: [a.com], env_vars: {A: hidden}, enabled: false}
)");
  std::string all;
  for (const auto& [name, value] : policy->env_vars()) all += name + "=" + value + " ";
  EXPECT_EQ(all, "A=one B=three C=four ");
}

TEST(Snapshot, KeepsVersionAndDescription) {
  CompileOptions options;
  options.version = 42;
  const auto policy = snapshot("description: d", options);
  EXPECT_EQ(policy->version(), 42u);
  EXPECT_EQ(policy->description(), "d");
}

TEST(Snapshot, TooManyRegularExpressionsOrNetworksAreRefused) {
  std::string regexes = "access_control: {deny_list: [", networks = regexes;
  for (std::size_t i = 0; i <= host_regexes_max; ++i) regexes += fmt::format("'~a{}', ", i);
  for (std::size_t i = 0; i <= networks_max; ++i)
    networks += fmt::format("10.{}.{}.0/24, ", i / 256, i % 256);
  for (const auto& [text, message] : {std::pair{regexes, "more than 500 regular expressions"},
                                      std::pair{networks, "more than 1000 networks"}}) {
    auto document = parse_document(text + "]}", Format::yaml);
    ASSERT_TRUE(document);
    const auto compiled = compile(std::move(*document));
    ASSERT_FALSE(compiled);
    EXPECT_THAT(describe(compiled.error(), "p"), HasSubstr(message));
    EXPECT_THAT(describe(compiled.error(), "p"), HasSubstr("p:1:")) << "the entry has a place";
  }
}

// ---- the same answers as the plainest possible matcher
// --------------------------------------------------------------

/// Section 3 read literally, entry by entry, over the pattern's text.
bool naive_entry_matches(const std::string& entry, const std::string& name, std::uint16_t port) {
  if (entry.starts_with('~')) return std::regex_match(name, std::regex(entry.substr(1)));
  const auto colon = entry.rfind(':');
  const std::string pattern = entry.substr(0, colon);
  if (colon != std::string::npos && std::stoi(entry.substr(colon + 1)) != port) return false;
  if (pattern == "*") return true;
  if (pattern.starts_with("*.")) return name.size() > pattern.size() - 1 && name.ends_with(pattern.substr(1));
  return name == pattern;
}

class Generator {
 public:
  explicit Generator(unsigned seed) : random_(seed) {}
  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }
  std::string label() { return std::string(1, "abc"[below(3)]) + (below(4) == 0 ? "b" : ""); }
  std::string name(int labels_max = 5) {
    std::string out = label();
    for (int i = below(labels_max); i > 0; --i) out += "." + label();
    return out;
  }
  std::string entry() {
    const std::string port = below(3) == 0 ? fmt::format(":{}", below(2) == 0 ? 443 : 8080) : "";
    switch (below(20)) {
      case 0: return "*:8080";
      case 1: return fmt::format("~{}[.].*", label());
      case 2: return fmt::format("~.*{}", label());
      default: return (below(2) == 0 ? "*." : "") + name() + port;
    }
  }

 private:
  std::mt19937 random_;
};

TEST(Property, CompiledAccessControlAnswersAsTheNaiveReading) {
  int allowed = 0, denied = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    Generator random(seed);
    std::vector<std::string> entries;
    for (int i = random.below(12); i >= 0; --i) entries.push_back(random.entry());
    const bool allow_list = random.below(2) == 0;
    std::string text = fmt::format("access_control:\n  {}:\n", allow_list ? "allow_list" : "deny_list");
    for (const auto& entry : entries) text += fmt::format("    - '{}'\n", entry);
    const auto policy = snapshot(text);
    for (int i = 0; i < 60; ++i) {
      const Host target = host(random.name());
      const std::uint16_t port = random.below(2) == 0 ? 443 : 8080;
      const bool listed = std::ranges::any_of(
          entries, [&](const auto& entry) { return naive_entry_matches(entry, target.name, port); });
      const Reason expected = listed == allow_list ? Reason::allowed
                              : allow_list         ? Reason::not_in_allow_list
                                                   : Reason::in_deny_list;
      ASSERT_EQ(judge_destination(*policy, {target, port, Transport::tls}).reason, expected)
          << text << target.name << ":" << port;
      ++(expected == Reason::allowed ? allowed : denied);
    }
  }
  EXPECT_GT(allowed, 1000);
  EXPECT_GT(denied, 1000);
}

struct NaiveRule {
  bool enabled, deny;
  std::vector<std::string> hosts, paths, methods;
};

bool naive_path_matches(const std::string& pattern, const std::string& path) {
  if (pattern == "*") return true;
  if (pattern.starts_with('*')) return path.ends_with(pattern.substr(1));
  if (pattern.ends_with("/*")) return path.starts_with(pattern.substr(0, pattern.size() - 1));
  return path == pattern;
}

/// A rule that denies does not mind a slash at the end.
bool naive_path_matches(const NaiveRule& rule, const std::string& pattern, const std::string& path) {
  const bool trim = rule.deny && path.size() > 1 && path.ends_with('/');
  return naive_path_matches(pattern, path) ||
         (trim && naive_path_matches(pattern, path.substr(0, path.size() - 1)));
}

TEST(Property, CompiledRulesAnswerAsTheNaiveReading) {
  const std::vector<std::string> patterns = {"*", "/v1/*", "/v1", "*/runs", "/v1/runs", "/*", "/v10/*"};
  const std::vector<std::string> paths = {"/", "/v1", "/v1/", "/v1/runs", "/v10/runs", "/v10", "/runs"};
  const std::vector<std::string> methods = {"GET", "POST", "DELETE"};
  int matched = 0, unmatched = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    Generator random(seed + 1000);
    std::vector<NaiveRule> rules;
    std::string text = "rules:\n";
    for (int i = random.below(15); i >= 0; --i) {
      NaiveRule rule{random.below(5) != 0, random.below(4) == 0, {}, {}, {}};
      for (int j = random.below(3); j >= 0; --j) {
        // Two labels and more behind the star: the public suffix list refuses single ones.
        rule.hosts.push_back(random.below(2) == 0 ? "*." + random.label() + "." + random.name(2)
                                                  : random.name());
      }
      for (int j = random.below(3); j > 0; --j)
        rule.paths.push_back(patterns[static_cast<std::size_t>(random.below(7))]);
      for (int j = random.below(3); j > 0; --j)
        rule.methods.push_back(methods[static_cast<std::size_t>(random.below(3))]);
      const auto list = [](const std::vector<std::string>& items) {
        std::string out;
        for (const auto& item : items) out += fmt::format("'{}', ", item);
        return "[" + out + "]";
      };
      text += fmt::format(
          "  - {{name: r{}, enabled: {}, action: {}, match_hosts: {}, match_paths: {}, match_methods: {}}}\n",
          rules.size(), rule.enabled, rule.deny ? "deny" : "allow", list(rule.hosts), list(rule.paths),
          list(rule.methods));
      rules.push_back(std::move(rule));
    }
    const auto policy = snapshot(text);
    for (int i = 0; i < 60; ++i) {
      const Host target = host(random.name());
      const std::string path = paths[static_cast<std::size_t>(random.below(7))];
      const std::string method = methods[static_cast<std::size_t>(random.below(3))];
      std::uint32_t expected = no_rule;
      bool covered = false, judges = false;
      for (std::uint32_t n = 0; n < rules.size(); ++n) {
        const NaiveRule& rule = rules[n];
        const auto any = [](const auto& items, const auto& test) {
          return items.empty() || std::ranges::any_of(items, test);
        };
        if (!rule.enabled || !std::ranges::any_of(rule.hosts, [&](const auto& h) {
              return naive_entry_matches(h, target.name, 443);
            }))
          continue;
        covered = true;
        judges = judges || (!rule.paths.empty() && std::ranges::find(rule.paths, "*") == rule.paths.end());
        const bool hit = any(rule.paths, [&](const auto& p) { return naive_path_matches(rule, p, path); }) &&
                         any(rule.methods, [&](const auto& m) { return m == method; });
        if (hit && expected == no_rule) expected = n;
      }
      const Verdict made = decide(*policy, {target, 443, true, method, path, {}});
      const auto where = judge_destination(*policy, {target, 443, Transport::tls});
      ASSERT_EQ(made.rule_index, expected) << text << target.name << " " << method << " " << path;
      ASSERT_EQ(made.reason,
                expected != no_rule && rules[expected].deny ? Reason::denied_by_rule : Reason::allowed);
      ASSERT_EQ(where.intercept, covered);
      ASSERT_EQ(where.judges_paths, judges);
      ASSERT_EQ(made.judges_paths, judges);
      ++(expected == no_rule ? unmatched : matched);
    }
  }
  EXPECT_GT(matched, 1000);
  EXPECT_GT(unmatched, 1000);
}

/// Rules and requests out of a few pieces, so that they meet often.
class PathGenerator {
 public:
  explicit PathGenerator(unsigned seed) : random_(seed) {}
  std::size_t below(std::size_t limit) { return random_() % limit; }
  std::string_view piece() {
    static constexpr std::string_view pieces[] = {"a",      "b",   "v1",    "admin", "x;p=1",
                                                  "c.json", "%2F", "a%3Ab", ""};
    return pieces[below(std::size(pieces))];
  }
  std::string path(std::size_t depth_max) {
    std::string out;
    for (std::size_t depth = 1 + below(depth_max); depth > 0; --depth) out.append("/").append(piece());
    return out;
  }
  std::string pattern() {
    switch (below(6)) {
      case 0: return "*" + path(2);
      case 1: return "*.json";
      case 2: return path(2);
      case 3: return below(8) == 0 ? "*" : "/*";
      default: return path(3) + "/*";
    }
  }
  std::string_view name_of_field() {
    static constexpr std::string_view names[] = {"x-team", "x-env", "accept"};
    return names[below(std::size(names))];
  }
  std::string_view value() {
    static constexpr std::string_view values[] = {"a", "b", "A", ""};
    return values[below(std::size(values))];
  }
  Rule rule(std::string name) {
    Rule out;
    out.name = std::move(name);
    out.action = below(3) == 0 ? Action::deny : Action::allow;
    const bool subdomains = below(4) == 0;
    out.match_hosts.push_back(
        {"api.example.com", {subdomains ? "example.com" : "api.example.com", subdomains}});
    for (std::size_t i = below(3); i > 0; --i) {
      const std::string text = pattern();
      if (auto parsed = parse_path_pattern(text)) out.match_paths.push_back({text, std::move(*parsed)});
    }
    if (below(3) == 0) out.match_methods.emplace_back("POST");
    if (below(6) == 0) out.match_methods.emplace_back("PUT");
    for (std::size_t i = below(4); i > 2; --i)
      out.match_headers.push_back({std::string(name_of_field()), std::string(value())});
    return out;
  }

 private:
  std::mt19937 random_;
};

std::shared_ptr<const Snapshot> compiled(std::span<const Rule* const> rules) {
  Document document;
  for (const Rule* rule : rules) {
    Rule& copy = document.rules.emplace_back();
    copy.name = rule->name;
    copy.action = rule->action;
    copy.match_hosts = rule->match_hosts;
    copy.match_paths = rule->match_paths;
    copy.match_methods = rule->match_methods;
    copy.match_headers = rule->match_headers;
  }
  return compile(std::move(document)).value();
}

// Many rules of a host are found by their paths; what is found must be what looking at one after the other
// finds, for rules that deny too, which read a path in several ways.
TEST(Decide, AnIndexOfPathsFindsTheRuleThatLookingAtEachFinds) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    PathGenerator random(seed);
    std::vector<Rule> rules;
    const std::size_t count = 10 + random.below(seed % 4 == 0 ? 300 : 60);
    for (std::size_t i = 0; i < count; ++i) rules.push_back(random.rule(fmt::format("rule {}", i)));
    std::vector<const Rule*> all;
    std::vector<std::shared_ptr<const Snapshot>> alone;
    for (const Rule& rule : rules) {
      all.push_back(&rule);
      alone.push_back(compiled(std::span(&all.back(), 1)));
    }
    const auto together = compiled(all);
    for (int i = 0; i < 100; ++i) {
      std::string scratch;
      const std::string raw = random.path(5);
      const wire::CanonicalPath path = wire::canonical_path(raw, scratch);
      if (path.ambiguity) continue;
      Request request{.method = random.below(2) == 0 ? "GET" : "POST", .path = std::string(path.path)};
      for (std::size_t n = random.below(4); n > 0; --n)
        request.fields.push_back({random.below(2) == 0 ? "X-Team" : random.name_of_field(), random.value()});
      if (random.below(4) == 0)
        request.fields.push_back({"X-HTTP-Method-Override", random.below(2) == 0 ? "post" : "PUT"});
      std::uint32_t expected = no_rule;
      for (std::uint32_t number = 0; number < count && expected == no_rule; ++number)
        if (verdict(*alone[number], request).rule) expected = number;
      EXPECT_EQ(verdict(*together, request).rule_index, expected) << seed << ' ' << request.path;
    }
  }
}

TEST(Decide, PathsWithMorePrefixesThanAnybodyNamesAreJudgedAll) {
  std::vector<Rule> rules(300);
  std::string prefix = "/";
  std::vector<const Rule*> all;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    rules[i].name = fmt::format("rule {}", i);
    rules[i].match_hosts.push_back({"api.example.com", {"api.example.com", false}});
    rules[i].match_methods.emplace_back(i == 7 ? "GET" : "POST");
    const std::string text = prefix + "*";
    rules[i].match_paths.push_back({text, parse_path_pattern(text).value()});
    prefix += "a/";
    all.push_back(&rules[i]);
  }
  EXPECT_EQ(verdict(*compiled(all), {.path = prefix}).rule_index, 7U);
}

// ---- callbacks
// -------------------------------------------------------------------------------------------------

constexpr std::string_view with_callbacks = R"(
rules:
  - name: static
    match_hosts: [api.example.com]
    match_paths: [/static/*]
    headers: [{name: Authorization, type: plaintext, value: x}]
  - name: off
    enabled: false
    match_hosts: [api.example.com]
    headers: [{name: Authorization, type: plaintext, value: x}]
  - name: closed
    match_hosts: [api.example.com]
    match_methods: [DELETE]
    action: deny
  - name: open
    match_hosts: [b.example.com]
callbacks:
  - {match_hosts: ["*.sub.example.com", api.example.com], url: https://c.example.net/0, ttl_seconds: 60}
  - {match_hosts: [api.example.com, b.example.com, x.sub.example.com], url: https://c.example.net/1, ttl_seconds: 60}
)";

TEST(Callbacks, AreAskedWhereNoRuleHasHeaders) {
  const auto policy = snapshot(with_callbacks);
  EXPECT_EQ(verdict(*policy, {.path = "/static/x"}).callback_index, no_rule) << "static headers win";
  EXPECT_EQ(verdict(*policy, {.path = "/"}).callback_index, 0u) << "the first callback wins";
  EXPECT_EQ(verdict(*policy, {.host = "b.example.com"}).callback_index, 1u)
      << "a rule without headers has none";
  EXPECT_EQ(verdict(*policy, {.host = "x.sub.example.com"}).callback_index, 0u) << "first in the document";
  EXPECT_EQ(verdict(*policy, {.host = "sub.example.com"}).callback_index, no_rule)
      << "the apex is not below itself";
  EXPECT_EQ(verdict(*policy, {.host = "c.example.net"}).callback_index, no_rule);
  const Verdict denied = verdict(*policy, {.method = "DELETE"});
  EXPECT_EQ(denied.reason, Reason::denied_by_rule);
  EXPECT_EQ(denied.callback_index, no_rule) << "nobody is asked about what is denied";
}

TEST(Callbacks, AreAskedOverTlsOnly) {
  EXPECT_EQ(verdict(*snapshot(with_callbacks), {.tls = false}).reason, Reason::plaintext_credential);
  const auto lenient = snapshot(with_callbacks, {.plaintext_credentials = PlaintextCredentials::allow});
  EXPECT_EQ(verdict(*lenient, {.tls = false}).reason, Reason::allowed);
}

TEST(Callbacks, CoverTheirHostsAndNotTheirEndpoint) {
  const auto policy = snapshot(with_callbacks, {.default_egress = DefaultEgress::hosts_of_rules});
  EXPECT_EQ(judge_https(*policy, "x.sub.example.com"), Reason::allowed);
  EXPECT_EQ(judge_https(*policy, "c.example.net"), Reason::not_in_allow_list)
      << "asked by us, not by the sandbox";
  EXPECT_THAT(policy->allowed_hint(), HasSubstr("*.sub.example.com"));
  const Host covered = host("x.sub.example.com");
  EXPECT_TRUE(judge_destination(*policy, {covered, 443, Transport::tls}).intercept);
}

TEST(Providers, CoverTheirHostsOverTlsAndWinOverCallbacks) {
  const auto policy = snapshot(R"(
rules:
  - name: cloud
    type: aws
    aws: {access_key_id: {type: opaque, value: a}, secret_access_key: {type: opaque, value: b}}
    env_vars: {AWS_REGION: eu-central-1}
callbacks: [{match_hosts: ["*.amazonaws.com"], url: "https://c.example.net/", ttl_seconds: 60}]
)");
  EXPECT_EQ(rule_of(*policy, {.host = "bucket.s3.eu-central-1.amazonaws.com"}), "cloud, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "amazonaws.com"}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "s3.amazonaws.com.evil.example"}), "none, allowed");
  EXPECT_EQ(rule_of(*policy, {.host = "s3.amazonaws.com", .tls = false}), "cloud, plaintext_credential");
  EXPECT_EQ(verdict(*policy, {.host = "s3.amazonaws.com"}).callback_index, no_rule);
  const auto variables = policy->env_vars();
  EXPECT_TRUE(std::ranges::any_of(
      variables, [](const EnvVar& v) { return v.name == "AWS_ACCESS_KEY_ID" && v.value.size() == 20; }));
  EXPECT_TRUE(std::ranges::any_of(variables, [](const EnvVar& v) { return v.name == "AWS_REGION"; }));
}

TEST(Decide, NothingIsSignedForPlainHttpWhateverTheOperatorSays) {
  const auto lenient = snapshot(R"(
rules:
  - name: cloud
    type: aws
    aws: {access_key_id: {type: opaque, value: a}, secret_access_key: {type: opaque, value: b}}
)",
                                {.plaintext_credentials = PlaintextCredentials::allow});
  const Host bucket{"b.s3.amazonaws.com", std::nullopt};
  EXPECT_EQ(decide(*lenient, {bucket, 80, false, "GET", "/", {}}).reason, Reason::plaintext_credential);
  EXPECT_EQ(decide(*lenient, {bucket, 443, true, "GET", "/", {}}).reason, Reason::allowed);
}

TEST(Decide, MetadataIsAnsweredForARuleOfGoogleOnlyAndOnlyWhereItIs) {
  const auto with = [](std::string_view more, std::string_view rule = "") {
    return snapshot(
        fmt::format("{}\nrules:\n  - {{name: g, type: gcp{}, gcp: {{scopes: [a], service_account_json: "
                    "{{type: opaque, value: x}}}}}}\n",
                    more, rule));
  };
  const auto answers = [](const Snapshot& policy, std::string_view name, std::uint16_t port = 80,
                          bool tls = false) { return answers_as_metadata(policy, host(name), port, tls); };
  const auto policy = with("");
  EXPECT_TRUE(answers(*policy, "169.254.169.254"));
  EXPECT_TRUE(answers(*policy, "metadata.google.internal"));
  EXPECT_TRUE(answers(*policy, "Metadata.Google.Internal."));
  EXPECT_FALSE(answers(*policy, "169.254.169.254", 443));
  EXPECT_FALSE(answers(*policy, "169.254.169.254", 80, true));
  EXPECT_FALSE(answers(*policy, "169.254.169.254", 8080));
  for (const char* other : {"169.254.169.253", "[::ffff:169.254.169.254]", "[fd00:ec2::254]",
                            "metadata.google.internal.evil.example", "x.metadata.google.internal", "metadata",
                            "storage.googleapis.com"})
    EXPECT_FALSE(answers(*policy, other)) << other;
  EXPECT_FALSE(answers(*snapshot("rules: []"), "169.254.169.254"));
  EXPECT_FALSE(answers(*with("", ", enabled: false"), "169.254.169.254"));
  EXPECT_FALSE(answers(*with("access_control: {deny_list: [169.254.169.254]}"), "169.254.169.254"));
  EXPECT_FALSE(answers(*with("access_control: {deny_list: [\"*\"]}"), "metadata.google.internal"));
  const auto entra = snapshot(
      "rules: [{name: e, type: azure, azure: {tenant_id: 11111111-2222-3333-4444-555555555555, client_id: "
      "11111111-2222-3333-4444-555555555555}}]");
  EXPECT_TRUE(answers(*entra, "169.254.169.254"));
  EXPECT_FALSE(answers(*entra, "metadata.google.internal"));
  EXPECT_FALSE(answers(*entra, "169.254.169.254", 443));
  EXPECT_FALSE(answers(*snapshot("rules: [{name: e, type: azure, azure: {storage_account: acme, sas_token: "
                                 "{type: opaque, value: x}}}]"),
                       "169.254.169.254"));
  // It is no destination all the same.
  EXPECT_EQ(judge(*policy, "169.254.169.254", 80, Transport::http), Reason::private_address);
}

struct Sent {
  std::string host = "mirror.example.net";
  std::string path = "/";
  bool tls = true;
};

Verdict sent_elsewhere(const Snapshot& policy, const Sent& sent, const Request& request = {}) {
  const Verdict first = verdict(policy, request);
  if (!first.rule || !first.rule->rewrite()) ADD_FAILURE() << "nothing rewrites it";
  const Host canonical = host(sent.host);
  return decide_rewritten(policy, *first.rule, first.rule_index,
                          {canonical, static_cast<std::uint16_t>(sent.tls ? 443 : 80), sent.tls,
                           request.method, sent.path, request.fields});
}

constexpr std::string_view remapped = R"(
access_control: {allow_list: [api.example.com]}
rules:
  - {name: there, match_hosts: [api.example.com], rewrite: {host: mirror.example.net}}
  - {name: again, match_hosts: [mirror.example.net], rewrite: {host: api.example.com}}
  - {name: closed, match_hosts: [mirror.example.net], match_paths: [/admin/*], action: deny}
  - name: token
    match_hosts: [mirror.example.net]
    match_paths: [/npm/*]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {KEY}"}]
callbacks:
  - {match_hosts: [mirror.example.net], url: "https://creds.example.org/", ttl_seconds: 60}
)";

TEST(Decide, WhatIsSentElsewhereGetsTheDestinationsCredentials) {
  const auto policy = snapshot(remapped);
  EXPECT_EQ(verdict(*policy, {}).reason, Reason::allowed);
  EXPECT_EQ(sent_elsewhere(*policy, {.path = "/npm/a"}).rule->name, "token");
  const Verdict other = sent_elsewhere(*policy, {.path = "/b"});
  EXPECT_EQ(other.rule->name, "there");
  EXPECT_EQ(other.callback_index, 0) << "no rule has headers there, so the callback is asked";
  EXPECT_EQ(sent_elsewhere(*policy, {.path = "/admin/x"}).reason, Reason::denied_by_rule);
  EXPECT_EQ(sent_elsewhere(*policy, {.path = "/npm/a", .tls = false}).reason, Reason::plaintext_credential);
  EXPECT_EQ(judge_https(*policy, "mirror.example.net"), Reason::not_in_allow_list)
      << "the sandbox itself may not go there";
}

TEST(Decide, AHostWhoseRequestsGoElsewhereNeedNotExist) {
  const auto policy = snapshot(remapped);
  EXPECT_TRUE(is_sent_elsewhere(*policy, host("api.example.com")));
  EXPECT_FALSE(is_sent_elsewhere(*policy, host("x.api.example.com")));
}

TEST(Decide, WhatIsDeniedIsNoDestination) {
  CompileOptions options;
  options.deny = {"mirror.example.net"};
  EXPECT_EQ(sent_elsewhere(*snapshot(remapped, options), {.path = "/npm/a"}).reason, Reason::in_deny_list);
}

TEST(Decide, ARewritingRulesOwnHeadersGoWhereItSends) {
  const auto policy = snapshot(R"(
rules:
  - name: there
    match_hosts: [api.example.com]
    headers: [{name: X-Key, type: workspace_secret, value: "{KEY}"}]
    rewrite: {host: mirror.example.net}
  - {name: token, match_hosts: [mirror.example.net], headers: [{name: X-Other, type: plaintext, value: x}]}
)");
  EXPECT_EQ(sent_elsewhere(*policy, {}).rule->name, "there");
  // Its transport is the destination's: over plain HTTP to us, and over TLS from here.
  EXPECT_EQ(verdict(*policy, {.tls = false}).reason, Reason::allowed);
  EXPECT_EQ(sent_elsewhere(*policy, {.tls = false}).reason, Reason::plaintext_credential);
}

}  // namespace
}  // namespace postern::policy
