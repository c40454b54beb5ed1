#include <gmock/gmock.h>
#include <thread>
#include <vector>

#include "policy/document.h"
#include "quota/gates.h"

namespace postern::quota {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

std::shared_ptr<const policy::Snapshot> compiled(const std::string& yaml) {
  auto document = policy::parse_document(yaml, policy::Format::yaml);
  if (!document) throw std::runtime_error(document.error().front().message);
  return policy::compile(std::move(*document)).value();
}

/// One policy of a sandbox; what it has used goes on in another.
struct Sandbox {
  explicit Sandbox(const std::string& yaml) { put(yaml); }
  void put(const std::string& yaml) {
    snapshots.push_back(compiled(yaml));
    gates = policies.emplace_back(std::make_unique<Gates>(*snapshots.back(), ledger)).get();
  }
  std::expected<Ticket, Refused> admit(std::uint64_t announced = 0, std::uint32_t rule = 0,
                                       std::uint32_t other = policy::no_rule) const {
    return gates->admit(rule, other, announced, clock);
  }
  Day today() const { return day_of(clock.wall()); }

  ManualClock clock;
  Ledger ledger;
  std::vector<std::shared_ptr<const policy::Snapshot>> snapshots;
  std::vector<std::unique_ptr<Gates>> policies;  ///< Each as long as its tickets.
  Gates* gates = nullptr;
};

std::string rule(const std::string& limits, const std::string& name = "llm") {
  return "rules: [{name: " + name + ", match_hosts: [a.example], limits: {" + limits + "}}]";
}

void expect_refused(const std::expected<Ticket, Refused>& answer, Limit limit, seconds retry_after) {
  ASSERT_FALSE(answer);
  EXPECT_EQ(token(answer.error().limit), token(limit));
  EXPECT_EQ(answer.error().retry_after, retry_after);
}

TEST(Quota, AsManyAsInASecondMayComeAtOnceAndThenOneAfterTheOther) {
  Sandbox sandbox(rule("requests_per_second: 5"));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(sandbox.admit()) << i;
  expect_refused(sandbox.admit(), Limit::requests_per_second, seconds(1));
  sandbox.clock.advance(milliseconds(199));
  EXPECT_FALSE(sandbox.admit());
  sandbox.clock.advance(milliseconds(1));
  EXPECT_TRUE(sandbox.admit()) << "what was refused has cost nothing";
  EXPECT_FALSE(sandbox.admit());
  sandbox.clock.advance(hours(1));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(sandbox.admit()) << "nothing is saved up beyond a second: " << i;
  EXPECT_FALSE(sandbox.admit());
}

TEST(Quota, ARateThatDividesNoSecondIsKeptToo) {
  Sandbox sandbox(rule("requests_per_second: 7"));
  int let_through = 0;
  for (int i = 0; i < 10'000; ++i) {
    if (sandbox.admit()) ++let_through;
    sandbox.clock.advance(milliseconds(1));
  }
  EXPECT_GE(let_through, 7 + 69);
  EXPECT_LE(let_through, 7 + 70);
}

TEST(Quota, PlacesAreHeldUntilTheTicketGoes) {
  Sandbox sandbox(rule("concurrent_requests: 2"));
  auto first = sandbox.admit();
  auto second = sandbox.admit();
  ASSERT_TRUE(first && second);
  expect_refused(sandbox.admit(), Limit::concurrent_requests, seconds(1));
  Ticket moved = std::move(*first);
  EXPECT_FALSE(sandbox.admit()) << "moving is not leaving";
  moved.leave();
  moved.leave();
  auto third = sandbox.admit();
  EXPECT_TRUE(third);
  EXPECT_FALSE(sandbox.admit()) << "left once, whatever is called twice";
  *second = Ticket();
  EXPECT_TRUE(sandbox.admit());
}

TEST(Quota, ADayEndsAtMidnightOfUtc) {
  Sandbox sandbox(rule("requests_per_day: 2"));
  sandbox.clock.advance(hours(23) + milliseconds(1));
  EXPECT_TRUE(sandbox.admit());
  EXPECT_TRUE(sandbox.admit());
  expect_refused(sandbox.admit(), Limit::requests_per_day, seconds(3600));
  sandbox.clock.advance(hours(1) - milliseconds(2));
  expect_refused(sandbox.admit(), Limit::requests_per_day, seconds(1));
  sandbox.clock.advance(milliseconds(1));
  EXPECT_TRUE(sandbox.admit());
}

TEST(Quota, AClockThatIsSetBackOverMidnightBeginsNoNewDay) {
  Sandbox sandbox(rule("requests_per_day: 1"));
  EXPECT_TRUE(sandbox.admit());
  sandbox.clock.set_wall(sandbox.clock.wall() - milliseconds(1));
  EXPECT_FALSE(sandbox.admit());
  sandbox.clock.set_wall(sandbox.clock.wall() - days(400));
  EXPECT_TRUE(sandbox.admit()) << "a date that was wrong by years does not close the sandbox for years";
}

TEST(Quota, BytesThatAreAnnouncedAreRefusedAtOnceAndOthersWhenTheyCome) {
  Sandbox sandbox(rule("request_bytes_per_day: 100"));
  expect_refused(sandbox.admit(101), Limit::request_bytes_per_day, seconds(24 * 3600));
  auto announced = sandbox.admit(60);
  ASSERT_TRUE(announced);
  EXPECT_FALSE(sandbox.admit(41)) << "what was announced is taken";
  auto chunked = sandbox.admit();
  ASSERT_TRUE(chunked);
  EXPECT_TRUE(chunked->pass(40));
  const auto cut = chunked->pass(1);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().detail(), "request_bytes_per_day of the rule 'llm' (100)");
  EXPECT_TRUE(announced->pass(60)) << "it was promised";
  EXPECT_FALSE(announced->pass(1));
}

TEST(Quota, AnnouncedBytesThatDoNotComeAreGivenBackButNotOnAnotherDay) {
  Sandbox sandbox(rule("request_bytes_per_day: 100"));
  {
    auto ticket = sandbox.admit(80);
    ASSERT_TRUE(ticket && ticket->pass(30));
  }
  EXPECT_THAT(sandbox.ledger.used(sandbox.today()),
              ElementsAre(DayUse{.rule = "llm", .requests = 1, .request_bytes = 30}));
  {
    auto held = sandbox.admit(70);
    ASSERT_TRUE(held);
    sandbox.clock.advance(days(1));
    auto next = sandbox.admit(100);
    ASSERT_TRUE(next && next->pass(100));
    held->leave();
    EXPECT_FALSE(sandbox.admit(1)) << "what was taken yesterday is not given back today";
  }
}

TEST(Quota, TokensAreCountedAfterwardsAndStopTheNext) {
  Sandbox sandbox(rule("tokens_per_day: 1000"));
  auto ticket = sandbox.admit();
  ASSERT_TRUE(ticket);
  EXPECT_TRUE(ticket->limits_tokens());
  ticket->spend(999);
  EXPECT_TRUE(ticket->tokens_left());
  EXPECT_TRUE(sandbox.admit());
  ticket->spend(5'000);
  EXPECT_FALSE(ticket->tokens_left());
  expect_refused(sandbox.admit(), Limit::tokens_per_day, seconds(24 * 3600));
  sandbox.clock.advance(days(1));
  EXPECT_TRUE(sandbox.admit());
}

TEST(Quota, WhatIsNotLimitedIsNotCounted) {
  Sandbox sandbox("rules: [{name: free, match_hosts: [a.example]}]");
  EXPECT_FALSE(sandbox.gates->any());
  auto ticket = sandbox.admit();
  ASSERT_TRUE(ticket);
  EXPECT_FALSE(*ticket);
  EXPECT_TRUE(ticket->pass(1'000'000));
  EXPECT_THAT(sandbox.ledger.used(sandbox.today()), IsEmpty());
}

constexpr const char* both = R"(
limits: {requests_per_day: 3, concurrent_requests: 2}
rules:
  - {name: one, match_hosts: [a.example], limits: {requests_per_day: 2, requests_per_second: 10}}
  - {name: two, match_hosts: [b.example], limits: {requests_per_day: 5}}
  - {name: free, match_hosts: [c.example]}
)";

TEST(Quota, WhatIsRefusedConsumesNothingOfTheOtherLimits) {
  Sandbox sandbox(both);
  EXPECT_TRUE(sandbox.admit(0, 0));
  EXPECT_TRUE(sandbox.admit(0, 0));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(sandbox.admit(0, 0));
  EXPECT_TRUE(sandbox.admit(0, 1)) << "refusals of the one rule were not counted for the sandbox";
  const auto answer = sandbox.admit(0, 1);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().detail(), "requests_per_day of the sandbox (3)");
  EXPECT_FALSE(sandbox.admit(0, 2)) << "the sandbox's own, whatever the rule";
  EXPECT_FALSE(sandbox.admit(0, policy::no_rule));
  EXPECT_THAT(sandbox.ledger.used(sandbox.today()),
              ElementsAre(DayUse{.rule = "", .requests = 3}, DayUse{.rule = "one", .requests = 2},
                          DayUse{.rule = "two", .requests = 1}));
}

TEST(Quota, ARuleThatGivesTheCredentialsCountsTooAndOnce) {
  Sandbox sandbox(both);
  EXPECT_TRUE(sandbox.admit(0, 0, 1));
  EXPECT_TRUE(sandbox.admit(0, 0, 0));
  EXPECT_THAT(sandbox.ledger.used(sandbox.today()),
              ElementsAre(DayUse{.rule = "", .requests = 2}, DayUse{.rule = "one", .requests = 2},
                          DayUse{.rule = "two", .requests = 1}));
  EXPECT_FALSE(sandbox.admit(0, 1, 0));
}

TEST(Quota, TheLimitThatLastsLongestIsNamed) {
  Sandbox sandbox(rule("requests_per_second: 1, concurrent_requests: 1, requests_per_day: 1"));
  const auto held = sandbox.admit();
  ASSERT_TRUE(held);
  expect_refused(sandbox.admit(), Limit::requests_per_day, seconds(24 * 3600));
}

TEST(Quota, CountsGoOnUnderAnotherPolicy) {
  Sandbox sandbox(rule("requests_per_day: 10"));
  auto held = sandbox.admit();
  ASSERT_TRUE(held);
  sandbox.put("{rules: [{name: other, match_hosts: [b.example]}]}");
  EXPECT_TRUE(sandbox.admit());
  sandbox.put(rule("requests_per_day: 2, concurrent_requests: 2"));
  const auto second = sandbox.admit();
  EXPECT_TRUE(second) << "the first one still holds its place";
  EXPECT_FALSE(sandbox.admit());
  sandbox.put(rule("requests_per_day: 2", "another"));
  EXPECT_TRUE(sandbox.admit()) << "another rule has its own";
}

TEST(Quota, CountsAreRestored) {
  Sandbox sandbox(rule("requests_per_day: 2"));
  EXPECT_TRUE(sandbox.admit());
  const auto used = sandbox.ledger.used(sandbox.today());

  Sandbox again("{}");
  again.ledger.restore(again.today(), used);
  again.put(rule("requests_per_day: 2"));
  EXPECT_TRUE(again.admit());
  EXPECT_FALSE(again.admit());

  Sandbox tomorrow("{}");
  tomorrow.ledger.restore(tomorrow.today() - days(1), used);
  tomorrow.put(rule("requests_per_day: 1"));
  EXPECT_TRUE(tomorrow.admit());
}

TEST(Quota, NamesThatNobodyHasAreForgottenWhenTheirDayIsOver) {
  Sandbox sandbox(rule("requests_per_day: 2"));
  EXPECT_TRUE(sandbox.admit());
  const std::weak_ptr<Counter> counter = sandbox.ledger.counter("llm");
  sandbox.put("{}");
  sandbox.policies.erase(sandbox.policies.begin());
  sandbox.ledger.tidy(sandbox.today());
  EXPECT_FALSE(counter.expired());
  sandbox.clock.advance(days(1));
  sandbox.ledger.tidy(sandbox.today());
  EXPECT_TRUE(counter.expired());
}

TEST(Quota, ThreadsTogetherGetExactlyWhatThereIs) {
  Sandbox sandbox(rule("requests_per_day: 10000, concurrent_requests: 3, request_bytes_per_day: 25000"));
  std::atomic<int> let_through = 0, inside = 0, most_inside = 0;
  std::atomic<std::uint64_t> bytes = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 20'000; ++i) {
          auto ticket = sandbox.admit(2);
          if (!ticket) continue;
          const int now = ++inside;
          for (int seen = most_inside; seen < now && !most_inside.compare_exchange_weak(seen, now);) {
          }
          ++let_through;
          bytes += ticket->pass(2) ? 2 : 0;
          bytes += ticket->pass(1) ? 1 : 0;
          --inside;
        }
      });
  }
  EXPECT_LE(most_inside, 3);
  EXPECT_LE(let_through, 10'000);
  EXPECT_LE(bytes, 25'000u);
  EXPECT_GE(bytes, 24'998u) << "all but what no whole request fits into";
  EXPECT_THAT(sandbox.ledger.used(sandbox.today()),
              ElementsAre(DayUse{.rule = "llm",
                                 .requests = static_cast<std::uint64_t>(let_through.load()),
                                 .request_bytes = bytes}));
  EXPECT_TRUE(Gates(*compiled(rule("concurrent_requests: 1")), sandbox.ledger)
                  .admit(0, policy::no_rule, 0, sandbox.clock))
      << "all have left";
}

TEST(Quota, ThreadsTogetherKeepTheRate) {
  Sandbox sandbox(rule("requests_per_second: 100"));
  std::atomic<int> let_through = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < 5'000; ++i) let_through += sandbox.admit() ? 1 : 0;
      });
  }
  EXPECT_EQ(let_through, 100);
}

}  // namespace
}  // namespace postern::quota
