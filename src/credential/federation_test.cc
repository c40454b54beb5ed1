// What stands between our token and a cloud's credentials: the token itself, and answers that are read.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "credential/aws_role.h"
#include "credential/expiry.h"
#include "credential/jwt_test_kit.h"
#include "credential/xml_texts.h"

namespace postern::credential {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(Expiry, IsReadAsCloudsWriteIt) {
  using std::chrono::sys_days;
  using namespace std::chrono_literals;
  const auto noon = sys_days(2026y / 11 / 29) + 12h;
  EXPECT_EQ(parse_utc("2026-11-29T12:00:00Z"), noon);
  EXPECT_EQ(parse_utc("2026-11-29T12:00:00.123456Z"), noon);
  EXPECT_EQ(parse_utc("2024-02-29T23:59:60Z"), sys_days(2024y / 3 / 1));
  for (const char* other :
       {"", "Z", "2026-11-29T12:00:00", "2026-11-29T12:00:00+01:00", "2026-11-29 12:00:00Z",
        "2026-02-29T12:00:00Z", "2026-13-01T12:00:00Z", "2026-11-29T24:00:00Z", "2026-11-29T12:60:00Z",
        "2026-11-29T12:00:61Z", "2026-11-29T12:00:00.Z", "2026-11-29T12:00:00.1x2Z", "2026-11-29T12:00:00ZZ",
        "-026-11-29T12:00:00Z", "2026-11-29T12:00Z", "2026-11-29T12:00:00Z2026-11-29T12:00:00Z",
        "+026-11-29T12:00:00Z", "2026-11-2 T12:00:00Z"})
    EXPECT_EQ(parse_utc(other), std::nullopt) << other;
}

TEST(XmlTexts, AreThoseOfTheNamedPlaces) {
  constexpr std::string_view paths[] = {"/A/B", "/A/C/D", "/A/E"};
  const auto texts = read_xml_texts(
      "<?xml version='1.0'?><x:A xmlns:x='u'><B>1 &amp; "
      "<![CDATA[<2>]]></B><C><D>&#65;<F>no</F></D></C></x:A>",
      paths);
  ASSERT_TRUE(texts);
  EXPECT_EQ((*texts)[0].view(), "1 & <2>");
  EXPECT_EQ((*texts)[1].view(), "A");
  EXPECT_EQ((*texts)[2].view(), "");
}

TEST(XmlTexts, WhatIsDangerousOrAmbiguousIsRefused) {
  constexpr std::string_view paths[] = {"/A/B"};
  std::string deep;
  for (int i = 0; i < 17; ++i) deep += "<A>";
  for (int i = 0; i < 17; ++i) deep += "</A>";
  for (const std::string& document :
       {std::string(), std::string("no"), std::string("<A>"), std::string("<A></B>"), std::string("<A/><A/>"),
        std::string("<!DOCTYPE A [<!ENTITY e 'x'>]><A><B>&e;</B></A>"),
        std::string("<!DOCTYPE A SYSTEM 'file:///etc/passwd'><A/>"), std::string("<A><B>1</B><B>2</B></A>"),
        std::string("<A><B>\x01</B></A>"), std::string("<A><B>&undefined;</B></A>"), deep})
    EXPECT_FALSE(read_xml_texts(document, paths)) << document;
}

std::string sts(std::string_view credentials) {
  return fmt::format(
      "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>{}</Credentials>"
      "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
      credentials);
}

TEST(StsAnswer, HasKeysWithTheirEnd) {
  constexpr std::string_view good =
      "<AccessKeyId>ASIAX</AccessKeyId><SecretAccessKey>s/+=</SecretAccessKey><SessionToken>t/+=</"
      "SessionToken>"
      "<Expiration>2026-11-29T12:00:00Z</Expiration>";
  const auto role = read_sts_answer(200, sts(good));
  ASSERT_TRUE(role) << role.error().detail;
  EXPECT_EQ(role->credentials->access_key_id, "ASIAX");
  EXPECT_EQ(role->credentials->secret_access_key.unwrap(), "s/+=");
  EXPECT_EQ(role->credentials->session_token.unwrap(), "t/+=");
  const auto without = [&](std::string_view element) {
    std::string text(good);
    const auto start = text.find("<" + std::string(element) + ">");
    const auto end = text.find("</" + std::string(element) + ">") + element.size() + 3;
    text.erase(start, end - start);
    const auto answer = read_sts_answer(200, sts(text));
    return answer ? "" : answer.error().detail;
  };
  EXPECT_THAT(without("AccessKeyId"), HasSubstr("no access key"));
  EXPECT_THAT(without("SecretAccessKey"), HasSubstr("no secret key"));
  EXPECT_THAT(without("SessionToken"), HasSubstr("no session token"))
      << "keys without one would be lasting ones";
  EXPECT_THAT(without("Expiration"), HasSubstr("does not say when"));
  // What would write a header of its own, or another part of the signature's.
  EXPECT_FALSE(read_sts_answer(
      200,
      sts("<AccessKeyId>A/x</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
          "<Expiration>2026-11-29T12:00:00Z</Expiration>")));
  EXPECT_FALSE(read_sts_answer(200, sts("<AccessKeyId>A</AccessKeyId><SecretAccessKey>s</"
                                        "SecretAccessKey><SessionToken>t&#13;&#10;X: 1</SessionToken>"
                                        "<Expiration>2026-11-29T12:00:00Z</Expiration>")));
  EXPECT_FALSE(read_sts_answer(200, std::string(good)));
}

TEST(StsAnswer, AnErrorIsToldByItsCodeAlone) {
  const auto said = [](std::string_view code) {
    return read_sts_answer(
               403,
               fmt::format(
                   "<ErrorResponse><Error><Code>{}</Code><Message>canary</Message></Error></ErrorResponse>",
                   code))
        .error()
        .detail;
  };
  EXPECT_THAT(said("AccessDenied"),
              AllOf(HasSubstr("403"), HasSubstr(": AccessDenied"), Not(HasSubstr("canary"))));
  EXPECT_THAT(said("canary\nX"), Not(HasSubstr("canary")));
  EXPECT_THAT(read_sts_answer(500, "canary").error().detail,
              AllOf(HasSubstr("500"), Not(HasSubstr("canary"))));
}

TEST(IdentityToken, SaysWhoAndForWhom) {
  const WorkloadIdentity identity{JwtKey::generate(JwtAlgorithm::rs256), "https://postern.example.net"};
  EXPECT_EQ(identity_subject("home", {}), "workspace:home");
  EXPECT_EQ(identity_subject("home", {{}, "blue"}), "workspace:home:tag:blue");
  const WallTime now = std::chrono::sys_seconds(std::chrono::seconds(1767312000));
  const std::vector<policy::EnvVar> tags = {{"team", "r d"}};
  const Secret token = identity_token(identity, "workspace:home", "sts.amazonaws.com", now, tags);
  json claims = claims_of(token.unwrap());
  EXPECT_FALSE(claims["jti"].get<std::string>().empty());
  claims.erase("jti");
  EXPECT_EQ(
      claims,
      json::parse(R"({"iss":"https://postern.example.net","sub":"workspace:home","aud":"sts.amazonaws.com",
    "iat":1767312000,"nbf":1767311940,"exp":1767312300,
    "https://aws.amazon.com/tags":{"principal_tags":{"team":["r d"]},"transitive_tag_keys":[]}})"));
  const json header = json::parse(from_base64url(token.unwrap().substr(0, token.unwrap().find('.'))));
  EXPECT_EQ(header["alg"], "RS256");
  EXPECT_EQ(header["kid"], identity.key.key_id());
  EXPECT_FALSE(
      claims_of(identity_token(identity, "s", "a", now).unwrap()).contains("https://aws.amazon.com/tags"));
  const json found = json::parse(openid_configuration(identity.issuer));
  EXPECT_EQ(found["issuer"], identity.issuer);
  EXPECT_EQ(found["jwks_uri"], identity.issuer + "/.well-known/jwks.json");
  EXPECT_EQ(found["id_token_signing_alg_values_supported"], json::array({"RS256"}));
}

}  // namespace
}  // namespace postern::credential
