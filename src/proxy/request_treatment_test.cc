#include "proxy/request_treatment.h"

#include <gmock/gmock.h>
#include <random>

#include "policy/document.h"
#include "transform/codings.h"

namespace postern::proxy {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// A rule's steps, one request, and what becomes of it.
struct Treated {
  explicit Treated(const std::string& steps) {
    const std::string rule =
        "{name: r, match_hosts: [api.example.com], transform: {request: [" + steps + "]}}";
    auto read = policy::parse_document("rules: [" + rule + "]", policy::Format::yaml);
    EXPECT_TRUE(read) << read.error().front().message;
    document = std::move(*read);
    treatment.emplace(*document.rules[0].treatment->transform,
                      RequestTreatment::Names{.sandbox = "box", .workspace = "home", .rule = "r"});
  }

  Treated& with(std::string_view name, std::string_view value) {
    fields.push_back({name, value});
    return *this;
  }
  Treated& body_of(std::optional<std::uint64_t> length) {
    head.framing = length ? BodyFraming::length : BodyFraming::chunked;
    head.content_length = length.value_or(0);
    return *this;
  }
  /// "": it may go on.
  std::string judge(std::string_view method = "POST") {
    head.method = method;
    return said(treatment->judge(head, fields, target));
  }
  static std::string said(const Result<void>& result) {
    return result ? "" : std::string(token(result.error().reason)) + ": " + result.error().detail;
  }
  /// As it goes on, fed in these pieces; or why not.
  std::string send(const std::vector<std::string>& pieces) {
    std::string out;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      treatment->feed(pieces[i], i + 1 == pieces.size());
      while (true) {
        auto piece = treatment->pull();
        if (!piece) return said(std::unexpected(piece.error()));
        out += piece->data;
        if (piece->last) return out + "$";
        if (piece->data.empty()) break;
      }
    }
    return out;
  }
  std::vector<std::string> sent_fields() {
    FieldList all = fields;
    treatment->apply(all);
    std::vector<std::string> out;
    for (const HeaderField& field : all)
      out.push_back(std::string(field.name) + ": " + std::string(field.value));
    return out;
  }
  std::string redactions() const {
    std::string out;
    for (const auto& [detector, count] : treatment->redactions())
      out += std::string(detector) + "=" + std::to_string(count) + " ";
    return out;
  }

  policy::Document document;
  std::optional<RequestTreatment> treatment;
  RequestHead head;
  FieldList fields;
  std::string target = "/v1/x";
};

TEST(RequestTreatment, StepsRunInOrder) {
  Treated request(
      "set_header: {name: X-Team, value: 'a@example.com'}, {redact: [email]}, "
      "{set_header: {name: X-Lead, value: 'b@example.com {sandbox.name}'}}, {remove_header: X-Debug}");
  request.with("X-Debug", "1").with("x-mail", "jane@example.com or joe@example.com");
  EXPECT_EQ(request.judge(), "");
  EXPECT_THAT(request.sent_fields(),
              ElementsAre("x-mail: [email] or [email]", "X-Team: [email]", "X-Lead: b@example.com box"));
  EXPECT_EQ(request.sent_fields().size(), 3u) << "a second time it is the same";
  EXPECT_EQ(request.redactions(), "email=3 ");
}

TEST(RequestTreatment, TheQueryIsReadAsItIsMeant) {
  Treated redacts("redact: [email]");
  redacts.target = "/find/jane@example.com?who=jane%40example.com&n=1+2";
  EXPECT_EQ(redacts.judge("GET"), "");
  EXPECT_EQ(redacts.target, "/find/jane@example.com?who=%5Bemail%5D&n=1+2");
  Treated blocks("block: [email]");
  blocks.target = "/?who=jane%40example.com";
  EXPECT_EQ(blocks.judge("GET"), "content_blocked: it holds what the rule blocks (email)");
  EXPECT_THAT(Treated("block: [jwt, email]").with("X", "to jane@example.com").judge(), HasSubstr("(email)"));
}

TEST(RequestTreatment, ABodyIsRedactedHoweverItIsCut) {
  const std::string body = R"({"to": "jane@example.com", "text": "call ACME-123456 or joe@example.org."})";
  const std::string wanted = R"({"to": "[email]", "text": "call [ticket] or [email]."}$)";
  for (std::size_t size = 1; size <= body.size(); ++size) {
    Treated request("redact: [email, {pattern: 'ACME-[0-9]{6}', replace: '[ticket]'}]");
    request.with("Content-Type", "application/json").body_of(body.size());
    ASSERT_EQ(request.judge(), "");
    ASSERT_TRUE(request.treatment->changes_length());
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < body.size(); at += size) pieces.push_back(body.substr(at, size));
    ASSERT_EQ(request.send(pieces), wanted) << size;
    EXPECT_EQ(request.redactions(), "email=2 pattern=1 ");
  }
}

TEST(RequestTreatment, WhatIsBlockedStopsInFrontOfIt) {
  const std::string body = "a letter to jane@example.com.";
  for (std::size_t cut = 0; cut < body.size(); ++cut) {
    Treated request("block: [email]");
    request.with("Content-Type", "text/plain").body_of(std::nullopt);
    ASSERT_EQ(request.judge(), "");
    EXPECT_FALSE(request.treatment->changes_length());
    request.treatment->feed(std::string_view(body).substr(0, cut), false);
    std::string out;
    for (auto piece = request.treatment->pull(); piece && !piece->data.empty();
         piece = request.treatment->pull())
      out += piece->data;
    EXPECT_TRUE(body.starts_with(out) && !out.contains("jane")) << out;
    EXPECT_EQ(request.send({body.substr(cut)}), "content_blocked: it holds what the rule blocks (email)")
        << cut;
  }
}

TEST(RequestTreatment, StepsOfABodyFollowEachOther) {
  Treated request("redact: [email], {block: [email]}");
  request.with("Content-Type", "text/plain").body_of(9);
  EXPECT_EQ(request.judge(), "");
  EXPECT_EQ(request.send({"to jane@example.com", " and more"}), "to [email] and more$");
  Treated other("block: [email], {redact: [email]}");
  other.with("Content-Type", "text/plain").body_of(9);
  EXPECT_EQ(other.judge(), "");
  EXPECT_THAT(other.send({"to jane@example.com", " and more"}), HasSubstr("content_blocked"));
}

TEST(RequestTreatment, OnlyTextIsLookedInto) {
  for (const auto& [types, reads] :
       std::vector<std::pair<std::vector<std::string>, bool>>{{{}, true},
                                                              {{"text/plain"}, true},
                                                              {{"application/grpc"}, false},
                                                              {{"image/png"}, false},
                                                              {{"image/png", "text/plain"}, true},
                                                              {{"text/plain", "image/png"}, true},
                                                              {{"APPLICATION/JSON ; charset=utf-8"}, true}}) {
    Treated request("redact: [email]");
    for (const std::string& type : types) request.with("Content-Type", type);
    request.body_of(10);
    EXPECT_EQ(request.judge(), "");
    EXPECT_EQ(request.treatment->reads_body(), reads) << testing::PrintToString(types);
  }
}

TEST(RequestTreatment, FormsAreReadDecodedAndWhole) {
  Treated request("redact: [email]");
  request.with("Content-Type", "application/x-www-form-urlencoded").body_of(10);
  EXPECT_EQ(request.judge(), "");
  EXPECT_TRUE(request.treatment->needs_whole_body());
  EXPECT_EQ(request.send({"a=jane%4", "0example.com&b=", "1"}), "a=%5Bemail%5D&b=1$");
  Treated blocks("block: [email]");
  blocks.with("Content-Type", "application/x-www-form-urlencoded").body_of(10);
  EXPECT_EQ(blocks.judge(), "");
  EXPECT_THAT(blocks.send({"a=jane%4", "0example.com"}), HasSubstr("content_blocked"));
}

TEST(RequestTreatment, WhatIsRequiredIsAskedFor) {
  const std::string require = "require: {max_body_bytes: 20, content_types: [application/json, text/*]}";
  EXPECT_THAT(Treated(require).with("Content-Type", "text/html; x=y").body_of(21).judge(),
              HasSubstr("body_too_large: a body may have at most 20 bytes here"));
  EXPECT_EQ(Treated(require).with("Content-Type", "text/html; x=y").body_of(20).judge(), "");
  EXPECT_THAT(Treated(require).with("Content-Type", "image/png").body_of(2).judge(),
              HasSubstr("unsupported_content: a body must be application/json or text/*"));
  EXPECT_THAT(Treated(require).body_of(2).judge(), HasSubstr("unsupported_content"));
  EXPECT_THAT(
      Treated(require).with("Content-Type", "text/html").with("Content-Type", "text/html").body_of(2).judge(),
      HasSubstr("unsupported_content"));
  EXPECT_EQ(Treated(require).judge("GET"), "") << "there is no body";
  Treated trickles(require);
  trickles.with("Content-Type", "text/html").body_of(std::nullopt);
  EXPECT_EQ(trickles.judge(), "");
  EXPECT_THAT(trickles.send({"0123456789", "0123456789", "0"}), HasSubstr("body_too_large"));
}

TEST(RequestTreatment, ABodyIsHeldToItsSchema) {
  const auto with = [](const std::string& body, std::string_view type = "application/json") {
    Treated request("require: {json_schema: {type: object, required: [model]}}");
    request.with("Content-Type", type).body_of(body.size());
    if (std::string judged = request.judge(); !judged.empty()) return judged;
    EXPECT_TRUE(request.treatment->needs_whole_body());
    return request.send({body.substr(0, 4), body.substr(4)});
  };
  EXPECT_EQ(with(R"({"model": "m"})"), R"({"model": "m"}$)");
  EXPECT_THAT(with(R"({"prompt": "m"})"), HasSubstr("schema_violation: "));
  EXPECT_THAT(with("not json"), HasSubstr("schema_violation: "));
  EXPECT_THAT(with(R"({"model": "m"})", "text/plain"), HasSubstr("unsupported_content"));
  Treated empty("require: {json_schema: {type: object}}");
  EXPECT_EQ(empty.judge("GET"), "");
  Treated posted("require: {json_schema: {type: object}}");
  EXPECT_EQ(posted.judge("POST"), "schema_violation: there is no body");
}

std::string coded(transform::Coding coding, std::string_view text) {
  transform::Encoder encoder(coding);
  encoder.feed(text, true);
  std::string out;
  while (true) {
    auto piece = encoder.pull();
    if (!piece || piece->empty()) return out;
    out += *piece;
  }
}

TEST(RequestTreatment, CompressedBodiesAreDecodedOrRefused) {
  const std::string body = "write to jane@example.com soon";
  for (const auto coding : {transform::Coding::gzip, transform::Coding::deflate, transform::Coding::br,
                            transform::Coding::zstd}) {
    Treated request("redact: [email]");
    request.with("Content-Type", "text/plain").with("Content-Encoding", transform::token(coding)).body_of(9);
    ASSERT_EQ(request.judge(), "");
    const std::string sent = coded(coding, body);
    EXPECT_EQ(request.send({sent.substr(0, 7), sent.substr(7)}), "write to [email] soon$");
    EXPECT_THAT(request.sent_fields(), ElementsAre("Content-Type: text/plain"));
  }
  for (const std::string_view unknown : {"compress", "gzip, gzip", "aws-chunked"}) {
    Treated request("redact: [email]");
    request.with("Content-Type", "text/plain").with("Content-Encoding", unknown).body_of(9);
    EXPECT_THAT(request.judge(), HasSubstr("unsupported_content"));
  }
  Treated bomb("require: {max_body_bytes: 1000}");
  const std::string zeros(100'000, '0');
  bomb.with("Content-Encoding", "gzip").body_of(std::nullopt);
  ASSERT_EQ(bomb.judge(), "");
  EXPECT_THAT(bomb.send({coded(transform::Coding::gzip, zeros)}), HasSubstr("body_too_large"));
}

TEST(RequestTreatment, WhatIsSignedIsNotChanged) {
  for (const auto& [name, value] : std::vector<std::pair<std::string_view, std::string_view>>{
           {"Authorization", "AWS4-HMAC-SHA256 Credential=x"},
           {"authorization", "oauth oauth_consumer_key=x"},
           {"Signature", "sig1=:x:"},
           {"Authorization", "SharedKey x:y"}}) {
    FieldList fields;
    fields.push_back({name, value});
    EXPECT_TRUE(carries_signature(fields, "/")) << value;
  }
  FieldList bearer;
  bearer.push_back({"Authorization", "Bearer x"});
  EXPECT_FALSE(carries_signature(bearer, "/"));
  EXPECT_TRUE(carries_signature({}, "/?X-Amz-Algorithm=a&X-Amz-Credential=b&X-Amz-Signature=c"));

  Treated untouched("redact: [email]");
  untouched.with("Content-Type", "text/plain").body_of(3);
  ASSERT_EQ(untouched.judge(), "");
  ASSERT_TRUE(untouched.treatment->forbid_changes());
  EXPECT_EQ(untouched.send({"abc"}), "abc$");
  Treated body("redact: [email]");
  body.with("Content-Type", "text/plain").body_of(3);
  ASSERT_EQ(body.judge(), "");
  ASSERT_TRUE(body.treatment->forbid_changes());
  EXPECT_THAT(body.send({"to jane@example.com "}), HasSubstr("content_blocked: it carries a signature"));
  Treated head("redact: [email]");
  ASSERT_EQ(head.with("X", "jane@example.com").judge(), "");
  EXPECT_FALSE(head.treatment->forbid_changes());
}

TEST(RequestTreatment, HashesOfABodyThatChangesAreTakenAway) {
  Treated request("redact: [email]");
  request.with("Content-Type", "text/plain").with("Content-MD5", "x").with("Content-Digest", "y");
  request.with("x-amz-checksum-crc32", "z").with("x-amz-content-sha256", "w").body_of(3);
  ASSERT_EQ(request.judge(), "");
  EXPECT_THAT(request.sent_fields(), ElementsAre("Content-Type: text/plain", "x-amz-content-sha256: w"));
  request.treatment->will_be_signed();
  EXPECT_THAT(request.sent_fields(), ElementsAre("Content-Type: text/plain"));
}

TEST(RequestTreatment, AConnectionThatChangesItsProtocolIsNotLookedInto) {
  Treated request("block: [email]");
  request.head.upgrade = "websocket";
  EXPECT_THAT(request.judge("GET"), HasSubstr("unsupported_content"));
  Treated headers("set_header: {name: X-A, value: b}");
  headers.head.upgrade = "websocket";
  EXPECT_EQ(headers.judge("GET"), "");
}

TEST(RequestTreatment, TrailersBringNothingBack) {
  Treated request(
      "set_header: {name: X-A, value: b}, {remove_header: X-B}, {redact: [email]}, {block: [jwt]}");
  ASSERT_EQ(request.judge(), "");
  FieldList trailers;
  trailers.push_back({"x-a", "1"});
  trailers.push_back({"x-b", "1"});
  trailers.push_back({"x-c", "jane@example.com"});
  trailers.push_back({"x-d", "fine"});
  request.treatment->filter_trailers(trailers);
  ASSERT_EQ(trailers.size(), 1u);
  EXPECT_EQ(trailers[0].name, "x-d");
}

// For random bodies, cuts and codings: what was planted is gone, and every other byte is as it was.
TEST(RequestTreatment, NothingElseIsTouched) {
  std::mt19937 random(6);
  const auto upto = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n)(random); };
  constexpr std::array<std::string_view, 3> planted = {"jane.doe@example.com", "AKIAIOSFODNN7EXAMPLE",
                                                       "ACME-123456"};
  constexpr std::array<std::string_view, 3> marks = {"[email]", "[aws_access_key]", "[ticket]"};
  for (int round = 0; round < 300; ++round) {
    std::string body, wanted;
    for (std::size_t parts = upto(40); parts-- > 0;) {
      std::string filler;
      for (std::size_t i = upto(80); i-- > 0;) filler += static_cast<char>(upto(255));
      const std::size_t which = upto(2);
      // What stands beside it must not belong to it.
      body += filler + "\n " + std::string(planted[which]) + " \n";
      wanted += filler + "\n " + std::string(marks[which]) + " \n";
    }
    const auto coding = static_cast<transform::Coding>(upto(4));
    Treated request("redact: [email, aws_access_key, {pattern: 'ACME-[0-9]{6}', replace: '[ticket]'}]");
    request.with("Content-Type", "text/plain").with("Content-Encoding", transform::token(coding));
    request.body_of(std::nullopt);
    ASSERT_EQ(request.judge(), "");
    const std::string sent = coding == transform::Coding::identity ? body : coded(coding, body);
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < sent.size();) {
      const std::size_t size = std::min(sent.size() - at, 1 + upto(60));
      pieces.push_back(sent.substr(at, size));
      at += size;
    }
    pieces.emplace_back();
    ASSERT_EQ(request.send(pieces), wanted + "$") << round;
  }
}

}  // namespace
}  // namespace postern::proxy
