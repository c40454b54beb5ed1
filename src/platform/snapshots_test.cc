#include "platform/snapshots.h"

#include <condition_variable>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <set>

#include "store/sqlite_store.h"
#include "store/store_test_kit.h"

namespace postern::platform {
namespace {

using store::Status;
using testing::ElementsAre;
using testing::HasSubstr;

/// Layers that are only remembered. Each is made when it is let through.
class FakeLayers final : public Layers {
 public:
  Result<Fd> open_image(const std::string& path) override {
    if (path == "none") return fail(Reason::invalid_configuration, "there is no image");
    return Fd();
  }
  Result<Fd> open_box(const std::string&) override { return Fd(); }
  Result<box::MadeLayer> make(const Job& job, const std::stop_token& stop) override {
    std::unique_lock lock(mutex_);
    making = job.id;
    changed_.notify_all();
    if (!changed_.wait(lock, stop, [this] { return let_through > 0; }))
      return fail(Reason::shutting_down, "it was ended");
    --let_through;
    if (refuses) return std::unexpected(*refuses);
    there.insert(job.id);
    return made;
  }
  Result<void> erase(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    if (busy > 0) {
      --busy;
      return fail(Reason::internal, "somebody is at it");
    }
    erased.insert(id);
    there.erase(id);
    changed_.notify_all();
    return {};
  }
  void wait_until_erased(const std::string& id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return erased.contains(id); });
  }
  void let(int count) {
    const std::lock_guard lock(mutex_);
    let_through += count;
    changed_.notify_all();
  }
  void wait_until_making(const std::string& id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return making == id; });
  }

  box::MadeLayer made;
  std::optional<Error> refuses;
  std::set<std::string> there, erased;
  std::string making;
  int let_through = 0;
  int busy = 0;  ///< So many calls of erase() fail.

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
};

class SnapshotsTest : public testing::Test {
 protected:
  SnapshotsTest() : store_(store::value(store::SqliteStore::open(directory_.path(), store::key(1), clock_))) {
    mine_ = store::value(store_->workspaces().create("mine")).id;
    other_ = store::value(store_->workspaces().create("other")).id;
    begin();
  }
  void begin() { snapshots_ = std::make_unique<Snapshots>(*store_, layers_); }

  NewSnapshot fresh(const std::string& name, const std::string& tag = "") {
    NewSnapshot out;
    out.name = name;
    out.tag = tag;
    out.docker_image = "tar:a.tar";
    return out;
  }
  store::Resource begun(const NewSnapshot& what) {
    auto created = snapshots_->create(mine_, what);
    if (!created) throw std::runtime_error(created.error().body);
    return std::move(*created);
  }
  store::Resource waited(const std::string& id) {
    while (true) {
      auto found = store::value(store_->snapshots().find(mine_, id));
      if (found.status != Status::building) return found;
      std::this_thread::yield();
    }
  }
  store::Resource built(const NewSnapshot& what) {
    const auto created = begun(what);
    layers_.let(1);
    return waited(created.id);
  }
  store::Resource box_of(const std::string& snapshot) {
    store::NewResource box;
    box.name = "box";
    BoxSettings settings;
    settings.snapshot_id = snapshot;
    settings.run_config.env_vars = {{"A", "box"}, {"B", "box"}};
    box.settings.json = to_json(settings);
    return store::value(store_->sandboxes().create(mine_, box));
  }
  std::string id_of(const std::string& reference) {
    auto found = snapshots_->find(mine_, reference);
    return found ? found->id : found.error().body;
  }

  ManualClock clock_;
  store::TestDirectory directory_;
  std::unique_ptr<store::SqliteStore> store_;
  store::WorkspaceId mine_, other_;
  FakeLayers layers_;
  std::unique_ptr<Snapshots> snapshots_;
};

TEST_F(SnapshotsTest, AreBuiltAndSayWhatTheyHave) {
  layers_.made = {4096, "sha256:1", {"A=image", "C=image"}, "/image", "app"};
  NewSnapshot what = fresh("one");
  what.run_config.env_vars = {{"A", "mine"}};
  const auto created = begun(what);
  EXPECT_EQ(created.status, Status::building);
  EXPECT_EQ(snapshots_->stack(mine_, created.id).error().detail, "the snapshot is not ready, but building");
  layers_.let(1);
  const auto ready = waited(created.id);
  EXPECT_EQ(ready.status, Status::ready);
  const auto settings = *snapshot_settings_from_json(ready.settings);
  EXPECT_EQ(settings.fs_used_bytes, 4096u);
  EXPECT_EQ(settings.image_digest, "sha256:1");
  EXPECT_EQ(settings.run_config, (RunConfig{"", "/image", {{"A", "mine"}, {"C", "image"}}}));
  const auto stack = store::value(snapshots_->stack(mine_, created.id));
  EXPECT_EQ(stack.base, box::BoxBase::nothing);
  EXPECT_THAT(stack.layers, ElementsAre(created.id));
}

TEST_F(SnapshotsTest, AreMadeOfImagesOnDiskAlone) {
  for (const char* image : {"python:3.12", "", "oci", "/etc", "docker-daemon:x"}) {
    NewSnapshot what = fresh("one");
    what.docker_image = image;
    const auto refused = snapshots_->create(mine_, what);
    ASSERT_FALSE(refused) << image;
    EXPECT_EQ(refused.error().status, 422);
    EXPECT_THAT(refused.error().body, HasSubstr("no registry"));
  }
  NewSnapshot what = fresh("one");
  what.docker_image = "oci:none";
  EXPECT_THAT(snapshots_->create(mine_, what).error().body, HasSubstr("there is no image"));
  for (const char* name : {"a:b", ""}) EXPECT_FALSE(snapshots_->create(mine_, fresh(name))) << name;
  EXPECT_FALSE(snapshots_->create(mine_, fresh("a", "b:c")));
  EXPECT_FALSE(snapshots_->create(mine_, fresh("a", "00000000-0000-4000-8000-000000000000")));
}

TEST_F(SnapshotsTest, ATagMovesWhenTheNextIsReady) {
  const auto first = built(fresh("one"));
  EXPECT_EQ(id_of("one"), first.id);
  const auto second = begun(fresh("one"));
  EXPECT_EQ(id_of("one:latest"), first.id);
  layers_.let(1);
  EXPECT_EQ(waited(second.id).tag, "latest");
  EXPECT_EQ(id_of("one"), second.id);
  EXPECT_FALSE(has_tag(store::value(store_->snapshots().find(mine_, first.id))));
  EXPECT_EQ(id_of(first.id), first.id);
  layers_.refuses = Error(Reason::invalid_configuration, Side::self, Retry::never, "it is damaged");
  const auto third = built(fresh("one"));
  EXPECT_EQ(third.status, Status::failed);
  EXPECT_EQ(third.status_message, "it is damaged");
  EXPECT_EQ(id_of("one"), second.id);
  EXPECT_THAT(snapshots_->find(other_, second.id).error().status, 404);
  EXPECT_EQ(snapshots_->find(mine_, "one:none").error().status, 404);
  EXPECT_EQ(store::value(store_->snapshots().find(mine_, third.id)).status, Status::failed);
  EXPECT_EQ(snapshots_->named(mine_, "one")->size(), 3u);
}

TEST_F(SnapshotsTest, WhatTheServerAloneShouldKnowIsNotTold) {
  layers_.refuses = Error(Reason::internal, Side::self, Retry::never, "cannot open '/secret/place'");
  const auto failed = built(fresh("one"));
  EXPECT_EQ(failed.status, Status::failed);
  EXPECT_THAT(failed.status_message, testing::Not(HasSubstr("/secret")));
  EXPECT_TRUE(layers_.erased.contains(failed.id));
}

TEST_F(SnapshotsTest, AreNotRemovedUnderWhatIsMadeOnThem) {
  const auto one = built(fresh("one"));
  const auto box = box_of(one.id);
  EXPECT_THAT(snapshots_->remove(mine_, "one").error().body, HasSubstr("used by the sandbox 'box'"));
  const auto two = snapshots_->capture(box, fresh("two"));
  ASSERT_TRUE(two);
  EXPECT_TRUE(snapshots_->is_copied(box.id));
  layers_.let(1);
  const auto captured = waited(two->id);
  while (snapshots_->is_copied(box.id)) std::this_thread::yield();
  EXPECT_THAT(store::value(snapshots_->stack(mine_, two->id)).layers, ElementsAre(two->id, one.id));
  EXPECT_EQ(snapshot_settings_from_json(captured.settings)->run_config.env_vars.at("B"), "box");
  ASSERT_TRUE(store_->sandboxes().remove(mine_, box.id));
  EXPECT_EQ(snapshots_->remove(other_, one.id).error().status, 404);
  EXPECT_THAT(snapshots_->remove(mine_, one.id).error().body, HasSubstr("used by the snapshot 'two'"));
  EXPECT_TRUE(snapshots_->remove(mine_, "two"));
  EXPECT_TRUE(snapshots_->remove(mine_, "one:latest"));
  EXPECT_TRUE(layers_.there.empty());
  EXPECT_EQ(snapshots_->remove(mine_, one.id).error().status, 404);
}

TEST_F(SnapshotsTest, AStackHasAnEnd) {
  std::string below = built(fresh("image")).id;
  for (std::size_t i = 1; i < box::box_layers_max; ++i) {
    const auto box = box_of(below);
    const auto next = snapshots_->capture(box, fresh("layer", std::to_string(i)));
    ASSERT_TRUE(next) << next.error().body;
    layers_.let(1);
    below = waited(next->id).id;
    ASSERT_TRUE(store_->sandboxes().remove(mine_, box.id));
  }
  EXPECT_THAT(snapshots_->capture(box_of(below), fresh("more")).error().body, HasSubstr("16 layers"));
}

TEST_F(SnapshotsTest, WhatIsBeingBuiltCanBeGivenUp) {
  const auto now = begun(fresh("now")), next = begun(fresh("next"));
  layers_.wait_until_making(now.id);
  EXPECT_TRUE(snapshots_->remove(mine_, next.id));
  EXPECT_TRUE(snapshots_->remove(mine_, now.id));
  EXPECT_THAT(snapshots_->named(mine_, "now")->size(), 0u);
  EXPECT_TRUE(layers_.erased.contains(now.id));
  EXPECT_EQ(built(fresh("after")).status, Status::ready);
}

TEST_F(SnapshotsTest, WhatAnEarlierProcessBuiltHasFailed) {
  const auto lost = begun(fresh("lost"));
  layers_.wait_until_making(lost.id);
  snapshots_.reset();
  EXPECT_EQ(store::value(store_->snapshots().find(mine_, lost.id)).status, Status::building);
  begin();
  const auto found = store::value(store_->snapshots().find(mine_, lost.id));
  EXPECT_EQ(found.status, Status::failed);
  EXPECT_THAT(found.status_message, HasSubstr("restarted"));
  EXPECT_TRUE(layers_.erased.contains(lost.id));
}

TEST_F(SnapshotsTest, WhatSomebodyIsStillAtIsErasedLater) {
  const auto lost = begun(fresh("lost"));
  layers_.wait_until_making(lost.id);
  snapshots_.reset();
  layers_.busy = 2;
  begin();
  EXPECT_EQ(store::value(store_->snapshots().find(mine_, lost.id)).status, Status::failed);
  layers_.wait_until_erased(lost.id);
  EXPECT_EQ(built(fresh("after")).status, Status::ready);
}

TEST_F(SnapshotsTest, NotMoreWaitThanADiskCanTake) {
  for (int i = 0; i < 40; ++i)
    if (const auto refused = snapshots_->create(mine_, fresh("one", std::to_string(i))); !refused) {
      EXPECT_EQ(refused.error().status, 429);
      return;
    }
  ADD_FAILURE() << "there was no end";
}

TEST(SnapshotSettings, AreReadAsTheyWereWritten) {
  SnapshotSettings settings;
  settings.base = box::BoxBase::nothing;
  settings.layers = {"a", "b"};
  settings.docker_image = "oci:x";
  settings.image_digest = "sha256:1";
  settings.source_sandbox_id = "s";
  settings.description = "d";
  settings.wanted_tag = "t";
  settings.fs_capacity_bytes = 1;
  settings.fs_used_bytes = 2;
  settings.run_config = {"root", "/w", {{"A", "b"}}};
  EXPECT_EQ(snapshot_settings_from_json(to_json(settings)), settings);
  EXPECT_EQ(snapshot_settings_from_json("{}"), SnapshotSettings{});
  EXPECT_FALSE(snapshot_settings_from_json(R"({"base": "/etc"})"));
  EXPECT_FALSE(snapshot_settings_from_json("[]"));
}

}  // namespace
}  // namespace postern::platform
