#include "io/loop.h"

#include <algorithm>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <thread>
#include <vector>

namespace postern::io {
namespace {

using namespace std::chrono_literals;

class LoopTest : public testing::Test {
 protected:
  /// Moves the clock and lets the loop see it.
  void pass(Duration time) {
    clock_.advance(time);
    loop_.run_once(0ms);
  }
  ManualClock clock_;
  Loop loop_{clock_};
};

struct Alarm final : Timer {
  explicit Alarm(Loop& loop) : Timer(loop), loop_(loop) {}
  ~Alarm() = default;
  void on_timer() override {
    ++rung;
    at = loop_.now();
    if (then) then();
  }
  Loop& loop_;
  int rung = 0;
  TimePoint at{};
  std::function<void()> then;
};

TEST_F(LoopTest, ATimerNeverRingsEarlyAndAtMostOneTickLate) {
  for (const Duration wait : {Duration(1), Duration(1ms), Duration(15ms), Duration(16ms), Duration(17ms),
                              Duration(1s), Duration(16384ms), Duration(16385ms), Duration(1h)}) {
    Alarm alarm(loop_);
    const TimePoint deadline = loop_.now() + wait;
    alarm.set(deadline);
    pass(wait - Duration(1));
    EXPECT_EQ(alarm.rung, 0) << wait.count();
    pass(Loop::tick + Duration(1));
    EXPECT_EQ(alarm.rung, 1) << wait.count();
    pass(1h);
    EXPECT_EQ(alarm.rung, 1) << "twice";
  }
}

TEST_F(LoopTest, ADeadlineInThePastRingsInTheNextTick) {
  Alarm alarm(loop_);
  alarm.set(loop_.now() - 1h);
  pass(Loop::tick);
  EXPECT_EQ(alarm.rung, 1);
}

TEST_F(LoopTest, AMovedTimerRingsAtItsLastDeadline) {
  Alarm later(loop_), earlier(loop_), cleared(loop_);
  later.set(loop_.now() + 1s);
  later.set(loop_.now() + 30s);  // beyond one turn of the wheel
  earlier.set(loop_.now() + 30s);
  earlier.set(loop_.now() + 1s);
  cleared.set(loop_.now() + 1s);
  cleared.clear();
  pass(1s + Loop::tick);
  EXPECT_EQ(later.rung, 0);
  EXPECT_EQ(earlier.rung, 1);
  EXPECT_EQ(cleared.rung, 0);
  pass(29s - Loop::tick - Duration(1));
  EXPECT_EQ(later.rung, 0);
  pass(Loop::tick + Duration(1));
  EXPECT_EQ(later.rung, 1);
  EXPECT_EQ(earlier.rung, 1);
}

TEST_F(LoopTest, TheWheelTurnsAsOftenAsALongWaitNeeds) {
  Alarm alarm(loop_);
  alarm.set(loop_.now() + 10min);
  for (int step = 0; step < 599; ++step) pass(1s);
  EXPECT_EQ(alarm.rung, 0);
  pass(1s + Loop::tick);
  EXPECT_EQ(alarm.rung, 1);
}

TEST_F(LoopTest, AfterALongSleepEveryTimerThatIsDueRingsOnceAndNoOther) {
  std::mt19937 random(7);
  std::vector<std::unique_ptr<Alarm>> alarms;
  for (int i = 0; i < 5000; ++i) {
    alarms.push_back(std::make_unique<Alarm>(loop_));
    alarms.back()->set(loop_.now() + std::chrono::microseconds(random() % 60'000'000));
  }
  const TimePoint half = loop_.now() + 30s;
  pass(30s);
  for (const auto& alarm : alarms) {
    if (alarm->deadline() + Loop::tick <= half) {
      EXPECT_EQ(alarm->rung, 1);
    }
    if (alarm->deadline() > half) {
      EXPECT_EQ(alarm->rung, 0);
    }
  }
  pass(31s);
  for (const auto& alarm : alarms) EXPECT_EQ(alarm->rung, 1);
}

TEST_F(LoopTest, ThousandsOfMovedTimersAgreeWithASimpleModel) {
  std::mt19937 random(11);
  std::vector<std::unique_ptr<Alarm>> alarms;
  std::vector<std::optional<TimePoint>> model(500);
  for (std::size_t i = 0; i < model.size(); ++i) alarms.push_back(std::make_unique<Alarm>(loop_));
  for (int round = 0; round < 3000; ++round) {
    const std::size_t i = random() % model.size();
    switch (random() % 4) {
      case 0:
        alarms[i]->clear();
        model[i].reset();
        break;
      default: {
        model[i] = loop_.now() + std::chrono::milliseconds(random() % 40'000);
        alarms[i]->set(*model[i]);
      }
    }
    if (round % 3 == 0) {
      for (auto& alarm : alarms) alarm->rung = 0;
      pass(std::chrono::milliseconds(random() % 300));
      for (std::size_t k = 0; k < model.size(); ++k) {
        if (alarms[k]->rung == 0) {
          ASSERT_TRUE(!model[k] || *model[k] + Loop::tick > loop_.now()) << "too late";
          continue;
        }
        ASSERT_TRUE(model[k]) << "was cleared, or rang already";
        ASSERT_LE(*model[k], loop_.now()) << "too early";
        ASSERT_EQ(alarms[k]->rung, 1);
        model[k].reset();
      }
    }
  }
}

TEST_F(LoopTest, ATimerMaySetAndEndItselfAndOthersOfItsSlot) {
  Alarm first(loop_), again(loop_);
  auto victim = std::make_unique<Alarm>(loop_);
  const TimePoint together = loop_.now() + 1s;
  int gone = 0;
  first.then = [&] {
    victim.reset();
    ++gone;
  };
  again.then = [&] {
    if (again.rung < 3) again.set(loop_.now());
  };
  victim->set(together);
  first.set(together);  // in front of the victim in its slot
  again.set(together);
  pass(1s + Loop::tick);
  EXPECT_EQ(gone, 1);
  for (int turn = 0; turn < 3; ++turn) pass(Loop::tick);
  EXPECT_EQ(again.rung, 3);
}

TEST_F(LoopTest, ASleepingTaskWakesAtItsTime) {
  bool awake = false;
  const auto sleeper = [](Loop& loop, TimePoint until, bool& done) -> Task<void> {
    co_await loop.sleep_until(until);
    done = true;
  };
  loop_.spawn(sleeper(loop_, loop_.now() + 5s, awake));
  EXPECT_EQ(loop_.active(), 1u);
  pass(5s - Duration(1));
  EXPECT_FALSE(awake);
  pass(Loop::tick);
  EXPECT_TRUE(awake);
  EXPECT_EQ(loop_.active(), 0u);
}

TEST_F(LoopTest, AbandonEndsWhatStillRuns) {
  struct Witness {
    int& count;
    ~Witness() { ++count; }
  };
  int ended = 0;
  const auto sleeper = [](Loop& loop, int& count) -> Task<void> {
    const Witness witness{count};
    co_await loop.sleep_until(loop.now() + 1h);
  };
  for (int i = 0; i < 3; ++i) loop_.spawn(sleeper(loop_, ended));
  loop_.abandon();
  EXPECT_EQ(ended, 3);
  EXPECT_EQ(loop_.active(), 0u);
  pass(2h);
}

TEST_F(LoopTest, WorkFromOtherThreadsAllRunsOnTheLoopsThreadInEachThreadsOrder) {
  constexpr std::size_t threads = 4;
  static constexpr int each = 2000;
  std::vector<std::vector<int>> seen(threads);
  const auto here = std::this_thread::get_id();
  std::vector<std::thread> posters;
  for (std::size_t t = 0; t < threads; ++t)
    posters.emplace_back([&, t] {
      for (int i = 0; i < each; ++i)
        loop_.post([&, t, i] {
          EXPECT_EQ(std::this_thread::get_id(), here);
          seen[t].push_back(i);
          if (i + 1 == each)
            loop_.post([this, &seen] {
              for (const auto& list : seen)
                if (list.size() < static_cast<std::size_t>(each)) return;
              loop_.stop();
            });
        });
    });
  loop_.run();
  for (auto& poster : posters) poster.join();
  for (const auto& list : seen) {
    ASSERT_EQ(list.size(), static_cast<std::size_t>(each));
    EXPECT_TRUE(std::ranges::is_sorted(list));
  }
}

TEST_F(LoopTest, WorkPostedByWorkRunsInTheNextTurn) {
  int turns = 0;
  loop_.at_turn_end([&] { ++turns; });
  int second = 0;
  loop_.post([&] { loop_.post([&] { second = turns; }); });
  loop_.run_once(0ms);
  EXPECT_EQ(second, 0);
  loop_.run_once(0ms);
  EXPECT_EQ(second, 1);
}

struct Ears final : Pollable {
  std::function<void()> hear;
  int heard = 0;
  void on_ready(std::uint32_t) override {
    ++heard;
    if (hear) hear();
  }
};

TEST_F(LoopTest, OneThatIsRemovedWhileItsEventWaitsIsNotCalled) {
  int a[2], b[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
  const Fd keep[] = {Fd(a[0]), Fd(a[1]), Fd(b[0]), Fd(b[1])};
  Ears one, two;
  ASSERT_TRUE(loop_.add(a[0], one, EPOLLIN));
  ASSERT_TRUE(loop_.add(b[0], two, EPOLLIN));
  one.hear = [&] { loop_.remove(b[0], two); };
  two.hear = [&] { loop_.remove(a[0], one); };
  ASSERT_EQ(::write(a[1], "x", 1), 1);
  ASSERT_EQ(::write(b[1], "x", 1), 1);
  loop_.run_once(0ms);
  loop_.run_once(0ms);
  EXPECT_EQ(one.heard + two.heard, 2) << "one of them is heard in both turns, the other never";
  EXPECT_TRUE(one.heard == 0 || two.heard == 0);
}

// A forked child may hold a descriptor that was closed here: the kernel then goes on reporting it.
TEST_F(LoopTest, WhatIsReportedAfterAClosedDescriptorFindsNobody) {
  struct Counter final : Pollable {
    ~Counter() = default;
    void on_ready(std::uint32_t) override { ++told; }
    int told = 0;
  } before, after;
  int old_pair[2], new_pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, old_pair), 0);
  const Fd peer(old_pair[1]);
  Fd closed(old_pair[0]);
  const int number = closed.get();
  ASSERT_TRUE(loop_.add(number, before));
  const Fd held(::dup(number));
  loop_.forget(number, before);
  closed.reset();
  ASSERT_EQ(::send(peer.get(), "x", 1, 0), 1);
  loop_.run_once(0ms);
  EXPECT_EQ(before.told, 0);
  // The same number for another socket: what is reported of the old one is not for it.
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, new_pair), 0);
  const Fd other(new_pair[1]), reused(new_pair[0]);
  ASSERT_EQ(reused.get(), number);
  ASSERT_TRUE(loop_.add(number, after, EPOLLIN | EPOLLET));
  ASSERT_EQ(::send(peer.get(), "x", 1, 0), 1);
  loop_.run_once(0ms);
  EXPECT_EQ(before.told, 0);
  EXPECT_EQ(after.told, 0);
  ASSERT_EQ(::send(other.get(), "x", 1, 0), 1);
  loop_.run_once(0ms);
  EXPECT_EQ(after.told, 1);
}

TEST_F(LoopTest, WhatEpollDoesNotTakeIsSaid) {
  Ears ears;
  EXPECT_FALSE(loop_.add(-1, ears));
  EXPECT_EQ(errno, EBADF);
}

struct Chore final : Deferred {
  explicit Chore(std::function<void()> work = {}) : then(std::move(work)) {}
  ~Chore() = default;
  void on_turn_end() override {
    ++done;
    if (then) then();
  }
  int done = 0;
  std::function<void()> then;
};

TEST_F(LoopTest, DeferredWorkRunsOnceAtTheEndOfTheTurnInTheOrderInWhichItWasAskedFor) {
  std::vector<int> order;
  Chore first([&] { order.push_back(1); }), second([&] { order.push_back(2); });
  loop_.post([&] {
    loop_.defer(first);
    loop_.defer(second);
    loop_.defer(first);
    order.push_back(0);
  });
  loop_.at_turn_end([&] { order.push_back(3); });
  loop_.run_once(1h);
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
  loop_.run_once(0ms);
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 3}));
}

TEST_F(LoopTest, WhatIsDeferredMeanwhileRunsInTheSameTurn) {
  Chore second;
  Chore first([&] { loop_.defer(second); });
  loop_.defer(first);
  loop_.run_once(1h);  // and does not wait for an hour
  EXPECT_EQ(first.done, 1);
  EXPECT_EQ(second.done, 1);
}

TEST_F(LoopTest, WorkThatDefersItselfStarvesNobody) {
  Chore eager;
  eager.then = [&] { loop_.defer(eager); };
  loop_.defer(eager);
  bool posted = false;
  loop_.post([&] { posted = true; });
  loop_.run_once(1h);
  EXPECT_TRUE(posted);
  const int in_one_turn = eager.done;
  EXPECT_LE(in_one_turn, 8);
  loop_.run_once(1h);  // Does not wait, since there is work.
  EXPECT_EQ(eager.done, 2 * in_one_turn);
}

TEST_F(LoopTest, DeferredWorkThatGoesLeavesTheList) {
  auto gone_before = std::make_unique<Chore>();
  auto gone_meanwhile = std::make_unique<Chore>();
  Chore first([&] { gone_meanwhile.reset(); }), last;
  loop_.defer(first);
  loop_.defer(*gone_before);
  loop_.defer(*gone_meanwhile);
  loop_.defer(last);
  gone_before.reset();
  loop_.run_once(1h);
  EXPECT_EQ(first.done, 1);
  EXPECT_EQ(last.done, 1);
}

TEST_F(LoopTest, DeferredWorkMayDestroyItself) {
  auto work = std::make_unique<Chore>();
  work->then = [&] { work.reset(); };
  loop_.defer(*work);
  loop_.run_once(1h);
  EXPECT_EQ(work, nullptr);
}

TEST(Loop, DeferredWorkMayOutliveTheLoop) {
  const ManualClock clock;
  Chore work;
  {
    Loop loop(clock);
    loop.defer(work);
  }
  EXPECT_FALSE(work.deferred());
  EXPECT_EQ(work.done, 0);
}

/// A socket with a byte in it that nobody reads: always ready, as whoever floods is.
struct Source final : Pollable {
  Source(Loop& owner, Party party, std::uint32_t events = EPOLLIN) : loop(owner) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    own = Fd(ends[0]);
    other = Fd(ends[1]);
    loop.add(own.get(), *this, events, party);
  }
  ~Source() { loop.remove(own.get(), *this); }
  void wake() const { [[maybe_unused]] const auto sent = ::send(other.get(), "x", 1, MSG_NOSIGNAL); }
  void calm() const {
    char bytes[16];
    [[maybe_unused]] const auto got = ::recv(own.get(), bytes, sizeof bytes, 0);
  }
  void on_ready(std::uint32_t) override {
    ++served;
    if (then) then();
  }
  Loop& loop;
  Fd own, other;
  int served = 0;
  std::function<void()> then;
};

/// Work is counted here, never timed: an event of the noisy party moves the clock as far as it is told.
class LoopOfManyTest : public LoopTest {
 protected:
  static constexpr Party noisy = 1, quiet = 2, third = 3;
  /// `count` sources that are always ready. `at_event` sees how many events there were so far.
  void flood(Party party, int count, std::function<void(int)> at_event = {}) {
    for (int i = 0; i < count; ++i) {
      flood_.push_back(std::make_unique<Source>(loop_, party));
      flood_.back()->wake();
      flood_.back()->then = [this, at_event] {
        clock_.advance(cost_);
        ++flooded_;
        if (at_event) at_event(flooded_);
      };
    }
  }
  void turns(int count) {
    for (int i = 0; i < count; ++i) loop_.run_once(0ms);
  }
  Duration cost_ = 100us;
  std::vector<std::unique_ptr<Source>> flood_;
  int flooded_ = 0;
};

TEST_F(LoopOfManyTest, APartyAloneIsServedAsItComes) {
  flood(noisy, 64);
  turns(1);
  EXPECT_EQ(flooded_, 64);
}

TEST_F(LoopOfManyTest, TheLastOfABatchIsAmongTheFirstWhenItIsAnothers) {
  flood(noisy, 64);
  Source light(loop_, quiet);
  int before = -1;
  light.then = [&] {
    light.calm();
    before = flooded_;
  };
  light.wake();
  turns(1);
  EXPECT_GE(before, 0);
  EXPECT_LE(before, 1);
}

TEST_F(LoopOfManyTest, WhatComesInTheMiddleOfAFloodIsServedNext) {
  Source light(loop_, quiet);
  int woken_at = 0;
  std::vector<int> delays;
  light.then = [&] {
    light.calm();
    delays.push_back(flooded_ - woken_at);
  };
  flood(noisy, 64, [&](int count) {
    if (count % 10 != 0) return;
    woken_at = count;
    light.wake();
  });
  turns(300);
  ASSERT_GE(delays.size(), 20u);
  for (const int delay : delays) EXPECT_EQ(delay, 0);
}

TEST_F(LoopOfManyTest, AThousandQuietPartiesHardlyNoticeANoisyOne) {
  std::vector<std::unique_ptr<Source>> sources;
  std::vector<int> woken_at(1000), delays;
  for (std::size_t i = 0; i < 1000; ++i) {
    sources.push_back(std::make_unique<Source>(loop_, 1000 + i));
    sources.back()->then = [&, i] {
      sources[i]->calm();
      delays.push_back(flooded_ - woken_at[i]);
    };
  }
  std::mt19937 random(3);
  flood(noisy, 64, [&](int count) {
    const std::size_t i = random() % sources.size();
    if (sources[i]->served > 0) return;
    woken_at[i] = count;
    sources[i]->wake();
  });
  turns(4000);
  ASSERT_GE(delays.size(), 900u);
  // The very first time the noisy one is not known for it yet.
  EXPECT_LE(std::ranges::count_if(delays, [](int delay) { return delay > 0; }), 1);
  EXPECT_LE(std::ranges::max(delays), 1);
}

TEST_F(LoopOfManyTest, TwoNoisyPartiesGetTheSameWhateverTheirNumbers) {
  flood(noisy, 60);
  Source other(loop_, third);
  other.wake();  // One that is always ready, against sixty.
  other.then = [&] { clock_.advance(cost_); };
  turns(400);
  EXPECT_GT(flooded_, 150);
  EXPECT_NEAR(other.served, flooded_, 5);
}

TEST_F(LoopOfManyTest, WhatIsExpensiveCountsMore) {
  cost_ = 200us;
  flood(noisy, 10);
  std::vector<std::unique_ptr<Source>> cheap;
  int served = 0;
  for (int i = 0; i < 10; ++i) {
    cheap.push_back(std::make_unique<Source>(loop_, third));
    cheap.back()->wake();
    cheap.back()->then = [&] {
      clock_.advance(20us);
      ++served;
    };
  }
  turns(400);
  EXPECT_GT(flooded_, 20);
  EXPECT_NEAR(served, 10 * flooded_, 30);
}

TEST_F(LoopOfManyTest, OneThatGoesWhileItsEventWaitsIsForgotten) {
  flood(noisy, 8);
  flood(third, 1);
  turns(1);
  flood_.erase(flood_.begin() + 1, flood_.end());
  const int before = flooded_;
  turns(5);
  EXPECT_EQ(flooded_, before + 5);
  flood_.clear();
  turns(2);
  EXPECT_EQ(flooded_, before + 5);
}

TEST_F(LoopOfManyTest, AnEventThatWaitsIsNotForTheNextOwnerOfItsDescriptor) {
  const Source other(loop_, third);
  std::vector<std::unique_ptr<Source>> sources;
  for (int i = 0; i < 6; ++i) {
    sources.push_back(std::make_unique<Source>(loop_, noisy, EPOLLIN | EPOLLET));
    sources.back()->then = [this] { clock_.advance(cost_); };
    sources.back()->wake();
  }
  turns(1);
  ASSERT_EQ(sources.back()->served, 0) << "its event has to wait";
  const int number = sources.back()->own.get();
  sources.pop_back();
  const Source next(loop_, noisy, EPOLLIN | EPOLLET);
  ASSERT_EQ(next.own.get(), number);
  turns(5);
  EXPECT_EQ(sources.back()->served, 1);
  EXPECT_EQ(next.served, 0);
}

TEST_F(LoopOfManyTest, EventsThatComeWhileOneWaitsAreServedWithIt) {
  Source edge(loop_, noisy, EPOLLIN | EPOLLET);
  flood(noisy, 16, [&](int) { edge.wake(); });  // Reported anew with every byte.
  flood(third, 1);
  turns(100);
  EXPECT_GT(flooded_, 90);
  EXPECT_LE(edge.served, flooded_ / 8);  // Once a round of the sixteen, and not once a byte.
  EXPECT_GE(edge.served, 2);
}

TEST_F(LoopOfManyTest, WhoAsksForAnotherTurnGetsItAfterOthersAndAtOnce) {
  Source first(loop_, noisy), second(loop_, noisy);
  std::vector<int> order;
  first.then = [&] {
    first.calm();
    order.push_back(1);
    if (order.size() < 4) loop_.again(first.own.get());
  };
  second.then = [&] {
    second.calm();
    order.push_back(2);
  };
  first.wake();
  second.wake();
  loop_.run_once(1h);
  loop_.run_once(1h);  // Does not wait.
  EXPECT_EQ(order, (std::vector<int>{1, 2, 1, 1}));
}

TEST_F(LoopOfManyTest, WhatAPartyDefersIsItsWorkAsAnyOther) {
  Chore chore([this] { clock_.advance(cost_); });
  Source light(loop_, quiet);
  std::vector<int> delays;
  int woken_at = 0;
  light.then = [&] {
    light.calm();
    delays.push_back(chore.done - woken_at);
  };
  flood(noisy, 8, [&](int count) {
    loop_.defer(chore, flood_.front()->own.get());
    loop_.defer(chore, flood_.front()->own.get());
    if (count % 10 != 0) return;
    woken_at = chore.done;
    light.wake();
  });
  turns(200);
  EXPECT_GT(chore.done, 10);
  EXPECT_LE(chore.done, flooded_);
  ASSERT_GE(delays.size(), 5u);
  for (const int delay : delays) EXPECT_EQ(delay, 0);
}

TEST_F(LoopOfManyTest, WorkThatWaitsGoesWithItsDescriptor) {
  Chore chore;
  flood(noisy, 8);
  flood(third, 1);
  turns(1);
  loop_.defer(chore, flood_[3]->own.get());
  flood_.erase(flood_.begin() + 3);
  turns(30);
  EXPECT_EQ(chore.done, 0);
  loop_.defer(chore, flood_.front()->own.get());
  turns(30);
  EXPECT_EQ(chore.done, 1);
}

TEST_F(LoopOfManyTest, OfAPartyAloneWorkRunsAtTheEndOfTheTurn) {
  const Source alone(loop_, noisy);
  Chore chore;
  loop_.defer(chore, alone.own.get());
  EXPECT_TRUE(chore.deferred());
  turns(1);
  EXPECT_EQ(chore.done, 1);
}

TEST_F(LoopOfManyTest, ASliceIsForOneEventAndSmallerWhereOthersWait) {
  Source one(loop_, noisy);
  std::size_t counted = 0;
  one.then = [&] {
    EXPECT_FALSE(loop_.slice_spent());
    for (counted = 0; !loop_.slice_spent(); counted += KiB) loop_.count_slice(KiB);
  };
  one.wake();
  turns(2);
  EXPECT_EQ(counted, 512 * KiB);
  const Source other(loop_, quiet);
  turns(1);
  EXPECT_EQ(counted, 64 * KiB);
}

}  // namespace
}  // namespace postern::io
