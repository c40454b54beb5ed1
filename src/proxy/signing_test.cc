// Signed requests on the whole road: what the origin reads carries a signature that AWS would accept, made
// over the very bytes that it reads; what cannot be signed does not arrive; and the secret is nowhere.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <map>
#include <nlohmann/json.hpp>

#include "credential/base64.h"
#include "credential/digest.h"
#include "policy/document.h"
#include "proxy/http2_road_harness.h"

namespace postern::proxy::road {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* secret_key = "canary/secret+key/EXAMPLE0123456789";
constexpr const char* session_token = "canary-session-token//0123456789==";
constexpr const char* bucket = "bucket.s3.eu-west-1.amazonaws.com";
constexpr const char* dynamodb = "dynamodb.eu-west-1.amazonaws.com";
constexpr const char* gateway = "abc123.execute-api.eu-west-1.amazonaws.com";
constexpr std::string_view date = "20260102T000000Z";  // where the test's clock stands

constexpr std::string_view lasting = R"(
rules:
  - name: cloud
    type: aws
    aws:
      access_key_id: {type: workspace_secret, value: "{KEY_ID}"}
      secret_access_key: {type: workspace_secret, value: "{SECRET}"}
)";
const std::string of_a_session =
    std::string(lasting) + "      session_token: {type: workspace_secret, value: \"{TOKEN}\"}\n";
const std::string naming_the_gateway =
    std::string(lasting) +
    "    match_hosts: [\"*.amazonaws.com\", abc123.execute-api.eu-west-1.amazonaws.com]\n";

RoadOptions options(std::string_view policy = lasting) {
  RoadOptions made;
  made.policy = policy;
  made.secrets = {{"KEY_ID", "AKIAREALREALREALREAL"}, {"SECRET", secret_key}, {"TOKEN", session_token}};
  made.origin_hosts = {bucket, dynamodb, gateway, "website.s3-website-eu-west-1.amazonaws.com",
                       "eu-west-1.elb.amazonaws.com"};
  made.prompt_peers = true;
  return made;
}

// ---- what AWS does at its side, written from its documentation and without the code that is tested

using Fields = std::multimap<std::string, std::string>;

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

struct Received {
  std::string method, target;
  Fields fields;  ///< Lower case. With `host`.
  std::string body;

  std::string one(const std::string& name) const {
    EXPECT_LE(fields.count(name), 1u) << name;
    const auto found = fields.find(name);
    return found == fields.end() ? "" : found->second;
  }
};

/// One request in HTTP/1.1 without a transfer coding.
Received parse(const std::string& message) {
  Received out;
  const std::size_t end = message.find("\r\n\r\n");
  if (end == std::string::npos) return out;
  std::size_t at = message.find("\r\n");
  const std::string line = message.substr(0, at);
  out.method = line.substr(0, line.find(' '));
  out.target = line.substr(out.method.size() + 1, line.rfind(' ') - out.method.size() - 1);
  while (at < end) {
    const std::size_t next = message.find("\r\n", at + 2);
    const std::string field = message.substr(at + 2, next - at - 2);
    out.fields.emplace(lower(field.substr(0, field.find(':'))), field.substr(field.find(':') + 2));
    at = next;
  }
  out.body = message.substr(end + 4);
  return out;
}

std::string mac(std::string_view key, std::string_view message) {
  const auto digest = credential::HmacSha256(key).sign(message);
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}
std::string hex_mac(std::string_view key, std::string_view message) {
  return credential::hex(credential::HmacSha256(key).sign(message));
}
std::string hash(std::string_view text) { return credential::hex(credential::sha256(text)); }

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t end = std::min(text.find(separator, at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::string between(const std::string& text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) return {};
  const std::size_t start = at + from.size();
  return text.substr(start, std::min(text.find(to, start), text.size()) - start);
}

struct Verified {
  std::string signature, scope, date;
  std::string key;  ///< The signing key, for chunks.
  bool good = false;
};

/// Of a scope DATE/REGION/SERVICE/aws4_request.
std::string signing_key(const std::string& scope) {
  std::string key = "AWS4" + std::string(secret_key);
  for (const std::string& part : split(scope, '/')) key = mac(key, part);
  return key;
}

/// Requests whose paths and queries need no encoding of another kind than they have.
Verified verify(const Received& request, const std::string& query, const std::string& credential,
                const std::string& listed, const std::string& date_signed, const std::string& signature,
                const std::string& payload) {
  Verified out;
  out.signature = signature;
  out.date = date_signed;
  EXPECT_THAT(credential, testing::StartsWith("AKIAREALREALREALREAL/"));
  out.scope = credential.substr(credential.find('/') + 1);
  auto parameters = split(query, '&');
  std::ranges::sort(parameters);
  std::string canonical = request.method + "\n" + request.target.substr(0, request.target.find('?')) + "\n";
  for (const std::string& parameter : parameters)
    canonical += (&parameter == parameters.data() ? "" : "&") + parameter;
  canonical += '\n';
  for (const std::string& name : split(listed, ';')) {
    EXPECT_EQ(request.fields.count(name), 1u) << name << " is signed and not there once";
    canonical += name + ":" + request.one(name) + "\n";
  }
  canonical += "\n" + listed + "\n" + payload;
  out.key = signing_key(out.scope);
  out.good = hex_mac(out.key, "AWS4-HMAC-SHA256\n" + out.date + "\n" + out.scope + "\n" + hash(canonical)) ==
             signature;
  EXPECT_TRUE(out.good) << canonical;
  // AWS wants all of its own fields signed.
  for (const auto& [name, value] : request.fields)
    if (name.starts_with("x-amz-")) {
      EXPECT_THAT(";" + listed + ";", HasSubstr(";" + name + ";"));
    }
  return out;
}

/// Signed in Authorization.
Verified verify(const Received& request, const std::string& payload) {
  const std::string authorization = request.one("authorization");
  const std::size_t mark = std::min(request.target.find('?'), request.target.size());
  const std::string query = mark < request.target.size() ? request.target.substr(mark + 1) : "";
  EXPECT_EQ(request.one("x-amz-date"), date);
  return verify(request, query, between(authorization, "Credential=", ","),
                between(authorization, "SignedHeaders=", ","), request.one("x-amz-date"),
                between(authorization, "Signature=", ","), payload);
}

/// Signed in the URL.
Verified verify_presigned(const Received& request) {
  const std::string query = request.target.substr(request.target.find('?') + 1);
  std::string rest;
  for (const std::string& parameter : split(query, '&'))
    if (!parameter.starts_with("X-Amz-Signature=")) rest += (rest.empty() ? "" : "&") + parameter;
  std::string credential;
  for (std::string part = between(query, "X-Amz-Credential=", "&"); !part.empty();) {
    const std::size_t slash = std::min(part.find("%2F"), part.size());
    credential += (credential.empty() ? "" : "/") + part.substr(0, slash);
    part.erase(0, slash + 3);
  }
  return verify(request, rest, credential, between(query, "X-Amz-SignedHeaders=", "&"),
                between(query, "X-Amz-Date=", "&"), between(query, "X-Amz-Signature=", "&"),
                "UNSIGNED-PAYLOAD");
}

/// The data of a body in signed chunks, if the whole chain is right.
std::string verified_chunks(const std::string& body, const Verified& head) {
  std::string data, previous = head.signature;
  const std::string empty_hash = hash("");
  for (std::size_t at = 0;;) {
    const std::string line = body.substr(at, body.find("\r\n", at) - at);
    const std::size_t size = std::stoul(line, nullptr, 16);
    const std::string signature = between(line, "chunk-signature=", "\r");
    at += line.size() + 2;
    const std::string chunk = body.substr(at, size);
    const std::string expected =
        hex_mac(head.key, "AWS4-HMAC-SHA256-PAYLOAD\n" + head.date + "\n" + head.scope + "\n" + previous +
                              "\n" + empty_hash + "\n" + hash(chunk));
    EXPECT_EQ(signature, expected) << "of the chunk at " << at;
    previous = signature;
    if (size == 0) {
      const std::string trailer = body.substr(at);
      if (trailer == "\r\n") return data;
      const std::string signed_part = trailer.substr(0, trailer.find("x-amz-trailer-signature:"));
      std::string canonical = signed_part;
      std::erase(canonical, '\r');
      EXPECT_EQ(between(trailer, "x-amz-trailer-signature:", "\r\n"),
                hex_mac(head.key, "AWS4-HMAC-SHA256-TRAILER\n" + head.date + "\n" + head.scope + "\n" +
                                      previous + "\n" + hash(canonical)));
      EXPECT_THAT(trailer, testing::EndsWith("\r\n\r\n"));
      return data;
    }
    data += chunk;
    at += size + 2;
  }
}

// ---- what clients send

std::string placeholder_authorization(std::string_view scope = "20260101/eu-west-1/s3",
                                      std::string_view listed = "host;x-amz-content-sha256;x-amz-date") {
  return fmt::format(
      "Authorization: AWS4-HMAC-SHA256 Credential={}/{}/aws4_request, SignedHeaders={}, Signature={}\r\n",
      policy::aws_placeholder_key_id, scope, listed, std::string(64, 'a'));
}
std::string dummy_chunk(std::string_view data) {
  return fmt::format("{:x};chunk-signature={}\r\n{}{}", data.size(), std::string(64, 'b'), data,
                     data.empty() ? "" : "\r\n");
}
constexpr std::string_view ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class Signing : public testing::Test {
 protected:
  void start(RoadOptions how = options()) { road_ = std::make_unique<Road>(std::move(how)); }
  Peer& connect(const std::string& host = bucket) { return road_->connect(host, 443, host); }
  std::string received() {
    road_->settle();
    return road_->origin() ? road_->origin()->take() : "";
  }
  void answer() {
    road_->origin()->send(ok);
    road_->settle();
    EXPECT_THAT(road_->sandbox().take(), HasSubstr("200 OK"));
  }
  /// What the sandbox reads, where nothing is to arrive whole.
  std::string refusal() {
    road_->settle();
    return road_->sandbox().take();
  }
  std::vector<json> records() {
    std::vector<json> all;
    EXPECT_TRUE(road_->leave());
    for (const std::string& line : road_->records()) {
      EXPECT_THAT(line,
                  AllOf(Not(HasSubstr("canary")), Not(HasSubstr("Signature=")), Not(HasSubstr("AKIA"))));
      all.push_back(json::parse(line));
    }
    return all;
  }
  json record() {
    const auto all = records();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? json::object() : all.front();
  }

  std::unique_ptr<Road> road_;
};

const json signed_by_aws = json::parse(R"([{"header":"Authorization","source":"aws"}])");

TEST_F(Signing, ARequestWithoutABodyIsSignedAnew) {
  start();
  connect().send(
      fmt::format("GET /dir/../x%20y%2Bz//%C3%A9.txt?list-type=2&prefix=a HTTP/1.1\r\nHost: {}\r\n"
                  "X-Amz-Date: 20000101T000000Z\r\nX-Amz-Security-Token: theirs\r\n"
                  "x-amz-content-sha256: {}\r\n{}\r\n",
                  bucket, credential::sha256_of_nothing, placeholder_authorization()));
  const Received read = parse(received());
  EXPECT_EQ(read.target, "/dir/../x%20y%2Bz//%C3%A9.txt?list-type=2&prefix=a") << "byte for byte";
  EXPECT_EQ(verify(read, std::string(credential::sha256_of_nothing)).scope,
            "20260102/eu-west-1/s3/aws4_request");
  EXPECT_EQ(read.one("x-amz-security-token"), "");
  answer();
  const json said = record();
  EXPECT_EQ(said["credentials"], signed_by_aws);
  EXPECT_EQ(said["rule"], "cloud");
  EXPECT_EQ(said["reason"], "allowed");
}

TEST_F(Signing, ASessionsTokenIsSentAndSigned) {
  start(options(of_a_session));
  connect().send(fmt::format("GET / HTTP/1.1\r\nHost: {}\r\n{}\r\n", bucket, placeholder_authorization()));
  const Received read = parse(received());
  EXPECT_EQ(read.one("x-amz-security-token"), session_token);
  EXPECT_TRUE(verify(read, "UNSIGNED-PAYLOAD").good);
  answer();
  EXPECT_EQ(record()["credentials"], signed_by_aws);
}

const std::string as_a_role = R"(
rules:
  - name: cloud
    type: aws
    aws: {role_arn: "arn:aws:iam::123456789012:role/agents"}
)";
const json signed_by_role =
    json::parse(R"([{"header":"Authorization","source":"aws:arn:aws:iam::123456789012:role/agents"}])");

std::string sts_answer(std::string_view key = secret_key,
                       std::string_view expiration = "2026-01-02T01:00:00Z") {
  const std::string body = fmt::format(
      "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">"
      "<AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{}</SessionToken>"
      "<SecretAccessKey>{}</SecretAccessKey><Expiration>{}</Expiration>"
      "<AccessKeyId>AKIAREALREALREALREAL</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>"
      "</AssumeRoleWithWebIdentityResponse>",
      session_token, key, expiration);
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{}", body.size(),
                     body);
}

class SigningAsARole : public Signing {
 protected:
  void start() {
    RoadOptions made = options(as_a_role);
    made.identity = workload_identity();
    made.endpoint_name = "sts.amazonaws.com";
    Signing::start(std::move(made));
  }
  void send() {
    connect().send(fmt::format("GET /o HTTP/1.1\r\nHost: {}\r\n{}\r\n", bucket, placeholder_authorization()));
  }
  std::string asked() {
    road_->settle();
    return road_->endpoint() ? road_->endpoint()->take() : "";
  }
};

TEST_F(SigningAsARole, AnHoursKeysAreAskedForOnceAndReplacedBeforeTheirEnd) {
  start();
  send();
  EXPECT_THAT(asked(), HasSubstr("Action=AssumeRoleWithWebIdentity&"));
  EXPECT_EQ(received(), "") << "nothing before there are keys";
  road_->endpoint()->send(sts_answer());
  const Received read = parse(received());
  EXPECT_EQ(read.one("x-amz-security-token"), session_token);
  EXPECT_TRUE(verify(read, "UNSIGNED-PAYLOAD").good);
  answer();
  send();
  EXPECT_EQ(asked(), "") << "kept";
  EXPECT_NE(received(), "");
  answer();
  road_->clock().advance(std::chrono::seconds(3545));  // within the margin before their end
  asked();
  received();
  send();
  EXPECT_THAT(asked(), HasSubstr("Action=AssumeRoleWithWebIdentity&"));
  EXPECT_EQ(received(), "") << "no old keys";
  for (const json& said : records()) {
    if (said["reason"] != "allowed") continue;
    json credentials = said["credentials"];
    EXPECT_EQ(credentials[0].contains("cached"), credentials != signed_by_role);
    credentials[0].erase("cached");
    EXPECT_EQ(credentials, signed_by_role);
  }
}

TEST_F(SigningAsARole, WithoutKeysNothingIsSent) {
  const std::string denied =
      "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>canary</Message></"
      "Error></ErrorResponse>";
  const std::vector<std::pair<std::string, std::string>> failures = {
      {"refused",
       fmt::format("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{}", denied.size(), denied)},
      {"redirect", "HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n"},
      {"no XML", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary"},
      {"no key", sts_answer("")},
      {"ended", sts_answer(secret_key, "2026-01-01T23:59:59Z")},
      {"no end", sts_answer(secret_key, "soon")},
      {"too large", "HTTP/1.1 200 OK\r\n\r\n" + std::string(70 * 1024, ' ')},
  };
  for (const auto& [name, said] : failures) {
    SCOPED_TRACE(name);
    start();
    send();
    asked();
    road_->endpoint()->send(said);
    EXPECT_THAT(refusal(),
                AllOf(HasSubstr("502 Bad Gateway"), HasSubstr("X-Postern-Reason: credential_unavailable"),
                      Not(HasSubstr("canary"))));
    EXPECT_EQ(road_->origins(), 0u);
    const json one = record();
    EXPECT_EQ(one["reason"], "credential_unavailable");
    if (name == "refused") {
      EXPECT_THAT(one.dump(), HasSubstr("answered 400 to the question for the role: InvalidIdentityToken"));
    }
  }
}

TEST_F(SigningAsARole, WhatIsSignedByAnotherIsNotAskedAbout) {
  start();
  connect().send(
      fmt::format("GET "
                  "/o?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAOTHER%2F20260101%2Feu-west-1%"
                  "2Fs3%2Faws4_request&"
                  "X-Amz-Date=20260101T000000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature={} "
                  "HTTP/1.1\r\nHost: {}\r\n\r\n",
                  std::string(64, 'a'), bucket));
  EXPECT_THAT(received(), HasSubstr("AKIAOTHER"));
  EXPECT_EQ(road_->endpoints(), 0u);
  answer();
}

TEST_F(Signing, ABodyOfWhichNothingIsSaidIsHashedFirst) {
  start();
  const std::string body = R"({"TableName":"t"})";
  Peer& sandbox = connect(dynamodb);
  sandbox.send(fmt::format(
      "POST / HTTP/1.1\r\nHost: {}\r\nX-Amz-Target: DynamoDB_20120810.DescribeTable\r\n"
      "Content-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n{}\r\n",
      dynamodb, body.size(),
      placeholder_authorization("20260101/eu-west-1/dynamodb", "content-type;host;x-amz-date;x-amz-target")));
  EXPECT_EQ(received(), "") << "nothing before the body is known";
  sandbox.send(body.substr(0, 5));
  EXPECT_EQ(received(), "");
  sandbox.send(body.substr(5));
  const Received read = parse(received());
  EXPECT_EQ(read.body, body);
  EXPECT_EQ(read.one("content-length"), std::to_string(body.size()));
  EXPECT_TRUE(verify(read, hash(body)).good);
  EXPECT_THAT(read.one("authorization"),
              HasSubstr("/dynamodb/aws4_request, SignedHeaders=content-type;host;"));
  answer();
  EXPECT_EQ(record()["credentials"], signed_by_aws);
}

TEST_F(Signing, AHashedBodyOfUnknownLengthGetsOne) {
  start();
  connect(dynamodb).send(fmt::format(
      "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n{}\r\n"
      "3\r\nabc\r\n3\r\ndef\r\n0\r\nAuthorization: theirs\r\n\r\n",
      dynamodb, placeholder_authorization("20260101/eu-west-1/dynamodb", "host;x-amz-date")));
  const Received read = parse(received());
  EXPECT_EQ(read.one("transfer-encoding"), "");
  EXPECT_EQ(read.one("content-length"), "6");
  EXPECT_EQ(read.body, "abcdef");
  EXPECT_TRUE(verify(read, hash("abcdef")).good);
  answer();
  EXPECT_EQ(record()["reason"], "allowed");
}

TEST_F(Signing, ABodyThatIsTooLargeToBeHashedIsRefused) {
  start();
  connect(dynamodb).send(
      fmt::format("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}\r\n", dynamodb,
                  limits::hashed_body_bytes_max + 1,
                  placeholder_authorization("20260101/eu-west-1/dynamodb", "host;x-amz-date")));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("HTTP/1.1 413 "), HasSubstr("body_too_large"), HasSubstr("16 MiB")));
  // The same, but nobody says it in advance.
  Peer& second = connect(dynamodb);
  second.send(fmt::format("POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n{}\r\n", dynamodb,
                          placeholder_authorization("20260101/eu-west-1/dynamodb", "host;x-amz-date")));
  const std::string piece = fmt::format("{:x}\r\n{}\r\n", 1 * MiB, std::string(1 * MiB, 'x'));
  for (int i = 0; i < 17; ++i) second.send(piece);
  EXPECT_TRUE(road_->wait_until([&] { return !second.received().empty(); }));
  EXPECT_THAT(refusal(), HasSubstr("HTTP/1.1 413 "));
  EXPECT_EQ(road_->origins(), 0u);
  for (const json& said : records()) EXPECT_EQ(said["reason"], "body_too_large");
}

TEST_F(Signing, OneSandboxHoldsSoMuchAndNoMore) {
  start();
  const std::string head = fmt::format(
      "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}\r\n", dynamodb, limits::hashed_body_bytes_max,
      placeholder_authorization("20260101/eu-west-1/dynamodb", "host;x-amz-date"));
  const std::string almost(limits::hashed_body_bytes_max - 1, 'x');
  std::vector<Peer*> holding;
  for (std::size_t i = 0; i < limits::held_bodies_bytes_max / limits::hashed_body_bytes_max; ++i) {
    holding.push_back(&connect(dynamodb));
    holding.back()->send(head);
    holding.back()->send(almost);
    EXPECT_TRUE(road_->wait_until([&] { return holding.back()->sent(); }));
    for (int turn = 0; turn < 400; ++turn) road_->turn();  // and what the kernel has of it, slice by slice
    EXPECT_EQ(holding.back()->received(), "");
  }
  connect(dynamodb).send(head + "0123456789");
  EXPECT_TRUE(road_->wait_until([&] { return !road_->sandbox().received().empty(); }));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("HTTP/1.1 503 "), HasSubstr("overloaded")));
  // What one gives back another may have; and another sandbox has its own.
  holding.front()->close();
  road_->settle();
  Peer& next = connect(dynamodb);
  next.send(head + "0123456789");
  EXPECT_EQ(refusal(), "");
  Peer& other = road_->connect(dynamodb, 443, dynamodb, Offer::http1, &road_->new_tenant());
  other.send(fmt::format("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n{}\r\nhi", dynamodb,
                         placeholder_authorization("20260101/eu-west-1/dynamodb", "host;x-amz-date")));
  EXPECT_EQ(parse(received()).body, "hi");
  EXPECT_TRUE(road_->leave());
}

TEST_F(Signing, AnUnsignedPayloadStreams) {
  start();
  Peer& sandbox = connect();
  sandbox.send(
      fmt::format("PUT /k HTTP/1.1\r\nHost: {}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"
                  "Content-Length: 1000\r\n{}\r\n{}",
                  bucket, placeholder_authorization(), std::string(10, 'a')));
  std::string read = received();
  EXPECT_THAT(read, testing::EndsWith("\r\n\r\naaaaaaaaaa")) << "long before the end";
  EXPECT_TRUE(verify(parse(read), "UNSIGNED-PAYLOAD").good);
  sandbox.send(std::string(990, 'b'));
  EXPECT_EQ(received(), std::string(990, 'b'));
  answer();
  EXPECT_EQ(record()["reason"], "allowed");
}

std::string chunked_put(std::string_view form, std::size_t length, std::size_t decoded) {
  return fmt::format(
      "PUT /k HTTP/1.1\r\nHost: {}\r\nx-amz-content-sha256: {}\r\nContent-Encoding: aws-chunked\r\n"
      "x-amz-decoded-content-length: {}\r\nContent-Length: {}\r\n{}\r\n",
      bucket, form, decoded, length,
      placeholder_authorization("20260101/eu-west-1/s3",
                                "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;"
                                "x-amz-decoded-content-length"));
}

TEST_F(Signing, SignedChunksAreSignedAnewWhileTheyStream) {
  start();
  const std::string first(65536, 'a'), second(1000, 'c');
  const std::string body = dummy_chunk(first) + dummy_chunk(second) + dummy_chunk("") + "\r\n";
  Peer& sandbox = connect();
  sandbox.send(chunked_put("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", body.size(), 66536));
  sandbox.send(dummy_chunk(first));
  std::string read = received();
  EXPECT_THAT(read, testing::EndsWith("aaa\r\n")) << "a chunk goes on when it is whole";
  sandbox.send(dummy_chunk(second).substr(0, 500));
  read += received();
  sandbox.send(dummy_chunk(second).substr(500) + dummy_chunk("") + "\r\n");
  read += received();
  const Received put = parse(read);
  EXPECT_EQ(put.one("content-length"), std::to_string(body.size()));
  EXPECT_EQ(put.body.size(), body.size()) << "as long as its head says";
  const Verified head = verify(put, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
  EXPECT_EQ(verified_chunks(put.body, head), first + second);
  EXPECT_THAT(put.body, Not(HasSubstr(std::string(64, 'b') + "\r\n"))) << "no signature of the client's";
  answer();
  EXPECT_EQ(record()["credentials"], signed_by_aws);
}

TEST_F(Signing, ChunksInAChunkedTransferAreNoDifferent) {
  start();
  const std::string body = dummy_chunk("hello") + dummy_chunk("") + "\r\n";
  std::string sent = fmt::format(
      "PUT /k HTTP/1.1\r\nHost: {}\r\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n"
      "Transfer-Encoding: chunked\r\n{}\r\n",
      bucket, placeholder_authorization());
  for (const char c : body) sent += fmt::format("1\r\n{}\r\n", c);
  connect().send(sent + "0\r\n\r\n");
  const std::string read = received();
  std::string decoded;
  Received put = parse(read);
  for (std::size_t at = 0; at < put.body.size();) {
    const std::size_t size = std::stoul(put.body.substr(at), nullptr, 16);
    at = put.body.find("\r\n", at) + 2;
    decoded += put.body.substr(at, size);
    at += size + 2;
  }
  EXPECT_EQ(verified_chunks(decoded, verify(put, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")), "hello");
  answer();
  EXPECT_EQ(record()["reason"], "allowed");
}

TEST_F(Signing, ATrailerOfChunksIsSigned) {
  start();
  const std::string body = dummy_chunk("hello") + dummy_chunk("") + "x-amz-checksum-crc32c:sOO8/Q==\r\n" +
                           "x-amz-trailer-signature:" + std::string(64, 'b') + "\r\n\r\n";
  connect().send(chunked_put("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", body.size(), 5) + body);
  const Received put = parse(received());
  EXPECT_EQ(put.body.size(), body.size());
  EXPECT_EQ(verified_chunks(put.body, verify(put, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")), "hello");
  answer();
  EXPECT_EQ(record()["reason"], "allowed");
}

TEST_F(Signing, UnsignedChunksGoOnAsTheyCome) {
  start();
  const std::string body = "5\r\nhello\r\n0\r\nx-amz-checksum-crc32c:sOO8/Q==\r\n\r\n";
  connect().send(chunked_put("STREAMING-UNSIGNED-PAYLOAD-TRAILER", body.size(), 5) + body);
  const Received put = parse(received());
  EXPECT_EQ(put.body, body);
  EXPECT_TRUE(verify(put, "STREAMING-UNSIGNED-PAYLOAD-TRAILER").good);
  answer();
  EXPECT_EQ(record()["reason"], "allowed");
}

// What a body in chunks must not be, and what the program reads then. Whatever of it was on the way is never
// a whole request.
TEST_F(Signing, ABodyThatIsNotWhatItsHeadSaidIsNeverComplete) {
  const std::string good = dummy_chunk("hello");
  const std::string last = dummy_chunk("") + "\r\n";
  const std::string sixty_four(64, 'b');
  struct Case {
    std::string what, body;
    std::size_t decoded;
    std::string detail;
  };
  const Case cases[] = {
      {"a lying length, too short", good + last, 4, "more data than its x-amz-decoded-content-length"},
      {"a lying length, too long", good + last, 6, "less data than its x-amz-decoded-content-length"},
      {"cut off in a chunk", good.substr(0, 88), 5, "ends before its last chunk"},
      {"cut off before the last chunk", good, 5, "ends before its last chunk"},
      {"cut off behind the last size", good + dummy_chunk(""), 5, "ends before its last chunk"},
      {"another extension", "5;x=y;chunk-signature=" + sixty_four + "\r\nhello\r\n" + last, 5,
       "without a signature"},
      {"an extension behind", "5;chunk-signature=" + sixty_four + ";a=b\r\nhello\r\n" + last, 5,
       "without a signature"},
      {"no signature", "5\r\nhello\r\n" + last, 5, "without a signature"},
      {"two signatures",
       "5;chunk-signature=" + sixty_four + ";chunk-signature=" + sixty_four + "\r\nhello\r\n" + last, 5,
       "size line of more than"},
      {"a bare line feed", "5;chunk-signature=" + sixty_four + "\nhello\r\n" + last, 5, "CR LF"},
      {"longer than it says", "4;chunk-signature=" + sixty_four + "\r\nhello\r\n" + last, 5,
       "longer than it says"},
      {"a second request behind", good + last + "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", 5,
       "behind its end"},
      {"a trailer nobody announced", good + dummy_chunk("") + "x-amz-meta-a:b\r\n\r\n", 5,
       "did not announce"},
      {"a size that overflows", "ffffffffffffffffff;chunk-signature=" + sixty_four + "\r\nhello\r\n" + last,
       5, "without a size"},
      {"a chunk too large to hold", fmt::format("{:x};chunk-signature={}\r\nhello", 2 * MiB, sixty_four),
       2 * MiB, "smaller chunks"},
      {"nothing", "", 0, "empty"},
  };
  for (const Case& one : cases) {
    start();
    connect().send(chunked_put("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", one.body.size(), one.decoded) +
                   one.body);
    road_->settle();
    const std::string answer = road_->sandbox().take();
    EXPECT_THAT(answer,
                AllOf(HasSubstr("HTTP/1.1 400 "), HasSubstr("unsignable_request"), HasSubstr(one.detail)))
        << one.what;
    if (road_->origin()) {
      const std::string read = road_->origin()->take();
      EXPECT_THAT(read, testing::AnyOf(testing::EndsWith("[cut]\n"), testing::EndsWith("[reset]\n"),
                                       testing::EndsWith("[end]\n"), std::string()))
          << one.what;
      EXPECT_THAT(read, Not(HasSubstr("/smuggled"))) << one.what;
      // With the mark of the end.
      EXPECT_LT(parse(read).body.size(), one.body.size() + 7) << one.what;
    }
    const json said = record();
    EXPECT_EQ(said["reason"], "unsignable_request") << one.what;
  }
}

TEST_F(Signing, WhatCannotBeMeantIsRefusedBeforeAnythingIsDialled) {
  struct Case {
    std::string what, host, fields, detail;
  };
  const std::string put = "PUT /k HTTP/1.1\r\nHost: ";
  const Case cases[] = {
      {"another region", bucket, placeholder_authorization("20260101/us-east-1/s3"),
       "its host is of eu-west-1"},
      {"another service", bucket, placeholder_authorization("20260101/eu-west-1/iam"),
       "its host is one of s3"},
      {"two signatures", bucket, placeholder_authorization() + placeholder_authorization(),
       "several authorization fields"},
      {"SigV4A", bucket,
       "Authorization: AWS4-ECDSA-P256-SHA256 Credential=x, SignedHeaders=host, Signature=00\r\n", "SigV4A"},
      {"event streams", bucket,
       placeholder_authorization() + "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-EVENTS\r\n",
       "event streams"},
      {"nonsense for a hash", bucket, placeholder_authorization() + "x-amz-content-sha256: hash\r\n",
       "x-amz-content-sha256"},
      {"two hashes", bucket,
       placeholder_authorization() +
           "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n",
       "several x-amz-content-sha256"},
      {"code of a customer", gateway, placeholder_authorization("20260101/eu-west-1/execute-api"),
       "names it in match_hosts"},
  };
  for (const Case& one : cases) {
    start();
    connect(one.host).send(put + one.host + "\r\n" + one.fields + "Content-Length: 0\r\n\r\n");
    EXPECT_THAT(refusal(),
                AllOf(HasSubstr("HTTP/1.1 400 "), HasSubstr("unsignable_request"), HasSubstr(one.detail)))
        << one.what;
    EXPECT_EQ(road_->origins(), 0u) << one.what;
    EXPECT_EQ(record()["credentials"], json::array());
  }
}

TEST_F(Signing, NothingIsSignedForPlainHttp) {
  start();
  road_->connect(bucket, 80)
      .send(fmt::format("GET / HTTP/1.1\r\nHost: {}\r\n{}\r\n", bucket, placeholder_authorization()));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("HTTP/1.1 403 "), HasSubstr("plaintext_credential")));
  EXPECT_EQ(road_->origins(), 0u);
}

TEST_F(Signing, AHostOfACustomerIsSignedForWhereTheRuleNamesIt) {
  start(options(naming_the_gateway));
  connect(gateway).send(
      fmt::format("GET /prod HTTP/1.1\r\nHost: {}\r\n{}\r\n", gateway,
                  placeholder_authorization("20260101/eu-west-1/execute-api", "host;x-amz-date")));
  EXPECT_TRUE(verify(parse(received()), std::string(credential::sha256_of_nothing)).good);
  answer();
  EXPECT_EQ(record()["credentials"], signed_by_aws);
}

TEST_F(Signing, WhatIsNotOursToSignGoesAsItCame) {
  const std::string foreign =
      "Authorization: AWS4-HMAC-SHA256 Credential=ASIASESSION/20260101/eu-west-1/s3/aws4_request, "
      "SignedHeaders=host, Signature=00\r\nx-amz-s3session-token: t\r\n";
  const std::string presigned =
      "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIASTRANGER%2F20260101%2Feu-west-1%2Fs3%2Faws4_"
      "request"
      "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
  struct Case {
    std::string host, target, fields;
  };
  const Case cases[] = {{bucket, presigned, ""},
                        {bucket, "/k", foreign},
                        {"website.s3-website-eu-west-1.amazonaws.com", "/", placeholder_authorization()},
                        {"eu-west-1.elb.amazonaws.com", "/", "Authorization: Basic eA==\r\n"},
                        {gateway, "/prod", "X-Api-Key: k\r\n"}};
  for (const Case& one : cases) {
    start();
    connect(one.host).send(
        fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", one.target, one.host, one.fields));
    EXPECT_EQ(received(),
              fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", one.target, one.host, one.fields));
    answer();
    EXPECT_EQ(record()["credentials"], json::array()) << one.host;
  }
}

std::string presigned_target(std::string_view at) {
  return fmt::format(
      "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{}%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-"
      "Date={}&X-Amz-Expires=300"
      "&X-Amz-SignedHeaders=host&response-content-type=text%2Fplain&X-Amz-Signature={}",
      policy::aws_placeholder_key_id, at.substr(0, 8), at, std::string(64, 'a'));
}

TEST_F(Signing, APresignedUrlIsSignedAnewAndNeverRecorded) {
  start(options(of_a_session));
  connect().send(fmt::format("PUT {} HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\n\r\nhello",
                             presigned_target("20260101T235900Z"), bucket));
  const Received read = parse(received());
  EXPECT_EQ(read.body, "hello");
  EXPECT_EQ(read.one("authorization"), "");
  EXPECT_TRUE(verify_presigned(read).good);
  EXPECT_THAT(read.target, AllOf(HasSubstr("X-Amz-Date=20260101T235900Z"),
                                 HasSubstr("X-Amz-Security-Token=canary-session-token%2F%2F0123456789%3D%3D"),
                                 Not(HasSubstr(std::string(policy::aws_placeholder_key_id)))));
  answer();
  const json said = record();
  EXPECT_EQ(said["credentials"], json::parse(R"([{"header":"X-Amz-Signature","source":"aws"}])"));
  EXPECT_EQ(said["path"], "/k");
}

TEST_F(Signing, APresignedUrlOfTomorrowOrWithASecondSignatureIsRefused) {
  start();
  connect().send(
      fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", presigned_target("20260103T000000Z"), bucket));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("unsignable_request"), HasSubstr("dated in the future")));
  if (road_->origin()) {
    EXPECT_THAT(road_->origin()->take(), Not(HasSubstr("GET")));
  }
  connect().send(fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", presigned_target("20260101T000000Z"),
                             bucket, placeholder_authorization()));
  EXPECT_THAT(refusal(), AllOf(HasSubstr("unsignable_request"), HasSubstr("takes one of them")));
  for (const json& said : records()) EXPECT_EQ(said["reason"], "unsignable_request");
}

// Threat 40: what ends at this hop is neither sent nor signed, and cannot take the signature with it.
TEST_F(Signing, WhatAConnectionFieldNamesIsNotSigned) {
  start();
  connect().send(fmt::format(
      "PUT /k HTTP/1.1\r\nHost: {}\r\nConnection: authorization, x-amz-meta-a, x-amz-content-sha256, "
      "x-amz-date\r\n"
      "x-amz-meta-a: 1\r\nx-amz-meta-b: 2\r\nx-amz-content-sha256: {}\r\nContent-Length: 2\r\n{}\r\nhi",
      bucket, hash("hi"),
      placeholder_authorization("20260101/eu-west-1/s3", "host;x-amz-date;x-amz-meta-a;x-amz-meta-b")));
  const Received read = parse(received());
  EXPECT_EQ(read.one("x-amz-meta-a"), "");
  EXPECT_EQ(read.one("x-amz-meta-b"), "2");
  EXPECT_EQ(read.one("x-amz-content-sha256"), "UNSIGNED-PAYLOAD") << "nobody said what the body is";
  EXPECT_TRUE(verify(read, "UNSIGNED-PAYLOAD").good);
  answer();
}

TEST_F(Signing, AConnectionThatWasGoneIsTriedAgainWithASignatureOfThatMoment) {
  start();
  Peer& sandbox = connect();
  const std::string get =
      fmt::format("GET /k HTTP/1.1\r\nHost: {}\r\n{}\r\n", bucket, placeholder_authorization());
  sandbox.send(get);
  EXPECT_TRUE(verify(parse(received()), "UNSIGNED-PAYLOAD").good);
  answer();
  sandbox.send(get);
  EXPECT_TRUE(verify(parse(received()), "UNSIGNED-PAYLOAD").good);
  EXPECT_EQ(road_->origins(), 1u);
  road_->origin()->close();
  const Received again = parse(received());
  EXPECT_EQ(road_->origins(), 2u);
  EXPECT_TRUE(verify(again, "UNSIGNED-PAYLOAD").good);
  answer();
  EXPECT_EQ(records().size(), 2u);
}

TEST_F(Signing, TwoFieldsOfOneNameAreSignedAsTheyGo) {
  start();
  connect().send(fmt::format("GET / HTTP/1.1\r\nHost: {}\r\nX-Amz-Meta-A:  1   2 \r\n{}\r\n", bucket,
                             placeholder_authorization()));
  Received read = parse(received());
  read.fields.erase("x-amz-meta-a");
  read.fields.emplace("x-amz-meta-a", "1 2");  // as AWS reads it
  EXPECT_TRUE(verify(read, "UNSIGNED-PAYLOAD").good);
  answer();
}

// ---- Azure

constexpr const char* blobs = "acme01.blob.core.windows.net";

RoadOptions azure_options(std::string_view credential) {
  RoadOptions made = options();
  made.policy = fmt::format("rules: [{{name: cloud, type: azure, azure: {{storage_account: acme01, {}}}}}]",
                            credential);
  made.origin_hosts = {blobs};
  return made;
}

TEST_F(Signing, AStorageAccountsRequestIsSignedWithItsKey) {
  std::string key;
  credential::append_base64(secret_key, key);
  start(azure_options("account_key: {type: opaque, value: \"" + key + "\"}"));
  connect(blobs).send(fmt::format(
      "PUT /c/b?comp=block HTTP/1.1\r\nHost: {}\r\nx-ms-version: 2026-02-06\r\nx-ms-date: theirs\r\n"
      "Authorization: SharedKey acme01:dGhlaXJz\r\nContent-Length: 5\r\n\r\nhello",
      blobs));
  const Received read = parse(received());
  EXPECT_EQ(read.body, "hello");
  EXPECT_EQ(read.target, "/c/b?comp=block");
  std::string signature;
  credential::append_base64(mac(secret_key,
                                "PUT\n\n\n5\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 02 Jan 2026 00:00:00 GMT\n"
                                "x-ms-version:2026-02-06\n/acme01/c/b\ncomp:block"),
                            signature);
  EXPECT_EQ(read.one("authorization"), "SharedKey acme01:" + signature);
  EXPECT_EQ(read.one("x-ms-date"), "Fri, 02 Jan 2026 00:00:00 GMT");
  answer();
  EXPECT_EQ(record()["credentials"], json::parse(R"([{"header":"Authorization","source":"azure:acme01"}])"));
}

TEST_F(Signing, AStorageAccountsSasIsOnTheTargetAndInNoRecord) {
  start(azure_options("sas_token: {type: opaque, value: \"sv=2026-02-06&sp=rl&sig=canary%3D\"}"));
  connect(blobs).send(
      fmt::format("GET /c/b?comp=tags HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer theirs\r\n\r\n", blobs));
  const Received read = parse(received());
  EXPECT_EQ(read.target, "/c/b?comp=tags&sv=2026-02-06&sp=rl&sig=canary%3D");
  EXPECT_EQ(read.one("authorization"), "");
  answer();
  // Signed by somebody else: it goes as it came.
  connect(blobs).send(fmt::format("GET /c/b?sig=theirs HTTP/1.1\r\nHost: {}\r\n\r\n", blobs));
  EXPECT_EQ(parse(received()).target, "/c/b?sig=theirs");
  answer();
  road_->connect(blobs, 80).send(fmt::format("GET /c/b HTTP/1.1\r\nHost: {}\r\n\r\n", blobs));
  EXPECT_THAT(refusal(), HasSubstr("plaintext_credential"));
  const auto said = records();
  ASSERT_EQ(said.size(), 3u);
  EXPECT_EQ(said[0]["credentials"], json::parse(R"([{"header":"sig","source":"azure:acme01"}])"));
  EXPECT_EQ(said[0]["path"], "/c/b");
  EXPECT_EQ(said[1]["credentials"], json::array());
}

// ---- HTTP/2

kit::Pairs http2_head(std::string_view method, std::string_view target, std::string_view host,
                      kit::Pairs more) {
  kit::Pairs head{{":method", std::string(method)},
                  {":scheme", "https"},
                  {":authority", std::string(host)},
                  {":path", std::string(target)}};
  head.insert(head.end(), more.begin(), more.end());
  return head;
}
std::string authorization_value(std::string_view listed, std::string_view service = "s3") {
  return fmt::format(
      "AWS4-HMAC-SHA256 Credential={}/20260101/eu-west-1/{}/aws4_request, SignedHeaders={}, Signature={}",
      policy::aws_placeholder_key_id, service, listed, std::string(64, 'a'));
}
Received read_head(const http2::Stream& stream) {
  const http2::Head& head = stream.request();
  Received out{std::string(head.method), std::string(head.path), {}, {}};
  for (const auto& [name, value] : kit::copy(head.fields)) out.fields.emplace(name, value);
  out.fields.emplace("host", std::string(head.authority));
  return out;
}

RoadOptions http2_options(std::string_view policy = lasting) {
  RoadOptions made = options(policy);
  made.origin_http2 = true;
  return made;
}

TEST(Http2Signing, EveryFormOfABodyIsSignedInBothVersions) {
  const std::string chunks =
      dummy_chunk(std::string(70'000, 'a')) + dummy_chunk("hello") + dummy_chunk("") + "\r\n";
  struct Case {
    const char* host;
    std::string said, body;
  };
  const Case cases[] = {{bucket, "UNSIGNED-PAYLOAD", "hello"},
                        {bucket, hash("hello"), "hello"},
                        {bucket, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", chunks},
                        {dynamodb, "", "hello"},
                        {dynamodb, "", ""}};
  for (const bool http2_outside : {true, false}) {
    for (const Case& one : cases) {
      RoadOptions how = http2_options();
      how.origin_http2 = http2_outside;
      Http2Road world(how);
      Http2Peer& sandbox = world.connect(one.host);
      const bool s3 = one.host == bucket;
      kit::Pairs more{{"authorization",
                       authorization_value(s3 ? "host;x-amz-content-sha256;x-amz-date" : "host;x-amz-date",
                                           s3 ? "s3" : "dynamodb")}};
      if (!one.said.empty()) more.push_back({"x-amz-content-sha256", one.said});
      kit::Seen answer;
      const auto stream = sandbox.end.ask(http2_head("PUT", "/k", one.host, more), answer, one.body.empty());
      ASSERT_TRUE(stream);
      kit::Sending sending;
      if (!one.body.empty()) sandbox.end.send(stream, one.body, true, sending);
      Received read;
      kit::Seen body;
      if (http2_outside) {
        const auto asked = world.request();
        ASSERT_TRUE(asked) << one.said;
        read = read_head(*asked);
        world.origins.back()->end.read(asked, body);
        EXPECT_TRUE(world.until([&] { return body.over; }));
        EXPECT_TRUE(body.complete);
        read.body = body.body;
        EXPECT_TRUE(kit::send_head(*asked, {{":status", "200"}}, true));
      } else {
        std::string text;
        const auto whole = [&] {
          if (world.road->origin()) text += world.road->origin()->take();
          const Received so_far = parse(text);
          if (so_far.method.empty()) return false;
          return so_far.one("transfer-encoding").empty()
                     ? so_far.body.size() >= (so_far.one("content-length").empty()
                                                  ? 0
                                                  : std::stoul(so_far.one("content-length")))
                     : so_far.body.ends_with("\r\n0\r\n\r\n");
        };
        EXPECT_TRUE(world.until(whole)) << text;
        read = parse(text);
        if (!read.one("transfer-encoding").empty()) {
          std::string decoded;
          for (std::size_t at = 0; at < read.body.size();) {
            const std::size_t size = std::stoul(read.body.substr(at), nullptr, 16);
            at = read.body.find("\r\n", at) + 2;
            decoded += read.body.substr(at, size);
            at += size + 2;
          }
          read.body = decoded;
        }
        world.road->origin()->send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
      }
      const Verified head = verify(read, one.said.empty() ? hash(one.body) : one.said);
      if (one.body == chunks) {
        EXPECT_EQ(verified_chunks(read.body, head), std::string(70'000, 'a') + "hello");
      } else {
        EXPECT_EQ(read.body, one.body);
      }
      EXPECT_TRUE(world.until([&] { return answer.over; }));
      EXPECT_EQ(answer.status(), 200);
      const auto records = world.finish();
      ASSERT_EQ(records.size(), 1u);
      EXPECT_EQ(json::parse(records.front())["credentials"], signed_by_aws);
      EXPECT_THAT(records.front(), Not(HasSubstr("canary")));
      EXPECT_TRUE(world.left);
    }
  }
}

TEST(Http2Signing, ABrokenBodyResetsTheOriginsStreamAndIsRefused) {
  Http2Road world(http2_options());
  Http2Peer& sandbox = world.connect(bucket);
  kit::Seen answer;
  const auto stream =
      sandbox.end.ask(http2_head("PUT", "/k", bucket,
                                 {{"authorization", authorization_value("host")},
                                  {"x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}}),
                      answer, false);
  ASSERT_TRUE(stream);
  kit::Sending first, rest;
  const std::string chunk = dummy_chunk("hello");  // outlives its sending
  sandbox.end.send(stream, chunk, false, first);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  kit::Seen body;
  world.origins.back()->end.read(asked, body);
  sandbox.end.send(stream, "zz", true, rest);
  EXPECT_TRUE(world.until([&] { return body.over && answer.over; }));
  EXPECT_FALSE(body.complete);
  EXPECT_EQ(answer.status(), 400);
  EXPECT_THAT(answer.body, HasSubstr("unsignable_request"));
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(json::parse(records.front())["reason"], "unsignable_request");
  EXPECT_TRUE(world.left);
}

TEST(Http2Signing, APresignedTargetIsWrittenAndCompressedWithNothingElse) {
  Http2Road world(http2_options());
  Http2Peer& sandbox = world.connect(bucket);
  kit::Seen answer;
  sandbox.end.ask(http2_head("GET", presigned_target("20260101T235900Z"), bucket, {}), answer);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  EXPECT_TRUE(verify_presigned(read_head(*asked)).good);
  ASSERT_TRUE(kit::send_head(*asked, {{":status", "204"}}, true));
  EXPECT_TRUE(world.until([&] { return answer.over; }));
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_THAT(records.front(),
              AllOf(Not(HasSubstr("Signature=")), HasSubstr(R"("header":"X-Amz-Signature")")));
}

TEST(Http2Signing, WhatWasRefusedUnseenIsSignedAgain) {
  Http2Road world(http2_options());
  Http2Peer& sandbox = world.connect(bucket);
  kit::Seen answer;
  sandbox.end.ask(http2_head("GET", "/k", bucket, {{"authorization", authorization_value("host")}}), answer);
  const auto first = world.request();
  ASSERT_TRUE(first);
  first->reset(http2::ErrorCode::refused_stream);
  const auto second = world.request(2);
  ASSERT_TRUE(second);
  EXPECT_TRUE(verify(read_head(*second), "UNSIGNED-PAYLOAD").good);
  ASSERT_TRUE(kit::send_head(*second, {{":status", "200"}}, true));
  EXPECT_TRUE(world.until([&] { return answer.over; }));
  EXPECT_EQ(answer.status(), 200);
  EXPECT_EQ(world.finish().size(), 1u);
}

}  // namespace
}  // namespace postern::proxy::road
