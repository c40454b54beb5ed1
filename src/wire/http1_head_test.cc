#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "wire/http1_test_kit.h"

namespace postern::wire {
namespace {

using kit::Kind;

/// A request parsed from bytes that live as long as it does.
struct Request {
  explicit Request(std::string bytes)
      : head(std::move(bytes)), result(parse_request_head(head, storage, out)) {}
  std::string head;
  std::vector<HeaderField> storage;
  RequestHead out;
  Result<void> result;
};

struct Response {
  explicit Response(std::string bytes, std::string_view request_method = "GET")
      : head(std::move(bytes)), result(parse_response_head(head, request_method, storage, out)) {}
  std::string head;
  std::vector<HeaderField> storage;
  ResponseHead out;
  Result<void> result;
};

/// "accepted" or the reason's token.
std::string request(std::string bytes) {
  const Request one(std::move(bytes));
  return one.result ? "accepted" : std::string(token(one.result.error().reason));
}

/// A GET with these extra field lines.
std::string with_fields(const std::string& lines) {
  return request("POST / HTTP/1.1\r\nHost: a.example\r\n" + lines + "\r\n");
}

std::string response(std::string bytes, std::string_view request_method = "GET") {
  const Response one(std::move(bytes), request_method);
  return one.result ? "accepted" : std::string(token(one.result.error().reason));
}

std::string response_with_fields(const std::string& lines) {
  return response("HTTP/1.1 200 OK\r\n" + lines + "\r\n");
}

TEST(Http1Request, EveryPartOfAPlainRequestIsAView) {
  const Request one(
      "POST /v1/messages?beta=true HTTP/1.1\r\nHost: api.example:8443\r\nX-Empty:\r\n"
      "Content-Length: 12\r\nAccept: \t a, b\t \r\n\r\n");
  ASSERT_TRUE(one.result) << one.result.error().detail;
  EXPECT_EQ(one.out.method, "POST");
  EXPECT_EQ(one.out.target, "/v1/messages?beta=true");
  EXPECT_EQ(one.out.authority, "api.example:8443");
  EXPECT_EQ(one.out.framing, BodyFraming::length);
  EXPECT_EQ(one.out.content_length, 12u);
  EXPECT_EQ(one.out.minor_version, 1);
  EXPECT_TRUE(one.out.keep_alive);
  EXPECT_FALSE(one.out.expects_continue);
  ASSERT_EQ(one.out.fields.size(), 4u);
  EXPECT_EQ(one.out.fields[1].name, "X-Empty");
  EXPECT_EQ(one.out.fields[1].value, "");
  EXPECT_EQ(one.out.fields[3].value, "a, b");
  EXPECT_GE(one.out.fields[3].value.data(), one.head.data());
  EXPECT_LE(one.out.fields[3].value.data(), one.head.data() + one.head.size());
}

TEST(Http1Request, TheStorageIsClearedAndKeptFromRequestToRequest) {
  std::vector<HeaderField> storage;
  RequestHead out;
  const std::string first =
      "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
  const std::string second = "GET /2 HTTP/1.1\r\nHost: b\r\n\r\n";
  ASSERT_TRUE(parse_request_head(first, storage, out));
  const HeaderField* const memory = storage.data();
  ASSERT_TRUE(parse_request_head(second, storage, out));
  EXPECT_EQ(storage.data(), memory);
  EXPECT_EQ(out.fields.size(), 1u);
  EXPECT_EQ(out.upgrade, "");
}

TEST(Http1Request, TheRequestLineHasOneForm) {
  const std::string host = "\r\nHost: a\r\n\r\n";
  EXPECT_EQ(request("GET / HTTP/1.1" + host), "accepted");
  for (const char* line : {
           "GET  / HTTP/1.1",
           "GET /  HTTP/1.1",
           " GET / HTTP/1.1",
           "GET / HTTP/1.1 ",
           "GET\t/ HTTP/1.1",
           "GET / http/1.1",
           "GET / HTTP/1.2",
           "GET / HTTP/2.0",
           "GET / HTTP/0.9",
           "GET / HTTP/11",
           "GET /",
           "GET",
           "",
           "GET / HTTP/1.1x",
           "GET / HTTP/01.1",
           "GET / HTTP/1.10",
           "G(T / HTTP/1.1",
           "GET /a b HTTP/1.1",
           "GET /a#b HTTP/1.1",
           "GET /\xc3\xa9 HTTP/1.1",
           "GET /\x7f HTTP/1.1",
           "/ HTTP/1.1",
           "GET  HTTP/1.1",
           "GET a HTTP/1.1",
           "GET ?a HTTP/1.1",
           "GET \\ HTTP/1.1",
       }) {
    EXPECT_EQ(request(line + host), "malformed_request") << line;
  }
}

TEST(Http1Request, AMethodIsAShortTokenAndTakenByteForByte) {
  const std::string rest = " / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(Request("get" + rest).out.method, "get");
  EXPECT_EQ(request(std::string(24, 'M') + rest), "accepted");
  EXPECT_EQ(request(std::string(25, 'M') + rest), "malformed_request");
  // A lenient origin would read these as the real thing and answer without the body that we would wait for.
  EXPECT_EQ(request("head" + rest), "malformed_request");
  EXPECT_EQ(request("HEAD" + rest), "accepted");
}

TEST(Http1Request, TraceAndConnectAreNotAllowedInAnySpelling) {  // threats 35, 36
  for (const char* method : {"TRACE", "trace", "Trace", "CONNECT", "connect"}) {
    EXPECT_EQ(request(std::string(method) + " / HTTP/1.1\r\nHost: a\r\n\r\n"), "method_not_allowed")
        << method;
  }
  EXPECT_EQ(request("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n"), "method_not_allowed");
}

TEST(Http1Request, Http09AndTheHttp2PrefaceAreMalformed) {  // threat 37
  EXPECT_EQ(request("GET /\r\n\r\n"), "malformed_request");
  EXPECT_EQ(request("GET /\r\n"), "malformed_request");
  EXPECT_EQ(request("PRI * HTTP/2.0\r\n\r\n"), "malformed_request");
  EXPECT_EQ(request("PRI * HTTP/1.1\r\nHost: a\r\n\r\n"), "malformed_request");
  EXPECT_EQ(request("PRI / HTTP/1.1\r\nHost: a\r\n\r\n"), "malformed_request");
}

TEST(Http1Request, OneEmptyLineBeforeARequestIsSkippedAndTwoAreNot) {
  const std::string rest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(request("\r\n" + rest), "accepted");
  EXPECT_EQ(request("\r\n\r\n" + rest), "malformed_request");
  EXPECT_EQ(request("\n" + rest), "malformed_request");
  EXPECT_EQ(request("\r" + rest), "malformed_request");
}

TEST(Http1Request, HostIsSaidOnce) {  // threat 30
  EXPECT_EQ(request("GET / HTTP/1.1\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET / HTTP/1.1\r\nHost:\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET / HTTP/1.0\r\n\r\n"), "accepted");
}

TEST(Http1Request, AHostFieldHoldsOneHostAndAPort) {
  for (const char* value : {"a.example", "a.example:80", "[::1]:80", "127.0.0.1", "a_b.example"}) {
    EXPECT_EQ(request(std::string("GET / HTTP/1.1\r\nHost: ") + value + "\r\n\r\n"), "accepted") << value;
  }
  for (const char* value :
       {"a, b", "a b", "a/b", "u@a", "a?b", "a#b", "a\\b", "http://a/", "\xc3\xa9", "\"a\"", "a\tb"}) {
    EXPECT_EQ(request(std::string("GET / HTTP/1.1\r\nHost: ") + value + "\r\n\r\n"), "malformed_host")
        << value;
  }
}

TEST(Http1Request, AnAbsoluteTargetIsTakenApartWhenItAgreesWithHost) {  // threat 29
  const auto parts = [](const char* target, const char* host) {
    const Request one(std::string("GET ") + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    if (!one.result) return std::string(token(one.result.error().reason));
    return std::string(one.out.authority) + " " + std::string(one.out.target);
  };
  EXPECT_EQ(parts("http://a.example/p?q", "a.example"), "a.example /p?q");
  EXPECT_EQ(parts("HTTP://A.example/p", "a.EXAMPLE"), "A.example /p");
  EXPECT_EQ(parts("https://a.example", "a.example"), "a.example /");
  EXPECT_EQ(parts("http://a.example:80/", "a.example"), "a.example:80 /");
  EXPECT_EQ(parts("http://a.example/", "a.example:80"), "a.example /");
  EXPECT_EQ(parts("https://a.example/", "a.example:443"), "a.example /");
  EXPECT_EQ(parts("http://a.example/http://b.example/", "a.example"), "a.example /http://b.example/");
  EXPECT_EQ(parts("http://a.example:443/", "a.example"), "malformed_host");
  EXPECT_EQ(parts("https://a.example/", "a.example:80"), "malformed_host");
  EXPECT_EQ(parts("http://b.example/", "a.example"), "malformed_host");
  EXPECT_EQ(parts("http://u@a.example/", "a.example"), "malformed_host");
  EXPECT_EQ(parts("http:///p", "a.example"), "malformed_host");
  EXPECT_EQ(parts("http://a.example\\@b/", "a.example"), "malformed_host");
  EXPECT_EQ(parts("http://a.example?q", "a.example"), "malformed_request");
  EXPECT_EQ(parts("ftp://a.example/", "a.example"), "malformed_request");
  EXPECT_EQ(parts("http:/a.example/", "a.example"), "malformed_request");
  EXPECT_EQ(parts("a.example:80", "a.example"), "malformed_request");  // authority-form
}

TEST(Http1Request, AnOldClientsAbsoluteTargetNeedsNoHost) {
  const Request one("GET http://a.example/ HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(one.result);
  EXPECT_EQ(one.out.authority, "a.example");
  EXPECT_EQ(request("GET http://a.example/ HTTP/1.1\r\n\r\n"), "malformed_host");
  EXPECT_EQ(request("GET http://a.example/ HTTP/1.0\r\nHost: b.example\r\n\r\n"), "malformed_host");
}

TEST(Http1Request, TheAsteriskIsForOptions) {
  const std::string rest = " HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(request("OPTIONS *" + rest), "accepted");
  EXPECT_EQ(request("GET *" + rest), "malformed_request");
  EXPECT_EQ(request("OPTIONS **" + rest), "malformed_request");
  EXPECT_EQ(request("options *" + rest), "malformed_request");
  const Request one("OPTIONS http://a" + rest);
  ASSERT_TRUE(one.result);
  EXPECT_EQ(one.out.target, "*");
}

TEST(Http1Request, ContentLengthIsOneUnsignedDecimalNumber) {  // threat 26
  EXPECT_EQ(with_fields("Content-Length: 0\r\n"), "accepted");
  EXPECT_EQ(with_fields("Content-Length: 007\r\n"), "accepted");
  EXPECT_EQ(with_fields("Content-Length: 9223372036854775807\r\n"), "accepted");
  for (const char* value :
       {"", "+1", "-1", "0x1", "1,1", "1, 1", "1 1", "1;", "1.0", "1e3", "a", "\"1\"", "9223372036854775808",
        "18446744073709551616", "18446744073709551617", "00000000000000000001", "1_000", "\xb2"}) {
    EXPECT_EQ(with_fields(std::string("Content-Length: ") + value + "\r\n"), "malformed_request") << value;
  }
  EXPECT_EQ(with_fields("Content-Length: 1\r\nContent-Length: 1\r\n"), "malformed_request");
  EXPECT_EQ(with_fields("Content-Length: 1\r\ncontent-length: 2\r\n"), "malformed_request");
}

TEST(Http1Request, TransferEncodingIsChunkedAndNothingElse) {  // threat 25
  EXPECT_EQ(with_fields("Transfer-Encoding: chunked\r\n"), "accepted");
  EXPECT_EQ(with_fields("transfer-encoding: Chunked \r\n"), "accepted");
  for (const char* value :
       {"", "identity", "gzip, chunked", "chunked, chunked", "chunked, identity", "xchunked", "chunked;q=1",
        "\"chunked\"", ",chunked", "chunked,", "chunke", "chunked\x0b"}) {
    EXPECT_EQ(with_fields(std::string("Transfer-Encoding: ") + value + "\r\n"), "malformed_request") << value;
  }
  EXPECT_EQ(with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "malformed_request");
  EXPECT_EQ(with_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"), "malformed_request");
  EXPECT_EQ(with_fields("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), "malformed_request");
  EXPECT_EQ(with_fields("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), "malformed_request");
  EXPECT_EQ(with_fields("Content-Length: 3\r\nTransfer-Encoding: x\r\n"), "malformed_request");
  EXPECT_EQ(request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "malformed_request");
}

TEST(Http1Request, WithoutALengthThereIsNoBody) {
  const Request one("POST / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(one.out.framing, BodyFraming::none);
  const Request zero("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(zero.out.framing, BodyFraming::length);
}

TEST(Http1Request, FieldsThatTwoParsersReadDifferentlyAreRefused) {  // threat 27
  using namespace std::string_literals;
  for (const std::string& lines : {
           "A : 1\r\n"s,    " A: 1\r\n"s,  "A: 1\r\n B: 2\r\n"s, "A: 1\r\n\tB: 2\r\n"s,
           "A\r\n"s,        ": 1\r\n"s,    "A: 1\nB: 2\r\n"s,    "A: 1\rB: 2\r\n"s,
           "A: 1\r\r\n"s,   "A: \0\r\n"s,  "A: \x01\r\n"s,       "A: \x7f\r\n"s,
           "A\0: 1\r\n"s,   "A\t: 1\r\n"s, "A(: 1\r\n"s,         "\xc3\xa9: 1\r\n"s,
           "A: 1\x0b\r\n"s, "A: 1\n"s,     "A B: 1\r\n"s,
       }) {
    EXPECT_EQ(with_fields(lines), "malformed_request") << lines;
  }
  EXPECT_EQ(with_fields("A: caf\xc3\xa9\tx\r\n"), "accepted");  // obs-text, HTAB
  EXPECT_EQ(with_fields("A: b: c\r\n"), "accepted");
}

TEST(Http1Request, AHeadEndsWithItsEmptyLineAndNotBefore) {
  const std::string whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_EQ(request(whole.substr(0, length)), "malformed_request") << length;
  }
  EXPECT_EQ(request(whole + "X"), "malformed_request");
  EXPECT_EQ(request(whole + "\r\n"), "malformed_request");
}

TEST(Http1Request, TooManyFieldsAreTooMuch) {
  std::string lines;
  for (std::size_t i = 1; i < head_fields_max; ++i) lines += "A: 1\r\n";
  EXPECT_EQ(with_fields(lines), "accepted");  // and Host
  EXPECT_EQ(with_fields(lines + "A: 1\r\n"), "head_too_large");
  EXPECT_EQ(with_fields("A: " + std::string(head_bytes_max, 'a') + "\r\n"), "head_too_large");
}

TEST(Http1Request, PersistenceFollowsVersionAndConnection) {
  const auto keeps = [](const char* version, const char* connection) {
    const Request one(std::string("GET / ") + version + "\r\nHost: a\r\nConnection: " + connection +
                      "\r\n\r\n");
    EXPECT_TRUE(one.result);
    return one.out.keep_alive;
  };
  EXPECT_TRUE(keeps("HTTP/1.1", ""));
  EXPECT_TRUE(keeps("HTTP/1.1", "closed, xclose"));
  EXPECT_FALSE(keeps("HTTP/1.1", "Close"));
  EXPECT_FALSE(keeps("HTTP/1.1", "keep-alive ,\tclose"));
  EXPECT_FALSE(keeps("HTTP/1.1", "keep-alive\r\nConnection: close"));
  EXPECT_FALSE(keeps("HTTP/1.0", ""));
  EXPECT_TRUE(keeps("HTTP/1.0", "Keep-Alive"));
  EXPECT_FALSE(keeps("HTTP/1.0", "keep-alive, close"));
}

TEST(Http1Request, UpgradeCountsOnlyWhenConnectionNamesIt) {
  const auto upgrade = [](const char* version, const char* lines) {
    const Request one(std::string("GET / ") + version + "\r\nHost: a\r\n" + lines + "\r\n");
    return one.result ? std::string(one.out.upgrade) : "refused";
  };
  EXPECT_EQ(upgrade("HTTP/1.1", "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"), "websocket");
  EXPECT_EQ(upgrade("HTTP/1.1", "Connection: upgrade\r\nUpgrade: websocket\r\n"), "websocket");
  EXPECT_EQ(upgrade("HTTP/1.1", "Upgrade: websocket\r\n"), "");
  EXPECT_EQ(upgrade("HTTP/1.1", "Connection: upgrade\r\n"), "");
  EXPECT_EQ(upgrade("HTTP/1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n"), "");
  EXPECT_EQ(upgrade("HTTP/1.1", "Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n"), "refused");
}

TEST(Http1Request, TheOnlyExpectationIsContinue) {
  const Request one("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n");
  ASSERT_TRUE(one.result);
  EXPECT_TRUE(one.out.expects_continue);
  EXPECT_EQ(with_fields("Expect: 200-ok\r\n"), "expectation_failed");
  EXPECT_EQ(with_fields("Expect: 100-continue, x\r\n"), "expectation_failed");
  EXPECT_EQ(with_fields("Expect:\r\n"), "expectation_failed");
  const Request old("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
  ASSERT_TRUE(old.result);
  EXPECT_FALSE(old.out.expects_continue);
}

TEST(Http1Response, EveryPartOfAPlainResponseIsAView) {
  const Response one("HTTP/1.1 404 Not  Found\r\nContent-Length: 5\r\n\r\n");
  ASSERT_TRUE(one.result);
  EXPECT_EQ(one.out.status, 404);
  EXPECT_EQ(one.out.reason_phrase, "Not  Found");
  EXPECT_EQ(one.out.framing, BodyFraming::length);
  EXPECT_EQ(one.out.content_length, 5u);
  EXPECT_TRUE(one.out.keep_alive);
}

TEST(Http1Response, TheStatusLineHasThreeDigits) {
  for (const char* line : {"HTTP/1.1 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.0 999 x"}) {
    EXPECT_EQ(response(std::string(line) + "\r\n\r\n"), "accepted") << line;
  }
  for (const char* line :
       {"HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1  200 OK", "HTTP/1.1 099 OK", "HTTP/2 200 OK",
        "HTTP/2.0 200 OK", "HTTP/0.9 200 OK", "ICY 200 OK", "HTTP/1.1 +20 OK", "HTTP/1.1", "HTTP/1.1 200OK",
        "HTTP/1.1 200\tOK", "http/1.1 200 OK", "HTTP/1.1 200 O\x01K", "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\nK", " HTTP/1.1 200 OK", "\r\nHTTP/1.1 200 OK"}) {
    EXPECT_EQ(response(std::string(line) + "\r\n\r\n"), "origin_malformed_response") << line;
  }
}

TEST(Http1Response, AHostileOriginsFramingIsRefused) {  // threats 25, 26, 38
  for (const char* lines : {
           "Content-Length: 1\r\nContent-Length: 1\r\n",
           "Content-Length: 1, 1\r\n",
           "Content-Length: -1\r\n",
           "Content-Length:\r\n",
           "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
           "Transfer-Encoding: gzip, chunked\r\n",
           "Transfer-Encoding: identity\r\n",
           "Transfer-Encoding:\r\n",
           "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
           "A: 1\r\n B\r\n",
           "A : 1\r\n",
           "A: 1\rSet-Cookie: x\r\n",
           "A: 1\nSet-Cookie: x\r\n",
       }) {
    EXPECT_EQ(response_with_fields(lines), "origin_malformed_response") << lines;
  }
  EXPECT_EQ(response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "origin_malformed_response");
}

TEST(Http1Response, WithoutALengthTheBodyEndsWithTheConnection) {
  const Response one("HTTP/1.1 200 OK\r\n\r\n");
  ASSERT_TRUE(one.result);
  EXPECT_EQ(one.out.framing, BodyFraming::until_close);
  EXPECT_FALSE(one.out.keep_alive);
}

TEST(Http1Response, SomeResponsesNeverHaveABody) {  // threat 38
  const auto framing = [](const char* status, const char* method) {
    const Response one(std::string("HTTP/1.1 ") + status + "\r\nContent-Length: 5\r\n\r\n", method);
    EXPECT_TRUE(one.result);
    return one.out.framing;
  };
  EXPECT_EQ(framing("200 OK", "GET"), BodyFraming::length);
  EXPECT_EQ(framing("200 OK", "HEAD"), BodyFraming::none);
  EXPECT_EQ(framing("200 OK", "head"), BodyFraming::length);
  EXPECT_EQ(framing("204 No Content", "GET"), BodyFraming::none);
  EXPECT_EQ(framing("304 Not Modified", "GET"), BodyFraming::none);
  EXPECT_EQ(framing("100 Continue", "GET"), BodyFraming::none);
  EXPECT_EQ(framing("103 Early Hints", "GET"), BodyFraming::none);
}

TEST(Http1Response, AConnectionWhoseOriginAnnouncesAnImpossibleBodyIsNotUsedAgain) {  // threat 38
  const auto keeps = [](const char* head, const char* method = "GET") {
    const Response one(std::string("HTTP/1.1 ") + head + "\r\n\r\n", method);
    EXPECT_TRUE(one.result);
    return one.out.keep_alive;
  };
  EXPECT_FALSE(keeps("204 No Content\r\nContent-Length: 5"));
  EXPECT_FALSE(keeps("204 No Content\r\nTransfer-Encoding: chunked"));
  EXPECT_TRUE(keeps("204 No Content\r\nContent-Length: 0"));
  EXPECT_TRUE(keeps("304 Not Modified\r\nContent-Length: 5"));  // of the response to a GET: legitimate
  EXPECT_TRUE(keeps("200 OK\r\nContent-Length: 5", "HEAD"));
}

TEST(Http1Response, SwitchingProtocolsSaysToWhat) {  // threat 34
  const Response one("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
  ASSERT_TRUE(one.result);
  EXPECT_EQ(one.out.upgrade, "websocket");
  EXPECT_EQ(one.out.framing, BodyFraming::none);
  EXPECT_EQ(response("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n"), "origin_malformed_response");
  EXPECT_EQ(response("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\n\r\n"), "origin_malformed_response");
  EXPECT_EQ(response("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n"),
            "origin_malformed_response");
  const Response ok("HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(ok.result);
  EXPECT_EQ(ok.out.upgrade, "");
}

TEST(Http1Scanner, FindsTheEndWhateverFollows) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(HeadScanner().scan(head).value(), head.size());
  EXPECT_EQ(HeadScanner().scan(head + "\n\r\0body").value(), head.size());
  EXPECT_EQ(HeadScanner().scan("\r\n" + head).value(), head.size() + 2);
  EXPECT_EQ(HeadScanner().scan("").value(), 0u);
  EXPECT_EQ(HeadScanner().scan("\r\n").value(), 0u);
}

TEST(Http1Scanner, IsReadyForTheNextHeadWhenItFoundOne) {
  HeadScanner scanner;
  EXPECT_EQ(scanner.scan("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").value(), 28u);
  EXPECT_FALSE(scanner.scan("\nGET /a/path/that/is/longer/than/that HTTP/1.1"));
  scanner.reset();
  EXPECT_EQ(scanner.scan("GET /").value(), 0u);
  EXPECT_FALSE(scanner.scan("\1GE")) << "fewer bytes than before are other bytes";
}

TEST(Http1Scanner, ABadByteIsRefusedAsSoonAsItIsThere) {  // threat 27: not at the deadline
  using namespace std::string_literals;
  for (const std::string& bytes : {
           "\x16"s,
           "GET / HTTP/1.1\n"s,
           "GET\0"s,
           "GET / HTTP/1.1\r\nA: \x7f"s,
           "GET / HTTP/1.1\rX"s,
           "GET / HTTP/1.1\r\n "s,
           "GET / HTTP/1.1\r\nA: 1\r\n\t"s,
           " "s,
           "\r\n\r\n"s,
           "\r\n "s,
           "\n"s,
           "A\r\r"s,
           "GET /\x1b"s,
           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x01"s,
           "\t"s,
       }) {
    const Result<std::size_t> whole = HeadScanner().scan(bytes);
    ASSERT_FALSE(whole) << bytes;
    EXPECT_EQ(whole.error().reason, Reason::malformed_request);
    EXPECT_EQ(HeadScanner().scan(bytes.substr(0, bytes.size() - 1)).value_or(99), 0u)
        << "only its last byte is bad";
  }
}

TEST(Http1Scanner, EveryControlCharacterIsNoticedAtEveryAlignment) {
  for (int byte = 0; byte < 256; ++byte) {
    const bool bad = (byte < 0x20 && byte != '\t' && byte != '\r') || byte == 0x7f;
    for (std::size_t offset = 1; offset < 24; ++offset) {
      std::string bytes(24, 'a');
      bytes[offset] = static_cast<char>(byte);
      const bool bare_return = byte == '\r' && offset + 1 < bytes.size();
      EXPECT_EQ(HeadScanner().scan(bytes).has_value(), !bad && !bare_return) << byte << " at " << offset;
      EXPECT_EQ(is_field_value(bytes), !bad && byte != '\r') << byte << " at " << offset;
    }
  }
}

TEST(Http1Scanner, AHeadMayHave64KiBAndNotOneByteMore) {
  std::string head = "GET / HTTP/1.1\r\nHost: a\r\nA: ";
  head += std::string(head_bytes_max - head.size() - 4, 'a') + "\r\n\r\n";
  ASSERT_EQ(head.size(), head_bytes_max);
  EXPECT_EQ(HeadScanner().scan(head).value_or(0), head_bytes_max);
  EXPECT_EQ(HeadScanner().scan(head + "body").value_or(0), head_bytes_max);
  EXPECT_EQ(request(head), "accepted");
  head.insert(head.size() - 4, "a");
  const Result<std::size_t> longer = HeadScanner().scan(head);
  ASSERT_FALSE(longer);
  EXPECT_EQ(longer.error().reason, Reason::head_too_large);
  EXPECT_EQ(request(head), "head_too_large");
}

TEST(Http1Stream, APipelinedSecondRequestIsReadOnItsOwn) {  // threat 32
  const kit::Reading reading = kit::read(Kind::requests,
                                         "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET"
                                         "GET /b HTTP/1.1\r\nHost: b\r\n\r\n");
  ASSERT_EQ(reading.messages.size(), 2u);
  EXPECT_EQ(reading.messages[0].body, "GET");
  EXPECT_EQ(reading.messages[1].target, "/b");
  EXPECT_EQ(reading.messages[1].authority, "b");
}

TEST(Http1Stream, WhereTheBytesWereSplitChangesNothing) {
  const std::string requests[] = {
      "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nx",
      "POST http://a/p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
      "5;x=\"a\\\"b\";y\r\nhello\r\n00\r\nX-Sum: 1\r\nHost: evil\r\n\r\nGET /next HTTP/1.1\r\nHost: "
      "a\r\n\r\n",
      "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81\x05hello",
      "GET / HTTP/1.1\r\nHost: a\r\nA: 1\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: 1\r\n B\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA : 1\r\n\r\n",
  };
  for (const std::string& bytes : requests) {
    EXPECT_EQ(kit::find_split_that_differs(Kind::requests, bytes), "") << bytes;
  }
  const std::string responses[] = {
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204 No\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\nHTTP/1.1 200 "
      "OK\r\n\r\nrest",
      "HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n",
  };
  for (const std::string& bytes : responses) {
    EXPECT_EQ(kit::find_split_that_differs(Kind::responses, bytes), "") << bytes;
  }
}

TEST(Http1Names, AreComparedWithoutCaseAndListsByElement) {
  EXPECT_TRUE(same_name("Content-Length", "cONTENT-lENGTH"));
  EXPECT_FALSE(same_name("a[", "a{"));  // only letters have case
  EXPECT_FALSE(same_name("a", "ab"));
  EXPECT_TRUE(same_name("", ""));
  EXPECT_TRUE(has_token("a, B ,\tc", "b"));
  EXPECT_TRUE(has_token("a", "a"));
  EXPECT_TRUE(has_token(",,a,", "A"));
  EXPECT_FALSE(has_token("ab, b c", "b"));
  EXPECT_FALSE(has_token("", "b"));
}

TEST(Http1Names, FieldsNominatedByConnectionEndAtThisHop) {  // threat 40
  const HeaderField fields[] = {
      {"Connection", "keep-alive"}, {"CONNECTION", "X-Secret, Authorization"}, {"A", "x-b"}};
  EXPECT_TRUE(nominated(fields, "authorization"));
  EXPECT_TRUE(nominated(fields, "x-secret"));
  EXPECT_FALSE(nominated(fields, "x-b"));
  EXPECT_FALSE(nominated({}, "x-b"));
}

TEST(Http1Names, HopByHopFieldsAreKnown) {
  for (const char* name :
       {"Connection", "keep-alive", "Proxy-Connection", "Transfer-Encoding", "TE", "Trailer", "Upgrade",
        "Proxy-Authorization", "Proxy-Authenticate", "HTTP2-Settings"}) {
    EXPECT_TRUE(is_hop_by_hop(name)) << name;
  }
  for (const char* name :
       {"Host", "Content-Length", "Authorization", "Trailers", "", "Alt-Svc", "Connectioo"}) {
    EXPECT_FALSE(is_hop_by_hop(name)) << name;
  }
}

TEST(Http1Names, TokensAndTargets) {
  EXPECT_TRUE(is_field_name("X-$a_b.c!#%&'*+^`|~"));
  for (const char* name : {"", "a b", "a:", "a\r", "\x80", "a\"", "a(", "a/"})
    EXPECT_FALSE(is_field_name(name)) << name;
  EXPECT_TRUE(is_request_target("/a?b=\"{}|\\^`<>"));
  for (const char* target : {"", "/ ", "/\t", "/\r", "/#", "/\x7f", "/\x80"}) {
    EXPECT_FALSE(is_request_target(target)) << target;
  }
}

}  // namespace
}  // namespace postern::wire
