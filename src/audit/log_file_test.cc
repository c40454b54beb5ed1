#include "audit/log_file.h"

#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "audit/journal.h"

namespace postern::audit {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

std::string said;
void hear(const std::string& what) { said += what + "\n"; }

class LogFiles : public testing::Test {
 protected:
  LogFiles() {
    char name[] = "/tmp/postern-log-XXXXXX";
    place_ = ::mkdtemp(name);
    fs::create_directory(place_ / "heads");
    said.clear();
  }
  ~LogFiles() override { fs::remove_all(place_); }

  LogFileOptions options(bool chained) {
    LogFileOptions out;
    out.path = (place_ / "log").string();
    if (chained)
      out.chain = ChainSettings{.sign =
                                    [](std::string_view payload) {
                                      std::string token = "word.";
                                      for (const char c : payload) token += static_cast<char>('a' + (c & 15));
                                      return token;
                                    },
                                .heads_directory = (place_ / "heads").string()};
    return out;
  }
  std::unique_ptr<LogFile> open(LogFileOptions options) {
    auto opened = LogFile::open(std::move(options), clock_, hear);
    EXPECT_TRUE(opened) << opened.error().detail;
    return opened ? std::move(*opened) : nullptr;
  }
  static void write(LogFile& file, const std::string& lines) {
    const std::string_view text = file.prepare(lines);
    ASSERT_EQ(file.write(text), std::ssize(text));
    file.written();
  }
  static void close(std::unique_ptr<LogFile> file) {
    const std::string_view text = file->finish();
    ASSERT_EQ(file->write(text), std::ssize(text));
    file->written();
  }
  std::string read(const std::string& name) const {
    std::ifstream in(place_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void overwrite(const std::string& text) const { std::ofstream(place_ / "log", std::ios::binary) << text; }
  /// What `postern log verify` would say of these files; empty when nothing is wrong.
  std::string verdict(const std::vector<std::string>& names) {
    ChainCheck check({});
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (i > 0) check.next_file();
      std::ifstream in(place_ / names[i]);
      for (std::string line; std::getline(in, line);)
        if (const auto good = check.line(line); !good) return good.error().detail;
    }
    return "";
  }

  fs::path place_;
  ManualClock clock_;
};

const std::string one = "{\"a\":1}\n", two = "{\"a\":2}\n";

TEST_F(LogFiles, AreAppendedToAndClosedToOthers) {
  write(*open(options(false)), one);
  write(*open(options(false)), two);
  EXPECT_EQ(read("log"), one + two);
  EXPECT_EQ(fs::status(place_ / "log").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink(place_ / "log", place_ / "link");
  LogFileOptions linked = options(false);
  linked.path = (place_ / "link").string();
  EXPECT_FALSE(LogFile::open(linked, clock_, hear));
}

TEST_F(LogFiles, AreTurnedOverAndTheOldestGo) {
  LogFileOptions small = options(false);
  small.rotate_bytes = 20;
  small.kept = 2;
  const auto file = open(small);
  for (int i = 0; i < 8; ++i) write(*file, "{\"a\":" + std::to_string(i) + "}\n");
  EXPECT_EQ(read("log"), "{\"a\":6}\n{\"a\":7}\n");
  EXPECT_EQ(read("log.1"), "{\"a\":4}\n{\"a\":5}\n");
  EXPECT_EQ(read("log.2"), "{\"a\":2}\n{\"a\":3}\n");
  EXPECT_FALSE(fs::exists(place_ / "log.3"));
  EXPECT_EQ(fs::status(place_ / "log").permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(LogFiles, AreTurnedOverAtTheStartOnlyWhereFilesAreHiddenThen) {
  LogFileOptions small = options(false);
  small.rotate_bytes = 10;
  small.rotate_at_start_only = true;
  {
    const auto file = open(small);
    write(*file, one);
    write(*file, two);
  }
  EXPECT_EQ(read("log"), one + two);
  const auto file = open(small);
  EXPECT_EQ(read("log"), "");
  EXPECT_EQ(read("log.1"), one + two);
}

TEST_F(LogFiles, GrowOnWhereTheyCannotBeTurnedOver) {
  LogFileOptions small = options(false);
  small.rotate_bytes = 10;
  small.kept = 1;
  const auto file = open(small);
  write(*file, one);
  fs::create_directories(place_ / "log.1" / "in the way");
  write(*file, two);
  write(*file, one);
  EXPECT_EQ(read("log"), one + two + one);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(LogFiles, AreOpenedAgainWhenSomebodyMovedThem) {
  const auto file = open(options(false));
  write(*file, one);
  file->reopen();
  write(*file, two);
  EXPECT_EQ(read("log"), one + two) << "nobody had moved it";
  fs::rename(place_ / "log", place_ / "log.old");
  write(*file, one);
  EXPECT_EQ(read("log.old"), one + two + one);
  file->reopen();
  write(*file, two);
  EXPECT_EQ(read("log"), two);
}

TEST_F(LogFiles, AChainGoesOnAfterARestart) {
  auto file = open(options(true));
  write(*file, one);
  close(std::move(file));
  file = open(options(true));
  write(*file, two);
  close(std::move(file));
  EXPECT_EQ(verdict({"log"}), "");
  EXPECT_NE(read("log").find("continue"), std::string::npos);
  EXPECT_EQ(said, "");
}

TEST_F(LogFiles, AChainGoesThroughFilesThatAreTurnedOver) {
  LogFileOptions small = options(true);
  small.rotate_bytes = 400;
  auto file = open(small);
  for (int i = 0; i < 8; ++i) write(*file, one);
  ASSERT_TRUE(fs::exists(place_ / "log.2"));
  fs::rename(place_ / "log", place_ / "moved");
  file->reopen();
  write(*file, two);
  close(std::move(file));
  EXPECT_EQ(verdict({"log.2", "log.1", "moved", "log"}), "");
  EXPECT_NE(verdict({"log.2", "moved", "log"}), "") << "a whole file is missing";
}

TEST_F(LogFiles, AChainIsTakenUpBehindALineThatWasTornOff) {
  auto file = open(options(true));
  write(*file, one);
  write(*file, two);
  file.reset();  // as SIGKILL leaves it
  const std::string whole = read("log");
  overwrite(whole.substr(0, whole.size() - 5));
  file = open(options(true));
  write(*file, two);
  close(std::move(file));
  EXPECT_EQ(verdict({"log"}), "");
}

TEST_F(LogFiles, SignedLinesThatAreGoneAreMissed) {
  auto file = open(options(true));
  write(*file, one);
  clock_.advance(Chain::unsigned_time);
  write(*file, two);
  close(std::move(file));
  const std::string whole = read("log");
  overwrite(
      whole.substr(0, whole.find('\n', whole.find('\n') + 1) + 1));  // whole lines, so that nothing is torn
  file = open(options(true));
  EXPECT_NE(said.find("missing that were signed"), std::string::npos) << said;
  write(*file, two);
  close(std::move(file));
  EXPECT_NE(verdict({"log"}).find("were gone when the log was opened again"), std::string::npos)
      << verdict({"log"});
}

TEST_F(LogFiles, AChainIsNotPutBehindLinesWithoutOne) {
  write(*open(options(false)), one);
  const auto opened = LogFile::open(options(true), clock_, hear);
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().detail.find("no chain"), std::string::npos);
}

TEST_F(LogFiles, AChainHasOneWriter) {
  const auto first = open(options(true));
  EXPECT_FALSE(LogFile::open(options(true), clock_, hear));
  EXPECT_TRUE(LogFile::open(options(false), clock_, hear)) << "as logs always could";
}

TEST_F(LogFiles, AJournalSignsWhatItWroteWhenNothingFollows) {
  Journal journal(Sinks{.file = open(options(true))});
  LoopJournal loop(journal);
  auto record = loop.take();
  record->host = "a";
  loop.put(std::move(record));
  loop.flush();
  journal.close();
  const std::string text = read("log");
  EXPECT_EQ(verdict({"log"}), "");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3) << text;
  EXPECT_NE(text.rfind("\"event\":\"end\""), std::string::npos);
  EXPECT_TRUE(fs::exists(place_ / "heads"));
  EXPECT_FALSE(fs::is_empty(place_ / "heads"));
}

}  // namespace
}  // namespace postern::audit
