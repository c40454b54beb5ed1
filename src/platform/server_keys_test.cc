#include "platform/server_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <set>

#include "credential/secret_test_kit.h"
#include "store/sqlite_store.h"
#include "store/store_test_kit.h"

namespace postern::platform {
namespace {

using nlohmann::json;
using std::chrono::days;
using std::chrono::hours;
using std::chrono::minutes;

class ServerKeysTest : public testing::Test {
 protected:
  ServerKeysTest()
      : store_(store::value(store::SqliteStore::open(directory_.path(), store::key(1), clock_))) {
    load();
  }
  void load() {
    keys_.reset();
    keys_ =
        store::value(ServerKeys::load(*store_, clock_, "https://sandboxes.example", {days(90), days(90)}));
  }
  void pass(Duration time) {
    clock_.advance(time);
    store::value(keys_->tend());
  }
  std::set<std::string> published() const {
    std::set<std::string> out;
    const json set = json::parse(keys_->jwk_set());
    for (const json& key : set["keys"]) out.insert(key["kid"]);
    return out;
  }
  bool is_published(const std::string& id) const { return published().contains(id); }
  std::string asking() const { return keys_->signer()->key.key_id(); }
  std::string identifying() const { return keys_->identity()->key.key_id(); }
  std::size_t kept() const { return store::value(store_->signing_keys().read()).size(); }

  ManualClock clock_;
  store::TestDirectory directory_;
  std::unique_ptr<store::SqliteStore> store_;
  std::unique_ptr<ServerKeys> keys_;
};

TEST_F(ServerKeysTest, StayTheSameUntilTheyAreOld) {
  const std::string first = asking(), identity = identifying();
  EXPECT_EQ(published(), (std::set{first, identity}));
  for (int i = 0; i < 89; ++i) pass(days(1));
  load();
  EXPECT_EQ(asking(), first);
  EXPECT_EQ(identifying(), identity);
  EXPECT_EQ(published().size(), 2u);
}

TEST_F(ServerKeysTest, ASuccessorIsPublishedBeforeItSignsAndTheOldOneAfterwards) {
  const std::string first = asking(), identity = identifying();
  pass(days(90));
  EXPECT_EQ(published().size(), 4u);
  EXPECT_EQ(asking(), first);
  EXPECT_EQ(identifying(), identity);
  pass(ServerKeys::lead - minutes(1));
  EXPECT_EQ(asking(), first);
  pass(minutes(1));
  const std::string second = asking();
  EXPECT_NE(second, first);
  EXPECT_NE(identifying(), identity);
  EXPECT_EQ(published().size(), 4u) << "what the old ones have just signed is still looked at";
  pass(ServerKeys::published_after);
  EXPECT_EQ(published(), (std::set{second, identifying()}));
  // And so on.
  for (int i = 0; i < 400; ++i) {
    pass(days(1));
    EXPECT_TRUE(is_published(asking()) && is_published(identifying())) << i;
    EXPECT_LE(published().size(), 4u) << i;
    EXPECT_LE(kept(), 6u) << i;
  }
  EXPECT_NE(asking(), second);
}

TEST_F(ServerKeysTest, GoOnWhereTheyWereAfterARestartAtAnyMoment) {
  const std::string first = asking();
  pass(days(90));
  const auto both = published();
  load();
  EXPECT_EQ(published(), both) << "no second successor";
  EXPECT_EQ(asking(), first);
  clock_.advance(ServerKeys::lead + minutes(1));
  load();
  const std::string second = asking();
  EXPECT_NE(second, first);
  EXPECT_EQ(published(), both);
  load();
  EXPECT_EQ(asking(), second);
  clock_.advance(days(400));  // It did not run for a year.
  load();
  EXPECT_EQ(asking(), second) << "its successor is not known yet";
  EXPECT_EQ(published().size(), 4u);
  pass(ServerKeys::lead);
  EXPECT_NE(asking(), second);
}

TEST_F(ServerKeysTest, LinksStayGoodAcrossARotation) {
  const auto links = keys_->links();
  const auto signer = keys_->signer();
  const std::string first = asking(), link = links->sign("download", "file");
  pass(days(90));
  pass(ServerKeys::lead);
  EXPECT_NE(signer->key.key_id(), first) << "whoever has it from before signs with the new one, too";
  const std::string later = links->sign("download", "file");
  EXPECT_NE(later, link);
  EXPECT_EQ(links->open("download", link), "file");
  pass(ServerKeys::published_after);
  EXPECT_FALSE(is_published(first));
  pass(days(80));
  EXPECT_EQ(links->open("download", link), "file");
  load();
  EXPECT_EQ(keys_->links()->open("download", link), "file");
  pass(days(10));
  EXPECT_EQ(keys_->links()->open("download", link), std::nullopt);
  EXPECT_EQ(keys_->links()->open("download", later), "file");
}

TEST_F(ServerKeysTest, AClockThatJumpsLosesNothing) {
  const std::string first = asking();
  const WallTime today = clock_.wall();
  clock_.set_wall(today + days(1000));
  pass(minutes(1));
  clock_.set_wall(today);
  pass(minutes(1));
  load();
  EXPECT_EQ(asking(), first);
  EXPECT_TRUE(is_published(first));
  pass(ServerKeys::lead);
  EXPECT_TRUE(is_published(asking()));
}

TEST_F(ServerKeysTest, ASealedServerHasNone) {
  keys_.reset();
  store_.reset();
  store_ = store::value(store::SqliteStore::open(directory_.path(), std::nullopt, clock_));
  load();
  EXPECT_EQ(keys_->signer(), nullptr);
  EXPECT_EQ(keys_->links(), nullptr);
  pass(days(200));
  EXPECT_EQ(keys_->jwk_set(), R"({"keys":[]})");
}

}  // namespace
}  // namespace postern::platform
