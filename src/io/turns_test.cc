#include "io/turns.h"

#include <deque>
#include <gtest/gtest.h>
#include <map>

namespace postern::io {
namespace {

using namespace std::chrono_literals;

/// Parties whose events take a known time. Nothing here looks at a clock.
class TurnsTest : public testing::Test {
 protected:
  void add(Party party) { turns_.add(party, party, now_); }
  /// Serves the next event; whose it was. `used`: what it took.
  Party serve(Duration used = 20us) {
    const Turns::Next next = turns_.take();
    turns_.charge(used);
    now_ += used;
    light_ = next.light;
    return next.token;
  }
  /// Used up what it may save.
  void make_busy(Party party) {
    add(party);
    ASSERT_EQ(serve(10ms), party);
  }

  Turns turns_;
  TimePoint now_{1h};
  bool light_ = false;
};

TEST_F(TurnsTest, WhoAsksForLittleGoesBeforeAllThatIsBusy) {
  make_busy(1);
  for (int i = 0; i < 100; ++i) add(1);
  EXPECT_EQ(serve(), 1u);
  add(2);  // Behind 99 others.
  EXPECT_EQ(serve(), 2u);
  EXPECT_TRUE(light_);
  EXPECT_EQ(serve(), 1u);
  EXPECT_FALSE(light_);
}

TEST_F(TurnsTest, ANewPartyMayUseAQuantumBeforeItIsBusy) {
  for (int i = 0; i < 100; ++i) add(1);
  add(2);
  int before = 0;
  while (serve(20us) == 1) ++before;
  EXPECT_EQ(before, 3);  // 60 µs: one event is never cut
}

TEST_F(TurnsTest, TheBusyGetTheSameTimeWhateverTheirEventsTake) {
  std::map<Party, Duration> used;
  const std::map<Party, Duration> cost{{1, 10us}, {2, 400us}, {3, 60us}};
  for (const auto& [party, each] : cost)
    for (int i = 0; i < 50; ++i) add(party);
  for (int i = 0; i < 2000; ++i) {
    const Turns::Next next = turns_.take();
    const Duration took = cost.at(next.token);
    turns_.charge(took);
    now_ += took;
    used[next.token] += took;
    add(next.token);  // As much waits for each as before.
  }
  for (const auto& [party, time] : used) EXPECT_NEAR(time / 1us, used[1] / 1us, 500) << party;
}

TEST_F(TurnsTest, AnEventCountsSomethingThoughTheClockStandsStill) {
  for (int i = 0; i < 100; ++i) add(1);
  add(2);
  int before = 0;
  while (serve(0us) == 1) ++before;
  EXPECT_EQ(before, Turns::quantum / Turns::event_cost);
}

TEST_F(TurnsTest, CreditIsEarnedByTimeAndNotByComingBack) {
  make_busy(1);
  make_busy(2);
  for (int i = 0; i < 10; ++i) {  // One at a time, never two that wait: expensive all the same.
    add(1);
    add(2);
    EXPECT_EQ(serve(500us) + serve(500us), 3u);
    EXPECT_FALSE(light_);
  }
  now_ += Turns::earned_share * 600us;  // A debt of one event and a little more.
  add(2);
  add(1);
  serve(20us);
  EXPECT_TRUE(light_);
}

TEST_F(TurnsTest, WhatWasGivenByTurnsCannotBeSaved) {
  make_busy(1);
  add(1);
  serve(10us);  // Of a quantum of 50.
  add(1);
  serve(10us);
  EXPECT_FALSE(light_);
}

TEST_F(TurnsTest, ManyLightPartiesDoNotStopABusyOne) {
  make_busy(1);
  for (int i = 0; i < 10; ++i) add(1);
  int light = 0, busy = 0;
  for (Party party = 2; party < 2002; ++party) add(party);
  for (int i = 0; i < 650; ++i) ++(serve() == 1 ? busy : light);
  EXPECT_EQ(busy, 10);
  EXPECT_EQ(light, 640);
}

TEST_F(TurnsTest, EventsOfOnePartyKeepTheirOrder) {
  std::deque<std::uint64_t> expected;
  for (std::uint64_t token = 0; token < 5000; ++token) {
    turns_.add(7, token, now_);
    expected.push_back(token);
    if (token % 3 == 0) continue;
    EXPECT_EQ(turns_.take().token, expected.front());
    turns_.charge(20us);
    expected.pop_front();
  }
  while (!turns_.empty()) {
    EXPECT_EQ(turns_.take().token, expected.front());
    turns_.charge(20us);
    expected.pop_front();
  }
  EXPECT_TRUE(expected.empty());
}

TEST_F(TurnsTest, WhoseCreditIsFullIsForgotten) {
  for (Party party = 1; party <= 10'000; ++party) {
    add(party);
    serve(20us);
    now_ += 1ms;
  }
  EXPECT_LT(turns_.parties(), 200u);
}

TEST_F(TurnsTest, WhoIsInDebtIsRemembered) {
  for (Party party = 1; party <= 1000; ++party) {
    add(party);
    serve(1s);
  }
  add(1000);
  serve();
  EXPECT_FALSE(light_);
  EXPECT_LT(turns_.parties(), 100u);  // Eight seconds each.
}

}  // namespace
}  // namespace postern::io
