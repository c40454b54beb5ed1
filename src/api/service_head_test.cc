#include "api/service_head.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "wire/http1.h"

namespace postern::api {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr std::string_view id = "0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b";

ServicePlace place() { return {std::string(id), 3000}; }
ServiceWay by_path() { return {place(), "/a?b", "https", false, {}}; }
ServiceWay by_host() { return {place(), "/a?b", "https", true, {}}; }

control::Request asked(std::string method, control::Fields fields) {
  control::Request request;
  request.method = std::move(method);
  request.target = "/services/x";
  request.host = "sandboxes.example:8443";
  request.fields = std::move(fields);
  return request;
}

control::Fields answered(std::string_view bytes, const ServiceWay& way) {
  static std::vector<HeaderField> storage;
  ResponseHead head;
  const auto parsed = wire::parse_response_head(bytes, "GET", storage, head);
  EXPECT_TRUE(parsed.has_value());
  return answer_of_box(head, way).fields;
}
std::vector<std::string> values(const control::Fields& fields, std::string_view name) {
  std::vector<std::string> out;
  for (const control::Field& field : fields)
    if (wire::same_name(field.name, name)) out.push_back(field.value);
  return out;
}

TEST(ServiceHead, AHostNamesItsBoxAndItsPort) {
  const auto found = [](std::string_view host) { return service_of_host(host, "services.example"); };
  const std::string good = host_of_service(place(), "services.example");
  EXPECT_EQ(good, std::string("3000--") + std::string(id) + ".services.example");
  EXPECT_EQ(found(good), place());
  EXPECT_EQ(found(good + ":8443"), place());
  EXPECT_EQ(found(good + "."), place()) << "the same host to whoever resolves it";
  for (const std::string bad : {"services.example", "x.services.example", "3000--x.services.example",
                                "127.0.0.1", "", "3000--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.evil.example",
                                "3000--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.x.services.example",
                                "0--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.services.example",
                                "03000--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.services.example",
                                "65536--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.services.example",
                                "--0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b.services.example"})
    EXPECT_FALSE(found(bad)) << bad;
}

TEST(ServiceHead, APathNamesThemToo) {
  const std::string prefix = path_of_service(place());
  EXPECT_EQ(prefix, "/services/" + std::string(id) + "/3000");
  const auto rest = [&](std::string_view behind) {
    const auto found = service_of_target(prefix + std::string(behind));
    return found && found->place == place() ? found->rest : "none";
  };
  EXPECT_EQ(rest(""), "/");
  EXPECT_EQ(rest("/"), "/");
  EXPECT_EQ(rest("?a=1"), "/?a=1");
  EXPECT_EQ(rest("//a/../%2e%2e/?a=/b"), "//a/../%2e%2e/?a=/b") << "byte for byte";
  EXPECT_EQ(rest("0/"), "none");
  for (const std::string_view bad :
       {"/services/", "/services/one/3000/", "/services/../../3000/", "/service/"})
    EXPECT_FALSE(service_of_target(bad)) << bad;
}

TEST(ServiceHead, ABoxIsToldNoKeyNoTokenAndNothingInOurName) {
  const auto head = head_for_box(asked("GET", {{"Host", "sandboxes.example:8443"},
                                               {"X-Langsmith-Sandbox-Service-Token", "t0ken"},
                                               {"x_langsmith_sandbox_service_token", "t0ken"},
                                               {"X-Api-Key", "k3y"},
                                               {"X-Service-Key", "k3y"},
                                               {"X-Langsmith-User-Id", "somebody"},
                                               {"X_Langsmith_User_Email", "somebody"},
                                               {"X-Forwarded-For", "10.0.0.1"},
                                               {"Forwarded", "for=10.0.0.1"},
                                               {"Expect", "100-continue"},
                                               {"Connection", "X-Mine, close"},
                                               {"X-Mine", "hop"},
                                               {"Proxy-Authorization", "hop"},
                                               {"TE", "trailers"},
                                               {"Upgrade", "h2c"},
                                               {"Cookie", "a=1; postern-service=t0ken; b=2"},
                                               {"Cookie", "__Host-postern-service=t0ken"},
                                               {"Authorization", "Bearer of-the-service"},
                                               {"Accept", "*/*"}}),
                                 by_path());
  EXPECT_EQ(*head,
            "GET /a?b HTTP/1.1\r\nHost: sandboxes.example:8443\r\nCookie: a=1; b=2\r\n"
            "Authorization: Bearer of-the-service\r\nAccept: */*\r\n"
            "X-Forwarded-Host: sandboxes.example:8443\r\nX-Forwarded-Proto: https\r\n"
            "X-Forwarded-Prefix: /services/0b6cbe8b-5a3f-4e2b-9f3d-1c2d3e4f5a6b/3000\r\n"
            "Connection: close\r\n\r\n");
  const std::string key = "Bearer postern_0123456789abcdef_" + std::string(43, 'A');
  EXPECT_THAT(*head_for_box(asked("GET", {{"Authorization", key}}), by_host()),
              AllOf(Not(HasSubstr("postern_")), Not(HasSubstr("Prefix"))));
}

TEST(ServiceHead, ARequestIsFramedOnceByUs) {
  control::Request sized = asked("POST", {{"Content-Length", "5"}});
  sized.has_body = true;
  sized.body_size = 5;
  EXPECT_THAT(*head_for_box(sized, by_host()), HasSubstr("\r\nContent-Length: 5\r\nConnection: close\r\n"));
  control::Request chunked = asked("POST", {{"Transfer-Encoding", "chunked"}});
  chunked.has_body = true;
  EXPECT_THAT(*head_for_box(chunked, by_host()),
              AllOf(HasSubstr("Transfer-Encoding: chunked\r\n"), Not(HasSubstr("Content-Length"))));
  EXPECT_THAT(*head_for_box(asked("POST", {}), by_host()), HasSubstr("Content-Length: 0\r\n"));
  control::Request upgrade = asked("GET", {{"Connection", "Upgrade"}, {"Upgrade", "websocket"}});
  upgrade.wants_websocket = true;
  EXPECT_THAT(*head_for_box(upgrade, by_host()),
              HasSubstr("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"));
  EXPECT_FALSE(head_for_box(asked("GET", {{"A", "b\r\nEvil: 1"}}), by_host()));
}

TEST(ServiceHead, ABoxSpeaksForItselfAlone) {
  const auto fields = answered(
      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: x\r\nAlt-Svc: h2=\":1\"\r\nStrict-Transport-Security: "
      "max-age=1\r\nClear-Site-Data: \"*\"\r\nNEL: {}\r\nService-Worker-Allowed: "
      "/\r\nX-Content-Type-Options: "
      "x\r\nConnection: X-Mine\r\nX-Mine: hop\r\nKeep-Alive: 1\r\nContent-Type: text/html\r\n"
      "Content-Security-Policy: default-src *\r\nLocation: /next\r\n\r\n",
      by_path());
  ASSERT_EQ(fields.size(), 4u);
  EXPECT_THAT(values(fields, "Content-Type"), ElementsAre("text/html"));
  EXPECT_THAT(values(fields, "Location"), ElementsAre(path_of_service(place()) + "/next"));
  EXPECT_THAT(values(fields, "Content-Security-Policy"),
              ElementsAre("default-src *", AllOf(StartsWith("sandbox "), Not(HasSubstr("same-origin")))));
}

TEST(ServiceHead, ItsOwnHostIsItsOrigin) {
  ServiceWay way = by_host();
  const char* const head = "HTTP/1.1 302 Found\r\nLocation: /next\r\nSet-Cookie: a=1\r\n\r\n";
  EXPECT_THAT(values(answered(head, way), "Location"), ElementsAre("/next"));
  EXPECT_THAT(values(answered(head, way), "Content-Security-Policy"), ElementsAre("frame-ancestors 'self'"));
  way.embed_origins = {"https://a.example", "https://b.example:1"};
  EXPECT_THAT(values(answered(head, way), "Content-Security-Policy"),
              ElementsAre("frame-ancestors 'self' https://a.example https://b.example:1"));
  EXPECT_THAT(
      values(answered("HTTP/1.1 302 Found\r\nLocation: //evil.example/\r\n\r\n", by_path()), "Location"),
      ElementsAre("//evil.example/"));
}

TEST(ServiceHead, CookiesStayWhereTheyWereSet) {
  const auto cookie = [](std::string_view text, const ServiceWay& way) {
    return values(answered(fmt::format("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\n\r\n", text), way),
                  "Set-Cookie");
  };
  const std::string below = path_of_service(place());
  EXPECT_THAT(cookie("a=1; Domain=example; Secure; PATH=/x; HttpOnly", by_path()),
              ElementsAre("a=1; Secure; HttpOnly; Path=" + below + "/x"));
  EXPECT_THAT(cookie("a=1;domain=.services.example;path=/x", by_host()), ElementsAre("a=1; Path=/x"));
  EXPECT_THAT(cookie("a=1", by_path()), ElementsAre("a=1; Path=" + below + "/"));
  EXPECT_THAT(cookie("a=1; Path=x; Path=/y", by_path()), ElementsAre("a=1; Path=" + below + "/y"));
  EXPECT_THAT(cookie("a=1", by_host()), ElementsAre("a=1"));
  EXPECT_THAT(cookie("postern-service=x; Path=/", by_host()), IsEmpty());
  EXPECT_THAT(cookie(" __HOST-postern-service =x", by_host()), IsEmpty());
}

TEST(ServiceHead, SessionsAreFoundAmongOtherCookies) {
  const auto request =
      asked("GET", {{"Cookie", "a=1; postern-service=one"}, {"cookie", "postern-service=two"}});
  EXPECT_THAT(session_cookies(request, service_cookie), ElementsAre("one", "two"));
  EXPECT_THAT(session_cookies(request, service_host_cookie), IsEmpty());
}

}  // namespace
}  // namespace postern::api
