#include "box/trash.h"

#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/fd.h"
#include "box/box_directory.h"

namespace postern::box {
namespace {

namespace fs = std::filesystem;

class TrashTest : public testing::Test {
 protected:
  TrashTest() {
    std::string pattern = fs::temp_directory_path() / "postern-trash-XXXXXX";
    place_ = ::mkdtemp(pattern.data());
  }
  ~TrashTest() override { fs::remove_all(place_); }
  std::string box(const std::string& name) {
    fs::create_directories(place_ / name / "root/deep/tree");
    std::ofstream(place_ / name / "root/file") << "x";
    return place_ / name;
  }
  std::string where() const { return place_ / "trash"; }
  void wait_until_empty() {
    const Fd changes(::inotify_init1(IN_CLOEXEC));
    ::inotify_add_watch(changes.get(), where().c_str(), IN_DELETE | IN_MOVED_FROM);
    char events[4096];
    while (!fs::is_empty(where())) ASSERT_GT(::read(changes.get(), events, sizeof events), 0);
  }
  fs::path place_;
};

TEST_F(TrashTest, TakesWhatIsThereAtOnceAndDeletesIt) {
  auto trash = Trash::open(where());
  ASSERT_TRUE(trash);
  for (int i = 0; i < 20; ++i) {
    const std::string path = box("same");
    ASSERT_TRUE((*trash)->take(path));
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_TRUE((*trash)->take(place_ / "none")) << "twice is as good as once";
  wait_until_empty();
}

TEST_F(TrashTest, DeletesWhatAnEarlierOneLeft) {
  box("trash/old.1");
  const auto trash = Trash::open(where());
  ASSERT_TRUE(trash);
  wait_until_empty();
}

TEST_F(TrashTest, LeavesABoxThatRuns) {
  const std::string path = box("running");
  const Fd taken(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(taken.get(), LOCK_EX), 0);
  const auto trash = Trash::open(where());
  ASSERT_TRUE(trash);
  EXPECT_FALSE((*trash)->take(path));
  EXPECT_TRUE(fs::exists(fs::path(path) / "root/file"));
}

TEST_F(TrashTest, StopsInTheMiddle) {
  const std::string path = box("one");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(remove_box_directory(path, stop.get_token()));
  EXPECT_TRUE(fs::exists(fs::path(path) / "root/file"));
  EXPECT_TRUE(remove_box_directory(path));
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace postern::box
