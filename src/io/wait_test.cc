#include "io/wait.h"

#include <gtest/gtest.h>
#include <memory>
#include <optional>

namespace postern::io {
namespace {

using namespace std::chrono_literals;

class WaitTest : public testing::Test {
 protected:
  ~WaitTest() override { loop_.abandon(); }

  static Task<void> wait_once(Wait& wait, TimePoint deadline, std::optional<Wait::Outcome>& out) {
    out = co_await wait.until(deadline);
  }
  void turn() {
    for (int i = 0; i < 3; ++i) loop_.run_once(Duration::zero());
  }

  ManualClock clock_;
  Loop loop_{clock_};
};

TEST_F(WaitTest, WhoWaitsIsToldThatSomethingChanged) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> out;
  loop_.spawn(wait_once(wait, loop_.now() + 1s, out));
  EXPECT_TRUE(wait.waiting());
  EXPECT_FALSE(out);
  wait.notify();
  EXPECT_EQ(out, Wait::Outcome::changed);
  EXPECT_FALSE(wait.waiting());
}

TEST_F(WaitTest, NothingIsRemembered) {
  Wait wait(loop_);
  wait.notify();
  wait.cancel();
  std::optional<Wait::Outcome> out;
  loop_.spawn(wait_once(wait, loop_.now() + 1s, out));
  EXPECT_FALSE(out);
}

TEST_F(WaitTest, ItEndsAtItsDeadlineAndNotBefore) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> out;
  loop_.spawn(wait_once(wait, loop_.now() + 1s, out));
  clock_.advance(1s - 1ms);
  turn();
  EXPECT_FALSE(out);
  clock_.advance(1ms + Loop::tick);
  turn();
  EXPECT_EQ(out, Wait::Outcome::expired);
}

TEST_F(WaitTest, ADeadlineThatHasPassedIsStillWaitedForOnce) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> out;
  loop_.spawn(wait_once(wait, loop_.now() - 1s, out));
  clock_.advance(Loop::tick);
  turn();
  EXPECT_EQ(out, Wait::Outcome::expired);
}

TEST_F(WaitTest, WithoutADeadlineItWaitsForEver) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> out;
  loop_.spawn(wait_once(wait, TimePoint::max(), out));
  clock_.advance(std::chrono::hours(24 * 30));
  turn();
  EXPECT_FALSE(out);
  wait.cancel();
  EXPECT_EQ(out, Wait::Outcome::cancelled);
}

TEST_F(WaitTest, TheTimerOfAnEarlierWaitDoesNotEndALaterOne) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> first, second;
  loop_.spawn(wait_once(wait, loop_.now() + 1s, first));
  wait.notify();
  loop_.spawn(wait_once(wait, loop_.now() + 10s, second));
  clock_.advance(2s);
  turn();
  EXPECT_FALSE(second);
  clock_.advance(8s + Loop::tick);
  turn();
  EXPECT_EQ(second, Wait::Outcome::expired);
}

Task<void> wait_and_destroy(std::unique_ptr<Wait>& wait, TimePoint deadline, bool& done) {
  (void)co_await wait->until(deadline);
  wait.reset();
  done = true;
}

TEST_F(WaitTest, WhoIsResumedMayDestroyIt) {
  for (const bool expires : {false, true}) {
    auto wait = std::make_unique<Wait>(loop_);
    bool done = false;
    loop_.spawn(wait_and_destroy(wait, loop_.now() + 1s, done));
    if (expires) {
      clock_.advance(1s + Loop::tick);
      turn();
    } else {
      wait->notify();
    }
    EXPECT_TRUE(done);
    EXPECT_FALSE(wait);
  }
}

TEST_F(WaitTest, AWaiterThatIsDestroyedIsNotResumed) {
  Wait wait(loop_);
  std::optional<Wait::Outcome> out;
  {
    const Child child(wait_once(wait, loop_.now() + 1s, out));
    EXPECT_TRUE(wait.waiting());
  }
  EXPECT_FALSE(wait.waiting());
  wait.notify();
  clock_.advance(2s);
  turn();
  EXPECT_FALSE(out);
}

}  // namespace
}  // namespace postern::io
