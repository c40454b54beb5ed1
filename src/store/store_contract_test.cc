// What every store promises, over a Backend: another kind of store is one more of them at the end of this
// file.

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <memory>
#include <set>
#include <thread>

#include "credential/base64.h"
#include "credential/secret_store.h"
#include "credential/secret_test_kit.h"
#include "store/sqlite_store.h"
#include "store/store_test_kit.h"

namespace postern::store {
namespace {

using credential::make_api_key;
using credential::MasterKey;
using credential::revealed;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
using testing::UnorderedElementsAre;

constexpr std::size_t all_items = 1000;

/// A kind of store, with a place of its own that goes with this object.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual Outcome<std::unique_ptr<Store>> open(std::optional<MasterKey> master, const Clock& clock) = 0;
  /// SQL behind the store's back: a thief with a pencil.
  virtual void tamper(const std::string& sql) = 0;
  /// Every byte that is on disk.
  virtual std::string on_disk() = 0;
};

class SqliteBackend final : public Backend {
 public:
  Outcome<std::unique_ptr<Store>> open(std::optional<MasterKey> master, const Clock& clock) override {
    auto opened = SqliteStore::open(directory_.path(), std::move(master), clock);
    if (!opened) return failed(opened);
    return std::unique_ptr<Store>(std::move(*opened));
  }
  void tamper(const std::string& sql) override {
    sql_in(directory_.path() + "/store.db", "PRAGMA foreign_keys = OFF;" + sql);
  }
  std::string on_disk() override { return directory_.all_bytes(); }

 private:
  TestDirectory directory_;
};

class Contract : public testing::TestWithParam<std::unique_ptr<Backend> (*)()> {
 protected:
  Contract() : backend_(GetParam()()) {
    reopen();
    mine_ = workspace("mine");
  }

  void reopen(std::optional<MasterKey> master) {
    store_.reset();
    auto opened = backend_->open(std::move(master), clock_);
    ASSERT_TRUE(opened) << opened.error().detail;
    store_ = std::move(*opened);
  }
  void reopen() { reopen(key(1)); }
  /// While nobody has it open.
  void tamper(const std::string& sql) {
    store_.reset();
    backend_->tamper(sql);
    reopen();
  }

  WorkspaceId workspace(const std::string& name) { return value(store_->workspaces().create(name)).id; }

  Resource sandbox(const std::string& name) {
    return value(store_->sandboxes().create(mine_, {.name = name}));
  }
  /// One with a secret in its policy.
  Resource guarded(const std::string& name) {
    NewResource made{.name = name};
    made.policy =
        document(R"({"rules":[{"match_hosts":["api.example.com"]}]})", {{"/rules/0", "opaque-" + name}});
    return value(store_->sandboxes().create(mine_, made));
  }
  void set_secret(const WorkspaceId& workspace, const std::string& key, const std::string& text) {
    std::vector<SecretChange> changes;
    changes.push_back({key, Secret(text)});
    value(store_->secrets().change(workspace, changes));
  }
  std::map<std::string, std::string> secrets_of(const WorkspaceId& workspace) {
    std::map<std::string, std::string> found;
    for (const NamedSecret& secret : value(store_->secrets().read(workspace)))
      found.emplace(secret.name, revealed(secret.value));
    return found;
  }
  /// Page by page.
  std::vector<std::string> names(
      ResourceQuery query, std::size_t page = 2, const std::function<void()>& meanwhile = [] {}) {
    std::vector<std::string> found;
    query.page.limit = page;
    do {
      auto listed = value(store_->sandboxes().list(mine_, query));
      for (const Resource& one : listed.items) found.push_back(one.name);
      query.page.cursor = listed.next_cursor;
      meanwhile();
    } while (!query.page.cursor.empty());
    return found;
  }

  ManualClock clock_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Store> store_;
  WorkspaceId mine_;
};

TEST_P(Contract, WorkspacesAreFoundByIdAndByName) {
  const auto made = value(store_->workspaces().create("team"));
  EXPECT_EQ(made.created_at, clock_.wall());
  EXPECT_EQ(value(store_->workspaces().find(made.id)).name, "team");
  EXPECT_EQ(value(store_->workspaces().find_by_name("team")).id, made.id);
  EXPECT_EQ(fault(store_->workspaces().create("team")), Fault::exists);
  EXPECT_EQ(fault(store_->workspaces().find(WorkspaceId{"team"})), Fault::not_found);
  EXPECT_EQ(fault(store_->workspaces().find_by_name("Team")), Fault::not_found);
}

TEST_P(Contract, WorkspacesAreListedPageByPage) {
  for (const char* name : {"b", "a", "c"}) workspace(name);
  std::vector<std::string> found;
  Page page{.limit = 2};
  do {
    const auto listed = value(store_->workspaces().list(page));
    for (const Workspace& one : listed.items) found.push_back(one.name);
    page.cursor = listed.next_cursor;
  } while (!page.cursor.empty());
  EXPECT_THAT(found, ElementsAre("mine", "b", "a", "c"));
}

TEST_P(Contract, WhatBelongsToAnotherWorkspaceIsNotFound) {
  const WorkspaceId theirs = workspace("theirs");
  const Resource box = guarded("box");
  const auto api_key = make_api_key();
  value(store_->api_keys().add(mine_, api_key.proof, Scope::workspace, ""));
  set_secret(mine_, "TOKEN", "canary");
  value(store_->refresh_tokens().keep(mine_, "line", Secret("canary")));

  auto& sandboxes = store_->sandboxes();
  EXPECT_EQ(fault(sandboxes.find(theirs, box.id)), Fault::not_found);
  EXPECT_EQ(fault(sandboxes.find_by_name(theirs, "box")), Fault::not_found);
  EXPECT_EQ(fault(sandboxes.update(theirs, box.id, {.status = Status::ready})), Fault::not_found);
  EXPECT_EQ(fault(sandboxes.read(theirs, box.id, Part::policy)), Fault::not_found);
  EXPECT_EQ(fault(sandboxes.remove(theirs, box.id)), Fault::not_found);
  EXPECT_THAT(value(sandboxes.list(theirs, {})).items, IsEmpty());
  EXPECT_EQ(fault(store_->snapshots().find(mine_, box.id)), Fault::not_found);  // nor of another kind
  EXPECT_EQ(fault(store_->snapshots().read(mine_, box.id, Part::policy)), Fault::not_found);
  EXPECT_EQ(fault(store_->snapshots().remove(mine_, box.id)), Fault::not_found);
  EXPECT_EQ(fault(store_->api_keys().revoke(theirs, api_key.proof.id)), Fault::not_found);
  EXPECT_THAT(value(store_->api_keys().list(theirs)), IsEmpty());
  EXPECT_THAT(secrets_of(theirs), IsEmpty());
  EXPECT_FALSE(value(store_->refresh_tokens().newest(theirs, "line")));
  std::vector<SecretChange> removal;
  removal.push_back({"TOKEN", std::nullopt});
  value(store_->secrets().change(theirs, removal));

  // All of it is still there.
  EXPECT_EQ(value(sandboxes.find(mine_, box.id)).status, Status::provisioning);
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("TOKEN", "canary")));
  EXPECT_EQ(value(store_->api_keys().authenticate(api_key.proof)).workspace, mine_);
}

TEST_P(Contract, AWorkspaceThatIsNotThereIsNotFound) {
  const WorkspaceId none{"00000000-0000-4000-8000-000000000000"};
  set_secret(mine_, "TOKEN", "canary");
  EXPECT_EQ(fault(store_->workspaces().find(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->workspaces().remove(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->sandboxes().create(none, {.name = "box"})), Fault::not_found);
  EXPECT_EQ(fault(store_->sandboxes().list(none, {})), Fault::not_found);
  EXPECT_EQ(fault(store_->secrets().list(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->secrets().read(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->secrets().change(none, {})), Fault::not_found);
  EXPECT_EQ(fault(store_->api_keys().add(none, make_api_key().proof, Scope::admin, "")), Fault::not_found);
  EXPECT_EQ(fault(store_->api_keys().list(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->refresh_tokens().keep(none, "line", Secret("x"))), Fault::not_found);
}

TEST_P(Contract, NoWorkspaceIsTheServer) {
  // Whose data key has an owner, too.
  value(store_->signing_keys().add("kid", Secret("pem")));
  const WorkspaceId none;
  EXPECT_EQ(fault(store_->secrets().read(none)), Fault::not_found);
  EXPECT_EQ(fault(store_->sandboxes().create(none, {.name = "box"})), Fault::not_found);
  EXPECT_EQ(fault(store_->refresh_tokens().keep(none, "line", Secret("x"))), Fault::not_found);
}

TEST_P(Contract, ANameIsTakenOnceInAWorkspaceAndFreeInAnother) {
  const Resource box = sandbox("box");
  EXPECT_EQ(fault(store_->sandboxes().create(mine_, {.name = "box"})), Fault::exists);
  EXPECT_TRUE(store_->sandboxes().create(workspace("theirs"), {.name = "box"}));
  EXPECT_TRUE(store_->snapshots().create(mine_, {.name = "box", .tag = "v1"}));
  EXPECT_TRUE(store_->snapshots().create(mine_, {.name = "box", .tag = "v2"}));
  EXPECT_EQ(fault(store_->snapshots().create(mine_, {.name = "box", .tag = "v2"})), Fault::exists);
  EXPECT_EQ(value(store_->snapshots().find_by_name(mine_, "box", "v2")).tag, "v2");

  const Resource other = sandbox("other");
  EXPECT_EQ(fault(store_->sandboxes().update(mine_, other.id, {.name = "box"})), Fault::exists);
  EXPECT_EQ(value(store_->sandboxes().find(mine_, other.id)), other) << "a failure changes nothing";
  // A name that became free is another's.
  value(store_->sandboxes().remove(mine_, box.id));
  EXPECT_NE(sandbox("box").id, box.id);
}

TEST_P(Contract, ATagIsTakenFromWhoeverHasIt) {
  Resources& snapshots = store_->snapshots();
  const auto first = value(snapshots.create(mine_, {.name = "image", .tag = "latest"}));
  const auto second = value(snapshots.create(mine_, {.name = "image", .tag = "next"}));
  const auto other = value(snapshots.create(mine_, {.name = "other", .tag = "latest"}));
  ResourceChange change;
  change.tag = "latest";
  EXPECT_EQ(value(snapshots.update(mine_, second.id, change)).tag, "latest");
  EXPECT_EQ(value(snapshots.update(mine_, second.id, change)).tag, "latest");
  EXPECT_EQ(value(snapshots.find_by_name(mine_, "image", "latest")).id, second.id);
  const auto left = value(snapshots.find(mine_, first.id));
  EXPECT_EQ(left.tag, first.id);
  EXPECT_GT(left.revision, first.revision);
  EXPECT_EQ(value(snapshots.find(mine_, other.id)), other);
  change.only_if = first.revision;
  EXPECT_EQ(fault(snapshots.update(mine_, first.id, change)), Fault::changed);
  EXPECT_EQ(value(snapshots.find_by_name(mine_, "image", "latest")).id, second.id);
  change = {};
  change.tag = std::string(200, 'x');
  EXPECT_EQ(fault(snapshots.update(mine_, first.id, change)), Fault::too_large);
}

TEST_P(Contract, AResourceComesBackAsItWas) {
  NewResource made{.name = "box",
                   .status = Status::ready,
                   .labels = {{"team", "a"}, {"k\"'", "v\\"}},
                   .created_by = "somebody",
                   .settings = document(R"({"vcpus":2})", {{"/env_vars/A", "secret-variable"}}),
                   .policy = document(R"({"rules":[]})", {{"/a", "one"}, {"/b", ""}, {"/a", "again"}})};
  const Resource box = value(store_->sandboxes().create(mine_, made));
  EXPECT_EQ(box.workspace, mine_);
  EXPECT_EQ(box.labels, made.labels);
  EXPECT_EQ(box.created_by, "somebody");
  EXPECT_EQ(box.settings, R"({"vcpus":2})");
  EXPECT_EQ(box.policy, R"({"rules":[]})");
  EXPECT_EQ(box.created_at, clock_.wall());
  EXPECT_EQ(box.updated_at, clock_.wall());
  EXPECT_FALSE(box.stopped_at);
  reopen();
  EXPECT_EQ(value(store_->sandboxes().find(mine_, box.id)), box);
  EXPECT_EQ(value(store_->sandboxes().find_by_name(mine_, "box")), box);
  EXPECT_EQ(text_of(value(store_->sandboxes().read(mine_, box.id, Part::settings))),
            "{\"vcpus\":2} /env_vars/A=secret-variable");
  EXPECT_EQ(text_of(value(store_->sandboxes().read(mine_, box.id, Part::policy))),
            "{\"rules\":[]} /a=one /b= /a=again");
}

TEST_P(Contract, AnUpdateChangesWhatItNamesAndNothingElse) {
  const Resource box = guarded("box");
  clock_.advance(std::chrono::seconds(5));
  const Resource stopped = value(store_->sandboxes().update(
      mine_, box.id, {.status = Status::stopped, .status_message = "idle", .stopped_at = clock_.wall()}));
  Resource expected = box;
  expected.status = Status::stopped;
  expected.status_message = "idle";
  expected.stopped_at = expected.updated_at = clock_.wall();
  expected.revision = stopped.revision;
  EXPECT_EQ(stopped, expected);
  EXPECT_GT(stopped.revision, box.revision);
  EXPECT_EQ(text_of(value(store_->sandboxes().read(mine_, box.id, Part::policy))),
            box.policy + " /rules/0=opaque-box");

  ResourceChange change{.name = "renamed", .stopped_at = std::optional<WallTime>()};
  change.policy = document("[]", {{"/x", "new"}});
  const Resource renamed = value(store_->sandboxes().update(mine_, box.id, change));
  EXPECT_EQ(renamed.name, "renamed");
  EXPECT_FALSE(renamed.stopped_at);
  EXPECT_EQ(renamed.policy, "[]");
  EXPECT_EQ(text_of(value(store_->sandboxes().read(mine_, box.id, Part::policy))), "[] /x=new");
  EXPECT_EQ(text_of(value(store_->sandboxes().read(mine_, box.id, Part::settings))), "{}");
}

TEST_P(Contract, AnUpdateCanInsistOnWhatItsCallerSaw) {
  const Resource box = sandbox("box");
  const Resource ready =
      value(store_->sandboxes().update(mine_, box.id, {.status = Status::ready, .only_if = box.revision}));
  EXPECT_EQ(
      fault(store_->sandboxes().update(mine_, box.id, {.status = Status::failed, .only_if = box.revision})),
      Fault::changed);
  EXPECT_EQ(value(store_->sandboxes().find(mine_, box.id)), ready);
}

TEST_P(Contract, DeletingTwiceIsDeleting) {
  const Resource box = guarded("box");
  EXPECT_EQ(value(store_->sandboxes().remove(mine_, box.id)), Removal::removed);
  EXPECT_EQ(value(store_->sandboxes().remove(mine_, box.id)), Removal::was_gone);
  EXPECT_EQ(fault(store_->sandboxes().find(mine_, box.id)), Fault::not_found);
  EXPECT_EQ(fault(store_->sandboxes().read(mine_, box.id, Part::policy)), Fault::not_found);
  EXPECT_EQ(fault(store_->sandboxes().remove(mine_, "00000000-0000-4000-8000-000000000000")),
            Fault::not_found);
  EXPECT_EQ(value(store_->workspaces().remove(mine_)), Removal::removed);
  EXPECT_EQ(value(store_->workspaces().remove(mine_)), Removal::was_gone);
}

TEST_P(Contract, AWorkspaceGoesWithAllThatIsInIt) {
  const WorkspaceId other = workspace("other");
  const Resource box = guarded("box");
  const auto api_key = make_api_key();
  value(store_->api_keys().add(mine_, api_key.proof, Scope::admin, ""));
  set_secret(mine_, "TOKEN", "canary");
  set_secret(other, "TOKEN", "theirs");
  value(store_->refresh_tokens().keep(mine_, "line", Secret("canary")));
  value(store_->workspaces().remove(mine_));
  EXPECT_EQ(fault(store_->sandboxes().find(mine_, box.id)), Fault::not_found);
  EXPECT_EQ(fault(store_->api_keys().authenticate(api_key.proof)), Fault::not_found);
  EXPECT_EQ(fault(store_->secrets().read(mine_)), Fault::not_found);
  EXPECT_EQ(fault(store_->refresh_tokens().newest(mine_, "line")), Fault::not_found);
  EXPECT_THAT(secrets_of(other), ElementsAre(Pair("TOKEN", "theirs")));
  // Its name is free.
  EXPECT_NE(workspace("mine"), mine_);
}

TEST_P(Contract, AnApiKeySaysWhoseItIs) {
  const auto key = make_api_key();
  const auto added = value(store_->api_keys().add(mine_, key.proof, Scope::read_only, "ci"));
  EXPECT_EQ(added.id, key.proof.id);
  reopen();
  const auto presented = credential::read_api_key(revealed(key.text));
  ASSERT_TRUE(presented);
  const auto found = value(store_->api_keys().authenticate(*presented));
  EXPECT_EQ(found.workspace, mine_);
  EXPECT_EQ(found.scope, Scope::read_only);
  EXPECT_EQ(found.label, "ci");
  EXPECT_EQ(found.created_at, clock_.wall());
  EXPECT_FALSE(found.last_used_at);
  EXPECT_EQ(value(store_->api_keys().list(mine_)).size(), 1U);
}

TEST_P(Contract, UnknownWrongAndRevokedApiKeysAreAllTheSame) {
  const auto key = make_api_key(), other = make_api_key();
  value(store_->api_keys().add(mine_, key.proof, Scope::admin, ""));
  auto wrong = key.proof;
  wrong.digest[31] ^= 1;
  const auto unknown_failure = store_->api_keys().authenticate(other.proof).error();
  const auto wrong_failure = store_->api_keys().authenticate(wrong).error();
  EXPECT_EQ(value(store_->api_keys().revoke(mine_, key.proof.id)), Removal::removed);
  EXPECT_EQ(value(store_->api_keys().revoke(mine_, key.proof.id)), Removal::was_gone);
  const auto revoked_failure = store_->api_keys().authenticate(key.proof).error();
  for (const auto& failure : {unknown_failure, wrong_failure, revoked_failure}) {
    EXPECT_EQ(failure.fault, Fault::not_found);
    EXPECT_EQ(failure.detail, unknown_failure.detail);
  }
  EXPECT_EQ(value(store_->api_keys().list(mine_)).front().revoked_at, clock_.wall());
}

TEST_P(Contract, TheUseOfAnApiKeyIsNotedOnceInAMinute) {
  const auto key = make_api_key();
  value(store_->api_keys().add(mine_, key.proof, Scope::admin, ""));
  auto use = [&] {
    value(store_->api_keys().note_use(value(store_->api_keys().authenticate(key.proof))));
    return value(store_->api_keys().authenticate(key.proof)).last_used_at;
  };
  const auto revision = value(store_->changes().since(0, all_items)).upto;
  const auto first = clock_.wall();
  EXPECT_EQ(use(), first);
  clock_.advance(ApiKeys::use_resolution - std::chrono::milliseconds(1));
  EXPECT_EQ(use(), first);
  clock_.advance(std::chrono::milliseconds(1));
  EXPECT_EQ(use(), clock_.wall());
  EXPECT_EQ(value(store_->changes().since(0, all_items)).upto, revision);
}

TEST_P(Contract, SecretsAreChangedTogetherOrNotAtAll) {
  set_secret(mine_, "KEPT", "old");
  std::vector<SecretChange> changes;
  changes.push_back({"A", Secret("one")});
  changes.push_back({"B", Secret("two")});
  changes.push_back({"KEPT", Secret("new")});
  changes.push_back({"ABSENT", std::nullopt});
  value(store_->secrets().change(mine_, changes));
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("A", "one"), Pair("B", "two"), Pair("KEPT", "new")));

  std::vector<SecretChange> broken;
  broken.push_back({"A", std::nullopt});
  broken.push_back({"B", Secret("changed")});
  broken.push_back({"C", Secret(std::string(credential::secret_bytes_max + 1, 'x'))});
  EXPECT_EQ(fault(store_->secrets().change(mine_, broken)), Fault::too_large);
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("A", "one"), Pair("B", "two"), Pair("KEPT", "new")));

  std::vector<SecretChange> removal;
  removal.push_back({"A", std::nullopt});
  value(store_->secrets().change(mine_, removal));
  reopen();
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("B", "two"), Pair("KEPT", "new")));
  const auto keys = value(store_->secrets().list(mine_));
  ASSERT_EQ(keys.size(), 2U);
  EXPECT_EQ(keys[0].key, "B");
  EXPECT_EQ(keys[1].key, "KEPT");
  EXPECT_GT(keys[1].revision, keys[0].revision);
}

TEST_P(Contract, ASecretIsReadWithTheRevisionThatItIsListedWith) {
  set_secret(mine_, "ONE", "first");
  set_secret(mine_, "TWO", "second");
  set_secret(mine_, "ONE", "third");
  const auto listed = value(store_->secrets().list(mine_));
  const auto read = value(store_->secrets().read(mine_));
  ASSERT_EQ(read.size(), 2u);
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].name, listed[i].key);
    EXPECT_EQ(read[i].revision, listed[i].revision);
  }
  EXPECT_GT(read[0].revision, read[1].revision);
}

TEST_P(Contract, SecretsHaveKeysAndValuesOfASizeThatMakesSense) {
  auto change = [&](const std::string& name, const std::string& text) {
    std::vector<SecretChange> changes;
    changes.push_back({name, Secret(text)});
    return store_->secrets().change(mine_, changes);
  };
  EXPECT_EQ(fault(change("", "x")), Fault::invalid);
  EXPECT_EQ(fault(change("A-B", "x")), Fault::invalid);
  EXPECT_EQ(fault(change("1A", "x")), Fault::invalid);
  EXPECT_EQ(fault(change("A'; DROP TABLE secrets; --", "x")), Fault::invalid);
  EXPECT_EQ(fault(change(std::string(name_bytes_max + 1, 'A'), "x")), Fault::too_large);
  EXPECT_EQ(fault(change("A", "")), Fault::invalid);
  EXPECT_TRUE(change(std::string(name_bytes_max, 'A'), std::string(credential::secret_bytes_max, 'x')));
  EXPECT_TRUE(change("BYTES", std::string("\0\xff'\"\n", 5)));
  EXPECT_EQ(secrets_of(mine_)["BYTES"], std::string("\0\xff'\"\n", 5));
}

TEST_P(Contract, SigningKeysOverlap) {
  EXPECT_THAT(value(store_->signing_keys().read()), IsEmpty());
  value(store_->signing_keys().add("first", Secret("pem-1")));
  clock_.advance(std::chrono::hours(1));
  value(store_->signing_keys().add("second", Secret("pem-2")));
  const WallTime end = clock_.wall() + std::chrono::hours(24);
  value(store_->signing_keys().expire("first", end));
  EXPECT_EQ(fault(store_->signing_keys().add("first", Secret("pem-3"))), Fault::exists);
  EXPECT_EQ(fault(store_->signing_keys().expire("none", end)), Fault::not_found);
  reopen();
  const auto keys = value(store_->signing_keys().read());
  ASSERT_EQ(keys.size(), 2U);
  EXPECT_EQ(keys[0].key.id, "first");
  EXPECT_EQ(keys[0].key.not_after, end);
  EXPECT_EQ(revealed(keys[0].pem), "pem-1");
  EXPECT_EQ(keys[1].key.id, "second");
  EXPECT_FALSE(keys[1].key.not_after);
  EXPECT_EQ(value(store_->signing_keys().remove("first")), Removal::removed);
  EXPECT_EQ(value(store_->signing_keys().remove("first")), Removal::was_gone);
  EXPECT_EQ(fault(store_->signing_keys().remove("none")), Fault::not_found);
  EXPECT_EQ(value(store_->signing_keys().read()).size(), 1U);
}

TEST_P(Contract, TheNewestRefreshTokenIsKept) {
  EXPECT_FALSE(value(store_->refresh_tokens().newest(mine_, "line")));
  value(store_->refresh_tokens().keep(mine_, "line", Secret("first")));
  value(store_->refresh_tokens().keep(mine_, "line", Secret("second")));
  value(store_->refresh_tokens().keep(mine_, "other", Secret("third")));
  reopen();
  EXPECT_EQ(revealed(*value(store_->refresh_tokens().newest(mine_, "line"))), "second");
  EXPECT_EQ(revealed(*value(store_->refresh_tokens().newest(mine_, "other"))), "third");
}

TEST_P(Contract, WhatWasUsedOfLimitsIsKeptForItsDayAndItsSandbox) {
  const LimitCounts::Day today{std::chrono::days(20'000)};
  const WorkspaceId other = workspace("other");
  const std::string box = guarded("box").id;
  auto& counts = store_->limit_counts();
  EXPECT_THAT(value(counts.read(mine_, box, today)), IsEmpty());
  const LimitCount whole{.rule = "", .requests = 7, .request_bytes = 1, .tokens = 2};
  const LimitCount llm{.rule = "llm", .requests = 3, .request_bytes = 1'000'000'000'000'000, .tokens = 9};
  const SandboxCounts first[] = {{mine_, box, {whole, llm}},
                                 {mine_, "00000000-0000-4000-8000-000000000000", {llm}},
                                 {other, box, {{.rule = "theirs", .requests = 1}}}};
  value(counts.keep(today, first));
  reopen();
  auto& again = store_->limit_counts();
  EXPECT_THAT(value(again.read(mine_, box, today)), ElementsAre(whole, llm));
  EXPECT_THAT(value(again.read(other, box, today)), IsEmpty());
  EXPECT_THAT(value(again.read(mine_, box, today + std::chrono::days(1))), IsEmpty());

  const LimitCount more{.rule = "llm", .requests = 4};
  const SandboxCounts second[] = {{mine_, box, {more}}};
  value(again.keep(today, second));
  EXPECT_THAT(value(again.read(mine_, box, today)), ElementsAre(whole, more));
  value(again.keep(today + std::chrono::days(1), second));
  EXPECT_THAT(value(again.read(mine_, box, today)), IsEmpty()) << "a day that is over is dropped";
  EXPECT_THAT(value(again.read(mine_, box, today + std::chrono::days(1))), ElementsAre(more));
  value(store_->sandboxes().remove(mine_, box));
  EXPECT_THAT(value(again.read(mine_, box, today + std::chrono::days(1))), IsEmpty());
  value(again.keep(today, second));
}

// What is on disk.

TEST_P(Contract, NoSecretIsOnDiskInTheClear) {
  const std::string canary = "canary-7f3a91c2d4e5b608";
  const auto api_key = make_api_key();
  value(store_->api_keys().add(mine_, api_key.proof, Scope::admin, "label-that-may-be-seen"));
  set_secret(mine_, "TOKEN", canary + "-secret");
  set_secret(mine_, "TOKEN", canary + "-secret-again");
  value(store_->signing_keys().add("kid", Secret(canary + "-pem")));
  value(store_->refresh_tokens().keep(mine_, "line", Secret(canary + "-refresh")));
  NewResource made{.name = "box"};
  made.settings = document("{}", {{"/env_vars/A", canary + "-variable"}});
  made.policy = document("{}", {{"/rules/0", canary + "-opaque"}});
  const Resource box = value(store_->sandboxes().create(mine_, made));
  value(store_->sandboxes().remove(mine_, box.id));
  for (const bool open : {true, false}) {
    if (!open) store_.reset();
    const std::string bytes = backend_->on_disk();
    EXPECT_THAT(bytes, HasSubstr("label-that-may-be-seen")) << "the search finds what is there";
    std::string base64;
    credential::append_base64(canary, base64);
    for (const std::string& form : {canary, base64.substr(0, 24), revealed(api_key.text),
                                    revealed(api_key.text).substr(25), revealed(key(1).to_text())})
      EXPECT_EQ(bytes.find(form), std::string::npos) << form;
  }
}

TEST_P(Contract, ASecretThatWasMovedDoesNotOpen) {
  const WorkspaceId theirs = workspace("theirs");
  set_secret(mine_, "ONE", "mine-1");
  set_secret(mine_, "TWO", "mine-2");
  set_secret(theirs, "ONE", "theirs-1");
  // To another name.
  tamper("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE workspace = '" + mine_.text +
         "' AND key = 'ONE') WHERE workspace = '" + mine_.text + "' AND key = 'TWO'");
  EXPECT_EQ(fault(store_->secrets().read(mine_)), Fault::damaged);
  EXPECT_THAT(secrets_of(theirs), ElementsAre(Pair("ONE", "theirs-1")));
  set_secret(mine_, "TWO", "mine-2");
  EXPECT_EQ(secrets_of(mine_)["TWO"], "mine-2");
  // To another workspace, with all that belongs to it.
  tamper("UPDATE secrets SET (sealed, revision) = (SELECT sealed, revision FROM secrets WHERE workspace = '" +
         mine_.text + "' AND key = 'ONE') WHERE workspace = '" + theirs.text + "'");
  EXPECT_EQ(fault(store_->secrets().read(theirs)), Fault::damaged);
  // And with the data key.
  tamper("UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE owner = '" + mine_.text +
         "') WHERE owner = '" + theirs.text + "'");
  EXPECT_EQ(fault(store_->secrets().read(theirs)), Fault::damaged);
  EXPECT_EQ(secrets_of(mine_).size(), 2U);
}

TEST_P(Contract, AnOlderValueDoesNotOpenInPlaceOfANewerOne) {
  set_secret(mine_, "TOKEN", "leaked");
  tamper("CREATE TABLE stolen AS SELECT sealed FROM secrets");
  set_secret(mine_, "TOKEN", "rotated");
  tamper("UPDATE secrets SET sealed = (SELECT sealed FROM stolen)");
  EXPECT_EQ(fault(store_->secrets().read(mine_)), Fault::damaged);
}

TEST_P(Contract, AKindOfSecretDoesNotOpenAsAnother) {
  set_secret(mine_, "TOKEN", "a workspace secret");
  value(store_->refresh_tokens().keep(mine_, "TOKEN", Secret("a refresh token")));
  tamper("UPDATE refresh_tokens SET (sealed, revision) = (SELECT sealed, revision FROM secrets)");
  EXPECT_EQ(fault(store_->refresh_tokens().newest(mine_, "TOKEN")), Fault::damaged);
}

TEST_P(Contract, ADamagedSecretIsSaidToBeSoWithoutItsValue) {
  set_secret(mine_, "TOKEN", "canary");
  for (const char* damage :
       {"x''", "x'01'", "sealed || x'00'", "x'02' || substr(sealed, 2)", "substr(sealed, 1, 30)"}) {
    tamper(std::string("UPDATE secrets SET sealed = CAST(") + damage + " AS BLOB)");
    const auto read = store_->secrets().read(mine_);
    ASSERT_FALSE(read) << damage;
    EXPECT_EQ(read.error().fault, Fault::damaged);
    EXPECT_THAT(read.error().detail, HasSubstr("TOKEN"));
    set_secret(mine_, "TOKEN", "canary");  // mends it
    EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("TOKEN", "canary")));
  }
}

TEST_P(Contract, ADocumentThatWasEditedIsNotEnforced) {
  const Resource box = guarded("box");
  const std::string of_box = " WHERE part = 'policy' AND resource = '" + box.id + "'";
  auto read = [&] { return store_->sandboxes().read(mine_, box.id, Part::policy); };
  EXPECT_TRUE(read());
  auto renew = [&] {
    ResourceChange change;
    change.policy = document(box.policy, {{"/rules/0", "opaque"}, {"/rules/1", "another"}});
    value(store_->sandboxes().update(mine_, box.id, change));
    EXPECT_TRUE(read());
  };
  for (const std::string& edit :
       {"UPDATE documents SET json = replace(json, 'api.example.com', 'evil.example.com')" + of_box,
        "UPDATE documents SET revision = revision - 1" + of_box,
        "UPDATE documents SET proof = x'00'" + of_box, "DELETE FROM document_secrets" + of_box,
        "DELETE FROM document_secrets" + of_box + " AND place = '/rules/1'",
        "UPDATE document_secrets SET place = '/rules/2'" + of_box + " AND place = '/rules/1'",
        "UPDATE document_secrets SET ordinal = -1" + of_box + " AND place = '/rules/1'"}) {
    renew();
    tamper(edit);
    EXPECT_EQ(fault(read()), Fault::damaged) << edit;
  }
}

TEST_P(Contract, ADocumentOfAnotherSandboxIsNotEnforced) {
  const Resource one = guarded("one"), two = guarded("two");
  for (const char* table : {"documents", "document_secrets"})
    tamper(std::string("DELETE FROM ") + table + " WHERE resource = '" + two.id + "'");
  tamper("UPDATE document_secrets SET resource = '" + two.id + "' WHERE resource = '" + one.id + "'");
  tamper("UPDATE documents SET resource = '" + two.id + "' WHERE resource = '" + one.id + "'");
  EXPECT_EQ(fault(store_->sandboxes().read(mine_, two.id, Part::policy)), Fault::damaged);
  EXPECT_EQ(fault(store_->sandboxes().find(mine_, one.id)), Fault::damaged);
}

TEST_P(Contract, ARowThatNobodyWroteIsDamaged) {
  const Resource box = sandbox("box");
  for (const char* edit : {"status = 'idle'", "labels = '[]'", "labels = '{'", "labels = '{\"a\":1}'"}) {
    tamper(std::string("UPDATE resources SET ") + edit);
    EXPECT_EQ(fault(store_->sandboxes().find(mine_, box.id)), Fault::damaged) << edit;
    tamper("UPDATE resources SET status = 'ready', labels = '{}'");
  }
}

// The master key.

TEST_P(Contract, WithoutItsMasterKeyAStoreIsSealedAndSaysSo) {
  const Resource box = guarded("box");
  set_secret(mine_, "TOKEN", "canary");
  value(store_->signing_keys().add("kid", Secret("pem")));
  EXPECT_EQ(store_->seal(), Seal::open);
  for (const Seal seal : {Seal::no_key, Seal::other_key}) {
    reopen(seal == Seal::no_key ? std::nullopt : std::optional(key(2)));
    EXPECT_EQ(store_->seal(), seal);
    EXPECT_EQ(value(store_->master_key_fingerprint()), key(1).fingerprint());
    EXPECT_EQ(fault(store_->secrets().read(mine_)), Fault::sealed);
    EXPECT_EQ(fault(store_->sandboxes().read(mine_, box.id, Part::policy)), Fault::sealed);
    EXPECT_EQ(fault(store_->signing_keys().read()), Fault::sealed);
    EXPECT_EQ(fault(store_->refresh_tokens().newest(mine_, "line")), Fault::sealed);
    EXPECT_EQ(fault(store_->workspaces().create("other")), Fault::sealed);
    EXPECT_EQ(fault(store_->sandboxes().create(mine_, {.name = "other"})), Fault::sealed);
    EXPECT_EQ(fault(store_->rotate_master_key(key(3))), Fault::sealed);
    std::vector<SecretChange> changes;
    changes.push_back({"TOKEN", Secret("other")});
    EXPECT_EQ(fault(store_->secrets().change(mine_, changes)), Fault::sealed);
    // Whatever needs no secret goes on.
    EXPECT_EQ(value(store_->sandboxes().find(mine_, box.id)).policy, box.policy);
    EXPECT_EQ(value(store_->sandboxes().list(mine_, {})).items.size(), 1U);
    EXPECT_EQ(value(store_->secrets().list(mine_)).size(), 1U);
    EXPECT_EQ(value(store_->sandboxes().update(mine_, box.id, {.status = Status::stopped})).status,
              Status::stopped);
    EXPECT_TRUE(store_->api_keys().add(mine_, make_api_key().proof, Scope::admin, ""));
  }
  reopen();
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("TOKEN", "canary")));
}

TEST_P(Contract, ASealedStoreCanDelete) {
  const Resource box = guarded("box");
  set_secret(mine_, "TOKEN", "canary");
  reopen(std::nullopt);
  std::vector<SecretChange> removal;
  removal.push_back({"TOKEN", std::nullopt});
  value(store_->secrets().change(mine_, removal));
  EXPECT_EQ(value(store_->sandboxes().remove(mine_, box.id)), Removal::removed);
  EXPECT_EQ(value(store_->workspaces().remove(mine_)), Removal::removed);
}

TEST_P(Contract, ARotatedMasterKeyOpensEverythingAndTheOldOneNothing) {
  const Resource box = guarded("box");
  set_secret(mine_, "TOKEN", "canary");
  value(store_->signing_keys().add("kid", Secret("pem")));
  EXPECT_EQ(value(store_->rotate_master_key(key(2))), 2U);
  EXPECT_EQ(value(store_->master_key_fingerprint()), key(2).fingerprint());
  auto all_there = [&] {
    EXPECT_EQ(store_->seal(), Seal::open);
    EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("TOKEN", "canary")));
    EXPECT_EQ(revealed(value(store_->signing_keys().read()).front().pem), "pem");
    EXPECT_TRUE(store_->sandboxes().read(mine_, box.id, Part::policy));
  };
  all_there();
  reopen(key(1));
  EXPECT_EQ(store_->seal(), Seal::other_key);
  EXPECT_EQ(fault(store_->secrets().read(mine_)), Fault::sealed);
  // Whoever was not told that it was done asks again, with the old key still in hand.
  EXPECT_EQ(value(store_->rotate_master_key(key(2))), 0U);
  all_there();
  reopen(key(2));
  all_there();
  workspace("made afterwards");
  EXPECT_EQ(value(store_->rotate_master_key(key(2))), 0U);
}

// Changes.

TEST_P(Contract, WhoAsksWhatChangedLearnsOfAllOfItInOrder) {
  const Revision start = value(store_->changes().since(0, all_items)).upto;
  EXPECT_THAT(value(store_->changes().since(start, all_items)).items, IsEmpty());
  const Resource box = guarded("box");
  set_secret(mine_, "TOKEN", "canary");
  const Resource other = sandbox("other");
  value(store_->sandboxes().update(mine_, box.id, {.status = Status::ready}));
  value(store_->sandboxes().remove(mine_, other.id));
  value(store_->signing_keys().add("kid", Secret("pem")));
  EXPECT_EQ(fault(store_->sandboxes().create(mine_, {.name = "box"})), Fault::exists);  // changes nothing
  const auto changes = value(store_->changes().since(start, all_items));
  std::vector<std::string> told;
  Revision last = start;
  for (const Change& change : changes.items) {
    EXPECT_GT(change.revision, last);
    last = change.revision;
    told.push_back(change.id + (change.gone ? " gone" : ""));
  }
  EXPECT_THAT(told, ElementsAre("TOKEN", box.id, other.id + " gone", "kid"));
  EXPECT_EQ(changes.items[1].kind, Kind::sandbox);
  EXPECT_EQ(changes.items[1].workspace, mine_);
  EXPECT_EQ(changes.upto, last);
  EXPECT_FALSE(changes.start_over);
  // In small portions too.
  std::vector<std::string> again;
  for (Revision from = start; from < last;) {
    const auto portion = value(store_->changes().since(from, 1));
    ASSERT_EQ(portion.items.size(), 1U);
    again.push_back(portion.items[0].id + (portion.items[0].gone ? " gone" : ""));
    from = portion.upto;
  }
  EXPECT_EQ(again, told);
}

TEST_P(Contract, WhoAsksFromWhatIsForgottenStartsOver) {
  const Resource box = sandbox("box"), other = sandbox("other");
  const Revision before = value(store_->changes().since(0, all_items)).upto;
  value(store_->sandboxes().remove(mine_, box.id));
  const Revision removed = value(store_->changes().since(0, all_items)).upto;
  clock_.advance(std::chrono::hours(1));
  value(store_->sandboxes().remove(mine_, other.id));
  value(store_->changes().forget_deleted(clock_.wall()));
  EXPECT_TRUE(value(store_->changes().since(before, all_items)).start_over);
  const auto later = value(store_->changes().since(removed, all_items));
  EXPECT_FALSE(later.start_over);
  ASSERT_EQ(later.items.size(), 1U);
  EXPECT_EQ(later.items[0].id, other.id);
  EXPECT_EQ(fault(store_->sandboxes().remove(mine_, box.id)), Fault::not_found);
  EXPECT_EQ(value(store_->sandboxes().remove(mine_, other.id)), Removal::was_gone);
  // From what was never reached, too.
  EXPECT_TRUE(value(store_->changes().since(later.upto + 1, all_items)).start_over);
}

TEST_P(Contract, TheEndOfAWorkspaceIsOneChange) {
  sandbox("box");
  const Revision before = value(store_->changes().since(0, all_items)).upto;
  value(store_->workspaces().remove(mine_));
  const auto changes = value(store_->changes().since(before, all_items));
  ASSERT_EQ(changes.items.size(), 1U);
  EXPECT_EQ(changes.items[0].kind, Kind::workspace);
  EXPECT_EQ(changes.items[0].workspace, mine_);
  EXPECT_TRUE(changes.items[0].gone);
}

TEST_P(Contract, TwoThreadsWriteAtOnceAndNothingIsLost) {
  constexpr int each = 25;
  std::array<int, 2> won{};
  std::array<std::vector<Revision>, 2> revisions;
  std::vector<std::thread> threads;
  for (int number = 0; number < 2; ++number) {
    threads.emplace_back([&, number] {
      for (int i = 0; i < each; ++i) {
        const auto own =
            store_->sandboxes().create(mine_, {.name = "own-" + std::to_string(number * each + i)});
        if (own) revisions[number].push_back(own->revision);
        // For this one both try.
        if (store_->sandboxes().create(mine_, {.name = "same-" + std::to_string(i)})) ++won[number];
        (void)store_->sandboxes().list(mine_, {});
        std::vector<SecretChange> changes;
        changes.push_back({"K" + std::to_string(number), Secret("v" + std::to_string(i))});
        (void)store_->secrets().change(mine_, changes);
        (void)store_->secrets().read(mine_);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won[0] + won[1], each);
  std::set<Revision> unique;
  for (const auto& some : revisions) {
    EXPECT_EQ(some.size(), static_cast<std::size_t>(each));
    EXPECT_TRUE(std::ranges::is_sorted(some));
    unique.insert(some.begin(), some.end());
  }
  EXPECT_EQ(unique.size(), 2U * each);
  reopen();
  EXPECT_EQ(names({}, 500).size(), 3U * each);
  EXPECT_THAT(secrets_of(mine_), ElementsAre(Pair("K0", "v24"), Pair("K1", "v24")));
}

TEST_P(Contract, AReaderSeesADocumentWithItsOwnSecrets) {
  const Resource box = guarded("box");
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) {
      ResourceChange change;
      change.policy = document("[" + std::to_string(i) + "]", {{"/x", std::to_string(i)}});
      (void)store_->sandboxes().update(mine_, box.id, change);
    }
  });
  for (int i = 0; i < 50; ++i) {
    const Document read = value(store_->sandboxes().read(mine_, box.id, Part::policy));
    const std::string number = revealed(read.secrets.at(0).value);
    if (read.json != box.policy) {
      EXPECT_EQ(read.json, "[" + number + "]");
    }
  }
  writer.join();
}

// Lists.

TEST_P(Contract, AListIsStableWhileThingsComeAndGo) {
  std::vector<Resource> boxes;
  for (const char* name : {"a", "b", "c", "d", "e"}) boxes.push_back(sandbox(name));
  int turn = 0;
  const auto found = names({}, 2, [&] {
    if (++turn != 1) return;
    sandbox("new");                                         // before the cursor
    value(store_->sandboxes().remove(mine_, boxes[3].id));  // the last that was seen
    value(store_->sandboxes().remove(mine_, boxes[2].id));  // the next
    value(store_->sandboxes().update(mine_, boxes[0].id, {.status = Status::ready}));
  });
  EXPECT_THAT(found, ElementsAre("e", "d", "b", "a"));
}

TEST_P(Contract, AListIsInTheOrderThatWasAskedFor) {
  for (const char* name : {"b", "c", "a", "d"}) {
    clock_.advance(std::chrono::seconds(1));
    const Resource box = sandbox(name);
    if (*name == 'c') value(store_->sandboxes().update(mine_, box.id, {.status = Status::ready}));
    if (*name != 'd')
      value(store_->sandboxes().update(mine_, box.id,
                                       {.stopped_at = clock_.wall() - std::chrono::hours(*name - 'a')}));
  }
  for (const std::size_t page : {1, 2, 3, 50}) {
    auto in = [&](Order order, Direction direction) {
      return names({.order = order, .direction = direction}, page);
    };
    EXPECT_THAT(in(Order::created, Direction::ascending), ElementsAre("b", "c", "a", "d"));
    EXPECT_THAT(in(Order::created, Direction::descending), ElementsAre("d", "a", "c", "b"));
    EXPECT_THAT(in(Order::name, Direction::ascending), ElementsAre("a", "b", "c", "d"));
    EXPECT_THAT(in(Order::name, Direction::descending), ElementsAre("d", "c", "b", "a"));
    EXPECT_THAT(in(Order::status, Direction::ascending), ElementsAre("b", "a", "d", "c"));
    EXPECT_THAT(in(Order::stopped, Direction::ascending), ElementsAre("d", "c", "b", "a"));
  }
}

TEST_P(Contract, AListHoldsWhatWasAskedFor) {
  auto add = [&](const std::string& name, Labels labels, const std::string& by, Status status) {
    value(store_->sandboxes().create(
        mine_, {.name = name, .status = status, .labels = std::move(labels), .created_by = by}));
  };
  add("web-1", {{"team", "a"}, {"env", "prod"}}, "ann", Status::ready);
  add("web-2", {{"team", "b"}}, "ben", Status::stopped);
  add("100%_db", {{"team", "a"}}, "ann", Status::stopped);
  ResourceQuery rising{.direction = Direction::ascending};
  auto query = [&](auto change) {
    ResourceQuery asked = rising;
    change(asked);
    return names(asked);
  };
  EXPECT_THAT(query([](auto& q) { q.name_contains = "web"; }), ElementsAre("web-1", "web-2"));
  EXPECT_THAT(query([](auto& q) { q.name_contains = "%"; }),
              ElementsAre("100%_db"));  // nothing is a wildcard
  EXPECT_THAT(query([](auto& q) { q.name_contains = "' OR '1'='1"; }), IsEmpty());
  EXPECT_THAT(query([](auto& q) { q.status = Status::stopped; }), ElementsAre("web-2", "100%_db"));
  EXPECT_THAT(query([](auto& q) { q.created_by = "ann"; }), ElementsAre("web-1", "100%_db"));
  EXPECT_THAT(query([](auto& q) { q.labels = {{"team", "a"}}; }), ElementsAre("web-1", "100%_db"));
  EXPECT_THAT(query([](auto& q) { q.labels = {{"team", std::nullopt}}; }),
              ElementsAre("web-1", "web-2", "100%_db"));
  EXPECT_THAT(query([](auto& q) { q.labels = {{"team", "a"}, {"env", std::nullopt}}; }),
              ElementsAre("web-1"));
  EXPECT_THAT(query([](auto& q) { q.labels = {{"none", std::nullopt}}; }), IsEmpty());
}

TEST_P(Contract, ACursorOfAnotherListIsRefused) {
  for (const char* name : {"a", "b", "c"}) sandbox(name);
  const auto first = value(store_->sandboxes().list(mine_, {.page = {.limit = 1}}));
  ASSERT_THAT(first.next_cursor, Not(IsEmpty()));
  EXPECT_EQ(
      fault(store_->sandboxes().list(mine_, {.page = {.cursor = first.next_cursor}, .order = Order::name})),
      Fault::invalid);
  for (const std::string& cursor :
       {std::string("x"), std::string("cd"), std::string("cd1"), std::string("cdx:1"), std::string("cd1:x"),
        std::string("cd-1:1"), "cd1:" + std::string(500, '1'), std::string("cd1:1 OR 1=1")})
    EXPECT_EQ(fault(store_->sandboxes().list(mine_, {.page = {.cursor = cursor}})), Fault::invalid) << cursor;
  EXPECT_THAT(value(store_->sandboxes().list(mine_, {.page = {.limit = 0}})).items, IsEmpty());
}

// Names and sizes.

TEST_P(Contract, NamesAreTextAndNothingElse) {
  for (const char* name :
       {"'; DROP TABLE resources; --", "\" OR \"\"=\"", "%", "_", "a/b", "../../etc/passwd", "\\", "?1",
        ":name", "$(id)", "имя", "名前", " ", "null", "box:tag"}) {
    const Resource box = sandbox(name);
    EXPECT_EQ(box.name, name);
    EXPECT_EQ(value(store_->sandboxes().find_by_name(mine_, name)), box);
    workspace(name);
  }
  EXPECT_EQ(names({}).size(), 15U);
}

TEST_P(Contract, NamesThatCouldBeMistakenAreRefused) {
  for (const std::string& name :
       {std::string(), std::string("a\0b", 3), std::string("a\nb"), std::string("a\x7f"), std::string("\xff"),
        std::string("\xc0\xaf"), std::string("\xed\xa0\x80"), std::string("cut \xe2\x82"),
        std::string("123e4567-e89b-42d3-a456-426614174000"),
        std::string("123E4567-E89B-42D3-A456-426614174000")})
    EXPECT_EQ(fault(store_->sandboxes().create(mine_, {.name = name})), Fault::invalid)
        << testing::PrintToString(name);
  const Resource box = sandbox("box");
  EXPECT_EQ(fault(store_->sandboxes().update(mine_, box.id, {.name = ""})), Fault::invalid);
}

TEST_P(Contract, WhatIsTooLargeIsRefusedInWords) {
  auto refused = [&](auto change) {
    NewResource made{.name = "box"};
    change(made);
    const auto created = store_->sandboxes().create(mine_, made);
    EXPECT_FALSE(created);
    EXPECT_THAT(created.error().detail, testing::ContainsRegex("[0-9]"));
    return created.error().fault;
  };
  EXPECT_EQ(refused([](auto& it) { it.name = std::string(name_bytes_max + 1, 'x'); }), Fault::too_large);
  EXPECT_EQ(refused([](auto& it) { it.tag = std::string(name_bytes_max + 1, 'x'); }), Fault::too_large);
  EXPECT_EQ(refused([](auto& it) { it.created_by = std::string(name_bytes_max + 1, 'x'); }),
            Fault::too_large);
  EXPECT_EQ(refused([](auto& it) { it.labels["k"] = std::string(label_bytes_max + 1, 'x'); }),
            Fault::too_large);
  EXPECT_EQ(refused([](auto& it) {
              for (std::size_t i = 0; i <= labels_max; ++i) it.labels[std::to_string(i)] = "";
            }),
            Fault::too_many);
  EXPECT_EQ(refused([](auto& it) { it.settings.json = '"' + std::string(settings_bytes_max, 'x') + '"'; }),
            Fault::too_large);
  EXPECT_EQ(refused([](auto& it) {
              it.policy = document("{}", {{"/x", std::string(document_secret_bytes_max + 1, 'x')}});
            }),
            Fault::too_large);
  EXPECT_THAT(names({}), IsEmpty());
  NewResource largest{.name = std::string(name_bytes_max, 'x')};
  largest.policy = document("{}", {{"/x", std::string(document_secret_bytes_max, 'x')}});
  EXPECT_TRUE(store_->sandboxes().create(mine_, largest));
}

TEST_P(Contract, MoreThanAnybodyNeedsIsRefused) {
  std::vector<SecretChange> changes;
  for (std::size_t i = 0; i < secrets_max; ++i) changes.push_back({"K" + std::to_string(i), Secret("x")});
  value(store_->secrets().change(mine_, changes));
  std::vector<SecretChange> one_more;
  one_more.push_back({"ONE_MORE", Secret("x")});
  EXPECT_EQ(fault(store_->secrets().change(mine_, one_more)), Fault::too_many);
  one_more.push_back({"K0", std::nullopt});
  value(store_->secrets().change(mine_, one_more));  // instead of another
  EXPECT_EQ(value(store_->secrets().list(mine_)).size(), secrets_max);

  for (std::size_t i = 0; i < signing_keys_max; ++i)
    value(store_->signing_keys().add(std::to_string(i), Secret("pem")));
  EXPECT_EQ(fault(store_->signing_keys().add("one more", Secret("pem"))), Fault::too_many);

  value(store_->api_keys().add(mine_, make_api_key().proof, Scope::admin, ""));
  tamper("WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < " +
         std::to_string(api_keys_max) +
         ") INSERT INTO api_keys SELECT i, workspace, ordinal, digest, scope, label, created_at, NULL, NULL, "
         "revision "
         "FROM n, api_keys");
  EXPECT_EQ(fault(store_->api_keys().add(mine_, make_api_key().proof, Scope::admin, "")), Fault::too_many);
  EXPECT_TRUE(store_->api_keys().add(workspace("theirs"), make_api_key().proof, Scope::admin, ""));
}

TEST_P(Contract, ADocumentIsJson) {
  for (const char* text : {"", "{", "{} x", "\"\xff\""}) {
    NewResource made{.name = "box"};
    made.settings.json = text;
    EXPECT_EQ(fault(store_->sandboxes().create(mine_, made)), Fault::invalid) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Sqlite, Contract, testing::Values(+[]() -> std::unique_ptr<Backend> {
                           return std::make_unique<SqliteBackend>();
                         }));

}  // namespace
}  // namespace postern::store
