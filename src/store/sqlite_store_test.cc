#include "store/sqlite_store.h"

#include <csignal>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <map>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "credential/secret_test_kit.h"
#include "store/killing_vfs_test_kit.h"
#include "store/sqlite_schema.h"
#include "store/store_test_kit.h"

namespace postern::store {
namespace {

namespace fs = std::filesystem;
using credential::MasterKey;
using credential::revealed;
using testing::HasSubstr;

class Sqlite : public testing::Test {
 protected:
  Outcome<std::unique_ptr<SqliteStore>> open(int key_number = 1) const {
    return SqliteStore::open(path_, key(key_number), clock_);
  }
  std::string file(const std::string& suffix = "") const { return path_ + "/store.db" + suffix; }

  TestDirectory directory_;
  std::string path_ = directory_.path() + "/data";
  ManualClock clock_;
};

mode_t mode_of(const std::string& path) {
  struct stat status{};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

void set_secret(Store& store, const WorkspaceId& workspace, const std::string& name,
                const std::string& text) {
  std::vector<SecretChange> changes;
  changes.push_back({name, Secret(text)});
  value(store.secrets().change(workspace, changes));
}

std::map<std::string, std::string> secrets_of(Store& store, const WorkspaceId& workspace) {
  std::map<std::string, std::string> found;
  for (const NamedSecret& secret : value(store.secrets().read(workspace)))
    found.emplace(secret.name, revealed(secret.value));
  return found;
}

// Files.

TEST_F(Sqlite, ItsFilesAreForNobodyElse) {
  const mode_t before = ::umask(0);
  const auto store = value(open());
  value(store->workspaces().create("w"));
  ::umask(before);
  EXPECT_EQ(mode_of(path_), 0700U);
  for (const char* suffix : {"", "-wal", "-shm"}) EXPECT_EQ(mode_of(file(suffix)), 0600U) << suffix;
}

TEST_F(Sqlite, AFileThatOthersCouldReadIsRefused) {
  value(open());
  ::chmod(file().c_str(), 0640);
  EXPECT_EQ(fault(open()), Fault::invalid);
  ::chmod(file().c_str(), 0600);
  ::chmod(path_.c_str(), 0755);
  EXPECT_EQ(fault(open()), Fault::invalid);
  ::chmod(path_.c_str(), 0700);
  EXPECT_TRUE(open());
}

TEST_F(Sqlite, NoSymbolicLinkIsFollowed) {
  value(open());
  fs::rename(file(), directory_.path() + "/elsewhere.db");
  fs::create_symlink(directory_.path() + "/elsewhere.db", file());
  EXPECT_EQ(fault(open()), Fault::invalid);
  fs::remove(file());
  fs::create_symlink(directory_.path() + "/made-by-us", file());
  EXPECT_EQ(fault(open()), Fault::invalid);
  EXPECT_FALSE(fs::exists(directory_.path() + "/made-by-us"));
  fs::remove(file());
  fs::create_symlink(directory_.path() + "/log", file("-wal"));
  EXPECT_EQ(fault(open()), Fault::invalid);
  fs::remove(file("-wal"));
  EXPECT_TRUE(open());
  fs::rename(path_, directory_.path() + "/other");
  fs::create_symlink(directory_.path() + "/other", path_);
  EXPECT_EQ(fault(open()), Fault::invalid);
}

TEST_F(Sqlite, ADirectoryReachedThroughALinkIsOpenedWhereItIs) {
  fs::create_directory(directory_.path() + "/real");
  fs::create_symlink(directory_.path() + "/real", directory_.path() + "/link");
  path_ = directory_.path() + "/link/data";
  EXPECT_TRUE(open());
  EXPECT_TRUE(fs::exists(directory_.path() + "/real/data/store.db"));
}

TEST_F(Sqlite, AStoreOfALaterProgramIsRefusedAndLeftAsItIs) {
  value(open());
  sql_in(file(), "PRAGMA user_version = " + std::to_string(sqlite_schema_version() + 1));
  const auto opened = open();
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().fault, Fault::newer);
  EXPECT_THAT(opened.error().detail, HasSubstr("later"));
  sql_in(file(), "PRAGMA user_version = " + std::to_string(sqlite_schema_version()));
  EXPECT_TRUE(open());
}

TEST_F(Sqlite, AStoreOfTheFirstVersionGetsWhatCameLater) {
  value(open());
  sql_in(file(), "DROP TABLE limit_counts; PRAGMA user_version = 1");
  const auto opened = value(open());
  EXPECT_TRUE(value(opened->limit_counts().read({"none"}, "none", {})).empty());
  value(opened->limit_counts().keep({}, {}));
}

TEST_F(Sqlite, WhatIsNoStoreIsRefused) {
  value(open());
  fs::remove(file());
  const auto write = [&](const std::string& bytes) {
    std::ofstream(file(), std::ios::binary) << bytes;
    ::chmod(file().c_str(), 0600);
  };
  write(std::string(8192, 'x'));
  EXPECT_EQ(fault(open()), Fault::damaged);
  fs::remove(file());
  write("");
  sql_in(file(), "CREATE TABLE another_program (x)");
  EXPECT_EQ(fault(open()), Fault::damaged);
}

TEST_F(Sqlite, ADatabaseThatWasCutOrOverwrittenIsDamaged) {
  {
    const auto store = value(open());
    const WorkspaceId workspace = value(store->workspaces().create("w")).id;
    for (int i = 0; i < 50; ++i)
      set_secret(*store, workspace, "K" + std::to_string(i), std::string(2000, 'x'));
  }
  const auto size = fs::file_size(file());
  fs::copy_file(file(), file("-whole"));
  fs::resize_file(file(), size / 2);
  EXPECT_EQ(fault(open()), Fault::damaged);
  fs::copy_file(file("-whole"), file(), fs::copy_options::overwrite_existing);
  {
    std::fstream bytes(file(), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(4096 * 3);
    bytes << std::string(4096, '\xff');
  }
  EXPECT_EQ(fault(open()), Fault::damaged);
  fs::copy_file(file("-whole"), file(), fs::copy_options::overwrite_existing);
  EXPECT_TRUE(open());
}

TEST_F(Sqlite, AFullDiskChangesNothingAndSaysSo) {
  const auto store = value(open());
  const WorkspaceId workspace = value(store->workspaces().create("w")).id;
  set_secret(*store, workspace, "TOKEN", "kept");
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{static_cast<rlim_t>(fs::file_size(file("-wal"))), before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  std::vector<SecretChange> changes;
  changes.push_back({"TOKEN", Secret("lost")});
  const auto changed = store->secrets().change(workspace, changes);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignored);
  EXPECT_EQ(fault(changed), Fault::unavailable);
  EXPECT_EQ(secrets_of(*store, workspace)["TOKEN"], "kept");
  set_secret(*store, workspace, "TOKEN", "afterwards");
  EXPECT_EQ(secrets_of(*store, workspace)["TOKEN"], "afterwards");
}

TEST_F(Sqlite, TwoProcessesTakeTurns) {
  const auto one = value(open()), other = value(open());
  const WorkspaceId workspace = value(one->workspaces().create("w")).id;
  set_secret(*other, workspace, "TOKEN", "from the other");
  EXPECT_EQ(secrets_of(*one, workspace)["TOKEN"], "from the other");
  // Whoever still has the old master key makes no workspace that the new one cannot open.
  value(one->rotate_master_key(key(2)));
  EXPECT_EQ(fault(other->workspaces().create("another")), Fault::sealed);
  EXPECT_EQ(fault(other->secrets().read(workspace)), Fault::sealed);
  EXPECT_TRUE(one->workspaces().create("another"));
}

TEST_F(Sqlite, WhoeverCanFindTheNewMasterKeyGoesOn) {
  const SystemClock clock;
  std::vector<std::string> asked;
  int at_hand = 2;
  const auto opened = [&] {
    return value(SqliteStore::open(path_, key(1), clock, [&](const std::string& fingerprint) {
      asked.push_back(fingerprint);
      return std::optional(key(at_hand));
    }));
  };
  auto one = opened();
  const WorkspaceId workspace = value(one->workspaces().create("w")).id;
  set_secret(*one, workspace, "TOKEN", "before");
  EXPECT_TRUE(asked.empty());
  value(value(open())->rotate_master_key(key(2)));
  EXPECT_EQ(secrets_of(*one, workspace)["TOKEN"], "before");
  EXPECT_TRUE(one->workspaces().create("another"));
  EXPECT_EQ(asked, std::vector{key(2).fingerprint()}) << "once";
  one.reset();
  one = opened();
  EXPECT_EQ(one->seal(), Seal::open);
  // One that is not the store's is not used.
  at_hand = 3;
  value(value(open(2))->rotate_master_key(key(1)));
  EXPECT_EQ(fault(one->secrets().read(workspace)), Fault::sealed);
  EXPECT_EQ(fault(one->workspaces().create("third")), Fault::sealed);
}

TEST_F(Sqlite, AfterARotationNothingOnDiskOpensWithTheOldKey) {
  const auto store = value(open());
  value(store->workspaces().create("w"));
  const std::string old_key = key(1).fingerprint();
  const auto wraps = [&] {
    std::string bytes, fingerprint;
    for (const char* suffix : {"", "-wal"}) {
      std::ifstream in(file(suffix), std::ios::binary);
      bytes.append(std::istreambuf_iterator<char>(in), {});
    }
    for (std::size_t i = 0; i < old_key.size(); i += 2)
      fingerprint += static_cast<char>(std::stoi(old_key.substr(i, 2), nullptr, 16));
    return bytes.find(fingerprint) != std::string::npos;
  };
  EXPECT_TRUE(wraps());
  value(store->rotate_master_key(key(2)));
  EXPECT_FALSE(wraps());
}

// Killed.

TEST_F(Sqlite, KilledWhileItIsMadeItOpens) {
  int deaths = 0;
  for (int nth = 1;; ++nth) {
    fs::remove_all(path_);
    if (survives(nth, [&] { value(open()); })) break;
    ++deaths;
    const auto store = open();
    ASSERT_TRUE(store) << nth << ": " << store.error().detail;
    EXPECT_TRUE((*store)->workspaces().create("w")) << nth;
  }
  EXPECT_GT(deaths, 10);
}

TEST_F(Sqlite, KilledAtAnyPointOfARotationItHasTheOneKeyOrTheOther) {
  std::vector<WorkspaceId> workspaces;
  {
    const auto store = value(open());
    for (int i = 0; i < 30; ++i) {
      workspaces.push_back(value(store->workspaces().create(std::to_string(i))).id);
      set_secret(*store, workspaces.back(), "TOKEN", "canary-" + std::to_string(i));
    }
  }
  int olds = 0, news = 0;
  for (int nth = 1, from = 1;; ++nth) {
    const int to = 3 - from;
    const bool survived = survives(nth, [&] { value(value(open(from))->rotate_master_key(key(to))); });
    auto store = value(open(from));
    if (store->seal() == Seal::open) {
      ++olds;
    } else {
      ++news;
      store.reset();
      store = value(open(to));
      EXPECT_EQ(store->seal(), Seal::open) << nth;
    }
    for (std::size_t i = 0; i < workspaces.size(); ++i)
      EXPECT_EQ(secrets_of(*store, workspaces[i])["TOKEN"], "canary-" + std::to_string(i)) << nth;
    if (survived) break;
    // Asked again, as whoever was not answered would.
    value(store->rotate_master_key(key(to)));
    from = to;
  }
  EXPECT_GT(olds, 10);
  EXPECT_GT(news, 1);
}

TEST_F(Sqlite, KilledAtAnyPointNothingThatWasAcknowledgedIsLost) {
  WorkspaceId workspace;
  workspace = value(value(open())->workspaces().create("w")).id;
  int deaths = 0;
  for (int nth = 1;; ++nth) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const std::string prefix = std::to_string(nth) + "-";
    const bool survived = survives(nth, [&] {
      const auto store = value(open());
      for (unsigned char i = 0; i < 5; ++i) {
        NewResource made{.name = prefix + std::to_string(i)};
        made.policy = document("[]", {{"/x", made.name}});
        value(store->sandboxes().create(workspace, made));
        if (::write(pipe[1], &i, 1) != 1) ::_exit(1);
      }
    });
    ::close(pipe[1]);
    char acknowledged[8];
    const ssize_t count = ::read(pipe[0], acknowledged, sizeof acknowledged);
    ::close(pipe[0]);
    const auto store = value(open());
    for (ssize_t i = 0; i < count; ++i) {
      const auto found = store->sandboxes().find_by_name(workspace, prefix + std::to_string(i));
      ASSERT_TRUE(found) << nth << ": " << i << " of " << count;
      EXPECT_EQ(text_of(value(store->sandboxes().read(workspace, found->id, Part::policy))),
                "[] /x=" + prefix + std::to_string(i));
    }
    // And at most the one that was under way is there beside them.
    const auto listed =
        value(store->sandboxes().list(workspace, {.page = {.limit = 500}, .name_contains = prefix}));
    EXPECT_LE(listed.items.size(), static_cast<std::size_t>(count) + 1);
    if (survived) {
      EXPECT_EQ(count, 5);
      break;
    }
    ++deaths;
    for (const Resource& one : listed.items) value(store->sandboxes().remove(workspace, one.id));
  }
  EXPECT_GT(deaths, 30);
}

// Backups.

class Backup : public Sqlite {
 protected:
  Backup() {
    store_ = value(open());
    workspace_ = value(store_->workspaces().create("w")).id;
    set_secret(*store_, workspace_, "TOKEN", "canary-7f3a91c2");
    NewResource made{.name = "box"};
    made.policy = document("[]", {{"/x", "canary-7f3a91c2"}});
    box_ = value(store_->sandboxes().create(workspace_, made));
  }
  std::string backup_ = directory_.path() + "/backup.db";
  std::unique_ptr<SqliteStore> store_;
  WorkspaceId workspace_;
  Resource box_;
};

TEST_F(Backup, IsOneFileForNobodyElseWithoutASecretInTheClear) {
  const mode_t before = ::umask(0);
  value(store_->back_up(backup_));
  ::umask(before);
  EXPECT_EQ(mode_of(backup_), 0600U);
  for (const char* suffix : {"-wal", "-shm", "-journal", ".new"}) EXPECT_FALSE(fs::exists(backup_ + suffix));
  std::ifstream in(backup_, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  EXPECT_THAT(bytes, HasSubstr("TOKEN"));
  EXPECT_THAT(bytes, testing::Not(HasSubstr("canary-7f3a91c2")));
}

TEST_F(Backup, DoesNotTakeThePlaceOfAnything) {
  std::ofstream(backup_) << "precious";
  EXPECT_EQ(fault(store_->back_up(backup_)), Fault::exists);
  EXPECT_EQ(fs::file_size(backup_), 8U);
  fs::remove(backup_);
  fs::create_symlink(directory_.path() + "/elsewhere", backup_);
  EXPECT_EQ(fault(store_->back_up(backup_)), Fault::exists);
  EXPECT_FALSE(fs::exists(directory_.path() + "/elsewhere"));
  EXPECT_EQ(fault(store_->back_up(directory_.path() + "/none/backup.db")), Fault::unavailable);
}

TEST_F(Backup, IsCheckedByReadingAllOfIt) {
  value(store_->back_up(backup_));
  const MasterKey right = key(1), wrong = key(2);
  const auto summary = value(check_backup(backup_, &right));
  EXPECT_EQ(summary.workspaces, 1U);
  EXPECT_EQ(summary.sandboxes, 1U);
  EXPECT_EQ(summary.master_key, right.fingerprint());
  EXPECT_EQ(summary.revision, box_.revision);
  EXPECT_TRUE(check_backup(backup_, nullptr));
  EXPECT_EQ(fault(check_backup(backup_, &wrong)), Fault::sealed);
  fs::resize_file(backup_, fs::file_size(backup_) / 2);
  EXPECT_EQ(fault(check_backup(backup_, &right)), Fault::damaged);
  EXPECT_EQ(fault(restore_backup(backup_, directory_.path() + "/restored")), Fault::damaged);
  EXPECT_FALSE(fs::exists(directory_.path() + "/restored/store.db"));
  EXPECT_EQ(fault(check_backup(directory_.path() + "/none.db", &right)), Fault::unavailable);
}

TEST_F(Backup, RestoresWhatWasThereAtItsMoment) {
  value(store_->back_up(backup_));
  set_secret(*store_, workspace_, "TOKEN", "changed since");
  const Revision seen = value(store_->changes().since(0, 1000)).upto;
  EXPECT_EQ(fault(restore_backup(backup_, path_)), Fault::exists);

  path_ = directory_.path() + "/restored";
  value(restore_backup(backup_, path_));
  EXPECT_EQ(mode_of(path_), 0700U);
  EXPECT_EQ(mode_of(file()), 0600U);
  const auto restored = value(open());
  EXPECT_EQ(restored->seal(), Seal::open);
  EXPECT_EQ(secrets_of(*restored, workspace_)["TOKEN"], "canary-7f3a91c2");
  EXPECT_EQ(value(restored->sandboxes().find(workspace_, box_.id)), box_);
  EXPECT_EQ(text_of(value(restored->sandboxes().read(workspace_, box_.id, Part::policy))),
            "[] /x=canary-7f3a91c2");
  // Whoever knew the store as it became afterwards does not take the old for the new.
  EXPECT_TRUE(value(restored->changes().since(seen, 1000)).start_over);
  EXPECT_GT(value(restored->sandboxes().update(workspace_, box_.id, {.status = Status::ready})).revision,
            seen);
}

TEST_F(Backup, KilledWhileItIsRestoredThereIsAllOfItOrNothing) {
  value(store_->back_up(backup_));
  store_.reset();
  path_ = directory_.path() + "/restored";
  int deaths = 0;
  for (int nth = 1; !survives(nth, [&] { value(restore_backup(backup_, path_)); }); ++nth) {
    ++deaths;
    if (!fs::exists(file())) continue;
    EXPECT_EQ(secrets_of(*value(open()), workspace_)["TOKEN"], "canary-7f3a91c2") << nth;
    fs::remove_all(path_);
  }
  EXPECT_GT(deaths, 5);
  EXPECT_EQ(secrets_of(*value(open()), workspace_)["TOKEN"], "canary-7f3a91c2");
}

TEST_F(Backup, AStoreThatIsWrittenMeanwhileIsBackedUpAsOfOneMoment) {
  // A change that another process has begun is in none.
  auto other = value(SqliteConnection::open(file(), SqliteConnection::Access::read_write));
  value(other.execute("BEGIN IMMEDIATE"));
  value(other.execute("UPDATE resources SET name = 'half done'"));
  value(store_->back_up(backup_));
  value(other.execute("ROLLBACK"));
  EXPECT_TRUE(check_backup(backup_, nullptr));
  path_ = directory_.path() + "/restored";
  value(restore_backup(backup_, path_));
  EXPECT_EQ(value(value(open())->sandboxes().find(workspace_, box_.id)).name, "box");
}

}  // namespace
}  // namespace postern::store
