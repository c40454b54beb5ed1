// What is enforced depends on the host: each test asks for what Cgroups says it has.

#include "box/cgroups.h"

#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

namespace postern::box {
namespace {

namespace fs = std::filesystem;

class CgroupsTest : public testing::Test {
 protected:
  CgroupsTest() {
    std::string pattern = (fs::temp_directory_path() / "postern-cgroups-XXXXXX").string();
    data_ = ::mkdtemp(pattern.data());
  }
  ~CgroupsTest() override { fs::remove_all(data_); }

  static std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
  }
  /// Of the first of these files that is there.
  static std::string first_of(const std::vector<std::string>& directories,
                              std::initializer_list<const char*> files) {
    for (const std::string& directory : directories)
      for (const char* file : files)
        if (fs::exists(directory + "/" + file)) return content_of(directory + "/" + file);
    return "";
  }
  static std::string memory_of(const std::vector<std::string>& groups) {
    return first_of(groups, {"memory.max", "memory.limit_in_bytes"});
  }

  std::string data_;
};

TEST_F(CgroupsTest, ABoxHasTheLimitsThatItWasGiven) {
  const Cgroups cgroups = Cgroups::open(data_);
  const auto groups = cgroups.make(1, {.cpu_millicores = 500, .memory_bytes = 64 << 20});
  ASSERT_TRUE(groups) << groups.error().detail;
  const bool has_memory = cgroups.unenforced().find("memory") == std::string::npos;
  const bool has_cpu = cgroups.unenforced().find("processors") == std::string::npos;
  EXPECT_EQ(memory_of(*groups), has_memory ? "67108864" : "");
  EXPECT_THAT(first_of(*groups, {"cpu.max", "cpu.cfs_quota_us"}),
              testing::AnyOf(has_cpu ? "50000" : "", has_cpu ? "50000 100000" : ""));
  for (const std::uint64_t more : {std::uint64_t{256} << 20, std::uint64_t{32} << 20}) {
    const auto changed = cgroups.change(1, {.cpu_millicores = 1500, .memory_bytes = more});
    ASSERT_TRUE(changed) << changed.error().detail;
    EXPECT_EQ(memory_of(*groups), has_memory ? std::to_string(more) : "");
  }
  cgroups.remove(1);
  for (const std::string& group : *groups) EXPECT_FALSE(fs::exists(group));
}

/// Joins, and waits until `held` is closed elsewhere.
pid_t join_and_wait(const std::vector<std::string>& groups, int held, int joined) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  const char byte = join_cgroups(groups) ? 'j' : 'f';
  if (::write(joined, &byte, 1) != 1) ::_exit(1);
  char end = 0;
  (void)!::read(held, &end, 1);
  ::_exit(0);
}

TEST_F(CgroupsTest, AProcessJoinsAndTheGroupGoesWithIt) {
  const Cgroups cgroups = Cgroups::open(data_);
  const auto groups = cgroups.make(7, {});
  ASSERT_TRUE(groups) << groups.error().detail;
  int hold[2], joined[2];
  ASSERT_EQ(::pipe2(hold, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(joined, O_CLOEXEC), 0);
  const pid_t child = join_and_wait(*groups, hold[0], joined[1]);
  char byte = 0;
  ASSERT_EQ(::read(joined[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'j');
  for (const std::string& group : *groups) {
    EXPECT_EQ(content_of(group + "/cgroup.procs"), std::to_string(child));
    cgroups.remove(7);
    EXPECT_TRUE(fs::exists(group));
  }
  ASSERT_EQ(::write(hold[1], "x", 1), 1);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  cgroups.remove(7);
  for (const std::string& group : *groups) EXPECT_FALSE(fs::exists(group));
}

TEST_F(CgroupsTest, WhatAKilledServerLeftIsReplacedAndGoesAtTheEnd) {
  std::vector<std::string> left;
  {
    Cgroups killed = Cgroups::open(data_);
    left = *killed.make(3, {});
    static const Cgroups never_ended = std::move(killed);
  }
  for (const std::string& group : left) EXPECT_TRUE(fs::exists(group));
  {
    const Cgroups next = Cgroups::open(data_);
    for (const std::string& group : left) EXPECT_FALSE(fs::exists(group));
    for (const std::string& group : left) EXPECT_TRUE(fs::exists(fs::path(group).parent_path()));
  }
  for (const std::string& group : left) EXPECT_FALSE(fs::exists(fs::path(group).parent_path()));
}

TEST_F(CgroupsTest, WithoutAnyNothingIsLimited) {
  const Cgroups none;
  EXPECT_EQ(none.unenforced(), "processors and memory");
  EXPECT_THAT(*none.make(1, {}), testing::IsEmpty());
  EXPECT_TRUE(none.change(1, {}));
  EXPECT_TRUE(join_cgroups({}));
}

TEST_F(CgroupsTest, AGroupThatIsNotThereIsAnError) { EXPECT_FALSE(join_cgroups({data_ + "/none"})); }

}  // namespace
}  // namespace postern::box
