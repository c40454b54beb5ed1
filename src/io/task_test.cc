#include "io/task.h"

#include <gtest/gtest.h>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "io/loop.h"

namespace postern::io {
namespace {

using namespace std::chrono_literals;

class TaskTest : public testing::Test {
 protected:
  ManualClock clock_;
  Loop loop_{clock_};
};

Task<Result<int>> give(Result<int> what) { co_return what; }

Task<Result<std::string>> describe(Result<int> what, bool& went_on) {
  const int number = co_await co_await give(std::move(what));
  went_on = true;
  co_return std::to_string(number);
}

Task<void> keep(Task<Result<std::string>> task, std::optional<Result<std::string>>& into) {
  into.emplace(co_await std::move(task));
}

TEST_F(TaskTest, AwaitingAResultGivesItsValue) {
  std::optional<Result<std::string>> out;
  bool went_on = false;
  loop_.spawn(keep(describe(42, went_on), out));
  ASSERT_TRUE(out && *out);
  EXPECT_EQ(**out, "42");
  EXPECT_TRUE(went_on);
}

TEST_F(TaskTest, AwaitingAnErrorFinishesTheTaskWithIt) {
  std::optional<Result<std::string>> out;
  bool went_on = false;
  const std::string detail(100, 'd');
  loop_.spawn(keep(
      describe(fail(Reason::origin_closed, detail, Side::origin, Retry::fresh_connection), went_on), out));
  ASSERT_TRUE(out && !*out);
  EXPECT_FALSE(went_on);
  EXPECT_EQ(out->error().reason, Reason::origin_closed);
  EXPECT_EQ(out->error().side, Side::origin);
  EXPECT_EQ(out->error().retry, Retry::fresh_connection);
  EXPECT_EQ(out->error().detail, detail);
  EXPECT_EQ(loop_.active(), 0u);
}

TEST_F(TaskTest, AnErrorAfterAWaitResumesTheOwnerToo) {
  Event gate;
  std::optional<Result<std::string>> out;
  const auto late = [](Event& wait) -> Task<Result<std::string>> {
    co_await wait.wait();
    co_await Result<void>(fail(Reason::cancelled, "late"));
    co_return "never";
  };
  loop_.spawn(keep(late(gate), out));
  EXPECT_FALSE(out);
  gate.set();
  ASSERT_TRUE(out && !*out);
  EXPECT_EQ(out->error().detail, "late");
}

Task<int> one() { co_return 1; }

// One level of nesting per iteration would be some 100 MB of stack.
TEST_F(TaskTest, AMillionTasksThatNeverWaitDoNotGrowTheStack) {
  long sum = 0;
  const auto many = [](long& total) -> Task<void> {
    for (int i = 0; i < 1'000'000; ++i) total += co_await one();
  };
  loop_.spawn(many(sum));
  EXPECT_EQ(sum, 1'000'000);
}

TEST_F(TaskTest, AMillionResultsThatFailAtOnceDoNotGrowTheStack) {
  int failures = 0;
  const auto many = [](int& count) -> Task<void> {
    for (int i = 0; i < 1'000'000; ++i) {
      bool went_on = false;
      auto result = co_await describe(fail(Reason::cancelled, {}), went_on);
      count += result ? 0 : 1;
    }
  };
  loop_.spawn(many(failures));
  EXPECT_EQ(failures, 1'000'000);
}

struct Witness {
  std::vector<int>& order;
  int number;
  ~Witness() { order.push_back(number); }
};

TEST_F(TaskTest, DestroyingATaskDestroysTheChainBelowIt) {
  std::vector<int> order;
  Event never;
  const auto inner = [](Event& gate, std::vector<int>& list) -> Task<void> {
    const Witness witness{list, 2};
    co_await gate.wait();
  };
  const auto outer = [&inner](Event& gate, std::vector<int>& list) -> Task<void> {
    const Witness witness{list, 1};
    co_await inner(gate, list);
  };
  loop_.spawn(outer(never, order));
  loop_.abandon();
  EXPECT_EQ(order, (std::vector<int>{2, 1}));
}

TEST_F(TaskTest, ATaskThatIsNeverAwaitedNeverRuns) {
  bool ran = false;
  {
    const auto lazy = [](bool& flag) -> Task<void> {
      flag = true;
      co_return;
    };
    const Task<void> task = lazy(ran);
  }
  EXPECT_FALSE(ran);
}

Task<void> wait_for(Event& gate, int& step) {
  step = 1;
  co_await gate.wait();
  step = 2;
}

TEST_F(TaskTest, AChildRunsAtOnceAndIsJoined) {
  Event gate;
  int step = 0;
  bool joined = false;
  const auto owner = [](Event& wait, int& at, bool& done) -> Task<void> {
    Child child(wait_for(wait, at));
    EXPECT_EQ(at, 1);
    EXPECT_FALSE(child.finished());
    co_await child.join();
    EXPECT_TRUE(child.finished());
    done = true;
  };
  loop_.spawn(owner(gate, step, joined));
  EXPECT_FALSE(joined);
  gate.set();
  EXPECT_EQ(step, 2);
  EXPECT_TRUE(joined);
  EXPECT_EQ(loop_.active(), 0u);
}

TEST_F(TaskTest, AChildThatHasFinishedIsJoinedWithoutAWait) {
  bool joined = false;
  const auto owner = [](bool& done) -> Task<void> {
    Event open;
    open.set();
    int step = 0;
    Child child(wait_for(open, step));
    EXPECT_TRUE(child.finished());
    co_await child.join();
    done = true;
  };
  loop_.spawn(owner(joined));
  EXPECT_TRUE(joined);
}

TEST_F(TaskTest, AChildGoesWithItsOwner) {
  Event never;
  int step = 0;
  const auto owner = [](Event& wait, int& at) -> Task<void> {
    Child child(wait_for(wait, at));
    co_await child.join();
  };
  loop_.spawn(owner(never, step));
  loop_.abandon();
  EXPECT_EQ(step, 1);
}

TEST_F(TaskTest, AnEventThatWasSetBeforeIsRememberedUntilItIsReset) {
  Event event;
  event.set();
  int step = 0;
  loop_.spawn(wait_for(event, step));
  EXPECT_EQ(step, 2);
  event.reset();
  loop_.spawn(wait_for(event, step));
  EXPECT_EQ(step, 1);
  event.set();
  EXPECT_EQ(step, 2);
}

}  // namespace
}  // namespace postern::io
