// One story, told again and again: the first system call on a stream fails, then the second, and so on until
// the story gets to its end. Whatever breaks: exactly one record, no secret toward the sandbox, no hang, and
// (with the address sanitizer) no leak.

#include <gtest/gtest.h>

#include "io/fault_plan.h"
#include "proxy/road_harness.h"

namespace postern::proxy::road {
namespace {

struct Story {
  const char* name;
  std::string policy{default_policy};
  const char* host = "api.example.com";
  std::uint16_t port = 443;
  bool origin_tls = true;
  const char* request = nullptr;
  const char* answer = nullptr;
  const char* expected = nullptr;  ///< Toward the end of what the sandbox reads when nothing fails.
};

const Story stories[] = {
    {.name = "InjectedUpload",
     .request = "POST /v1/files HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
                "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
     .answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
     .expected = "world\r\n0\r\n\r\n"},
    {.name = "PlainUntilClose",
     .host = "plain.example.com",
     .port = 80,
     .origin_tls = false,
     .request = "PUT / HTTP/1.1\r\nHost: plain.example.com\r\nContent-Length: 4\r\n\r\nbody",
     .answer = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
     .expected = "yes"},
    {.name = "RawTcp",
     .host = "db.example.com",
     .port = 5432,
     .origin_tls = false,
     .request = "query",
     .answer = "rows",
     .expected = "rows"},
    {.name = "DeniedOverTls",
     .host = "evil.example.com",
     .request = "GET / HTTP/1.1\r\nHost: evil.example.com\r\n\r\n",
     .answer = "",
     .expected = "not_in_allow_list"},
};

struct Kind {
  const char* name;
  int error_number;
};
const Kind kinds[] = {{"Reset", ECONNRESET}, {"BrokenPipe", EPIPE}, {"Short", io::FaultPlan::short_transfer}};

class Fault : public testing::TestWithParam<std::tuple<Story, Kind>> {};

/// Plays the story. The sandbox's text.
std::string play(const Story& story, Road& road) {
  Peer& sandbox = road.connect(story.host, story.port, story.port == 443 ? story.host : "");
  sandbox.send(story.request);
  bool answered = false;
  std::string origin_text, sandbox_text;
  road.wait_until(
      [&] {
        sandbox_text += sandbox.take();
        if (Peer* origin = road.origin()) {
          origin_text += origin->take();
          const bool whole = story.port == 443
                                 ? origin_text.find("0\r\nX-Sum: 1\r\n\r\n") != std::string::npos
                                 : origin_text.ends_with("body") || origin_text.ends_with("query");
          if (whole && !answered) {
            origin->send(story.answer);
            answered = true;
          }
          // A broken origin connection may be replaced by another.
          if (origin->over()) return true;
        }
        return sandbox.over() || sandbox_text.find(story.expected) != std::string::npos;
      },
      std::chrono::seconds(2));
  road.settle();
  return sandbox_text + sandbox.take();
}

TEST_P(Fault, WhateverBreaksThereIsOneRecordAndNoSecret) {
  const auto& [story, kind] = GetParam();
  bool to_the_end = false;
  std::uint64_t place = 1;
  for (; !to_the_end; ++place) {
    ASSERT_LT(place, 200u) << "the story never gets to its end";
    SCOPED_TRACE("system call " + std::to_string(place));
    RoadOptions options;
    options.policy = story.policy;
    options.origin_tls = story.origin_tls;
    io::FaultPlan plan{.fail_at = place, .error_number = kind.error_number};
    Road road(options);
    io::fault_plan = &plan;
    const std::string text = play(story, road);
    const bool left = road.leave();
    const bool fired = plan.fired();
    const auto records = road.records();
    io::fault_plan = nullptr;
    EXPECT_TRUE(left) << "something still runs after everybody has left";
    EXPECT_EQ(text.find(canary), std::string::npos);
    ASSERT_EQ(records.size(), 1u) << text << testing::PrintToString(records);
    EXPECT_EQ(records[0].find(canary), std::string::npos);
    if (!fired || kind.error_number == io::FaultPlan::short_transfer) {
      EXPECT_NE(text.find(story.expected), std::string::npos) << text << records[0];
    }
    to_the_end = !fired;
    if (HasFailure()) return;
  }
  EXPECT_GT(place, 4u) << "the plan was never asked";
}

INSTANTIATE_TEST_SUITE_P(All, Fault, testing::Combine(testing::ValuesIn(stories), testing::ValuesIn(kinds)),
                         [](const auto& one) {
                           return std::string(std::get<0>(one.param).name) + std::get<1>(one.param).name;
                         });

}  // namespace
}  // namespace postern::proxy::road
