#include "credential/aws_sigv4.h"

#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

namespace postern::credential {
namespace {

using std::chrono::year;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

static_assert(!std::is_copy_constructible_v<Signature>);

constexpr const char* placeholder = "AKIAPOSTERNPLACEHOLD";
constexpr const char* example_secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";  // of AWS's documentation
constexpr WallTime example_time = std::chrono::sys_days(year(2013) / 5 / 24);

std::shared_ptr<const AwsCredentials> credentials(std::string key_id, std::string secret,
                                                  std::string token = "") {
  return std::make_shared<const AwsCredentials>(std::move(key_id), Secret(std::move(secret)),
                                                Secret(std::move(token)));
}

std::string line_of(const Signature& made, std::string_view name) {
  std::string line = "none";
  for (const InjectedHeader& header : made.headers) {
    if (header.name != name) continue;
    EXPECT_EQ(line, "none") << "once";
    line.clear();
    append_header_value(header, line);
  }
  return line;
}

std::string signature_of(const Signature& made) {
  const std::string line = line_of(made, "Authorization");
  return line.substr(std::min(line.size(), line.rfind('=') + 1));
}

/// A request that owns what it says.
struct Sent {
  std::string method = "GET";
  std::string target = "/";
  std::string authority = "examplebucket.s3.amazonaws.com";
  std::vector<HeaderField> fields;
  std::optional<std::uint64_t> content_length;
  bool has_body = false;

  RequestToSign request() const {
    return {method, target, authority, authority, fields, content_length, has_body};
  }
};

class Aws : public testing::Test {
 protected:
  Result<AwsIntent> read(const Sent& sent) {
    const auto endpoint = aws_endpoint(sent.authority);
    if (!endpoint) return fail(Reason::internal, "no endpoint");
    return signer_.read(sent.request(), *endpoint);
  }
  std::string refusal(const Sent& sent) {
    const auto intent = read(sent);
    if (intent) return "accepted";
    EXPECT_EQ(intent.error().reason, Reason::unsignable_request);
    EXPECT_EQ(intent.error().side, Side::sandbox);
    return intent.error().detail;
  }
  Signature sign(const Sent& sent, std::string_view body_hash = "") {
    const auto intent = read(sent);
    EXPECT_TRUE(intent) << intent.error().detail;
    if (!intent) return {};
    auto made = signer_.sign(sent.request(), *intent, body_hash, example_time);
    EXPECT_TRUE(made) << made.error().detail;
    return made ? std::move(*made) : Signature();
  }

  AwsSigner signer_{credentials("AKIAIOSFODNN7EXAMPLE", example_secret), placeholder};
};

std::string authorization(std::string_view scope, std::string_view signed_headers) {
  return fmt::format("AWS4-HMAC-SHA256 Credential={}/{}/aws4_request,SignedHeaders={},Signature={}",
                     placeholder, scope, signed_headers, std::string(64, 'f'));
}

// "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk", examples.
TEST_F(Aws, TheDocumentedExamplesOfS3AreReproduced) {
  Sent get;
  get.target = "/test.txt";
  const std::string get_authorization =
      authorization("20130524/us-east-1/s3", "host;range;x-amz-content-sha256;x-amz-date");
  get.fields = {{"Range", "bytes=0-9"},
                {"x-amz-content-sha256", sha256_of_nothing},
                {"x-amz-date", "20000101T000000Z"},
                {"authorization", get_authorization}};
  EXPECT_EQ(line_of(sign(get), "Authorization"),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
            "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  EXPECT_EQ(line_of(sign(get), "X-Amz-Date"), "20130524T000000Z");
  EXPECT_EQ(sign(get).headers.size(), 2u);

  Sent put;
  put.method = "PUT";
  put.target = "/test%24file.text";
  put.has_body = true;
  const std::string put_authorization =
      authorization("20130524/us-east-1/s3", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class");
  put.fields = {{"Date", "Fri, 24 May 2013 00:00:00 GMT"},
                {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
                {"Authorization", put_authorization}};
  EXPECT_EQ(signature_of(sign(put)), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");

  Sent lifecycle;
  lifecycle.target = "/?lifecycle";
  lifecycle.fields = {{"x-amz-content-sha256", sha256_of_nothing}};
  EXPECT_EQ(signature_of(sign(lifecycle)), "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
      << "unsigned by the client, region and service from the host";
  Sent list;
  list.target = "/?max-keys=2&prefix=J";
  list.fields = {{"x-amz-content-sha256", sha256_of_nothing}};
  EXPECT_EQ(signature_of(sign(list)), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

// "Authenticating Requests: Using Query Parameters", the example.
TEST_F(Aws, TheDocumentedPreSignedUrlIsReproduced) {
  Sent get;
  get.target = fmt::format(
      "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F20130524%2Fus-east-1%2Fs3%2Faws4_"
      "request&"
      "X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Security-Token=x&"
      "X-Amz-Signature={}",
      placeholder, std::string(64, 'f'));
  const Signature made = sign(get);
  EXPECT_TRUE(made.headers.empty());
  EXPECT_EQ(made.target(),
            "/test.txt?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&"
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-"
            "SignedHeaders=host&"
            "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
  Signature moved;
  moved = sign(get);
  EXPECT_EQ(moved.target(), made.target());
}

TEST_F(Aws, APreSignedUrlOfAnotherKeyIsLeftAlone) {
  for (const char* target :
       {"/?X-Amz-Credential=AKIAOTHER%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=aa",
        "/?X-Amz-Signature=aa", "/?AWSAccessKeyId=AKIAOTHER&Signature=x&Expires=1",
        "/?X-Amz-Algorithm=AWS4-ECDSA-P256-SHA256&X-Amz-Credential=AKIAOTHER%2F1&X-Amz-Signature=a"}) {
    Sent get;
    get.target = target;
    const auto intent = read(get);
    ASSERT_TRUE(intent) << target;
    EXPECT_EQ(intent->form, AwsIntent::Form::foreign) << target;
  }
  Sent plain;
  plain.target = "/?Signature=x";
  EXPECT_EQ(read(plain)->form, AwsIntent::Form::unsigned_request)
      << "a parameter of that name is no signature";
}

TEST_F(Aws, ASessionOfS3ExpressKeepsItsOwnKey) {
  const std::string own =
      "AWS4-HMAC-SHA256 Credential=ASIASESSION/20130524/us-east-1/s3express/aws4_request, "
      "SignedHeaders=host, Signature=ab";
  Sent get;
  get.authority = "b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com";
  get.fields = {{"Authorization", own}, {"x-amz-s3session-token", "t"}};
  EXPECT_EQ(read(get)->form, AwsIntent::Form::foreign);
  get.fields.pop_back();
  EXPECT_EQ(read(get)->form, AwsIntent::Form::header) << "another key in the header is replaced all the same";
}

TEST_F(Aws, APreSignedUrlIsSignedForItsOwnDateAndNotForTomorrow) {
  const auto dated = [](std::string_view date) {
    Sent get;
    get.target = fmt::format(
        "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}/{}/us-east-1/s3/aws4_request&X-Amz-Date={}&"
        "X-Amz-SignedHeaders=host&X-Amz-Signature=a",
        placeholder, date.substr(0, 8), date);
    return get;
  };
  EXPECT_THAT(sign(dated("20130520T100000Z")).target(),
              HasSubstr("Credential=AKIAIOSFODNN7EXAMPLE%2F20130520%2F"));
  EXPECT_THAT(sign(dated("20130524T001500Z")).target(), HasSubstr("&X-Amz-Signature="));
  const Sent tomorrow = dated("20130524T001501Z");
  const auto made = signer_.sign(tomorrow.request(), *read(tomorrow), "", example_time);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().detail, "the pre-signed URL is dated in the future");
  EXPECT_THAT(refusal(dated("20130524")), HasSubstr("X-Amz-Date"));
}

TEST_F(Aws, APreSignedHeaderThatIsNotSentIsNamed) {
  Sent put;
  put.target = fmt::format(
      "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&"
      "X-Amz-Date=20130524T000000Z&X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-acl&X-Amz-Signature=a",
      placeholder);
  put.content_length = 5;
  const auto made = signer_.sign(put.request(), *read(put), "", example_time);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().detail,
            "the pre-signed URL signs the header x-amz-acl, which the request does not have");
  put.fields = {{"X-Amz-Acl", "private"}};
  EXPECT_THAT(sign(put).target(), HasSubstr("X-Amz-SignedHeaders=content-length%3Bhost%3Bx-amz-acl&"));
}

TEST_F(Aws, TheSessionTokenReplacesTheClients) {
  signer_.set_credentials(credentials("ASIAREAL", example_secret, "real/token=="));
  Sent get;
  const std::string signature =
      authorization("20130524/us-east-1/s3", "host;x-amz-date;x-amz-security-token");
  get.fields = {{"Authorization", signature}, {"X-Amz-Security-Token", "placeholder-token"}};
  const Signature made = sign(get);
  EXPECT_EQ(line_of(made, "X-Amz-Security-Token"), "real/token==");
  EXPECT_EQ(line_of(made, "X-Amz-Content-Sha256"), "UNSIGNED-PAYLOAD") << "S3 wants the field";
  EXPECT_THAT(line_of(made, "Authorization"),
              HasSubstr("SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, "));
  EXPECT_TRUE(AwsSigner::drops("x-amz-security-TOKEN"));
  EXPECT_TRUE(AwsSigner::drops("AUTHORIZATION"));
  EXPECT_FALSE(AwsSigner::drops("x-amz-content-sha256"));

  Sent query;
  query.target = fmt::format(
      "/k?X-Amz-Security-Token=placeholder&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F20130524%"
      "2Fus-east-1%2Fs3%2F"
      "aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature=a",
      placeholder);
  EXPECT_THAT(sign(query).target(), HasSubstr("&X-Amz-Security-Token=real%2Ftoken%3D%3D&"));
  EXPECT_THAT(sign(query).target(), Not(HasSubstr("placeholder")));
}

TEST_F(Aws, NewCredentialsSignAtOnce) {
  const std::string before = signature_of(sign(Sent()));
  EXPECT_EQ(signature_of(sign(Sent())), before);
  signer_.set_credentials(credentials("AKIAIOSFODNN7EXAMPLE", "another"));
  EXPECT_NE(signature_of(sign(Sent())), before);
}

TEST_F(Aws, OnlyWhatGoesOutIsSigned) {
  Sent put;
  put.method = "PUT";
  const std::string signature =
      authorization("20130524/us-east-1/s3", "connection;content-length;expect;host;user-agent;x-amz-date");
  put.fields = {{"Authorization", signature},
                {"User-Agent", "a"},
                {"Accept", "*/*"},
                {"X-AMZ-Meta-B", "1"},
                {"x-amz-meta-a", "2"}};
  EXPECT_THAT(
      line_of(sign(put), "Authorization"),
      HasSubstr("SignedHeaders=host;user-agent;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-meta-b, "));
  put.content_length = 7;
  EXPECT_THAT(line_of(sign(put), "Authorization"),
              HasSubstr("SignedHeaders=content-length;host;user-agent;"));
}

TEST_F(Aws, ABodyWithoutAHashIsHashedExceptForS3) {
  Sent post;
  post.method = "POST";
  post.authority = "sts.us-east-1.amazonaws.com";
  post.fields = {{"Content-Type", "application/x-www-form-urlencoded"}};
  post.has_body = true;
  const auto intent = read(post);
  ASSERT_TRUE(intent);
  EXPECT_EQ(intent->payload, AwsPayload::to_be_hashed);
  EXPECT_EQ(intent->service, "sts");
  EXPECT_EQ(signer_.sign(post.request(), *intent, "", example_time).error().reason, Reason::internal);
  const std::string body_hash = hex(sha256("Action=GetCallerIdentity"));
  const Signature made = sign(post, body_hash);
  EXPECT_THAT(line_of(made, "Authorization"), HasSubstr("SignedHeaders=content-type;host;x-amz-date, "));
  EXPECT_EQ(made.headers.size(), 2u);
  EXPECT_NE(signature_of(made), signature_of(sign(post, sha256_of_nothing)));
  post.has_body = false;
  EXPECT_EQ(read(post)->payload, AwsPayload::as_said);
}

TEST_F(Aws, WhatCannotBeSignedIsRefusedInWords) {
  const auto with = [](std::string_view name, std::string_view value) {
    Sent sent;
    sent.fields = {{name, value}};
    return sent;
  };
  EXPECT_THAT(refusal(with("Authorization", "AWS4-ECDSA-P256-SHA256 Credential=a/b")), HasSubstr("SigV4A"));
  EXPECT_THAT(refusal(with("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")),
              HasSubstr("SigV4A"));
  EXPECT_THAT(refusal(with("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER")),
              HasSubstr("SigV4A"));
  EXPECT_THAT(refusal(with("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-EVENTS")),
              HasSubstr("event streams"));
  for (const char* odd : {"", "unsigned-payload",
                          "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "STREAMING-X"})
    EXPECT_THAT(refusal(with("x-amz-content-sha256", odd)), HasSubstr("x-amz-content-sha256")) << odd;
  for (const char* odd :
       {"AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 Credential=x",
        "AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3, SignedHeaders=host, Signature=a",
        "AWS4-HMAC-SHA256 Credential=a/2013/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a",
        "AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3/aws4_request/x, SignedHeaders=host, Signature=a",
        "AWS4-HMAC-SHA256 Credential=a/20130524/us east/s3/aws4_request, SignedHeaders=host, Signature=a",
        "AWS4-HMAC-SHA256 Signature=a, Credential=a/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, "
        "Signature=a",
        "AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=a"})
    EXPECT_THAT(refusal(with("Authorization", odd)),
                testing::AnyOf(HasSubstr("AWS signature"), HasSubstr("signed for")))
        << odd;
  Sent twice = with("Authorization", "a");
  twice.fields.push_back({"AUTHORIZATION", "b"});
  EXPECT_EQ(refusal(twice), "the request has several authorization fields");
  Sent both = with("Authorization", "Basic x");
  both.target = "/?X-Amz-Signature=a";
  EXPECT_THAT(refusal(both), HasSubstr("AWS takes one of them"));
  Sent old;
  old.target = fmt::format("/?AWSAccessKeyId={}&Signature=a", placeholder);
  EXPECT_THAT(refusal(old), HasSubstr("Version 2"));
  Sent twofold;
  twofold.target = fmt::format("/?X-Amz-Credential={}%2F&X-Amz-Signature=a&x-amz-signature=b", placeholder);
  EXPECT_THAT(refusal(twofold), HasSubstr("several signatures"));
  Sent many;
  const std::string list = authorization("20130524/us-east-1/s3", std::string(400, ';'));
  many.fields = {{"Authorization", list}};
  EXPECT_THAT(refusal(many), HasSubstr("more than 128 headers"));
  EXPECT_EQ(refusal(with("Authorization", "AWS AKIA:old")), "accepted")
      << "whatever else is there is replaced";
}

TEST(AwsCanonical, PathsAreThoseOfTheirService) {
  const auto canonical = [](std::string_view path, AwsPathRule rule) {
    std::string out;
    append_canonical_path(path, rule, out);
    return out;
  };
  EXPECT_EQ(canonical("/dir/../x%20y%2Bz//%C3%A9.txt", AwsPathRule::s3), "/dir/../x%20y%2Bz//%C3%A9.txt");
  EXPECT_EQ(canonical("/a%2fb%7e%41(+)%zz%", AwsPathRule::s3), "/a%2Fb~A%28%2B%29%25zz%25");
  EXPECT_EQ(canonical("/x%20y", AwsPathRule::normalised), "/x%2520y");
  EXPECT_EQ(canonical("/a/./b//../c/", AwsPathRule::normalised), "/a/c/");
  EXPECT_EQ(canonical("/../..", AwsPathRule::normalised), "/");
  EXPECT_EQ(canonical("//a//", AwsPathRule::as_sent), "//a//");
  EXPECT_EQ(canonical("", AwsPathRule::s3), "/");
}

TEST(AwsCanonical, QueriesAreSortedByNameAndThenByValue) {
  const auto canonical = [](std::string_view query) {
    std::string out;
    append_canonical_query(query, out);
    return out;
  };
  EXPECT_EQ(canonical("a-b=1&a=2"), "a=2&a-b=1") << "not by the text with its '='";
  EXPECT_EQ(canonical("b&a=&&a=2&a=10"), "a=&a=10&a=2&b=");
  EXPECT_EQ(canonical("a=b+c/d%2f%7E=%e1"), "a=b%20c%2Fd%2F~%3D%E1");
  EXPECT_EQ(canonical(""), "");
}

TEST(AwsEndpoint, HostsNameServiceAndRegion) {
  struct Case {
    const char* host;
    const char* expected;  ///< service/region, '*' where the host says no region, '!' for customers' code
  };
  for (const auto& [host, expected] : std::vector<Case>{
           {"s3.amazonaws.com", "s3/us-east-1*"},
           {"s3.eu-west-1.amazonaws.com", "s3/eu-west-1"},
           {"s3-us-west-2.amazonaws.com", "s3/us-west-2"},
           {"bucket.s3-us-west-2.amazonaws.com", "s3/us-west-2"},
           {"bucket.s3.amazonaws.com", "s3/us-east-1*"},
           {"us-west-2.s3.amazonaws.com", "s3/us-east-1*"},
           {"my.dotted.bucket.s3.ap-southeast-2.amazonaws.com", "s3/ap-southeast-2"},
           {"sts.us-east-1.s3.amazonaws.com", "s3/us-east-1*"},
           {"bucket.s3.dualstack.eu-central-1.amazonaws.com", "s3/eu-central-1"},
           {"s3-fips.dualstack.us-gov-west-1.amazonaws.com", "s3/us-gov-west-1"},
           {"bucket.s3-accelerate.amazonaws.com", "s3/us-east-1*"},
           {"bucket.s3-accelerate.dualstack.amazonaws.com", "s3/us-east-1*"},
           {"123456789012.s3-control.us-east-1.amazonaws.com", "s3/us-east-1"},
           {"ap-123456789012.s3-accesspoint.us-east-1.amazonaws.com", "s3/us-east-1"},
           {"x-1.s3-object-lambda.us-east-1.amazonaws.com", "s3-object-lambda/us-east-1"},
           {"x-1.op-1.s3-outposts.us-east-1.amazonaws.com", "s3-outposts/us-east-1"},
           {"b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com", "s3express/us-east-1"},
           {"bucket.vpce-1a2b-3c.s3.us-east-1.vpce.amazonaws.com", "s3/us-east-1"},
           {"vpce-1a2b-3c.kms.us-east-1.vpce.amazonaws.com", "kms/us-east-1"},
           {"s3.cn-north-1.amazonaws.com.cn", "s3/cn-north-1"},
           {"sts.amazonaws.com", "sts/us-east-1*"},
           {"sts.eu-west-1.amazonaws.com", "sts/eu-west-1"},
           {"iam.amazonaws.com", "iam/us-east-1*"},
           {"iam-fips.amazonaws.com", "iam/us-east-1*"},
           {"iam.global.api.aws", "iam/us-east-1*"},
           {"iam.us-gov.amazonaws.com", "iam/us-gov-west-1*"},
           {"global.health.amazonaws.com", "health/us-east-1*"},
           {"dynamodb.us-east-1.amazonaws.com", "dynamodb/us-east-1"},
           {"streams.dynamodb.us-east-1.amazonaws.com", "dynamodb/us-east-1"},
           {"123456789012.ddb.us-east-1.amazonaws.com", "dynamodb/us-east-1"},
           {"email.us-east-1.amazonaws.com", "ses/us-east-1"},
           {"bedrock-runtime.us-east-1.amazonaws.com", "bedrock/us-east-1"},
           {"bedrock-runtime-fips.us-east-1.amazonaws.com", "bedrock/us-east-1"},
           {"api.ecr.us-east-1.amazonaws.com", "ecr/us-east-1"},
           {"runtime.sagemaker.us-east-1.amazonaws.com", "sagemaker/us-east-1"},
           {"entitlement.marketplace.us-east-1.amazonaws.com", "aws-marketplace/us-east-1"},
           {"data-ats.iot.us-east-1.amazonaws.com", "iotdata/us-east-1"},
           {"participant.connect.us-east-1.amazonaws.com", "execute-api/us-east-1"},
           {"lambda.us-east-1.api.aws", "lambda/us-east-1"},
           {"fips.eks.us-west-2.amazonaws.com", "eks/us-west-2"},
           {"eusc.s3.eusc-de-east-1.amazonaws.eu", "s3/eusc-de-east-1"},
           {"queue.amazonaws.com", "sqs/us-east-1*"},
           {"us-west-2.queue.amazonaws.com", "sqs/us-west-2"},
           {"abc123.execute-api.eu-west-1.amazonaws.com", "execute-api/eu-west-1!"},
           {"abc123.lambda-url.eu-west-1.on.aws", "lambda/eu-west-1!"},
           {"search-x-1.us-east-1.es.amazonaws.com", "es/us-east-1!"},
           {"id.us-east-1.aoss.amazonaws.com", "aoss/us-east-1"},
           {"1.control-kinesis.us-east-1.amazonaws.com", "kinesis/us-east-1"},
           // Not signed: not AWS's, not AWS's to answer, or another way of proving who one is.
           {"amazonaws.com", "none"},
           {"evilamazonaws.com", "none"},
           {"s3.amazonaws.com.evil.example", "none"},
           {"example.com", "none"},
           {"ec2-1-2-3-4.compute-1.amazonaws.com", "none"},
           {"ec2-1-2-3-4.us-west-2.compute.amazonaws.com", "none"},
           {"lb-1.us-east-1.elb.amazonaws.com", "none"},
           {"lb-1.elb.us-east-1.amazonaws.com", "none"},
           {"db.c1.us-east-1.rds.amazonaws.com", "none"},
           {"1.dkr.ecr.us-east-1.amazonaws.com", "none"},
           {"d-1.d.codeartifact.us-east-1.amazonaws.com", "none"},
           {"bucket.s3-website.us-east-1.amazonaws.com", "none"},
           {"bucket.s3-website-us-east-1.amazonaws.com", "none"},
           {"vpce-1.vpce-svc-2.us-east-1.vpce.amazonaws.com", "none"},
           {"b-1.mq.us-east-1.amazonaws.com", "none"},
           {"foo.sts.us-east-1.amazonaws.com", "none"},
           {"us-east-1.amazonaws.com", "none"},
           {"..amazonaws.com", "none"},
       }) {
    const auto endpoint = aws_endpoint(host);
    const std::string found =
        !endpoint ? "none"
                  : fmt::format("{}/{}{}{}", endpoint->service, endpoint->region,
                                endpoint->region_in_host ? "" : "*", endpoint->customer_code ? "!" : "");
    EXPECT_EQ(found, expected) << host;
  }
}

TEST(AwsEndpoint, AClientsScopeIsHeldToItsHost) {
  const auto scope = [](const char* host, std::string_view region, std::string_view service) {
    const auto found = aws_scope(*aws_endpoint(host), {region, service});
    return found ? fmt::format("{}/{}", found->region, found->service) : found.error().detail;
  };
  EXPECT_EQ(scope("s3.amazonaws.com", "eu-west-1", "s3"), "eu-west-1/s3")
      << "the client knows its bucket's region";
  EXPECT_EQ(scope("s3.amazonaws.com", "", ""), "us-east-1/s3");
  EXPECT_EQ(scope("newthing.us-east-1.amazonaws.com", "us-east-1", "otherthing"), "us-east-1/otherthing");
  EXPECT_THAT(scope("s3.eu-west-1.amazonaws.com", "us-east-1", "s3"),
              HasSubstr("region us-east-1, but its host is of eu-west-1"));
  EXPECT_THAT(scope("newthing.us-east-1.amazonaws.com", "us-east-1", "s3"),
              HasSubstr("service s3, but its host is one of newthing"));
  EXPECT_THAT(scope("s3.amazonaws.com", "us-east-1", "newthing"), HasSubstr("service newthing"));
  EXPECT_THAT(scope("s3.amazonaws.com", "us-east-1", "s3/x"), HasSubstr("DATE/REGION/SERVICE"));
  EXPECT_THAT(scope("s3.amazonaws.com", "us-east-1", ""), HasSubstr("DATE/REGION/SERVICE"));
}

// The public vectors (aws-c-auth's), one folder per case.

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// request.txt: a head with LF, raw bytes in its target, maybe folded fields, and a body.
struct VectorCase {
  explicit VectorCase(const std::filesystem::path& folder)
      : context(nlohmann::json::parse(contents(folder / "context.json"))) {
    text = contents(folder / "request.txt");
    const std::string_view all = text;
    const std::size_t head_end = std::min(all.find("\n\n"), all.size());
    body = all.substr(std::min(head_end + 2, all.size()));
    std::string_view rest = all.substr(0, head_end);
    std::string_view start = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(start.size() + 1, rest.size()));
    sent.method = start.substr(0, start.find(' '));
    sent.target = start.substr(sent.method.size() + 1, start.rfind(' ') - sent.method.size() - 1);
    while (!rest.empty()) {
      std::size_t end = rest.find('\n');
      while (end != rest.npos && end + 1 < rest.size() && rest[end + 1] == ' ')
        end = rest.find('\n', end + 1);
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(line.size() + 1, rest.size()));
      const std::string_view name = line.substr(0, line.find(':'));
      const std::string_view value = line.substr(std::min(name.size() + 1, line.size()));
      if (name == "Host") {
        sent.authority = value;
      } else if (name == "Content-Length") {
        sent.content_length = std::stoull(std::string(value));
      } else {
        sent.fields.push_back({name, value});
      }
      (signed_headers += name) += ';';
    }
  }

  nlohmann::json context;
  std::string text;
  std::string_view body;
  Sent sent;
  std::string signed_headers;
};

TEST(SigV4Vectors, SignaturesAreThoseOfThePublicVectors) {
  const char* vectors = std::getenv("POSTERN_VECTORS");
  if (vectors == nullptr) GTEST_SKIP() << "POSTERN_VECTORS is not set: the public vectors were not run";
  std::size_t cases = 0;
  for (const auto& folder : std::filesystem::directory_iterator(std::filesystem::path(vectors) / "sigv4")) {
    SCOPED_TRACE(folder.path().filename());
    VectorCase one(folder.path());
    const auto& keys = one.context.at("credentials");
    // The token is part of what is signed, unless the case says that it comes behind.
    const bool token_is_signed = !one.context.value("omit_session_token", false);
    AwsSigner signer(credentials(keys.at("access_key_id"), keys.at("secret_access_key"),
                                 token_is_signed ? keys.value("token", "") : ""),
                     "placeholder");
    const WallTime time =
        std::chrono::sys_days(year(2015) / 8 / 30) + std::chrono::hours(12) + std::chrono::minutes(36);
    ASSERT_EQ(one.context.at("timestamp"), "2015-08-30T12:36:00Z");

    AwsIntent intent;
    intent.form = AwsIntent::Form::header;
    intent.region = one.context.at("region");
    intent.service = one.context.at("service");
    intent.path_rule =
        one.context.at("normalize").get<bool>() ? AwsPathRule::normalised : AwsPathRule::as_sent;
    intent.signed_headers = one.signed_headers;
    intent.payload_hash = hex(sha256(one.body));
    const bool signs_body = one.context.at("sign_body").get<bool>();
    if (!signs_body)
      intent.payload_hash = one.body.empty() ? std::string(sha256_of_nothing) : intent.payload_hash;
    Sent with_hash = one.sent;
    const std::string body_hash = hex(sha256(one.body));
    if (signs_body) with_hash.fields.push_back({"x-amz-content-sha256", body_hash});
    const auto made = signer.sign(with_hash.request(), intent, "", time);
    ASSERT_TRUE(made) << made.error().detail;
    EXPECT_EQ(signature_of(*made), contents(folder.path() / "header-signature.txt"));

    intent.form = AwsIntent::Form::query;
    intent.amz_date = "20150830T123600Z";
    while (intent.signed_headers.ends_with(';')) intent.signed_headers.pop_back();
    std::string listed;
    std::vector<std::string> names;
    for (std::string_view rest = intent.signed_headers; !rest.empty();) {
      std::string name(rest.substr(0, rest.find(';')));
      rest.remove_prefix(std::min(name.size() + 1, rest.size()));
      std::ranges::transform(name, name.begin(),
                             [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      names.push_back(name);
    }
    std::ranges::sort(names);
    names.erase(std::unique(names.begin(), names.end()), names.end());
    listed = fmt::format("{}", fmt::join(names, "%3B"));
    intent.signed_headers = fmt::format("{}", fmt::join(names, ";"));
    Sent presigned = one.sent;
    presigned.target += fmt::format(
        "{}X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x&X-Amz-Date=20150830T123600Z&X-Amz-"
        "SignedHeaders={}&"
        "X-Amz-Expires={}&X-Amz-Signature=y",
        presigned.target.find('?') == std::string::npos ? "?" : "&", listed,
        one.context.at("expiration_in_seconds").get<int>());
    const auto url = signer.sign(presigned.request(), intent, "", time);
    ASSERT_TRUE(url) << url.error().detail;
    EXPECT_THAT(std::string(url->target()),
                testing::EndsWith("&X-Amz-Signature=" + contents(folder.path() / "query-signature.txt")));
    ++cases;
  }
  EXPECT_EQ(cases, 38u);
}

}  // namespace
}  // namespace postern::credential
