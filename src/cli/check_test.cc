#include "cli/check.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdlib.h>
#include <unistd.h>

namespace postern::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

std::string example(const std::string& name) {
  return std::filesystem::path(POSTERN_SOURCE_DIR) / "examples" / name;
}

struct Outcome {
  int status;
  std::string out, err;
};

Outcome run_check(CheckOptions options) {
  std::ostringstream out, err;
  const int status = check(options, out, err);
  return {status, out.str(), err.str()};
}

class Check : public testing::Test {
 protected:
  Check() {
    std::string path = "/tmp/postern-check-XXXXXX";
    const int fd = ::mkstemp(path.data());
    EXPECT_GE(fd, 0);
    ::close(fd);
    file_ = path;
  }
  ~Check() override { ::unlink(file_.c_str()); }
  std::string policy(std::string_view text) {
    std::ofstream(file_, std::ios::trunc) << text;
    return file_;
  }
  std::string file_;
};

TEST_F(Check, AnAllowedRequestSaysRuleAndTemplate) {
  const Outcome outcome =
      run_check({.target = "https://api.openai.com/v1/models", .policy_file = example("openai.yaml")});
  EXPECT_EQ(outcome.status, check_allowed);
  EXPECT_THAT(outcome.err, IsEmpty());
  EXPECT_THAT(outcome.out, StartsWith("allowed  GET https://api.openai.com/v1/models\n"));
  EXPECT_THAT(outcome.out, HasSubstr("destination  api.openai.com port 443 (TLS)\n"));
  EXPECT_THAT(outcome.out, HasSubstr("decrypted, every request is judged"));
  EXPECT_THAT(outcome.out,
              HasSubstr("rule         openai (number 1 of 1, " + example("openai.yaml") + ":10)\n"));
  EXPECT_THAT(outcome.out, HasSubstr("sets         Authorization: Bearer {OPENAI_API_KEY}\n"));
}

TEST_F(Check, ADeniedRequestSaysWhyAndWhatWouldBeAllowed) {
  const Outcome outcome =
      run_check({.target = "https://evil.example/", .policy_file = example("openai.yaml")});
  EXPECT_EQ(outcome.status, check_denied);
  EXPECT_THAT(outcome.out, StartsWith("denied  GET https://evil.example/\n"));
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("not_in_allow_list"), HasSubstr("api.openai.com:443"), HasSubstr("403")));
  EXPECT_THAT(outcome.out, Not(HasSubstr("sets")));
}

TEST_F(Check, EveryExampleDoesWhatItSays) {
  const auto status = [](const std::string& file, const std::string& method, const std::string& target) {
    return run_check({.target = target, .policy_file = example(file), .method = method}).status;
  };
  EXPECT_EQ(status("github.yaml", "GET", "https://api.github.com/user"), check_allowed);
  EXPECT_EQ(status("github.yaml", "POST", "https://api.github.com/user/repos"), check_denied);
  EXPECT_EQ(status("github.yaml", "POST", "https://api.github.com/repos/acme/widgets/pulls"), check_allowed);
  EXPECT_EQ(status("github.yaml", "DELETE", "https://api.github.com/repos/acme/widgets/x"), check_denied);
  EXPECT_EQ(status("github.yaml", "POST", "https://api.github.com/repos/acme/widgets/../other/pulls"),
            check_denied);
  EXPECT_EQ(
      status("github.yaml", "GET", "https://github.com/acme/widgets.git/info/refs?service=git-upload-pack"),
      check_allowed);
  EXPECT_EQ(status("anthropic.yaml", "POST", "https://api.anthropic.com/v1/messages"), check_allowed);
  EXPECT_EQ(status("anthropic.yaml", "GET", "https://pypi.example.com/simple/"), check_allowed);
  EXPECT_EQ(status("anthropic.yaml", "PUT", "https://npm.example.com/left-pad"), check_denied);
  EXPECT_EQ(status("anthropic.yaml", "GET", "http://pypi.example.com/simple/"), check_denied);
  EXPECT_EQ(status("database.yaml", "GET", "db.example.com:5432"), check_allowed);
  EXPECT_EQ(status("database.yaml", "GET", "db.example.com:5433"), check_denied);
  EXPECT_EQ(status("database.yaml", "GET", "https://api.example.com/v1/x"), check_allowed);
  EXPECT_EQ(status("database.yaml", "GET", "https://api.example.com/v10"), check_denied);
  EXPECT_EQ(status("database.yaml", "POST", "https://api.example.com/v1/x"), check_denied);
  EXPECT_EQ(status("open.yaml", "GET", "https://example.com/"), check_allowed);
  EXPECT_EQ(status("open.yaml", "GET", "https://x.pastebin.com/"), check_denied);
  EXPECT_EQ(status("open.yaml", "GET", "https://abc.ngrok.io/"), check_denied);
  EXPECT_EQ(status("open.yaml", "GET", "mail.example.com:25"), check_denied);
  EXPECT_EQ(status("closed.yaml", "GET", "https://example.com/"), check_denied);
}

TEST_F(Check, TargetsAreReadAsPeopleWriteThem) {
  const auto host_port = [&](const std::string& target) {
    const Outcome outcome = run_check({.target = target, .policy_file = example("open.yaml"), .json = true});
    const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
    if (json.is_discarded()) return outcome.err;
    return json["transport"].get<std::string>() + " " + json["target"].get<std::string>();
  };
  EXPECT_EQ(host_port("example.com"), "tls GET https://example.com/");
  EXPECT_EQ(host_port("EXAMPLE.com./a?b#c"), "tls GET https://example.com/a?b");
  EXPECT_EQ(host_port("example.com:8443/x"), "tls GET https://example.com:8443/x");
  EXPECT_EQ(host_port("http://example.com"), "http GET http://example.com/");
  EXPECT_EQ(host_port("https://example.com?q"), "tls GET https://example.com/?q");
  EXPECT_EQ(host_port("example.com:22"), "tcp example.com:22");
  EXPECT_EQ(host_port("example.com:443"), "tls example.com:443");
  EXPECT_EQ(host_port("example.com:80"), "http example.com:80");
  EXPECT_EQ(host_port("http://[2606:4700::1]/"), "http GET http://[2606:4700::1]/");
  EXPECT_THAT(host_port("ftp://example.com/"), HasSubstr("only https:// and http://"));
  EXPECT_THAT(host_port("https://user@example.com/"), HasSubstr("names no host"));
  EXPECT_THAT(host_port("https://exa mple.com/"), HasSubstr("names no host"));
  EXPECT_THAT(host_port("https://example.com:99999/"), HasSubstr("names no host"));
  EXPECT_THAT(host_port("https://example.com:0/"), HasSubstr("1 to 65535"));
  EXPECT_THAT(host_port("https://example.com/a b"), HasSubstr("as %XX"));
  EXPECT_THAT(host_port(""), HasSubstr("names no host"));
}

TEST_F(Check, AnUncoveredHostIsPassedThrough) {
  const Outcome outcome = run_check({.target = "https://example.com/x", .policy_file = example("open.yaml")});
  EXPECT_EQ(outcome.status, check_allowed);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("passed through untouched"), HasSubstr("none: no header is set")));
}

TEST_F(Check, TheCanonicalPathIsShownAndAnAmbiguousOneDenied) {
  const Outcome canonical =
      run_check({.target = "https://api.example.com/x/../v1/%61", .policy_file = example("database.yaml")});
  EXPECT_EQ(canonical.status, check_allowed);
  EXPECT_THAT(canonical.out, HasSubstr("path sent    /v1/a\n"));
  const Outcome ambiguous = run_check(
      {.target = "https://api.example.com/v1/%2e%2e/admin", .policy_file = example("database.yaml")});
  EXPECT_EQ(ambiguous.status, check_denied);
  EXPECT_THAT(ambiguous.out, AllOf(HasSubstr("ambiguous_path"), HasSubstr("400")));
}

TEST_F(Check, HeadersOfTheSandboxAreJudged) {
  const std::string file = policy(R"(
rules:
  - {name: team, match_hosts: [a.example.com], match_headers: ["x-team: blue"]}
  - {name: rest, match_hosts: [a.example.com], action: deny}
)");
  EXPECT_EQ(run_check({.target = "a.example.com", .policy_file = file, .headers = {"X-Team:  blue "}}).status,
            check_allowed);
  const Outcome other =
      run_check({.target = "a.example.com", .policy_file = file, .headers = {"X-Team: red"}});
  EXPECT_EQ(other.status, check_denied);
  EXPECT_THAT(other.out, AllOf(HasSubstr("denied_by_rule"), HasSubstr("rule         rest (number 2 of 2")));
  const Outcome broken = run_check({.target = "a.example.com", .policy_file = file, .headers = {"canary"}});
  EXPECT_EQ(broken.status, check_unusable);
  EXPECT_EQ(broken.err, "postern check: a header is 'name: value'\n");
  EXPECT_EQ(run_check({.target = "a.example.com", .policy_file = file, .headers = {"a: b\nc"}}).status,
            check_unusable);
  EXPECT_EQ(run_check({.target = "a.example.com", .policy_file = file, .method = "GE T"}).status,
            check_unusable);
}

TEST_F(Check, ABrokenPolicyIsToldWithItsPlace) {
  const std::string file = policy("rules:\n  - nam: x\n");
  const Outcome outcome = run_check({.target = "a.com", .policy_file = file});
  EXPECT_EQ(outcome.status, check_unusable);
  EXPECT_THAT(outcome.err, HasSubstr(file + ":2:5: rules[0].nam: unknown field 'nam' (accepted: name,"));
  EXPECT_THAT(outcome.out, IsEmpty());
  const Outcome option = run_check({.target = "a.com", .allow = {"a.com:x"}});
  EXPECT_EQ(option.status, check_unusable);
  EXPECT_THAT(option.err, HasSubstr("command line: --allow[0]: 'a.com:x' is not a destination"));
  EXPECT_EQ(run_check({.target = "a.com", .allow_private = {"x"}}).status, check_unusable);
  EXPECT_EQ(run_check({.target = "a.com", .policy_file = "/nonexistent.yaml"}).status, check_unusable);
}

TEST_F(Check, AFileInPlaceOfATargetIsToldWhatToSay) {
  const Outcome outcome = run_check({.target = example("openai.yaml")});
  EXPECT_EQ(outcome.status, check_unusable);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("is a file"), HasSubstr("--policy " + example("openai.yaml"))));
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST_F(Check, RulesWithATypeSayWhatTheyPutOn) {
  const std::string file = policy(R"(
rules:
  - name: amazon
    type: aws
    aws: {access_key_id: {type: workspace_secret, value: "{ID}"}, secret_access_key: {type: workspace_secret, value: "{KEY}"}}
  - name: google
    type: gcp
    gcp: {service_account_json: {type: workspace_secret, value: "{SA}"}, scopes: [x]}
  - name: blobs
    type: azure
    azure: {storage_account: acme, sas_token: {type: workspace_secret, value: "{SAS}"}}
  - name: service
    type: oauth2
    match_hosts: [api.example.com]
    oauth2: {token_url: "https://login.example.com/token?tenant=1", client_id: a, client_secret: {type: workspace_secret, value: "{KEY}"}}
  - name: app
    type: github_app
    github_app: {app_id: 1, installation_id: 2, private_key: {type: workspace_secret, value: "{PEM}"}}
)");
  const auto says = [&](const char* target) {
    return run_check({.target = target, .policy_file = file}).out;
  };
  EXPECT_THAT(says("https://bucket.s3.amazonaws.com/x"),
              HasSubstr("credential   aws: signed anew (SigV4)\n"));
  EXPECT_THAT(says("https://storage.googleapis.com/x"), HasSubstr("credential   gcp: an access token"));
  EXPECT_THAT(says("https://acme.blob.core.windows.net/x"),
              HasSubstr("credential   azure: the shared access signature, in the URL\n"));
  EXPECT_THAT(says("https://api.example.com/x"),
              HasSubstr("credential   oauth2: an access token from https://login.example.com/token, in"));
  EXPECT_THAT(says("https://api.github.com/user"), HasSubstr("credential   github_app: an access token"));
  const auto json = nlohmann::json::parse(
      run_check({.target = "https://api.github.com/user", .policy_file = file, .json = true}).out);
  EXPECT_EQ(json["rule"]["type"], "github_app");
  const std::string identities = policy(R"(
rules:
  - {name: amazon, type: aws, aws: {role_arn: "arn:aws:iam::123456789012:role/agents"}}
  - {name: google, type: gcp, gcp: {workload_identity_provider: //iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q}}
  - {name: entra, type: azure, azure: {tenant_id: 11111111-2222-3333-4444-555555555555, client_id: 11111111-2222-3333-4444-555555555555}}
)");
  const auto federated = [&](const char* target) {
    return run_check({.target = target, .policy_file = identities}).out;
  };
  EXPECT_THAT(federated("https://bucket.s3.amazonaws.com/x"),
              HasSubstr("credential   aws: signed anew (SigV4) as arn:aws:iam::123456789012:role/agents\n"));
  EXPECT_THAT(federated("https://storage.googleapis.com/x"),
              HasSubstr("gcp: an access token of the workload identity"));
  EXPECT_THAT(federated("https://acme.vault.azure.net/x"),
              HasSubstr("azure: an access token of the workload identity"));
}

TEST_F(Check, WithoutAPolicyOnlyTheOptionsAllow) {
  EXPECT_EQ(run_check({.target = "a.com"}).status, check_denied);
  EXPECT_EQ(run_check({.target = "a.com", .allow = {"a.com"}}).status, check_allowed);
  EXPECT_EQ(run_check({.target = "a.com", .allow = {"*"}, .deny = {"a.com"}}).status, check_denied);
  EXPECT_EQ(run_check({.target = "a.com", .default_egress = policy::DefaultEgress::everything}).status,
            check_allowed);
  EXPECT_EQ(run_check({.target = "http://10.0.0.1", .allow = {"10.0.0.1"}}).status, check_denied);
  EXPECT_EQ(
      run_check({.target = "http://10.0.0.1", .allow = {"10.0.0.1"}, .allow_private = {"10.0.0.0/8"}}).status,
      check_allowed);
}

TEST_F(Check, TheCallbackThatWouldBeAskedIsNamedWithoutItsQuery) {
  const std::string file = policy(R"(
rules:
  - {name: own, match_hosts: [a.example.com], match_paths: [/own/*], headers: [{name: A, type: plaintext, value: b}]}
  - {name: bare, match_hosts: [a.example.com], match_paths: [/bare/*]}
  - {name: closed, match_hosts: [a.example.com], match_paths: [/closed/*], action: deny}
callbacks:
  - match_hosts: [a.example.com]
    url: https://creds.example.net:8443/issue?token=canary
    ttl_seconds: 90
    request_headers: [{name: X-Key, type: opaque, value: canary}]
)");
  const auto asked = [&](const std::string& path, bool json = false) {
    Outcome outcome = run_check({.target = path, .policy_file = file, .json = json});
    EXPECT_THAT(outcome.out, Not(HasSubstr("canary")));
    return outcome.out;
  };
  const std::string named = "  callback     https://creds.example.net:8443/issue\n";
  EXPECT_THAT(asked("https://a.example.com/"), AllOf(HasSubstr("  rule         none\n"), HasSubstr(named)));
  EXPECT_THAT(asked("https://a.example.com/bare/x"), AllOf(HasSubstr("rule         bare"), HasSubstr(named)));
  EXPECT_THAT(asked("https://a.example.com/own/x"), AllOf(HasSubstr("sets"), Not(HasSubstr("callback"))));
  EXPECT_THAT(asked("https://a.example.com/closed/x"),
              AllOf(HasSubstr("denied"), Not(HasSubstr("callback"))));
  EXPECT_THAT(asked("http://a.example.com/"),
              AllOf(HasSubstr("plaintext_credential"), Not(HasSubstr("creds.example.net"))));
  EXPECT_THAT(asked("a.example.com:443"),
              AllOf(HasSubstr("told when a request is known"), Not(HasSubstr("callback"))));
  const auto json = nlohmann::json::parse(asked("https://a.example.com/", true));
  EXPECT_EQ(json["callback"], nlohmann::json::parse(R"({"url": "https://creds.example.net:8443/issue",
                                                        "ttl_seconds": 90, "full_request": false, "line": 7})"));
  EXPECT_FALSE(nlohmann::json::parse(asked("https://a.example.com/own/x", true)).contains("callback"));
}

TEST_F(Check, AnOpaqueHeaderWithoutItsValueIsToldForRulesAndCallbacks) {
  const std::string file = policy(R"(
rules:
  - {name: r, match_hosts: [a.example.com], headers: [{name: A, type: opaque}]}
callbacks:
  - match_hosts: [b.example.com]
    url: https://creds.example.net/
    ttl_seconds: 60
    request_headers: [{name: X-Key, type: opaque}]
)");
  const Outcome outcome =
      run_check({.target = "a.example.com", .policy_file = file, .secrets = {"KEY=canary"}});
  EXPECT_EQ(outcome.status, check_unusable);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("rules[0].headers[0].value: no value is set for the opaque header A"),
                    HasSubstr("callbacks[0].request_headers[0].value: no value is set for the "
                              "opaque header X-Key")));
}

TEST_F(Check, NoSecretIsEverShown) {
  const std::string file = policy(R"(
rules:
  - name: r
    match_hosts: [a.com]
    headers:
      - {name: A, type: workspace_secret, value: "Bearer {KEY}"}
      - {name: B, type: opaque, value: canary-opaque}
      - {name: C, type: plaintext, value: canary-plain}
)");
  for (const bool json : {false, true}) {
    const Outcome outcome =
        run_check({.target = "a.com", .policy_file = file, .secrets = {"KEY=canary-secret"}, .json = json});
    EXPECT_EQ(outcome.status, check_allowed) << outcome.err;
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("Bearer {KEY}"), HasSubstr("opaque"), Not(HasSubstr("canary"))));
  }
  const Outcome missing =
      run_check({.target = "a.com", .policy_file = file, .secrets = {"OTHER=canary-secret"}});
  EXPECT_EQ(missing.status, check_unusable);
  EXPECT_THAT(missing.err, AllOf(HasSubstr("there is no secret named KEY"), Not(HasSubstr("canary"))));
}

TEST_F(Check, JsonHoldsTheWholeVerdict) {
  const Outcome outcome = run_check(
      {.target = "https://api.openai.com/v1/models", .policy_file = example("openai.yaml"), .json = true});
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["decision"], "allowed");
  EXPECT_EQ(json["reason"], "allowed");
  EXPECT_EQ(json["intercept"], true);
  EXPECT_EQ(json["rule"]["name"], "openai");
  EXPECT_EQ(json["rule"]["index"], 0);
  EXPECT_EQ(json["headers"][0]["template"], "Bearer {OPENAI_API_KEY}");
  const Outcome denied =
      run_check({.target = "https://a.com/", .policy_file = example("openai.yaml"), .json = true});
  EXPECT_EQ(denied.status, check_denied);
  const auto refusal = nlohmann::json::parse(denied.out);
  EXPECT_EQ(refusal["reason"], "not_in_allow_list");
  EXPECT_EQ(refusal["status"], 403);
  EXPECT_THAT(refusal["headers"], IsEmpty());
}

TEST_F(Check, ARewrittenRequestSaysWhereItGoesAndWithWhoseCredential) {
  const std::string file = policy(R"(
rules:
  - name: to the mirror
    match_hosts: [npm.example.com]
    rewrite: {host: mirror.example.net, port: 8443, path_prefix: /npm}
  - name: the mirror's token
    match_hosts: [mirror.example.net]
    headers: [{name: Authorization, type: workspace_secret, value: "Bearer {MIRROR}"}]
  - name: nobody's
    match_hosts: [closed.example.com]
    rewrite: {host: gone.example.net}
  - {name: closed, match_hosts: [gone.example.net], action: deny}
)");
  const Outcome text = run_check({.target = "https://npm.example.com/left-pad?x", .policy_file = file});
  EXPECT_EQ(text.status, check_allowed) << text.out;
  EXPECT_THAT(text.out, AllOf(HasSubstr("rule         to the mirror "),
                              HasSubstr("sent to      https://mirror.example.net:8443/npm/left-pad?x\n"),
                              HasSubstr("rule there   the mirror's token\n"),
                              HasSubstr("sets         Authorization: Bearer {MIRROR}\n")));
  const auto json = nlohmann::json::parse(
      run_check({.target = "https://npm.example.com/left-pad", .policy_file = file, .json = true}).out);
  EXPECT_EQ(json["rewritten_to"], "mirror.example.net:8443");
  EXPECT_EQ(json["sent_to"], "https://mirror.example.net:8443/npm/left-pad");
  EXPECT_EQ(json["credentials_of"], "the mirror's token");
  EXPECT_EQ(json["headers"][0]["template"], "Bearer {MIRROR}");
  const Outcome closed = run_check({.target = "https://closed.example.com/", .policy_file = file});
  EXPECT_EQ(closed.status, check_denied);
  EXPECT_THAT(closed.out, HasSubstr("denied_by_rule"));
}

TEST_F(Check, WhatARuleDoesWithABodyIsSaid) {
  const std::string file = policy(R"(
limits: {requests_per_day: 1000}
rules:
  - name: llm
    match_hosts: [llm.example.com]
    transform:
      request:
        - set_header: {name: X-Team, value: canary-plain}
        - redact: [email, {pattern: "ACME-[0-9]{6}"}]
        - block: [private_key]
        - require: {max_body_bytes: 4096, content_types: [application/json]}
      response: {scrub_secrets: false}
    limits: {requests_per_second: 10, tokens_per_day: 50000}
)");
  for (const bool json : {false, true}) {
    const Outcome outcome =
        run_check({.target = "https://llm.example.com/v1", .policy_file = file, .json = json});
    EXPECT_EQ(outcome.status, check_allowed) << outcome.err;
    EXPECT_THAT(outcome.out,
                AllOf(HasSubstr("sets the header X-Team"), HasSubstr("takes out email, pattern"),
                      HasSubstr("refuses what holds private_key"),
                      HasSubstr("takes only a body of at most 4096 bytes, of type application/json"),
                      HasSubstr("does not search the answer"),
                      HasSubstr("at most 10 requests a second, 50000 tokens of language models a day"),
                      HasSubstr("at most 1000 requests a day")));
    EXPECT_THAT(outcome.out, Not(HasSubstr("canary")));
  }
}

TEST_F(Check, WhatDependsOnTheOperationIsNotGuessed) {
  const std::string file = policy(R"(
rules:
  - name: reading
    match_hosts: [graph.example.com]
    match_operations: [query, mutation createIssue]
    headers: [{name: A, type: plaintext, value: b}]
  - {name: nothing else, match_hosts: [graph.example.com], action: deny}
)");
  const auto ask = [&](std::vector<std::string> operations, bool json = false) {
    return run_check({.target = "https://graph.example.com/graphql",
                      .policy_file = file,
                      .method = "POST",
                      .operations = std::move(operations),
                      .json = json});
  };
  const Outcome open = ask({});
  EXPECT_EQ(open.status, check_depends);
  EXPECT_THAT(open.out, AllOf(StartsWith("depends  POST https://graph.example.com/graphql\n"),
                              HasSubstr("depends on the operation in the body"), HasSubstr("--operation"),
                              Not(HasSubstr("allowed"))));
  const auto json = nlohmann::json::parse(ask({}, true).out);
  EXPECT_EQ(json["decision"], "depends");
  EXPECT_EQ(json["wants_operations"], true);
  EXPECT_FALSE(json.contains("rule"));
  EXPECT_EQ(ask({"mutation createIssue", "query issues"}).status, check_allowed);
  const Outcome denied = ask({"mutation createIssue", "mutation deleteRepo"});
  EXPECT_EQ(denied.status, check_denied);
  EXPECT_THAT(denied.out, HasSubstr("rule         nothing else "));
  EXPECT_EQ(ask({" createIssue"}).status, check_unusable);
  EXPECT_EQ(ask({"mutation "}).status, check_unusable);
}

TEST_F(Check, ColoursAreOnlyForTerminals) {
  EXPECT_THAT(run_check({.target = "a.com"}).out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(run_check({.target = "a.com", .colour = true}).out, StartsWith("\x1b[1;31mdenied\x1b[0m"));
}

TEST_F(Check, TheCommandLineReachesTheAnswer) {
  const auto status = [](std::vector<std::string> arguments) {
    CLI::App app;
    int exit_code = -1;
    add_check_command(app, exit_code);
    std::ranges::reverse(arguments);  // CLI11 takes them from the back
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    try {
      app.parse(arguments);
    } catch (const CLI::ParseError& error) {
      exit_code = error.get_exit_code() + 1000;
    }
    const std::string out = testing::internal::GetCapturedStdout();
    testing::internal::GetCapturedStderr();
    return std::pair(exit_code, out);
  };
  EXPECT_EQ(
      status({"check", "--policy", example("github.yaml"), "-X", "DELETE", "https://api.github.com/user"})
          .first,
      check_denied);
  EXPECT_EQ(status({"check", "--allow", "a.com", "--allow", "b.com", "--header", "x: y", "b.com"}).first,
            check_allowed);
  EXPECT_EQ(status({"check", "--without-access-control", "everything", "b.com"}).first, check_allowed);
  EXPECT_EQ(status({"check", "--allow", "b.com", "--operation", "tools/list", "b.com"}).first, check_allowed);
  EXPECT_THAT(status({"check", "--json", "b.com"}).second, StartsWith("{\n"));
  EXPECT_GT(status({"check"}).first, 1000);
  EXPECT_GT(status({"check", "--without-access-control", "some", "b.com"}).first, 1000);
}

}  // namespace
}  // namespace postern::cli
