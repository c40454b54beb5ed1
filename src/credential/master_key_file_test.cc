#include "credential/master_key_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

namespace postern::credential {
namespace {

class MasterKeyFile : public testing::Test {
 protected:
  MasterKeyFile() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-master-XXXXXX").string();
    directory_ = ::mkdtemp(pattern.data());
  }
  ~MasterKeyFile() override { std::filesystem::remove_all(directory_); }
  std::string file() const { return directory_ + "/master.key"; }
  std::string directory_;
};

TEST_F(MasterKeyFile, IsMadeOnceAndReadAgain) {
  const auto made = load_or_create_master_key(directory_);
  ASSERT_TRUE(made);
  struct stat info{};
  ASSERT_EQ(::stat(file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  EXPECT_EQ(load_or_create_master_key(directory_)->fingerprint(), made->fingerprint());
}

TEST_F(MasterKeyFile, ThatIsNoKeyIsNotReplaced) {
  std::ofstream(file()) << "canary";
  ::chmod(file().c_str(), 0600);
  const auto refused = load_or_create_master_key(directory_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().detail, testing::HasSubstr(file()));
  EXPECT_THAT(refused.error().detail, testing::Not(testing::HasSubstr("canary")));
  EXPECT_EQ(std::filesystem::file_size(file()), 6u);
}

TEST_F(MasterKeyFile, IsRotatedSoThatOneOfTheTwoIsAlwaysThere) {
  EXPECT_FALSE(MasterKeyRotation::begin(directory_)) << "there is none to rotate";
  const std::string before = load_or_create_master_key(directory_)->fingerprint();
  std::string next;
  {
    auto rotation = MasterKeyRotation::begin(directory_);
    ASSERT_TRUE(rotation);
    EXPECT_FALSE(rotation->resumed());
    EXPECT_EQ(rotation->take_current().fingerprint(), before);
    next = rotation->take_next().fingerprint();
  }  // Killed before or after the store had it.
  EXPECT_NE(next, before);
  EXPECT_EQ(load_or_create_master_key(directory_)->fingerprint(), before);
  EXPECT_EQ((*find_master_key(directory_, before))->fingerprint(), before);
  {
    auto again = MasterKeyRotation::begin(directory_);
    ASSERT_TRUE(again);
    EXPECT_TRUE(again->resumed());
    EXPECT_EQ(again->take_next().fingerprint(), next);
    ASSERT_TRUE(again->finish());
  }
  EXPECT_EQ(load_or_create_master_key(directory_)->fingerprint(), next);
  EXPECT_FALSE(std::filesystem::exists(file() + ".next"));
  EXPECT_FALSE(*find_master_key(directory_, before));
}

TEST_F(MasterKeyFile, ThatTheStoreHasAlreadyTakesItsPlace) {
  load_or_create_master_key(directory_);
  std::string next;
  {
    auto rotation = MasterKeyRotation::begin(directory_);
    ASSERT_TRUE(rotation);
    next = rotation->take_next().fingerprint();
  }
  EXPECT_EQ((*find_master_key(directory_, next))->fingerprint(), next);
  ASSERT_TRUE(settle_master_key(directory_, "another"));
  EXPECT_TRUE(std::filesystem::exists(file() + ".next"));
  ASSERT_TRUE(settle_master_key(directory_, next));
  EXPECT_FALSE(std::filesystem::exists(file() + ".next"));
  EXPECT_EQ(load_or_create_master_key(directory_)->fingerprint(), next);
}

TEST_F(MasterKeyFile, CanLieElsewhere) {
  const std::string text(64, 'a');
  std::ofstream(directory_ + "/elsewhere") << text << "\n";
  const auto from_file =
      read_master_key(*read_reference("k", "--master-key", "file:" + directory_ + "/elsewhere"));
  const auto from_command = read_master_key(*read_reference("k", "--master-key", "cmd:echo " + text));
  ASSERT_TRUE(from_file) << from_file.error().detail;
  ASSERT_TRUE(from_command) << from_command.error().detail;
  EXPECT_EQ(from_file->fingerprint(), from_command->fingerprint());
  EXPECT_FALSE(read_master_key(*read_reference("k", "--master-key", "cmd:echo short")));
}

}  // namespace
}  // namespace postern::credential
