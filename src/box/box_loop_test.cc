#include "box/box_loop.h"

#include <condition_variable>
#include <mutex>
#include <sys/syscall.h>

#include "box/test_kit.h"

namespace postern::box {
namespace {

using State = Command::State;

/// What happened on the loop, waited for.
class Flag {
 public:
  void raise() {
    const std::lock_guard lock(mutex_);
    ++raised_;
    changed_.notify_all();
  }
  bool wait(int times = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return raised_ >= times; });
  }
  int raised() {
    const std::lock_guard lock(mutex_);
    return raised_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int raised_ = 0;
};

struct Agent {
  Pair pair;
  pid_t process;
  Fd exit;
  Agent() : process(start_agent(pair.theirs)) {
    pair.theirs.reset();
    exit = Fd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
    EXPECT_TRUE(exit);
  }
  ~Agent() {
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
  }
};

struct Visitor final : Guest, Command::Viewer {
  explicit Visitor(Flag& at_end) : told(at_end) {}
  void changed() override { ++changes; }
  void on_box_end() override {
    if (command) {
      state = command->state();
      command->detach(*this);
    }
    told.raise();
  }
  Flag& told;
  Command* command = nullptr;
  State state = State::starting;
  int changes = 0;
};

struct Boxes : testing::Test {
  SystemClock clock;
  std::optional<BoxLoop> loop{clock};

  BoxDefaults defaults() {
    BoxDefaults out;
    out.environment = {"PATH=/usr/bin:/bin"};
    out.home = "/";
    return out;
  }
  void open(const std::string& id, Agent& agent, std::move_only_function<void()> on_end = [] {}) {
    loop->open(id, std::move(agent.pair.ours), std::move(agent.exit), defaults(), std::move(on_end));
  }
  /// On the loop, waited for.
  void with(const std::string& id, std::function<void(OpenBox*)> then) {
    Flag done;
    loop->with(id, [&](OpenBox* box) {
      then(box);
      done.raise();
    });
    ASSERT_TRUE(done.wait());
  }
  std::shared_ptr<Visitor> visit(const std::string& id, const std::string& script, Flag& told) {
    auto visitor = std::make_shared<Visitor>(told);
    with(id, [&](OpenBox* box) {
      ASSERT_NE(box, nullptr);
      visitor->enter(*box);
      visitor->command = box->commands.get_or_start("it", shell(script));
      visitor->command->attach(*visitor, 0, 0);
    });
    return visitor;
  }
};

TEST_F(Boxes, ARunningBoxIsFoundAndAnotherIsNot) {
  Agent agent;
  open("a", agent);
  with("a", [](OpenBox* box) { EXPECT_NE(box, nullptr); });
  with("b", [](OpenBox* box) { EXPECT_EQ(box, nullptr); });
  loop->close("a");
  loop->close("a");
  with("a", [](OpenBox* box) { EXPECT_EQ(box, nullptr); });
}

TEST_F(Boxes, ClosingLosesCommandsTellsGuestsAndIsNoEndByItself) {
  Agent agent;
  Flag told, ended;
  open("a", agent, [&] { ended.raise(); });
  const auto visitor = visit("a", "sleep 1000", told);
  loop->close("a");
  EXPECT_EQ(told.raised(), 1);  // by then
  EXPECT_EQ(visitor->state, State::lost);
  EXPECT_EQ(visitor->box(), nullptr);
  loop.reset();
  EXPECT_EQ(ended.raised(), 0);
}

TEST_F(Boxes, ABoxThatDiesIsGoneWhenItsOwnerHearsOfIt) {
  Agent agent;
  Flag told, ended;
  int guests_told = 0;
  open("a", agent, [&] {
    guests_told = told.raised();
    ended.raise();
  });
  const auto visitor = visit("a", "sleep 1000", told);
  ::kill(agent.process, SIGKILL);
  ASSERT_TRUE(ended.wait());
  EXPECT_EQ(guests_told, 1);
  EXPECT_EQ(visitor->state, State::lost);
  with("a", [](OpenBox* box) { EXPECT_EQ(box, nullptr); });
}

TEST_F(Boxes, AnAgentThatLiesEndsItsBoxOnlyAlthoughTheSandboxRunsOn) {
  Agent honest, other;
  Pair liar;
  Flag ended;
  open("honest", honest);
  loop->open("liar", std::move(liar.ours), std::move(other.exit), defaults(), [&] { ended.raise(); });
  with("liar", [](OpenBox* box) { EXPECT_NE(box, nullptr); });
  ASSERT_EQ(::write(liar.theirs.get(), std::string(64, '\xff').data(), 64), 64);
  ASSERT_TRUE(ended.wait());
  with("liar", [](OpenBox* box) { EXPECT_EQ(box, nullptr); });
  with("honest", [](OpenBox* box) { EXPECT_NE(box, nullptr); });
}

TEST_F(Boxes, AnAgentThatIsNotThereIsAnEndToo) {
  Flag ended;
  loop->open("a", Fd(), Fd(), defaults(), [&] { ended.raise(); });
  EXPECT_TRUE(ended.wait());
}

TEST_F(Boxes, TheEndOfTheLoopIsThatOfAllBoxes) {
  Agent first, second;
  Flag told;
  open("a", first);
  open("b", second);
  const auto one = visit("a", "sleep 1000", told);
  const auto two = visit("b", "sleep 1000", told);
  loop.reset();
  EXPECT_EQ(told.raised(), 2);
  EXPECT_EQ(one->box(), nullptr);
}

TEST_F(Boxes, AGuestWhoLeftHearsNothing) {
  Agent agent;
  Flag told;
  open("a", agent);
  auto visitor = visit("a", "sleep 1000", told);
  with("a", [&](OpenBox*) {
    visitor->command->detach(*visitor);
    visitor->leave();
    visitor->leave();
  });
  const std::weak_ptr<Visitor> left = visitor;
  visitor.reset();
  with("a", [](OpenBox*) {});
  with("a", [&](OpenBox*) { EXPECT_TRUE(left.expired()); });
  loop->close("a");
  EXPECT_EQ(told.raised(), 0);
}

TEST_F(Boxes, AnUnusedOneIsIdleAndOneWithAGuestIsNot) {
  Agent agent;
  Flag told, idle;
  BoxDefaults of = defaults();
  of.idle_ttl = std::chrono::milliseconds(50);
  of.on_idle = [&] { idle.raise(); };
  loop->open("a", std::move(agent.pair.ours), std::move(agent.exit), std::move(of), [] {});
  EXPECT_TRUE(idle.wait(2));
  auto visitor = visit("a", "sleep 1000", told);
  const int before = idle.raised();
  // Two turns of the clock later, judged by the loop's own timer.
  struct Alarm final : io::Timer {
    Alarm(io::Loop& on, Flag& told_in) : Timer(on), rings(told_in) {}
    ~Alarm() = default;
    void on_timer() override { rings.raise(); }
    Flag& rings;
  };
  Flag later;
  std::optional<Alarm> alarm;
  with("a", [&](OpenBox* box) {
    alarm.emplace(box->loop, later).set(box->loop.now() + std::chrono::milliseconds(200));
  });
  ASSERT_TRUE(later.wait());
  EXPECT_EQ(idle.raised(), before);
  with("a", [&](OpenBox*) {
    visitor->leave();
    alarm.reset();
  });
  EXPECT_TRUE(idle.wait(before + 1));
  loop->set_idle_ttl("a", Duration::zero());
  with("a", [&](OpenBox* box) {
    visitor->command->detach(*visitor);
    EXPECT_NE(box, nullptr);
  });
}

TEST_F(Boxes, OneThatIsOpenedAgainTakesThePlaceOfTheOld) {
  Agent first, second;
  Flag told, ended;
  open("a", first, [&] { ended.raise(); });
  const auto visitor = visit("a", "sleep 1000", told);
  open("a", second);
  EXPECT_TRUE(told.wait());
  with("a", [](OpenBox* box) { EXPECT_NE(box->commands.get_or_start("it", shell("true")), nullptr); });
  EXPECT_EQ(ended.raised(), 0);
}

TEST_F(Boxes, ManyThreadsOpenUseAndClose) {
  std::vector<std::unique_ptr<Agent>> agents;
  for (int i = 0; i < 4; ++i) agents.push_back(std::make_unique<Agent>());
  std::vector<std::jthread> threads;
  Flag used;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      const std::string id = std::to_string(i);
      open(id, *agents[i]);
      for (int n = 0; n < 50; ++n)
        loop->with(std::to_string((i + n) % 4), [&used, n](OpenBox* box) {
          if (box) box->commands.get_or_start(std::to_string(n), shell("echo hello"));
          used.raise();
        });
      loop->close(id);
    });
  threads.clear();
  EXPECT_TRUE(used.wait(200));
}

}  // namespace
}  // namespace postern::box
