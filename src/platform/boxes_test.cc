#include "platform/boxes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <latch>
#include <set>
#include <thread>

#include "store/sqlite_store.h"
#include "store/store_test_kit.h"

namespace postern::platform {
namespace {

using store::Status;
using testing::HasSubstr;
using testing::Not;
using testing::UnorderedElementsAre;

/// Boxes that are only remembered.
class FakeRunner final : public Runner {
 public:
  Result<void> start(Start start) override {
    const std::lock_guard lock(mutex_);
    ++starts;
    if (running.contains(start.id)) ADD_FAILURE() << "started twice";
    if (refuses) return std::unexpected(*refuses);
    const std::string id = start.id;
    egress[id] = start.egress;
    running.insert_or_assign(id, std::move(start));
    return {};
  }
  void stop(const std::string& id) override {
    if (before_stop) before_stop();
    const std::lock_guard lock(mutex_);
    running.erase(id);
  }
  Result<void> erase(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    erased.insert(id);
    return {};
  }
  bool has_files(const std::string& id) const override { return !lost.contains(id); }
  void swap(const std::string& id, std::shared_ptr<const proxy::Egress> next) override {
    const std::lock_guard lock(mutex_);
    egress[id] = std::move(next);
  }
  void set_environment(const std::string& id, std::vector<std::string> environment, std::string) override {
    const std::lock_guard lock(mutex_);
    running.at(id).environment = std::move(environment);
  }
  void set_idle_ttl(const std::string& id, Duration ttl) override {
    const std::lock_guard lock(mutex_);
    running.at(id).idle_ttl = ttl;
  }
  Result<void> set_limits(const std::string& id, const box::Limits& limits) override {
    const std::lock_guard lock(mutex_);
    if (limits.memory_bytes < memory_in_use) return fail(Reason::overloaded, "it uses more memory");
    running.at(id).limits = limits;
    return {};
  }

  std::map<std::string, Start> running;
  std::map<std::string, std::shared_ptr<const proxy::Egress>> egress;
  std::set<std::string> erased, lost;
  std::optional<Error> refuses;
  int starts = 0;
  std::uint64_t memory_in_use = 0;
  std::function<void()> before_stop;

 private:
  std::mutex mutex_;
};

policy::Node tree(const std::string& json) {
  auto read = policy::read_tree(json, policy::Format::json);
  if (!read) throw std::runtime_error("no JSON");
  return std::move(*read);
}

constexpr const char* with_secret = R"({"rules": [{"name": "api", "match_hosts": ["api.example.com"],
  "headers": [{"name": "Authorization", "type": "workspace_secret", "value": "Bearer {TOKEN}"}]}]})";
constexpr const char* with_opaque = R"({"rules": [{"name": "api", "match_hosts": ["api.example.com"],
  "headers": [{"name": "X-Key", "type": "opaque", "value": "canary-opaque"}]}]})";
constexpr const char* opaque_left_out = R"({"rules": [{"name": "api", "match_hosts": ["api.example.com"],
  "match_paths": ["/v1/*"], "headers": [{"name": "X-Key", "type": "opaque"}]}]})";

class BoxesTest : public testing::Test {
 protected:
  BoxesTest() : store_(store::value(store::SqliteStore::open(directory_.path(), store::key(1), clock_))) {
    mine_ = store::value(store_->workspaces().create("mine")).id;
    other_ = store::value(store_->workspaces().create("other")).id;
    begin();
  }
  void begin() { boxes_ = std::make_unique<Boxes>(*store_, policies_, runner_, clock_); }

  Answer<store::Resource> create(const std::string& name, const char* policy = nullptr,
                                 BoxSettings settings = {}) {
    NewBox box;
    box.name = name;
    box.settings = std::move(settings);
    policy::Node node;
    if (policy) {
      node = tree(policy);
      box.proxy_config = &node;
    }
    return boxes_->create(mine_, box);
  }
  store::Resource made(const std::string& name, const char* policy = nullptr, BoxSettings settings = {}) {
    auto box = create(name, policy, std::move(settings));
    if (!box) throw std::runtime_error(box.error().body);
    return std::move(*box);
  }
  Answer<store::Resource> set_policy(const std::string& name, const char* policy) {
    const auto node = tree(policy);
    BoxUpdate update;
    update.proxy_config = &node;
    return boxes_->update(mine_, name, update);
  }
  void set_secret(const std::string& key, std::optional<std::string> value) {
    store::SecretChange change{key, std::nullopt};
    if (value) change.value = Secret(*value);
    store::value(store_->secrets().change(mine_, std::span(&change, 1)));
    boxes_->secrets_changed(mine_);
  }
  const proxy::Egress& egress_of(const store::Resource& box) { return *runner_.egress.at(box.id); }
  std::string injected(const store::Resource& box) {
    std::string out;
    for (const auto& header : egress_of(box).injections.of(0)) out += header.name + " ";
    return out;
  }
  Status status_of(const store::Resource& box) {
    return store::value(store_->sandboxes().find(box.workspace, box.id)).status;
  }

  ManualClock clock_;
  store::TestDirectory directory_;
  std::unique_ptr<store::SqliteStore> store_;
  store::WorkspaceId mine_, other_;
  FakeRunner runner_;
  Policies policies_{*store_, {}};
  std::unique_ptr<Boxes> boxes_;
};

TEST_F(BoxesTest, AreReadyWhenTheyAreCreated) {
  const auto box = made("one");
  EXPECT_EQ(box.status, Status::ready);
  EXPECT_TRUE(runner_.running.contains(box.id));
  EXPECT_EQ(boxes_->running(), 1u);
  EXPECT_EQ(create("one").error().status, 409);
  EXPECT_THAT(made("").name, testing::StartsWith("sandbox-"));
}

constexpr const char* limited = R"({"limits": {"requests_per_day": 3}, "rules": [{"name": "llm",
  "match_hosts": ["api.example.com"], "limits": {"requests_per_day": 2, "tokens_per_day": 9}}]})";

class LimitedBoxes : public BoxesTest {
 protected:
  bool let_in(const store::Resource& box) {
    auto ticket = egress_of(box).gates.admit(0, policy::no_rule, 0, clock_);
    if (ticket) ticket->spend(4);
    return ticket.has_value();
  }
  /// As another process finds it.
  void restart() {
    boxes_.reset();
    runner_.running.clear();
    runner_.egress.clear();
    policies_of_now_ = std::make_unique<Policies>(*store_, PolicySettings{}, clock_);
    boxes_ = std::make_unique<Boxes>(*store_, *policies_of_now_, runner_, clock_);
  }
  void flush() { store::value(policies_of_now_->ledgers().flush()); }

  std::unique_ptr<Policies> policies_of_now_;
};

TEST_F(LimitedBoxes, GoOnCountingWhateverBecomesOfThemAndOfTheServer) {
  restart();
  const auto box = made("one", limited);
  EXPECT_TRUE(let_in(box));
  ASSERT_TRUE(set_policy("one", limited));
  EXPECT_TRUE(let_in(box)) << "of two";
  EXPECT_FALSE(let_in(box)) << "under another policy";
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  runner_.egress.clear();
  ASSERT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_FALSE(let_in(box)) << "stopped and started, before anything was written";
  flush();
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  runner_.egress.clear();
  flush();
  ASSERT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_FALSE(let_in(box)) << "forgotten here, and read from the store";
  restart();
  ASSERT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_FALSE(let_in(box)) << "after a restart";
  const auto used = egress_of(box).ledger->used(quota::day_of(clock_.wall()));
  ASSERT_EQ(used.size(), 2u);
  EXPECT_EQ(used[1], (quota::DayUse{.rule = "llm", .requests = 2, .tokens = 8}));
  clock_.advance(std::chrono::days(1));
  EXPECT_TRUE(let_in(box)) << "until midnight";
}

TEST_F(LimitedBoxes, HaveCountsOfTheirOwn) {
  restart();
  const auto one = made("one", limited), two = made("two", limited);
  EXPECT_TRUE(let_in(one) && let_in(one));
  EXPECT_FALSE(let_in(one));
  EXPECT_TRUE(let_in(two));
  flush();
  ASSERT_TRUE(boxes_->remove(mine_, "one"));
  runner_.egress.erase(one.id);
  EXPECT_TRUE(let_in(made("one", limited))) << "of the same name, and another one";
  flush();
}

TEST_F(BoxesTest, ThatCannotStartLeaveNothing) {
  runner_.refuses = fail(Reason::overloaded, "this host has no room").error();
  const auto refused = create("one");
  EXPECT_EQ(refused.error().status, 503);
  EXPECT_THAT(refused.error().body, HasSubstr("this host has no room"));
  EXPECT_EQ(boxes_->find(mine_, "one").error().status, 404);
  runner_.refuses.reset();
  EXPECT_TRUE(create("one"));
}

TEST_F(BoxesTest, TellTheirCallersNothingOfThisHost) {
  std::string told;
  boxes_ = std::make_unique<Boxes>(*store_, policies_, runner_, clock_,
                                   [&](const std::string& what) { told = what; });
  runner_.refuses = fail(Reason::internal, "cannot make '/srv/postern/boxes/1'").error();
  EXPECT_THAT(create("one").error().body, Not(HasSubstr("/srv")));
  EXPECT_THAT(told, HasSubstr("/srv/postern/boxes/1"));
}

TEST_F(BoxesTest, ThatAreMadeWhileASecretGoesDoNotHaveIt) {  // threats 93 and 94
  for (int i = 0; i < 30; ++i) {
    const std::string name = "box" + std::to_string(i);
    set_secret("TOKEN", "canary");
    std::jthread revoking([&] { set_secret("TOKEN", std::nullopt); });
    const auto box = create(name, with_secret);
    revoking.join();
    if (!box) continue;  // The secret had gone before.
    ASSERT_EQ(egress_of(*box).snapshot->rules()[0].action, policy::Action::deny) << "in round " << i;
  }
}

TEST_F(BoxesTest, KeepEachOfTwoUpdatesAtOnce) {
  made("one");
  for (int i = 1; i <= 30; ++i) {
    std::jthread other([&] {
      BoxUpdate update;
      update.idle_ttl = std::chrono::seconds(60 * i);
      EXPECT_TRUE(boxes_->update(mine_, "one", update));
    });
    BoxUpdate update;
    update.work_dir = "/" + std::to_string(i);
    EXPECT_TRUE(boxes_->update(mine_, "one", update));
    other.join();
    const auto settings = settings_from_json(boxes_->find(mine_, "one")->settings);
    ASSERT_EQ(settings->idle_ttl, std::chrono::seconds(60 * i));
    ASSERT_EQ(settings->run_config.work_dir, "/" + std::to_string(i));
  }
}

TEST_F(BoxesTest, OfOthersThatAreSlowHoldUpNoChangeOfSecrets) {
  NewBox box;
  box.name = "slow";
  ASSERT_TRUE(boxes_->create(other_, box));
  std::latch stopping(1), go_on(1);
  runner_.before_stop = [&] {
    stopping.count_down();
    go_on.wait();
  };
  std::jthread slow([&] { EXPECT_TRUE(boxes_->stop(other_, "slow")); });
  stopping.wait();
  set_secret("TOKEN", "canary");  // Comes back.
  go_on.count_down();
}

TEST_F(BoxesTest, UnderAttackByManyEndAsTheStoreSays) {
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 6; ++caller)
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 25; ++i) switch ((caller + i) % 6) {
          case 0: (void)create("one"); break;
          case 1: (void)boxes_->wake(mine_, "one"); break;
          case 2: (void)boxes_->stop(mine_, "one"); break;
          case 3: (void)boxes_->remove(mine_, "one"); break;
          case 4: set_secret("TOKEN", std::to_string(i)); break;
          default: (void)boxes_->update(mine_, "one", {});
        }
    });
  callers.clear();
  boxes_->tend();
  const auto left = boxes_->find(mine_, "one");
  EXPECT_EQ(runner_.running.size(), boxes_->running());
  EXPECT_EQ(runner_.running.size(), left && left->status == Status::ready ? 1u : 0u);
  EXPECT_FALSE(left && left->status == Status::deleting);
}

TEST_F(BoxesTest, AreNotMadeOfWhateverDirectoryACallerNames) {
  BoxSettings settings;
  settings.snapshot_id = directory_.path();
  const auto refused = create("one", nullptr, settings);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().status, 400);
  EXPECT_EQ(runner_.starts, 0);
}

TEST_F(BoxesTest, HaveTheLimitsThatTheyWereGivenWheneverTheyRun) {
  BoxSettings settings;
  settings.cpu_millicores = 500;
  settings.mem_bytes = 1 << 30;
  const auto box = made("one", nullptr, settings);
  EXPECT_EQ(runner_.running.at(box.id).limits, (box::Limits{500, 1 << 30}));

  BoxUpdate update;
  update.mem_bytes = 512 << 20;
  EXPECT_TRUE(boxes_->update(mine_, "one", update));
  EXPECT_EQ(runner_.running.at(box.id).limits, (box::Limits{500, 512 << 20}));

  runner_.memory_in_use = 256 << 20;
  update.mem_bytes = 128 << 20;
  EXPECT_EQ(boxes_->update(mine_, "one", update).error().status, 409);
  EXPECT_EQ(runner_.running.at(box.id).limits, (box::Limits{500, 512 << 20}));
  EXPECT_TRUE(boxes_->stop(mine_, "one"));
  EXPECT_TRUE(boxes_->update(mine_, "one", update));
  EXPECT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_EQ(runner_.running.at(box.id).limits, (box::Limits{500, 128 << 20}));
}

TEST_F(BoxesTest, WhoseUpdateIsNotKeptHaveTheirOldLimits) {
  const auto box = made("one");
  (void)made("two");
  BoxUpdate update;
  update.name = "two";
  update.cpu_millicores = 4000;
  EXPECT_EQ(boxes_->update(mine_, "one", update).error().status, 409);
  EXPECT_EQ(runner_.running.at(box.id).limits, box::Limits{});
}

TEST_F(BoxesTest, StopAndStartAndWake) {
  const auto box = made("one");
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  EXPECT_EQ(status_of(box), Status::stopped);
  EXPECT_TRUE(store::value(store_->sandboxes().find(mine_, box.id)).stopped_at);
  EXPECT_FALSE(runner_.running.contains(box.id));
  ASSERT_TRUE(boxes_->stop(mine_, box.id)) << "twice is as good as once";
  const auto started = boxes_->start(mine_, "one");
  ASSERT_TRUE(started);
  EXPECT_EQ(started->status, Status::ready);
  EXPECT_FALSE(started->stopped_at);
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  EXPECT_EQ(boxes_->wake(mine_, "one").value(), box.id);
  EXPECT_EQ(boxes_->wake(mine_, box.id).value(), box.id);
  EXPECT_EQ(status_of(box), Status::ready);
}

TEST_F(BoxesTest, ManyWhoWakeOneStartItOnce) {
  const auto box = made("one");
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  const int before = runner_.starts;
  std::vector<std::jthread> callers;
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([&] { EXPECT_EQ(boxes_->wake(mine_, "one").value(), box.id); });
  callers.clear();
  EXPECT_EQ(runner_.starts, before + 1);
}

TEST_F(BoxesTest, OfAnotherWorkspaceAreNotThere) {
  const auto box = made("one");
  for (const std::string& name : {box.id, box.name}) {
    EXPECT_EQ(boxes_->find(other_, name).error().status, 404);
    EXPECT_EQ(boxes_->stop(other_, name).error().status, 404);
    EXPECT_EQ(boxes_->start(other_, name).error().status, 404);
    EXPECT_EQ(boxes_->remove(other_, name).error().status, 404);
    EXPECT_EQ(boxes_->wake(other_, name).error().status, 404);
    EXPECT_EQ(boxes_->update(other_, name, {}).error().status, 404);
  }
  EXPECT_EQ(status_of(box), Status::ready);
}

TEST_F(BoxesTest, AreRemovedWithEverything) {
  const auto box = made("one");
  ASSERT_TRUE(boxes_->remove(mine_, "one"));
  EXPECT_FALSE(runner_.running.contains(box.id));
  EXPECT_TRUE(runner_.erased.contains(box.id));
  EXPECT_EQ(boxes_->find(mine_, box.id).error().status, 404);
  EXPECT_EQ(boxes_->remove(mine_, "one").error().status, 404);
  EXPECT_TRUE(create("one"));
}

TEST_F(BoxesTest, WithAPolicyThatNamesAnUnknownSecretAreRefusedByPlace) {
  const auto refused = create("one", with_secret);
  EXPECT_EQ(refused.error().status, 422);
  EXPECT_THAT(refused.error().body, HasSubstr("TOKEN"));
  EXPECT_THAT(refused.error().body, HasSubstr(R"(["body","proxy_config","rules",0,)"));
  set_secret("TOKEN", "canary-one");
  EXPECT_EQ(injected(made("one", with_secret)), "Authorization ");
}

TEST_F(BoxesTest, ThatRunGetChangedSecretsAndLoseRemovedOnes) {  // threats 93 and 94
  set_secret("TOKEN", "canary-one");
  const auto box = made("one", with_secret);
  const auto before = runner_.egress.at(box.id);
  set_secret("TOKEN", "canary-two");
  EXPECT_NE(runner_.egress.at(box.id), before);
  EXPECT_EQ(injected(box), "Authorization ");
  set_secret("TOKEN", std::nullopt);
  EXPECT_EQ(injected(box), "");
  EXPECT_EQ(egress_of(box).snapshot->rules()[0].action, policy::Action::deny)
      << "a rule without its credential lets nothing pass";
  set_secret("TOKEN", "canary-three");
  EXPECT_EQ(egress_of(box).snapshot->rules()[0].action, policy::Action::allow);
}

TEST_F(BoxesTest, KeepOpaqueValuesThatAnUpdateLeavesOut) {
  const auto box = made("one", with_opaque);
  EXPECT_THAT(box.policy, HasSubstr("\"is_set\": true"));
  EXPECT_THAT(box.policy, Not(HasSubstr("canary")));
  const auto updated = set_policy("one", opaque_left_out);
  ASSERT_TRUE(updated) << updated.error().body;
  EXPECT_THAT(updated->policy, HasSubstr("/v1/*"));
  EXPECT_THAT(updated->policy, HasSubstr("\"is_set\": true"));
  EXPECT_EQ(injected(box), "X-Key ");
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  ASSERT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_EQ(injected(box), "X-Key ") << "what was kept is in the store";
}

TEST_F(BoxesTest, DoNotLetAnOpaqueValueGoToAnotherHost) {  // threat 85
  const auto box = made("one", with_opaque);
  const auto before = runner_.egress.at(box.id);
  EXPECT_EQ(set_policy("one", R"({"rules": [{"name": "api", "match_hosts": ["evil.example.com"],
    "headers": [{"name": "X-Key", "type": "opaque"}]}]})")
                .error()
                .status,
            422);
  EXPECT_EQ(runner_.egress.at(box.id), before) << "a broken policy replaces nothing";
  EXPECT_EQ(store::value(store_->sandboxes().find(mine_, box.id)).policy, box.policy);
}

TEST_F(BoxesTest, HaveVariablesInTheirOrder) {
  BoxSettings settings;
  settings.env_vars = {{"A", "box"}, {"B", "box"}};
  settings.run_config.env_vars = {{"B", "run"}, {"C", "run"}};
  const auto box = made("one",
                        R"({"rules": [{"name": "r", "match_hosts": ["a.example.com"],
    "env_vars": {"A": "rule", "D": "rule"}}]})",
                        settings);
  EXPECT_THAT(runner_.running.at(box.id).environment,
              UnorderedElementsAre("A=box", "B=run", "C=run", "D=rule"));
  BoxUpdate update;
  update.env_vars = {{"C", "later"}};
  ASSERT_TRUE(boxes_->update(mine_, "one", update));
  EXPECT_THAT(runner_.running.at(box.id).environment,
              UnorderedElementsAre("A=box", "B=run", "C=later", "D=rule"));
}

TEST_F(BoxesTest, OfAServerThatDiedAreFoundStopped) {
  const auto box = made("one");
  boxes_.reset();
  store::ResourceChange ready;
  ready.status = Status::ready;
  store::value(store_->sandboxes().update(mine_, box.id, ready));  // As if it had been killed.
  begin();
  const auto found = boxes_->find(mine_, "one");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->status, Status::stopped);
  EXPECT_EQ(found->status_message, "the server was restarted");
  EXPECT_TRUE(boxes_->wake(mine_, "one"));
}

TEST_F(BoxesTest, WithoutTheirFilesFailAndBeginAnewOnlyWhenToldTo) {
  const auto box = made("one"), other = made("other");
  boxes_.reset();
  runner_.lost = {box.id};
  begin();
  const auto found = boxes_->find(mine_, "one");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->status, Status::failed);
  EXPECT_THAT(found->status_message, testing::HasSubstr("files"));
  EXPECT_EQ(status_of(other), Status::stopped);
  EXPECT_EQ(boxes_->wake(mine_, "one").error().status, 409);
  EXPECT_TRUE(boxes_->start(mine_, "one"));
  EXPECT_EQ(status_of(box), Status::ready);
  EXPECT_TRUE(boxes_->wake(mine_, "one"));
}

TEST_F(BoxesTest, ThatNobodyWasToldOfAreNotKeptWithoutFiles) {
  const auto box = made("one");
  boxes_.reset();
  store::ResourceChange half;
  half.status = Status::provisioning;
  store::value(store_->sandboxes().update(mine_, box.id, half));
  runner_.lost = {box.id};
  begin();
  EXPECT_EQ(boxes_->find(mine_, box.id).error().status, 404);
}

TEST_F(BoxesTest, HalfRemovedAreRemovedAtTheNextStart) {
  const auto box = made("one");
  boxes_.reset();
  store::ResourceChange deleting;
  deleting.status = Status::deleting;
  store::value(store_->sandboxes().update(mine_, box.id, deleting));
  begin();
  EXPECT_EQ(boxes_->find(mine_, box.id).error().status, 404);
  EXPECT_TRUE(runner_.erased.contains(box.id));
}

TEST_F(BoxesTest, AreStoppedWhenTheyAreIdleUnlessSomebodyCameFirst) {
  const auto box = made("one");
  runner_.running.at(box.id).on_idle();
  EXPECT_TRUE(boxes_->wake(mine_, "one"));
  boxes_->tend();
  EXPECT_EQ(status_of(box), Status::ready);
  runner_.running.at(box.id).on_idle();
  boxes_->tend();
  EXPECT_EQ(status_of(box), Status::stopped);
}

TEST_F(BoxesTest, ThatEndedByThemselvesAreStoppedAndCanBeWoken) {
  const auto box = made("one");
  runner_.running.at(box.id).on_end();
  EXPECT_EQ(boxes_->wake(mine_, "one").value(), box.id);
  EXPECT_EQ(runner_.starts, 2) << "not the one that is gone";
  runner_.running.at(box.id).on_end();
  boxes_->tend();
  EXPECT_EQ(status_of(box), Status::stopped);
}

TEST_F(BoxesTest, AreRemovedSomeTimeAfterTheyStopped) {
  BoxSettings settings;
  settings.delete_after_stop = std::chrono::seconds(120);
  const auto box = made("one", nullptr, settings);
  ASSERT_TRUE(boxes_->stop(mine_, "one"));
  clock_.advance(std::chrono::seconds(60));
  boxes_->tend();
  EXPECT_EQ(status_of(box), Status::stopped);
  clock_.advance(std::chrono::seconds(61));
  boxes_->tend();
  EXPECT_EQ(boxes_->find(mine_, box.id).error().status, 404);
}

TEST(BoxSettings, AreReadAsTheyWereWritten) {
  BoxSettings settings;
  settings.snapshot_id = "snap";
  settings.idle_ttl = std::chrono::seconds(0);
  settings.delete_after_stop = std::chrono::seconds(60);
  settings.cpu_millicores = 250;
  settings.mem_bytes = 1;
  settings.fs_capacity_bytes = 2;
  settings.persistent = false;
  settings.env_vars = {{"A", "b"}};
  settings.run_config = {"user", "/work", {{"C", "d"}}};
  settings.tag_values = {"t"};
  settings.access_delegation = R"({"mode":"INHERIT"})";
  EXPECT_EQ(settings_from_json(to_json(settings)), settings);
  EXPECT_EQ(settings_from_json("{}"), BoxSettings{});
  EXPECT_FALSE(settings_from_json("[]"));
  EXPECT_FALSE(settings_from_json(R"({"mem_bytes": "many"})"));
}

}  // namespace
}  // namespace postern::platform
