#include "control/errors.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "policy/document.h"

namespace postern::control {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json body_of(const Response& response) { return json::parse(response.body); }

TEST(Errors, TheEnvelopeIsWhatTheSdksParse) {
  const Response response = to_response(not_found("There is no sandbox 'a'."));
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(*find_field(response.fields, "content-type"), "application/json");
  EXPECT_EQ(body_of(response),
            json::parse(R"({"detail":{"error":"NotFound","message":"There is no sandbox 'a'."}})"));
}

TEST(Errors, AnInternalOneHasANameOfItsOwnAndNoDetail) {
  const ApiError one = from_error({Reason::internal, Side::self, Retry::never, "canary"});
  const ApiError other = internal_error();
  EXPECT_EQ(one.status, 500);
  EXPECT_FALSE(one.error_id.empty());
  EXPECT_NE(one.error_id, other.error_id);
  EXPECT_EQ(body_of(to_response(one))["detail"]["error_id"], one.error_id);
  EXPECT_THAT(to_response(one).body, Not(HasSubstr("canary")));
}

TEST(Errors, WhoIsTurnedAwayForLoadMayComeAgain) {
  const Response response = to_response(from_error({Reason::overloaded, Side::self, Retry::never, ""}));
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(*find_field(response.fields, "retry-after"), "1");
}

TEST(Errors, AMessageThatIsNotUtf8IsStillJson) {
  EXPECT_NO_THROW(body_of(to_response(bad_request("odd: \xff"))));
}

TEST(Errors, TokensThatMeanNotReadyAreNotUsedForAnythingElse) {
  for (const ApiError& error : {bad_request(""), overloaded("")}) {
    EXPECT_NE(error.type, "InvalidRequest");
    EXPECT_NE(error.type, "ServiceUnavailable");
    EXPECT_NE(error.type, "NotReady");
  }
}

TEST(Errors, AProblemIsWrittenAsPydanticDoes) {
  const Response response =
      validation_response({{"rules[2].headers[0].value", {3, 7}, "is empty"}, {"", {}, "must be a mapping"}});
  EXPECT_EQ(response.status, 422);
  EXPECT_EQ(body_of(response), json::parse(R"({"detail":[
    {"loc":["body","proxy_config","rules",2,"headers",0,"value"],"msg":"is empty","type":"value_error"},
    {"loc":["body","proxy_config"],"msg":"must be a mapping","type":"value_error"}]})"));
}

TEST(Errors, APlaceMayHoldListsOfListsAndOddKeys) {
  const Response response = validation_response({{"a[1][2].env_vars[x].b", {}, "m"}, {"c[3", {}, "n"}}, "");
  EXPECT_EQ(body_of(response)["detail"][0]["loc"], json::parse(R"(["body","a",1,2,"env_vars","x","b"])"));
  EXPECT_EQ(body_of(response)["detail"][1]["loc"], json::parse(R"(["body","c"])"));
}

TEST(Errors, OneFieldIsWrittenTheSameWay) {
  EXPECT_EQ(body_of(validation_response("run_config.user", "is too long")), json::parse(R"({"detail":[
    {"loc":["body","run_config","user"],"msg":"is too long","type":"value_error"}]})"));
}

// The last word on it: the problems of a real document, none of which may repeat what could be a credential.
TEST(Errors, ProblemsOfARealDocumentNeverRepeatASecret) {
  const auto parsed = policy::parse_document(R"({"rules":[
    {"name":"a","match_hosts":["a.example"],"headers":[
      {"name":"Authorization","type":"opaque","value":"canary-1\n"},
      {"name":"Bad Name","type":"plaintext","value":"canary-2"},
      {"name":"X","type":"canary?","value":["canary-3"]}]},
    {"name":"b","type":"aws","aws":{"access_key_id":{"type":"plaintext","value":"canary-4"}}}]})",
                                             policy::Format::json);
  ASSERT_FALSE(parsed);
  const Response response = validation_response(parsed.error());
  const json body = body_of(response);
  ASSERT_GE(body["detail"].size(), 4U);
  for (const auto& item : body["detail"]) EXPECT_EQ(item["loc"][1], "proxy_config");
  for (const char* canary : {"canary-1", "canary-2", "canary-3", "canary-4"})
    EXPECT_THAT(response.body, Not(HasSubstr(canary)));
}

}  // namespace
}  // namespace postern::control
