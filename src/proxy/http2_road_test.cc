// The whole road with HTTP/2 on one side of it or on both.

#include <gtest/gtest.h>

#include "io/fault_plan.h"
#include "proxy/http2_road_harness.h"
#include "proxy/limits.h"

namespace postern::proxy::road {
namespace {

bool says(const std::string& record, std::string_view what) { return record.find(what) != std::string::npos; }

TEST(Http2RoadTest, ACredentialIsPutOnAndEachStreamIsJudged) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen, misdirected;
  sandbox.end.ask(kit::get_request, seen);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  bool found = false;
  for (const auto& [name, value] : kit::copy(asked->request().fields))
    found = found || (name == "authorization" && value == std::string("Bearer ") + canary);
  EXPECT_TRUE(found);
  kit::Pairs elsewhere = kit::get_request;
  elsewhere[2].second = "plain.example.com";
  sandbox.end.ask(elsewhere, misdirected);
  EXPECT_TRUE(world.until([&] { return misdirected.over; }));
  EXPECT_EQ(misdirected.status(), 421);
  EXPECT_FALSE(seen.over) << "the other stream is not disturbed";
  ASSERT_TRUE(kit::send_head(*asked, {{":status", "204"}}, true));
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_EQ(seen.status(), 204);
  EXPECT_EQ(world.finish().size(), 2u);
  EXPECT_TRUE(world.left);
  EXPECT_EQ(sandbox.text.find(canary), std::string::npos);
}

TEST(Http2RoadTest, AClientThatSpeaksNothingButHttp2ReadsWhyItsHostIsDenied) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("evil.example.com", Offer::http2);
  kit::Pairs head = kit::get_request;
  head[2].second = "evil.example.com";
  kit::Seen seen, second;
  sandbox.end.ask(head, seen);
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_EQ(seen.status(), 403);
  EXPECT_TRUE(seen.complete);
  EXPECT_NE(seen.body.find("not_in_allow_list"), std::string::npos) << seen.body;
  sandbox.end.ask(head, second);
  EXPECT_TRUE(world.until([&] { return second.over; }));
  EXPECT_EQ(second.status(), 403) << "and so does the next";
  const auto records = world.finish();
  EXPECT_EQ(records.size(), 2u);
  for (const std::string& one : records) EXPECT_TRUE(says(one, R"("reason":"not_in_allow_list")")) << one;
  EXPECT_TRUE(world.left);
  EXPECT_EQ(world.road->origins(), 0u);
}

// ---- ends

TEST(Http2RoadTest, AResetOfTheSandboxCancelsAtTheOriginAndIsOneRecord) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen;
  const auto stream = sandbox.end.ask(kit::get_request, seen);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  stream->reset(http2::ErrorCode::cancel);
  EXPECT_TRUE(world.until([&] { return asked->closed(); }));
  EXPECT_EQ(asked->peer_reset(), 8u);
  EXPECT_EQ(world.finish().size(), 1u);
  EXPECT_TRUE(world.left);
}

TEST(Http2RoadTest, WhatAnOriginRefusedUnseenIsAskedAgain) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen;
  sandbox.end.ask(kit::get_request, seen);
  const auto first = world.request();
  ASSERT_TRUE(first);
  first->reset(http2::ErrorCode::refused_stream);
  const auto second = world.request(2);
  ASSERT_TRUE(second);
  ASSERT_TRUE(kit::send_head(*second, {{":status", "200"}}, true));
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_EQ(seen.status(), 200);
  EXPECT_EQ(world.finish().size(), 1u);
}

TEST(Http2RoadTest, AnOriginsResetInTheMiddleIsPassedOn) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen;
  const auto stream = sandbox.end.ask(kit::get_request, seen);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  ASSERT_TRUE(kit::send_head(*asked, {{":status", "200"}}, false));
  EXPECT_TRUE(world.until([&] { return seen.status() == 200; }));
  asked->reset(13u);
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_FALSE(seen.complete);
  EXPECT_EQ(stream->peer_reset(), 13u);
  EXPECT_EQ(world.finish().size(), 1u);
}

// RFC 9113 §8.1: an answer that is complete before its request is one; what is still sent is not wanted.
TEST(Http2RoadTest, AnEarlyAnswerIsWholeWhileTheUploadGoesOn) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen;
  const auto stream = sandbox.end.ask(kit::post_request, seen, false);
  const std::string piece(1000, 'x');
  kit::Sending up;
  sandbox.end.send(stream, piece, false, up);
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  ASSERT_TRUE(kit::send_head(*asked, {{":status", "413"}}, false));
  kit::Sending down;
  world.origins[0]->end.send(asked, "no more of it", true, down);
  world.pump();
  asked->reset(http2::ErrorCode::no_error);
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_TRUE(seen.complete);
  EXPECT_EQ(seen.status(), 413);
  EXPECT_EQ(seen.body, "no more of it");
  EXPECT_TRUE(world.until([&] { return asked->closed(); }));

  // Read off for a while, since there are clients that throw an answer away when they are reset behind it.
  EXPECT_FALSE(stream->closed());
  up = {};
  sandbox.end.send(stream, piece, false, up);
  EXPECT_TRUE(world.until([&] { return up.done(); }));
  world.road->clock().advance(limits::linger_idle_time + io::Loop::tick);
  EXPECT_TRUE(world.until([&] { return stream->closed(); }));
  EXPECT_EQ(stream->peer_reset(), 0u) << "NO_ERROR";

  kit::Seen next;
  sandbox.end.ask(kit::get_request, next);
  const auto again = world.request(2);
  ASSERT_TRUE(again);
  ASSERT_TRUE(kit::send_head(*again, {{":status", "204"}}, true));
  EXPECT_TRUE(world.until([&] { return next.over; }));
  EXPECT_EQ(next.status(), 204) << "the connections are in order";
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_TRUE(says(records[0], R"("status":413)") && says(records[0], R"("reason":"allowed")")) << records[0];
  EXPECT_TRUE(world.left);
}

TEST(Http2RoadTest, WhatIsUnderWayFinishesWhileTheLoopDrains) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen first, second, late;
  sandbox.end.ask(kit::get_request, first);
  ASSERT_TRUE(world.request());
  sandbox.end.ask(kit::get_request, second);
  ASSERT_TRUE(world.request(2));
  world.road->worker().drain();
  EXPECT_TRUE(world.until([&] { return sandbox.end.session.capacity() == 0; }));
  EXPECT_EQ(sandbox.goaway(), 0u);
  EXPECT_EQ(sandbox.end.ask(kit::get_request, late), nullptr);
  EXPECT_FALSE(first.over || second.over);

  auto& requests = world.origins[0]->end.requests;
  ASSERT_TRUE(kit::send_head(*requests[0], {{":status", "200"}}, true));
  EXPECT_TRUE(world.until([&] { return first.over; }));
  EXPECT_FALSE(world.road->sandbox().over()) << "the other one is still open";
  kit::Sending down;
  ASSERT_TRUE(kit::send_head(*requests[1], {{":status", "200"}}, false));
  world.origins[0]->end.send(requests[1], "to its end", true, down);
  EXPECT_TRUE(world.until([&] { return second.over && world.road->sandbox().over(); }));
  EXPECT_TRUE(first.complete);
  EXPECT_TRUE(second.complete);
  EXPECT_EQ(second.body, "to its end");
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 2u);
  for (const std::string& one : records) EXPECT_TRUE(says(one, R"("reason":"allowed")")) << one;
  EXPECT_TRUE(world.left);
}

// ---- flow control

constexpr std::size_t held_bytes = 1 * MiB;

/// Asks, and reads no body: the window of 64 KiB is all that comes.
std::shared_ptr<http2::Stream> ask_unread(Http2Peer& sandbox) {
  auto stream = sandbox.end.session.open();
  if (!stream || !kit::send_head(*stream, kit::get_request, true)) return nullptr;
  return stream;
}

TEST(Http2RoadTest, AConnectionThatBreaksWhileItsAnswerIsHeldBackIsOneRecordAndAReset) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  ASSERT_TRUE(ask_unread(sandbox));
  const auto asked = world.request();
  ASSERT_TRUE(asked);
  const std::string body(held_bytes, 'x');
  kit::Sending down;
  ASSERT_TRUE(kit::send_head(*asked, {{":status", "200"}}, false));
  world.origins[0]->end.send(asked, body, true, down);
  world.settle();
  EXPECT_FALSE(down.result) << "it is held back to the origin";
  world.road->sandbox().reset();
  EXPECT_TRUE(world.until([&] { return asked->closed(); }));
  EXPECT_EQ(asked->peer_reset(), 8u);
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_TRUE(says(records[0], R"("reason":"sandbox_closed")")) << records[0];
  EXPECT_TRUE(world.left);
}

TEST(Http2RoadTest, AnOriginThatBreaksWhileAnUploadIsHeldBackIsAnswered) {
  Http2Road world;
  Http2Peer& sandbox = world.connect("api.example.com");
  kit::Seen seen;
  const auto stream = sandbox.end.ask(kit::post_request, seen, false);
  const std::string body(held_bytes, 'x');
  kit::Sending up;
  sandbox.end.send(stream, body, true, up);
  ASSERT_TRUE(world.request());  // It does not read.
  world.settle();
  EXPECT_FALSE(up.result) << "it is held back to the sandbox";
  world.road->origin()->reset();
  EXPECT_TRUE(world.until([&] { return seen.over; }));
  EXPECT_EQ(seen.status(), 502);
  const auto records = world.finish();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_TRUE(says(records[0], R"("reason":"origin_closed")")) << records[0];
  EXPECT_TRUE(world.left);
}

// ---- one story, told again and again: the first system call on a stream fails, then the second, ... (as in
// fault_test.cc)

enum class Version : std::uint8_t { http1, http2 };
struct Versions {
  const char* name;
  Version sandbox, origin;
};
struct Kind {
  const char* name;
  int error_number;
};

/// An upload with trailers, answered by a body with trailers; either end in its own version.
class Story {
 public:
  explicit Story(const Versions& versions)
      : versions_(versions), world(RoadOptions{.origin_http2 = versions.origin == Version::http2}) {}

  /// False when the sandbox is left waiting.
  bool play() {
    if (versions_.sandbox == Version::http2) {
      Http2Peer& sandbox = world.connect("api.example.com");
      const auto stream = sandbox.end.ask(kit::post_request, seen_, false);
      sandbox.end.send(stream, "hello", true, up_, {{"x-sum", "1"}});
    } else {
      world.road->connect("api.example.com", 443, "api.example.com")
          .send(
              "POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
              "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
    }
    const bool told = world.until([&] {
      versions_.origin == Version::http2 ? answer_http2() : answer_http1();
      return over();
    });
    return told;
  }
  bool whole() const {
    return versions_.sandbox == Version::http2
               ? seen_.complete && seen_.body == "world" && seen_.trailers == kit::Pairs{{"x-t", "1"}}
               : text_.find("5\r\nworld\r\n0\r\nx-t: 1\r\n\r\n") != std::string::npos;
  }
  std::string heard() {
    return versions_.sandbox == Version::http2 ? world.sandbox->text : text_ + world.road->sandbox().take();
  }

 private:
  bool over() {
    if (versions_.sandbox == Version::http2) return seen_.over;
    text_ += world.road->sandbox().take();
    return whole() || world.road->sandbox().over();
  }
  void answer_http2() {
    for (auto& origin : world.origins)
      for (const auto& one : origin->end.requests) {
        if (std::ranges::find(answered_, one) != answered_.end() || !one->body_ready()) continue;
        answered_.push_back(one);
        (void)kit::send_head(*one, {{":status", "200"}}, false);
        origin->end.send(one, "world", true, downs_.emplace_back(), {{"x-t", "1"}});
      }
  }
  void answer_http1() {
    Peer* origin = world.road->origin();
    if (!origin || !origin->received().ends_with("0\r\nx-sum: 1\r\n\r\n")) return;
    (void)origin->take();
    origin->send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\nx-t: 1\r\n\r\n");
  }

  const Versions versions_;
  kit::Seen seen_;
  kit::Sending up_;
  std::deque<kit::Sending> downs_;
  std::vector<std::shared_ptr<http2::Stream>> answered_;
  std::string text_;

 public:
  Http2Road world;
};

class Http2Fault : public testing::TestWithParam<std::tuple<Versions, Kind>> {};

TEST_P(Http2Fault, WhateverBreaksThereIsOneRecordAndNoSecret) {
  const auto& [versions, kind] = GetParam();
  bool to_the_end = false;
  std::uint64_t place = 1;
  for (; !to_the_end; ++place) {
    ASSERT_LT(place, 200u) << "the story never gets to its end";
    SCOPED_TRACE("system call " + std::to_string(place));
    io::FaultPlan plan{.fail_at = place, .error_number = kind.error_number};
    Story story(versions);
    io::fault_plan = &plan;
    const bool told = story.play();
    const auto records = story.world.finish();
    const bool fired = plan.fired();
    io::fault_plan = nullptr;
    EXPECT_TRUE(told) << "the sandbox is left waiting";
    EXPECT_TRUE(story.world.left) << "something still runs after everybody has left";
    EXPECT_EQ(story.heard().find(canary), std::string::npos);
    ASSERT_EQ(records.size(), 1u) << testing::PrintToString(records);
    EXPECT_EQ(records[0].find(canary), std::string::npos);
    if (!fired || kind.error_number == io::FaultPlan::short_transfer) {
      EXPECT_TRUE(story.whole()) << records[0];
    }
    to_the_end = !fired;
    if (HasFailure()) return;
  }
  EXPECT_GT(place, 8u) << "the plan was never asked";
}

INSTANTIATE_TEST_SUITE_P(
    All, Http2Fault,
    testing::Combine(testing::Values(Versions{"Http1ToHttp2", Version::http1, Version::http2},
                                     Versions{"Http2ToHttp1", Version::http2, Version::http1},
                                     Versions{"Http2ToHttp2", Version::http2, Version::http2}),
                     testing::Values(Kind{"Reset", ECONNRESET}, Kind{"BrokenPipe", EPIPE},
                                     Kind{"NoBuffers", ENOBUFS},
                                     Kind{"Short", io::FaultPlan::short_transfer})),
    [](const auto& one) { return std::string(std::get<0>(one.param).name) + std::get<1>(one.param).name; });

}  // namespace
}  // namespace postern::proxy::road
