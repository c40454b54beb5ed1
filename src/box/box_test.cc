// A real sandbox with the agent in it.

#include "box/box.h"

#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>

#include "box/command.h"
#include "box/file_requests.h"
#include "box/test_kit.h"

namespace postern::box {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class RealBox : public testing::Test {
 protected:
  RealBox() : loop_(clock_) {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-real-box-XXXXXX").string();
    work_ = ::mkdtemp(pattern.data());
    sandbox::LaunchSpec spec;
    spec.working_directory = work_;
    auto started = Box::start(std::move(spec));
    if (!started) throw std::runtime_error(started.error().detail);
    box_ = std::make_unique<Box>(std::move(*started));
    auto link = box_->open(loop_);
    if (!link) throw std::runtime_error(link.error().detail);
    link_ = std::move(*link);
  }
  ~RealBox() override {
    link_.reset();
    box_.reset();
    std::filesystem::remove_all(work_);
  }

  Ended run(CommandOptions options) {
    return run_to_end(loop_, clock_, *link_, std::move(options), std::chrono::seconds(20));
  }

  SystemClock clock_;
  io::Loop loop_;
  std::string work_;
  std::unique_ptr<Box> box_;
  std::unique_ptr<AgentLink> link_;
};

TEST_F(RealBox, ItsCommandsAreInTheSandboxOneAfterTheOther) {
  EXPECT_EQ(run(shell("echo one > file; exit 3")).status, 3);
  const Ended second = run(shell("cat file; pwd; grep CapEff /proc/self/status; cat /proc/net/dev | wc -l"));
  EXPECT_EQ(second.out, fmt::format("one\n{}\nCapEff:\t0000000000000000\n3\n", work_)) << "no network but lo";
  std::ifstream file(work_ + "/file");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "one\n");
}

TEST_F(RealBox, NobodyInsideLooksIntoTheAgentOrHasItsSocket) {
  const Ended looked =
      run(shell("for p in /proc/[0-9]*; do case $(cat $p/comm) in postern-agent|agent) "
                "echo found; ls $p/fd; cat $p/environ; cat $p/mem;; esac; done 2>&1; ls -l /proc/self/fd"));
  EXPECT_THAT(looked.out,
              AllOf(HasSubstr("found\n"), HasSubstr("Permission denied"), Not(HasSubstr("socket:"))));
}

TEST_F(RealBox, ATerminalAndFilesAreThereAsWell) {
  CommandOptions options = shell("tty; test -t 0 && echo yes");
  options.request.terminal = true;
  EXPECT_EQ(run(options).out, "/dev/pts/0\r\nyes\r\n");
  options = {};
  options.request = stat_request("/etc/passwd");
  const auto entries = parse_entries(run(options).out);
  ASSERT_TRUE(entries && entries->size() == 1);
  EXPECT_EQ(entries->front().kind, FileEntry::Kind::file);
}

TEST_F(RealBox, StoppingItEndsEverything) {
  Command command(loop_, *link_, shell("sleep 1000"));
  box_->stop();
  const TimePoint end = clock_.now() + std::chrono::seconds(10);
  while (!command.over() && clock_.now() < end) loop_.run_once(std::chrono::milliseconds(20));
  EXPECT_EQ(command.state(), Command::State::lost);
}

TEST_F(RealBox, ACommandThatKillsTheAgentEndsItsOwnBoxOnly) {
  Command command(loop_, *link_, shell("kill -9 $PPID; sleep 1000"));
  const TimePoint end = clock_.now() + std::chrono::seconds(10);
  while (!command.over() && clock_.now() < end) loop_.run_once(std::chrono::milliseconds(20));
  EXPECT_EQ(command.state(), Command::State::lost);
  EXPECT_FALSE(link_->alive());
  auto other = Box::start({.working_directory = work_});
  ASSERT_TRUE(other);
}

}  // namespace
}  // namespace postern::box
