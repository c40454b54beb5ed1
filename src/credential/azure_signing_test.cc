#include "credential/azure_signing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "credential/base64.h"
#include "credential/digest.h"

namespace postern::credential {
namespace {

using testing::HasSubstr;

constexpr const char* key = "canary-key-of-the-account";
constexpr WallTime documented = std::chrono::sys_days(std::chrono::year(2015) / 6 / 26) +
                                std::chrono::hours(23) + std::chrono::minutes(39) + std::chrono::seconds(12);

std::string expected(std::string_view text) {
  const Digest digest = HmacSha256(key).sign(text);
  std::string out = "SharedKey myaccount:";
  append_base64({reinterpret_cast<const char*>(digest.data()), digest.size()}, out);
  return out;
}

struct Sent {
  std::string method = "GET";
  std::string target = "/";
  std::string host = "myaccount.blob.core.windows.net";
  std::vector<HeaderField> fields;
  std::optional<std::uint64_t> content_length = {};

  RequestToSign request() const {
    return {method, target, host, host, fields, content_length, content_length.value_or(0) > 0};
  }
};

std::string value_of(const Signature& made, std::string_view name) {
  std::string value;
  for (const InjectedHeader& header : made.headers)
    if (header.name == name) append_header_value(header, value);
  return value;
}

Result<Signature> sign(const Signing& rule, const Sent& sent) {
  const auto signer = rule.make_signer();
  auto request = signer->read(sent.request());
  if (!request) return std::unexpected(std::move(request.error()));
  if (!*request) return fail(Reason::internal, "left alone");
  return (*request)->sign(sent.request(), "", nullptr, documented);
}

std::string signed_with_key(const Sent& sent) {
  const AzureSharedKey rule("myaccount", Secret(key));
  const auto made = sign(rule, sent);
  if (!made) return made.error().detail;
  EXPECT_EQ(value_of(*made, "x-ms-date"), "Fri, 26 Jun 2015 23:39:12 GMT");
  EXPECT_EQ(made->headers.size(), 2u);
  EXPECT_TRUE(made->target().empty());
  return value_of(*made, "Authorization");
}

// "Authorize with Shared Key", examples.
TEST(AzureSharedKey, TheDocumentedTextsAreSigned) {
  EXPECT_EQ(
      signed_with_key({.target = "/mycontainer?comp=metadata&restype=container&timeout=20",
                       .fields = {{"x-ms-version", "2015-02-21"}, {"User-Agent", "x"}}}),
      expected("GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n"
               "/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"));
  EXPECT_EQ(
      signed_with_key({.method = "PUT",
                       .target = "/mycontainer/a%20b",
                       .fields = {{"Content-Type", "text/plain; charset=UTF-8"},
                                  {"X-Ms-Meta-B", "two  words"},
                                  {"x-ms-blob-type", "BlockBlob"},
                                  {"Range", "bytes=0-1"},
                                  {"x-ms-version", "2015-02-21"},
                                  {"Date", "ignored"}},
                       .content_length = 11}),
      expected("PUT\n\n\n11\n\ntext/plain; charset=UTF-8\n\n\n\n\n\nbytes=0-1\nx-ms-blob-type:BlockBlob\n"
               "x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-meta-b:two  words\nx-ms-version:2015-02-21\n"
               "/myaccount/mycontainer/a%20b"));
}

TEST(AzureSharedKey, AnEmptyBodyHasALengthInOldVersionsOnly) {
  const auto text = [](std::string_view version, std::string_view length) {
    return "PUT\n\n\n" + std::string(length) +
           "\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:" + std::string(version) +
           "\n/myaccount/c";
  };
  EXPECT_EQ(
      signed_with_key(
          {.method = "PUT", .target = "/c", .fields = {{"x-ms-version", "2014-02-14"}}, .content_length = 0}),
      expected(text("2014-02-14", "0")));
  EXPECT_EQ(
      signed_with_key(
          {.method = "PUT", .target = "/c", .fields = {{"x-ms-version", "2026-02-06"}}, .content_length = 0}),
      expected(text("2026-02-06", "")));
}

TEST(AzureSharedKey, ParametersAreDecodedSortedAndJoined) {
  EXPECT_EQ(signed_with_key({.target = "/c?include=snapshots&Include=metadata&prefix=a%2Fb&x", .fields = {}}),
            expected("GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\n"
                     "/myaccount/c\ninclude:metadata,snapshots\nprefix:a/b\nx:"));
}

TEST(AzureSharedKey, TablesHaveAShorterText) {
  EXPECT_EQ(signed_with_key({.method = "POST",
                             .target = "/Tables?comp=acl&timeout=3",
                             .host = "myaccount.table.core.windows.net",
                             .fields = {{"content-type", "application/json"}, {"x-ms-version", "2019-02-02"}},
                             .content_length = 2}),
            expected("POST\n\napplication/json\nFri, 26 Jun 2015 23:39:12 GMT\n/myaccount/Tables?comp=acl"));
}

TEST(AzureSharedKey, WhatIsThereTwiceOrSignedAlreadyIsNotSigned) {
  EXPECT_THAT(signed_with_key({.fields = {{"Range", "bytes=0-1"}, {"range", "bytes=2-3"}}}),
              HasSubstr("several range"));
  EXPECT_EQ(signed_with_key({.target = "/c?sv=1&sig=theirs"}), "left alone");
  EXPECT_EQ(signed_with_key({.target = "/c?sv=1&%73ig=theirs"}), "left alone");
}

TEST(AzureSas, IsAppendedToTheTarget) {
  const AzureSas rule("myaccount", Secret("?sv=2026-02-06&sp=rl&sig=canary%3D"));
  for (const auto& [target, wanted] :
       {std::pair<std::string, std::string>("/c/b", "/c/b?sv=2026-02-06&sp=rl&sig=canary%3D"),
        {"/c?restype=container", "/c?restype=container&sv=2026-02-06&sp=rl&sig=canary%3D"},
        {"/c?", "/c?sv=2026-02-06&sp=rl&sig=canary%3D"}}) {
    const auto made = sign(rule, {.target = target});
    ASSERT_TRUE(made);
    EXPECT_EQ(made->target(), wanted);
    EXPECT_TRUE(made->headers.empty());
    EXPECT_EQ(made->place, "sig");
  }
  EXPECT_FALSE(sign(rule, {.target = "/c?sig=theirs"}));
}

TEST(AzureSas, IsRecognised) {
  EXPECT_TRUE(AzureSas::is_sas("?sv=1&sig=a%2Bb"));
  EXPECT_TRUE(AzureSas::is_sas("sig=a&sv=1"));
  for (const char* text : {"", "sv=1", "sv=1&sig=a b", "sv=1&sig=a#b", "sv=1&sig=a\r\nX: y",
                           "https://a?sv=1&sig=a", "sv=1&notsig=a"})
    EXPECT_FALSE(AzureSas::is_sas(text)) << text;
}

}  // namespace
}  // namespace postern::credential
