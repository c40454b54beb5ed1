#include "wire/http2_head.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <optional>
#include <string>
#include <vector>

#include "wire/http1.h"

namespace postern::wire {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method = "GET";
  std::string scheme = "https";
  std::optional<std::string> authority = "api.example.com";
  std::string path = "/";
  std::string protocol;
  Pairs fields;
  bool tls = true;
  bool ends = true;
};

/// A request read as HTTP/2. Views are into `storage` and the request.
class Read {
 public:
  explicit Read(Request request) : request_(std::move(request)), authority_(request_.authority.value_or("")) {
    for (const auto& [name, value] : request_.fields) storage_.push_back({name, value});
    const PseudoFields pseudo{request_.method, request_.scheme,   std::string_view(authority_),
                              request_.path,   request_.protocol, request_.authority.has_value()};
    result = http2_request_head(pseudo, storage_, request_.tls, request_.ends, head);
  }
  std::optional<Reason> refused() const {
    if (result) return std::nullopt;
    EXPECT_EQ(result.error().side, Side::sandbox);
    return result.error().reason;
  }
  RequestHead head;
  Result<void> result;

 private:
  Request request_;
  std::string authority_;
  std::vector<HeaderField> storage_;
};

std::optional<Reason> refused(Request request) { return Read(std::move(request)).refused(); }

TEST(Http2RequestHead, SaysWhatHttp1Says) {
  const Read get({.path = "/a?b=1", .fields = {{"accept", "*/*"}}});
  ASSERT_FALSE(get.refused());
  EXPECT_EQ(get.head.method, "GET");
  EXPECT_EQ(get.head.target, "/a?b=1");
  EXPECT_EQ(get.head.authority, "api.example.com");
  EXPECT_EQ(get.head.framing, BodyFraming::none);
  ASSERT_EQ(get.head.fields.size(), 1u);
  EXPECT_TRUE(get.head.upgrade.empty());
  EXPECT_TRUE(get.head.protocol.empty());
  EXPECT_FALSE(get.head.accepts_trailers);

  const Read post({.method = "POST", .fields = {{"content-length", "5"}}, .ends = false});
  EXPECT_EQ(post.head.framing, BodyFraming::length);
  EXPECT_EQ(post.head.content_length, 5u);
  EXPECT_EQ(Read({.method = "POST", .ends = false}).head.framing, BodyFraming::chunked);
  EXPECT_EQ(Read({.method = "POST", .fields = {{"content-length", "0"}}}).head.framing, BodyFraming::length);
  EXPECT_TRUE(Read({.fields = {{"te", "trailers"}}}).head.accepts_trailers);
  EXPECT_TRUE(
      Read({.method = "POST", .fields = {{"expect", "100-continue"}}, .ends = false}).head.expects_continue);
  EXPECT_FALSE(refused({.method = "OPTIONS", .path = "*"}));
}

TEST(Http2RequestHead, PseudoFieldsAreHeldToTheirRules) {
  EXPECT_EQ(refused({.scheme = "http"}), Reason::malformed_request);
  EXPECT_EQ(refused({.scheme = "https", .tls = false}), Reason::malformed_request);
  EXPECT_FALSE(refused({.scheme = "http", .tls = false}));
  EXPECT_EQ(refused({.scheme = "HTTPS"}), Reason::malformed_request);
  EXPECT_EQ(refused({.scheme = ""}), Reason::malformed_request);
  for (const char* path : {"", "a", "*", "/a b", "/a#b", "//\x7f", "/\x80", "http://other.example/", "?a"})
    EXPECT_EQ(refused({.path = path}), Reason::malformed_request) << path;
  for (const char* method : {"", "G T", "GET\r\n", "G:", "PRI", "head", "ABCDEFGHIJKLMNOPQRSTUVWXY"})
    EXPECT_EQ(refused({.method = method}), Reason::malformed_request) << method;
  for (const char* method : {"TRACE", "trace", "CONNECT", "connect"})
    EXPECT_EQ(refused({.method = method}), Reason::method_not_allowed) << method;
  EXPECT_EQ(refused({.protocol = "websocket"}), Reason::malformed_request) << "without CONNECT";
}

TEST(Http2RequestHead, TheHostIsSaidOnce) {
  EXPECT_EQ(refused({.authority = std::nullopt}), Reason::malformed_host);
  for (const char* host : {"", "a b", "a\tb", "user@a", "a/b", "a\r\nb"}) {
    EXPECT_EQ(refused({.authority = host}), Reason::malformed_host) << host;
    EXPECT_TRUE(refused({.authority = std::nullopt, .fields = {{"host", host}}})) << host;
  }
  const Read by_host({.authority = std::nullopt, .fields = {{"host", "api.example.com"}}});
  ASSERT_FALSE(by_host.refused());
  EXPECT_EQ(by_host.head.authority, "api.example.com");
  EXPECT_FALSE(refused({.fields = {{"host", "API.example.com"}}}));
  EXPECT_EQ(refused({.fields = {{"host", "evil.example"}}}), Reason::malformed_host);
  EXPECT_EQ(refused({.fields = {{"host", "api.example.com"}, {"host", "api.example.com"}}}),
            Reason::malformed_host);
  EXPECT_EQ(refused({.fields = {{"host", ""}}}), Reason::malformed_host);
}

TEST(Http2RequestHead, FieldsOfHttp1ConnectionsAreRefused) {
  for (const char* name :
       {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"})
    EXPECT_EQ(refused({.fields = {{name, "x"}}}), Reason::malformed_request) << name;
  EXPECT_EQ(refused({.fields = {{"te", "gzip"}}}), Reason::malformed_request);
  EXPECT_EQ(refused({.fields = {{"te", "trailers, gzip"}}}), Reason::malformed_request);
}

TEST(Http2RequestHead, FieldsAreFields) {
  for (const auto& [name, value] : Pairs{{"", "a"},
                                         {"a b", "c"},
                                         {"Content-Length", "5"},
                                         {"Host", "evil.example"},
                                         {"a:", "c"},
                                         {"a", "b\r\nc: d"},
                                         {"a", std::string("\0", 1)},
                                         {"a", "\x7f"}})
    EXPECT_EQ(refused({.fields = {{name, value}}}), Reason::malformed_request) << name;
}

TEST(Http2RequestHead, LengthsAreUnambiguous) {
  for (const char* length :
       {"", "+1", "-1", "1,1", "0x1", "1 ", "9223372036854775808", "18446744073709551616"})
    EXPECT_EQ(refused({.method = "POST", .fields = {{"content-length", length}}, .ends = false}),
              Reason::malformed_request)
        << length;
  EXPECT_EQ(
      refused(
          {.method = "POST", .fields = {{"content-length", "1"}, {"content-length", "1"}}, .ends = false}),
      Reason::malformed_request);
  EXPECT_EQ(refused({.method = "POST", .fields = {{"content-length", "1"}}}), Reason::malformed_request);
}

TEST(Http2RequestHead, ExpectationsAreKnownOnes) {
  EXPECT_EQ(refused({.fields = {{"expect", "tea"}}}), Reason::expectation_failed);
  EXPECT_EQ(refused({.fields = {{"expect", "100-continue"}, {"expect", "tea"}}}), Reason::expectation_failed);
}

TEST(Http2RequestHead, AWebSocketIsAnUpgrade) {
  const Read socket({.method = "CONNECT", .path = "/chat", .protocol = "websocket", .ends = false});
  ASSERT_FALSE(socket.refused());
  EXPECT_EQ(socket.head.method, "GET");
  EXPECT_EQ(socket.head.upgrade, "websocket");
  EXPECT_EQ(socket.head.protocol, "websocket");
  EXPECT_EQ(socket.head.framing, BodyFraming::none);
  EXPECT_EQ(refused({.method = "CONNECT", .protocol = "connect-udp", .ends = false}),
            Reason::protocol_not_allowed);
  EXPECT_EQ(
      refused(
          {.method = "CONNECT", .protocol = "websocket", .fields = {{"content-length", "0"}}, .ends = false}),
      Reason::malformed_request);
}

TEST(Http2RequestHead, ARefusedRequestStillSaysWhatItWas) {
  const Read trace({.method = "TRACE", .fields = {{"x", "1"}}});
  EXPECT_EQ(trace.head.method, "TRACE");
  EXPECT_EQ(trace.head.fields.size(), 1u);
}

struct Answer {
  int status = 200;
  Pairs fields;
  std::string request_method = "GET";
  bool ends = false;
};
struct ReadAnswer {
  explicit ReadAnswer(const Answer& answer) {
    for (const auto& [name, value] : answer.fields) storage.push_back({name, value});
    result = http2_response_head(answer.status, storage, answer.request_method, answer.ends, head);
    if (!result) {
      EXPECT_EQ(result.error().reason, Reason::origin_malformed_response);
      EXPECT_EQ(result.error().side, Side::origin);
    }
  }
  std::vector<HeaderField> storage;
  ResponseHead head;
  Result<void> result;
};

TEST(Http2ResponseHead, SaysWhetherABodyFollows) {
  const auto framing = [](const Answer& answer) { return ReadAnswer(answer).head.framing; };
  EXPECT_EQ(framing({.status = 200}), BodyFraming::chunked);
  EXPECT_EQ(framing({.status = 200, .ends = true}), BodyFraming::length);
  EXPECT_EQ(framing({.status = 200, .fields = {{"content-length", "5"}}}), BodyFraming::length);
  for (const int status : {100, 103, 204, 304})
    EXPECT_EQ(framing({.status = status}), BodyFraming::none) << status;
  const Answer to_head{.fields = {{"content-length", "5"}}, .request_method = "HEAD", .ends = true};
  EXPECT_TRUE(ReadAnswer(to_head).result);
  EXPECT_EQ(framing(to_head), BodyFraming::none);
  const Answer unchanged{.status = 304, .fields = {{"content-length", "5"}}, .ends = true};
  EXPECT_TRUE(ReadAnswer(unchanged).result);
}

TEST(Http2ResponseHead, WhatIsDoubtfulIsRefused) {
  for (const Answer& answer :
       {Answer{.status = 99}, Answer{.status = 1000}, Answer{.status = 0}, Answer{.status = 101},
        Answer{.fields = {{"connection", "close"}}}, Answer{.fields = {{"transfer-encoding", "chunked"}}},
        Answer{.fields = {{"content-length", "1"}, {"content-length", "1"}}},
        Answer{.fields = {{"content-length", "1, 1"}}},
        Answer{.fields = {{"content-length", "1"}}, .ends = true}, Answer{.fields = {{"a", "b\nc"}}},
        Answer{.fields = {{"a b", "c"}}}})
    EXPECT_FALSE(ReadAnswer(answer).result);
}

// ---- the same verdict, whichever version says it

std::string as_http1(const Request& request) {
  std::string out = request.method + " " + request.path + " HTTP/1.1\r\n";
  if (request.authority) out += "Host: " + *request.authority + "\r\n";
  for (const auto& [name, value] : request.fields) out += name + ": " + value + "\r\n";
  if (!request.ends &&
      !std::ranges::any_of(request.fields, [](const auto& f) { return f.first == "content-length"; }))
    out += "Transfer-Encoding: chunked\r\n";
  return out + "\r\n";
}

TEST(Http2RequestHead, TheSameVerdictWhicheverVersionSaysIt) {
  const char* methods[] = {
      "GET",  "HEAD", "POST", "PUT",     "OPTIONS", "TRACE", "Trace",
      "head", "PRI",  "M-X",  "CONNECT", "connect", "G@T",   "ABCDEFGHIJKLMNOPQRSTUVWXYZ"};
  const char* targets[] = {"/", "/a?b", "*", "a", "/a#b", "/%2e%2e/", "//", "/\"<>", "/\xc3\xa4"};
  const char* hosts[] = {"a.example", "A.example:443", "[::1]", "user@a", "a/b", "", "a,b", "a\\b", "*.a"};
  const Pairs none;
  const Pairs lengths[] = {none,
                           {{"content-length", "0"}},
                           {{"content-length", "5"}},
                           {{"content-length", "+5"}},
                           {{"content-length", "5,5"}},
                           {{"content-length", "99999999999999999999"}},
                           {{"content-length", "5"}, {"content-length", "5"}},
                           {{"expect", "100-continue"}},
                           {{"expect", "tea"}}};
  int agreed = 0, accepted = 0;
  for (const char* method : methods)
    for (const char* target : targets)
      for (const char* host : hosts)
        for (const Pairs& length : lengths)
          for (const bool ends : {false, true}) {
            const bool long_enough = length.empty() || length[0].second == "0" || length[0].first == "expect";
            if (ends && !long_enough) continue;  // HTTP/1.1 cannot say that.
            const Request request{
                .method = method, .authority = host, .path = target, .fields = length, .ends = ends};
            const std::string text = as_http1(request);
            std::vector<HeaderField> storage;
            RequestHead one;
            const auto parsed = parse_request_head(text, storage, one);
            const Read two(request);
            ASSERT_EQ(parsed.has_value(), two.result.has_value()) << text;
            ++agreed;
            if (!parsed) continue;
            ++accepted;
            EXPECT_EQ(one.method, two.head.method);
            EXPECT_EQ(one.target, two.head.target);
            EXPECT_EQ(one.authority, two.head.authority);
            EXPECT_EQ(one.framing, two.head.framing) << text;
            EXPECT_EQ(one.content_length, two.head.content_length);
            EXPECT_EQ(one.expects_continue, two.head.expects_continue);
          }
  EXPECT_GT(accepted, 500);
  EXPECT_GT(agreed, accepted);
}

}  // namespace
}  // namespace postern::wire
