#include "credential/grants.h"

#include <atomic>
#include <functional>
#include <gtest/gtest.h>
#include <set>
#include <thread>

#include "credential/caller.h"

namespace postern::credential {
namespace {

/// A source that answers when it is told to.
class FakeSource final : public Source {
 public:
  explicit FakeSource(bool cached) : cached_(cached) {}
  const std::string& label() const override { return label_; }
  Reason reason() const override { return Reason::callback_failed; }
  bool cached() const override { return cached_; }
  bool per_destination() const override { return true; }
  io::Task<Result<Grant>> ask(Caller& caller, const Subject&, const ShownRequest*,
                              TimePoint deadline) const override;

  mutable std::atomic<int> asked = 0;
  mutable std::atomic<int> asking = 0, asking_most = 0;
  std::atomic<bool> answering = true;
  std::atomic<bool> failing = false;

 private:
  const std::string label_ = "fake";
  const bool cached_;
};

/// Only the loop of it is used.
class LoopCaller final : public Caller {
 public:
  explicit LoopCaller(const Clock& clock) : clock_(clock), loop_(clock) {}
  io::Task<Result<CallAnswer>> call(const Call&) override { co_return fail(Reason::internal, "not here"); }
  io::Loop& loop() override { return loop_; }
  const Clock& clock() override { return clock_; }

 private:
  const Clock& clock_;
  io::Loop loop_;
};

io::Task<Result<Grant>> FakeSource::ask(Caller& caller, const Subject&, const ShownRequest*,
                                        TimePoint deadline) const {
  ++asked;
  asked.notify_all();
  const int now = ++asking;
  for (int most = asking_most; now > most && !asking_most.compare_exchange_weak(most, now);) continue;
  const TimePoint begun = caller.clock().now();
  while (!answering && caller.clock().now() < deadline)
    co_await caller.loop().sleep_until(caller.loop().now() + std::chrono::milliseconds(20));
  --asking;
  if (failing || !answering) co_return fail(Reason::callback_failed, "as told", Side::origin);
  Grant grant;
  auto header = make_header("X-Number", label_, std::to_string(asked));
  grant.headers.push_back(std::move(*header));
  if (cached_) grant.expire_after(std::chrono::seconds(60), begun, caller.clock());
  co_return grant;
}

struct Desk {
  explicit Desk(bool cached = true) {
    std::vector<std::unique_ptr<const Source>> sources;
    sources.push_back(std::make_unique<FakeSource>(cached));
    grants = std::make_shared<Grants>(std::move(sources));
  }
  FakeSource& source() {
    return const_cast<FakeSource&>(static_cast<const FakeSource&>(grants->of_callback(0)));
  }
  std::shared_ptr<Grants> grants;
};

Subject subject(const std::string& host = "api.example.com") {
  const auto name = std::make_shared<const std::string>("x");
  return {name, name, Host{host, std::nullopt}, 443};
}

struct Tally {
  std::atomic<int> granted = 0, failed = 0;
};

io::Task<void> want(Caller& caller, std::shared_ptr<Grants> grants, std::string host, Tally& tally) {
  const Subject whom = subject(host);
  auto grant = co_await grants->obtain(caller, grants->of_callback(0), whom, nullptr);
  if (grant)
    ++tally.granted;
  else
    ++tally.failed;
  tally.granted.notify_all();
}

void turn_until(io::Loop& loop, const std::function<bool()>& done) {
  for (int turns = 0; turns < 100'000 && !done(); ++turns) loop.run_once(std::chrono::milliseconds(1));
  EXPECT_TRUE(done());
}

TEST(Grants, TenThousandMissesAskOnce) {
  SystemClock clock;
  LoopCaller caller(clock);
  Desk desk;
  desk.source().answering = false;
  Tally tally;
  for (int i = 0; i < 10'000; ++i) caller.loop().spawn(want(caller, desk.grants, "a", tally));
  caller.loop().run_once({});
  EXPECT_EQ(desk.source().asked, 1);
  desk.source().answering = true;
  turn_until(caller.loop(), [&] { return caller.loop().active() == 0; });
  EXPECT_EQ(tally.granted, 10'000);
  EXPECT_EQ(desk.source().asked, 1);
}

TEST(Grants, AFailureIsToldToAllWhoWaitAndToNobodyAfterThem) {
  SystemClock clock;
  LoopCaller caller(clock);
  Desk desk;
  desk.source().failing = true;
  Tally tally;
  for (int i = 0; i < 10; ++i) caller.loop().spawn(want(caller, desk.grants, "a", tally));
  turn_until(caller.loop(), [&] { return caller.loop().active() == 0; });
  EXPECT_EQ(tally.failed, 10);
  EXPECT_EQ(desk.source().asked, 1);
  desk.source().failing = false;
  caller.loop().spawn(want(caller, desk.grants, "a", tally));
  turn_until(caller.loop(), [&] { return caller.loop().active() == 0; });
  EXPECT_EQ(tally.granted, 1);
}

TEST(Grants, WhatIsNotCachedWaitsInLineAndIsAskedForEveryTime) {
  SystemClock clock;
  LoopCaller caller(clock);
  Desk desk(false);
  desk.source().answering = false;
  Tally tally;
  constexpr int many = 100;
  for (int i = 0; i < many; ++i) caller.loop().spawn(want(caller, desk.grants, "a", tally));
  caller.loop().run_once({});
  EXPECT_EQ(desk.source().asked, static_cast<int>(Grants::asking_max));
  desk.source().answering = true;
  turn_until(caller.loop(), [&] { return caller.loop().active() == 0; });
  EXPECT_EQ(tally.granted, many);
  EXPECT_EQ(desk.source().asked, many);
  EXPECT_EQ(desk.source().asking_most, static_cast<int>(Grants::asking_max));
}

TEST(Grants, WhoGaveUpPassesItsPlaceOn) {
  ManualClock clock;
  LoopCaller caller(clock);
  Desk desk(false);
  desk.source().answering = false;
  Tally tally;
  for (std::size_t i = 0; i < Grants::asking_max; ++i)
    caller.loop().spawn(want(caller, desk.grants, "a", tally));
  caller.loop().run_once({});
  clock.advance(std::chrono::seconds(5));
  for (int i = 0; i < 50; ++i) caller.loop().spawn(want(caller, desk.grants, "a", tally));
  for (int i = 0; i < 11; ++i) {  // The first ones give up after ten seconds, then those in line.
    clock.advance(std::chrono::seconds(1));
    for (int turns = 0; turns < 5; ++turns) caller.loop().run_once({});
  }
  EXPECT_EQ(tally.failed, static_cast<int>(Grants::asking_max) + 50);
  desk.source().answering = true;
  for (std::size_t i = 0; i < Grants::asking_max + 5; ++i)
    caller.loop().spawn(want(caller, desk.grants, "a", tally));
  for (int turns = 0; turns < 100 && caller.loop().active() > 0; ++turns) {
    clock.advance(std::chrono::milliseconds(20));
    caller.loop().run_once({});
  }
  EXPECT_EQ(tally.granted, static_cast<int>(Grants::asking_max) + 5) << "every place is there again";
}

TEST(Grants, HostsBeyondTheLimitPushOutOthers) {
  ManualClock clock;
  LoopCaller caller(clock);
  Desk desk;
  Tally tally;
  const int many = static_cast<int>(Grants::entries_max) + 100;
  for (int i = 0; i < many; ++i) {
    caller.loop().spawn(want(caller, desk.grants, "h" + std::to_string(i), tally));
    for (int turns = 0; turns < 10 && tally.granted <= i; ++turns) caller.loop().run_once({});
  }
  EXPECT_EQ(tally.granted, many);
}

TEST(Grants, LoopsShareAQuestion) {
  SystemClock clock;
  Desk desk;
  desk.source().answering = false;
  Tally tally;
  constexpr int each = 500;
  struct Lane {
    explicit Lane(const Clock& clock) : caller(clock) {}
    LoopCaller caller;
    std::thread thread;
  };
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < 3; ++i) lanes.push_back(std::make_unique<Lane>(clock));
  for (auto& lane : lanes) {
    lane->thread = std::thread([&, &caller = lane->caller] {
      for (int i = 0; i < each; ++i) caller.loop().spawn(want(caller, desk.grants, "a", tally));
      caller.loop().run();
    });
  }
  desk.source().asked.wait(0);
  desk.source().answering = true;
  for (int granted = 0; granted < 3 * each; granted = tally.granted) tally.granted.wait(granted);
  for (auto& lane : lanes) lane->caller.loop().stop();
  for (auto& lane : lanes) lane->thread.join();
  EXPECT_EQ(tally.granted, 3 * each);
  EXPECT_EQ(desk.source().asked, 1);
  for (auto& lane : lanes) lane->caller.loop().abandon();
}

TEST(LoopGrants, KeepWhatIsOfThisVersionAndStillGood) {
  ManualClock clock;
  LoopCaller caller(clock);
  Desk first, second;
  auto grant = std::make_shared<Grant>();
  grant->expire_after(std::chrono::seconds(60), clock.now(), clock);
  LoopGrants kept;
  const Host host{"api.example.com", std::nullopt};
  const Source& source = first.grants->of_callback(0);
  EXPECT_FALSE(kept.find(*first.grants, source, host, 443, clock));
  kept.keep(*first.grants, source, host, 443, grant);
  EXPECT_EQ(kept.find(*first.grants, source, host, 443, clock), grant);
  EXPECT_FALSE(kept.find(*first.grants, source, host, 444, clock));
  EXPECT_FALSE(kept.find(*first.grants, source, Host{"b.example.com", std::nullopt}, 443, clock));
  EXPECT_FALSE(kept.find(*second.grants, source, host, 443, clock)) << "another policy";
  clock.advance(std::chrono::seconds(60));
  EXPECT_FALSE(kept.find(*first.grants, source, host, 443, clock));
}

TEST(Grant, IsRefreshedAheadAndNotByEverybodyAtOnce) {
  ManualClock clock;
  std::set<TimePoint> times;
  for (int i = 0; i < 64; ++i) {
    Grant grant;
    grant.expire_after(std::chrono::seconds(3600), clock.now(), clock);
    EXPECT_GE(grant.refresh_after, clock.now() + std::chrono::seconds(2700));
    EXPECT_LT(grant.refresh_after, clock.now() + std::chrono::seconds(3150));
    times.insert(grant.refresh_after);
  }
  EXPECT_GT(times.size(), 16u);
}

}  // namespace
}  // namespace postern::credential
