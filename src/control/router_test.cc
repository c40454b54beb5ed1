#include "control/router.h"

#include <gtest/gtest.h>

#include "base/utf8.h"

namespace postern::control {
namespace {

/// A router whose handlers are told apart by their pattern.
Router make_router() {
  const Handler nothing = [](const std::shared_ptr<Call>&) {};
  const std::vector<Route> routes = {
      {"GET", "/boxes", nothing},
      {"POST", "/boxes", nothing},
      {"POST", "/boxes/batch-delete", nothing},
      {"GET", "/boxes/{name}", nothing},
      {"DELETE", "/boxes/{name}", nothing},
      {"GET", "/boxes/{name}/status", nothing},
      {"POST", "/{sandbox}/execute", nothing},
      {"GET", "/{sandbox}/files/{file}", nothing},
  };
  Router router;
  router.mount("/v2/sandboxes", routes);
  router.mount("/api/v2/sandboxes", routes);
  router.mount("", {{"GET", "/ok", nothing}, {"GET", "/", nothing}});
  return router;
}

/// "PATTERN name=value …", or "STATUS Allow".
std::string found(std::string_view method, std::string_view path) {
  static const Router router = make_router();
  const auto result = router.find(method, path);
  if (const auto* error = std::get_if<ApiError>(&result)) {
    const std::string* allow = find_field(error->fields, "Allow");
    return std::to_string(error->status) + (allow != nullptr ? " " + *allow : "");
  }
  const auto& match = std::get<Router::Match>(result);
  std::string text(match.pattern);
  for (const Field& parameter : match.parameters) text += " " + parameter.name + "=" + parameter.value;
  return text;
}

TEST(Router, ListsWhatItServesWithItsPrefixes) {
  Router router;
  const auto nothing = [](const std::shared_ptr<Call>&) {};
  router.mount("/v2", {{"POST", "/boxes", nothing}, {"GET", "/boxes/{name}", nothing}});
  router.mount("", {{"GET", "/ok", nothing}});
  const std::vector<std::pair<std::string, std::string>> all = {
      {"GET", "/ok"}, {"POST", "/v2/boxes"}, {"GET", "/v2/boxes/{name}"}};
  EXPECT_EQ(router.routes(), all);
}

TEST(Router, BothPrefixesReachTheSameRoutes) {
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes"), "/v2/sandboxes/boxes");
  EXPECT_EQ(found("GET", "/api/v2/sandboxes/boxes/a/status"), "/api/v2/sandboxes/boxes/{name}/status name=a");
  EXPECT_EQ(found("GET", "/ok"), "/ok");
  EXPECT_EQ(found("GET", "/boxes"), "404");
  EXPECT_EQ(found("GET", "/v2"), "404");
  EXPECT_EQ(found("GET", "/v2/sandboxes"), "404");
}

TEST(Router, AnEncodedSlashBelongsToTheName) {
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/a%2Fb"), "/v2/sandboxes/boxes/{name} name=a/b");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/a%2fstatus"), "/v2/sandboxes/boxes/{name} name=a/status");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes%2Fa"), "404");
}

TEST(Router, SegmentsAreDecodedOnce) {
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/a%252Fb"), "/v2/sandboxes/boxes/{name} name=a%2Fb");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/a+b%20c"), "/v2/sandboxes/boxes/{name} name=a+b c");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/%C3%A9"), "/v2/sandboxes/boxes/{name} name=\xC3\xA9");
  EXPECT_EQ(found("GET", "/v2/sandboxes/%62oxes"), "/v2/sandboxes/boxes");
}

TEST(Router, ABrokenSegmentIsABadRequest) {
  for (const char* name : {"%zz", "%", "%4", "a%0", "%00", "a%00b", "%FF", "%C3", "%C0%AF", "%ED%A0%80",
                           "%F5%80%80%80", ".", "..", "%2e%2E", "%2e"})
    EXPECT_EQ(found("GET", std::string("/v2/sandboxes/boxes/") + name), "400") << name;
  EXPECT_EQ(found("GET", "/%zz"), "400");
}

TEST(Router, LiteralsGoBeforeNames) {
  EXPECT_EQ(found("POST", "/v2/sandboxes/boxes/batch-delete"), "/v2/sandboxes/boxes/batch-delete");
  EXPECT_EQ(found("POST", "/v2/sandboxes/b1/execute"), "/v2/sandboxes/{sandbox}/execute sandbox=b1");
}

TEST(Router, APatternThatDoesNotAnswerTheMethodGivesWay) {
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/batch-delete"), "/v2/sandboxes/boxes/{name} name=batch-delete");
  EXPECT_EQ(found("POST", "/v2/sandboxes/boxes/execute"), "/v2/sandboxes/{sandbox}/execute sandbox=boxes");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/files/x"),
            "/v2/sandboxes/{sandbox}/files/{file} sandbox=boxes file=x");
}

TEST(Router, HeadIsAnsweredWhereGetIs) {
  EXPECT_EQ(found("HEAD", "/v2/sandboxes/boxes/a"), "/v2/sandboxes/boxes/{name} name=a");
  EXPECT_EQ(found("HEAD", "/v2/sandboxes/b/execute"), "405 POST");
}

TEST(Router, AnotherMethodIsToldWhichOnesThereAre) {
  EXPECT_EQ(found("PUT", "/v2/sandboxes/boxes/a"), "405 DELETE, GET, HEAD");
  EXPECT_EQ(found("PUT", "/v2/sandboxes/boxes/batch-delete"), "405 DELETE, GET, HEAD, POST");
  EXPECT_EQ(found("get", "/v2/sandboxes/boxes"), "405 GET, HEAD, POST");
  EXPECT_EQ(found("OPTIONS", "/ok"), "405 GET, HEAD");
}

TEST(Router, OneSlashAtTheEndDoesNotMatter) {
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes/"), "/v2/sandboxes/boxes");
  EXPECT_EQ(found("GET", "/ok/"), "/ok");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes//"), "404");
}

TEST(Router, ABaseThatEndsWithASlashIsJoinedAnyway) {
  EXPECT_EQ(found("GET", "/v2/sandboxes//boxes/a"), "/v2/sandboxes/boxes/{name} name=a");
  EXPECT_EQ(found("GET", "/v2/sandboxes///boxes/a"), "404");
  EXPECT_EQ(found("GET", "/v2//sandboxes/boxes"), "404");
  EXPECT_EQ(found("GET", "/v2/sandboxes/boxes//status"), "404");
}

TEST(Router, OddPathsMatchNothing) {
  EXPECT_EQ(found("GET", "/"), "/");
  EXPECT_EQ(found("OPTIONS", "*"), "404");
  EXPECT_EQ(found("GET", ""), "404");
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "/a";
  EXPECT_EQ(found("GET", deep), "404");
}

TEST(Router, RoutesThatContradictEachOtherEndTheProgram) {
  const Handler nothing = [](const std::shared_ptr<Call>&) {};
  const Route plain{"GET", "/a", nothing};
  const Route hole{"GET", "/a//b", nothing};
  const Route half{"GET", "/{a", nothing};
  EXPECT_DEATH(Router().mount("", std::vector({plain, plain})), "");
  EXPECT_DEATH(Router().mount("", std::vector({hole})), "");
  EXPECT_DEATH(Router().mount("", std::vector({half})), "");
}

TEST(Query, IsTakenApartAsFormsAre) {
  const auto query = parse_query("/x?label=a%3D1&label=b&empty=&flag&&a+b=c+d%2B");
  ASSERT_TRUE(query);
  EXPECT_EQ(*query, (Fields{{"label", "a=1"}, {"label", "b"}, {"empty", ""}, {"flag", ""}, {"a b", "c d+"}}));
  EXPECT_TRUE(parse_query("/x")->empty());
  EXPECT_TRUE(parse_query("/x?")->empty());
  for (const char* target : {"/x?a=%", "/x?%00", "/x?a=%ff"}) EXPECT_FALSE(parse_query(target)) << target;
}

TEST(Utf8, IsHeldToTheStandard) {
  for (const char* good : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_TRUE(is_utf8(good)) << good;
  for (const char* bad : {"\x80", "\xC1\xBF", "\xC2", "\xC2x", "\xE0\x9F\xBF", "\xE2\x82", "\xED\xA0\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
    EXPECT_FALSE(is_utf8(bad)) << bad;
}

}  // namespace
}  // namespace postern::control
