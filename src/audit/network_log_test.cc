#include "audit/network_log.h"

#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>

namespace postern::audit {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

std::string line_of(const std::string& host, const std::string& workspace, Reason reason = Reason::allowed,
                    const std::string& sandbox = "box", const std::string& rule = {},
                    WallTime time = ManualClock().wall()) {
  Record record;
  record.time = time;
  record.sandbox = std::make_shared<const std::string>(sandbox);
  record.workspace = std::make_shared<const std::string>(workspace);
  record.host = host;
  record.port = 443;
  record.rule = rule;
  record.reason = reason;
  std::string out;
  append_json(record, out);
  return out;
}

std::string host_in(const KeptLine& line) { return nlohmann::json::parse(line.text).at("host"); }
template <class Lines>
std::vector<std::string> hosts(const Lines& lines) {
  std::vector<std::string> out;
  for (const KeptLine& line : lines) out.push_back(host_in(line));
  return out;
}

class NetworkLogTest : public testing::Test {
 protected:
  NetworkLogTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "postern-log-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  ~NetworkLogTest() override { std::filesystem::remove_all(root_); }

  std::string directory() const { return root_ + "/network-log"; }
  std::unique_ptr<NetworkLog> open(const LogLimits& limits = {}) {
    auto log = NetworkLog::open(directory(), limits, clock_);
    if (!log) throw std::runtime_error(log.error().detail);
    return std::move(*log);
  }
  std::vector<std::filesystem::path> files() const {
    std::vector<std::filesystem::path> out;
    for (const auto& entry : std::filesystem::directory_iterator(directory())) out.push_back(entry.path());
    std::ranges::sort(out);
    return out;
  }
  static LogFilter mine() { return {.workspace = "mine"}; }
  static std::vector<std::string> all(const NetworkLog& log, const LogFilter& filter = mine()) {
    return hosts(log.newest(LineMatcher(filter), std::nullopt, 500).lines);
  }

  std::string root_;
  ManualClock clock_;
};

TEST_F(NetworkLogTest, AnswersTheNewestFirstAndOfOneWorkspaceOnly) {
  const auto log = open();
  EXPECT_THAT(all(*log), IsEmpty());
  ASSERT_TRUE(log->append(line_of("a", "mine") + line_of("b", "other") + line_of("c", "mine")));
  EXPECT_THAT(all(*log), ElementsAre("c", "a"));
  EXPECT_THAT(all(*log, {.workspace = "other"}), ElementsAre("b"));
  EXPECT_THAT(all(*log, {.workspace = ""}), IsEmpty());
  EXPECT_THAT(all(*log, {.workspace = "min"}), IsEmpty());
}

TEST_F(NetworkLogTest, FilesAreForTheOwnerOnly) {
  const auto log = open();
  ASSERT_TRUE(log->append(line_of("a", "mine")));
  ASSERT_EQ(files().size(), 1u);
  struct stat status{};
  ASSERT_EQ(::stat(files()[0].c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(NetworkLogTest, NothingThatASandboxSaysMakesItAnothersRecord) {
  const auto log = open();
  Record record;
  record.sandbox = std::make_shared<const std::string>("box");
  record.workspace = std::make_shared<const std::string>("other");
  record.method = R"(","workspace":"mine","x":")";
  record.host = "h";
  record.path = "/\"}\n{\"time\":\"2026-01-01T00:00:00.000000Z\",\"workspace\":\"mine\"";
  record.detail = R"(\","workspace":"mine)";
  std::string line;
  append_json(record, line);
  ASSERT_TRUE(log->append(line));
  EXPECT_THAT(all(*log), IsEmpty());
  EXPECT_THAT(all(*log, {.workspace = "other"}), ElementsAre("h"));
}

TEST_F(NetworkLogTest, FiltersByEverythingThatItIsAskedFor) {
  const auto log = open();
  const WallTime noon = clock_.wall();
  ASSERT_TRUE(log->append(line_of("api.example.com", "mine", Reason::allowed, "one", "api", noon) +
                          line_of("example.com", "mine", Reason::denied_by_rule, "two", "né\"", noon + 1s) +
                          line_of("notexample.com", "mine", Reason::origin_closed, "one", "", noon + 2s) +
                          line_of("a.b.example.com", "mine", Reason::in_deny_list, "two", "", noon + 3s)));
  const auto ask = [&](auto change) {
    LogFilter filter = mine();
    change(filter);
    return all(*log, filter);
  };
  EXPECT_THAT(ask([](LogFilter& f) { f.host = "example.com"; }), ElementsAre("example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.host = "*.example.com"; }),
              ElementsAre("a.b.example.com", "api.example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.decision = "denied"; }),
              ElementsAre("a.b.example.com", "example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.decision = "failed"; }), ElementsAre("notexample.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.reason = "in_deny_list"; }), ElementsAre("a.b.example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.rule = "api"; }), ElementsAre("api.example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.rule = "né\""; }), ElementsAre("example.com"));
  EXPECT_THAT(ask([](LogFilter& f) { f.sandbox = "two"; }), ElementsAre("a.b.example.com", "example.com"));
  EXPECT_THAT(ask([&](LogFilter& f) { f.since = noon + 2s; }),
              ElementsAre("a.b.example.com", "notexample.com"));
  EXPECT_THAT(ask([&](LogFilter& f) { f.until = noon + 1s; }), ElementsAre("api.example.com"));
}

TEST_F(NetworkLogTest, ALineThatACrashToreIsCutAwayAndTheRestGoesOn) {
  {
    const auto log = open();
    ASSERT_TRUE(log->append(line_of("a", "mine") + line_of("b", "mine")));
  }
  const std::string torn = line_of("torn", "mine");
  std::ofstream(files()[0], std::ios::app | std::ios::binary) << torn.substr(0, torn.size() - 1);
  const auto log = open();
  EXPECT_THAT(all(*log), ElementsAre("b", "a"));
  ASSERT_TRUE(log->append(line_of("c", "mine")));
  EXPECT_THAT(all(*log), ElementsAre("c", "b", "a"));
  EXPECT_TRUE(log->is_place(log->end()));
}

TEST_F(NetworkLogTest, WhatIsNoRecordIsPassedOver) {
  const auto log = open();
  std::string blank(5000, '\0');
  ASSERT_TRUE(
      log->append(line_of("a", "mine") + "\n" + blank + "\n{}\n{\"time\":\"\n" + line_of("b", "mine")));
  EXPECT_THAT(all(*log), ElementsAre("b", "a"));
  const auto ahead = log->ahead(LineMatcher(mine()), 0);
  EXPECT_THAT(hosts(ahead.lines), ElementsAre("a", "b"));
}

TEST_F(NetworkLogTest, CursorsGoThroughAllSegmentsAndStayGoodWhileMoreIsWritten) {
  const LogLimits small{.segment_bytes = 2000};
  auto log = open(small);
  for (int i = 0; i < 100; ++i)
    ASSERT_TRUE(log->append(line_of(std::to_string(i), i % 3 ? "mine" : "other")));
  EXPECT_GT(files().size(), 5u);
  std::vector<std::string> expected, got;
  for (int i = 99; i >= 0; --i)
    if (i % 3) expected.push_back(std::to_string(i));
  std::optional<LogPlace> cursor;
  const LineMatcher wanted(mine());
  do {
    const auto page = log->newest(wanted, cursor, 7);
    EXPECT_LE(page.lines.size(), 7u);
    for (const auto& host : hosts(page.lines)) got.push_back(host);
    cursor = page.next;
    EXPECT_TRUE(log->is_place(cursor.value_or(0)));
    ASSERT_TRUE(log->append(line_of("later", "mine")));
    if (got.size() == 35) {  // and over a restart
      log = nullptr;
      log = open(small);
    }
  } while (cursor);
  EXPECT_EQ(got, expected);
}

TEST_F(NetworkLogTest, LongLinesAreReadInBothDirections) {
  const auto log = open();
  const std::string big(700 * KiB, 'x');
  std::string line = line_of("big", "mine");
  line.insert(line.size() - 2, ",\"more\":\"" + big + "\"");
  ASSERT_TRUE(log->append(line_of("a", "mine") + line + line_of("c", "mine") + line));
  EXPECT_THAT(all(*log), ElementsAre("big", "c", "big", "a"));
  std::vector<std::string> got;
  NetworkLog::Ahead ahead;
  do {
    ahead = log->ahead(LineMatcher(mine()), ahead.next);
    for (const auto& host : hosts(ahead.lines)) got.push_back(host);
  } while (!ahead.at_end);
  EXPECT_THAT(got, ElementsAre("a", "big", "c", "big"));
}

TEST_F(NetworkLogTest, AQuestionReadsSoMuchAndSaysWhereToGoOn) {
  const auto log = open({.bytes = 1ull << 40, .segment_bytes = 8 * MiB});
  ASSERT_TRUE(log->append(line_of("needle", "mine")));
  std::string noise;
  while (noise.size() < MiB) noise += line_of("noise", "other");
  std::uint64_t written = 0;
  for (; written < NetworkLog::scanned_bytes_max + 10 * MiB; written += noise.size())
    ASSERT_TRUE(log->append(noise));
  const LineMatcher wanted(mine());
  const auto first = log->newest(wanted, std::nullopt, 500);
  EXPECT_THAT(first.lines, IsEmpty());
  ASSERT_TRUE(first.next);
  EXPECT_TRUE(log->is_place(*first.next));
  const auto second = log->newest(wanted, first.next, 500);
  EXPECT_THAT(hosts(second.lines), ElementsAre("needle"));
  EXPECT_FALSE(second.next);
}

TEST_F(NetworkLogTest, AnAnswerHasABound) {
  const auto log = open();
  std::string line = line_of("big", "mine");
  line.insert(line.size() - 2, ",\"more\":\"" + std::string(MiB, 'x') + "\"");
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(log->append(line));
  const auto page = log->newest(LineMatcher(mine()), std::nullopt, 500);
  EXPECT_EQ(page.lines.size(), 4u);
  EXPECT_TRUE(page.next);
}

TEST_F(NetworkLogTest, RetentionBySizeRemovesTheOldest) {
  const LogLimits limits{.bytes = 20'000, .segment_bytes = 2'000};
  auto log = open(limits);
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(log->append(line_of(std::to_string(i), "mine")));
  EXPECT_LE(log->kept_bytes(), 22'000u);
  EXPECT_GT(log->kept_bytes(), 15'000u);
  const auto kept = all(*log);
  EXPECT_EQ(kept.front(), "499");
  EXPECT_LT(kept.size(), 100u);
  // Who followed from what is gone is told, and gets all that is left.
  const auto ahead = log->ahead(LineMatcher(mine()), 0);
  EXPECT_TRUE(ahead.lost);
  EXPECT_EQ(hosts(ahead.lines).front(), kept.back());
  // A cursor to what is gone ends, and is no error.
  EXPECT_TRUE(log->is_place(100));
  const auto page = log->newest(LineMatcher(mine()), 100, 10);
  EXPECT_THAT(page.lines, IsEmpty());
  EXPECT_FALSE(page.next);
  const LogPlace end = log->end();
  log = nullptr;
  EXPECT_EQ(open(limits)->end(), end);
}

TEST_F(NetworkLogTest, RetentionByAgeRemovesAlsoWhatIsWrittenSlowly) {
  const LogLimits limits{.age = std::chrono::days(30)};
  const auto log = open(limits);
  for (int day = 0; day < 60; ++day) {
    ASSERT_TRUE(log->append(line_of(std::to_string(day), "mine")));
    clock_.advance(24h + 1s);
    log->tend();
  }
  const auto kept = all(*log);
  EXPECT_EQ(kept.front(), "59");
  EXPECT_GE(kept.size(), 28u);
  EXPECT_LE(kept.size(), 31u);
  clock_.advance(40 * 24h);
  log->tend();
  EXPECT_THAT(all(*log), IsEmpty());
  EXPECT_EQ(files().size(), 1u);
  EXPECT_GT(log->end(), 0u);
}

TEST_F(NetworkLogTest, WhatEndedBeforeAQuestionsTimeIsNotRead) {
  const auto log = open({.segment_bytes = 1});
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(log->append(line_of(std::to_string(i), "mine", Reason::allowed, "box", "", clock_.wall())));
    clock_.advance(1h);
  }
  LogFilter filter = mine();
  filter.since = clock_.wall() - 3h - 1min;
  EXPECT_THAT(all(*log, filter), ElementsAre("9", "8", "7"));
  const LogPlace from = log->first_since(*filter.since);
  EXPECT_THAT(hosts(log->ahead(LineMatcher(filter), from).lines), ElementsAre("7"));
}

TEST_F(NetworkLogTest, PlacesInsideALineAreNone) {
  const auto log = open();
  const std::string line = line_of("a", "mine");
  ASSERT_TRUE(log->append(line + line));
  EXPECT_TRUE(log->is_place(0));
  EXPECT_TRUE(log->is_place(line.size()));
  EXPECT_TRUE(log->is_place(2 * line.size()));
  EXPECT_FALSE(log->is_place(1));
  EXPECT_FALSE(log->is_place(line.size() - 1));
  EXPECT_FALSE(log->is_place(2 * line.size() + 1));
  EXPECT_FALSE(log->is_place(~LogPlace{0}));
}

TEST_F(NetworkLogTest, AFullDiskLeavesNoTornLineAndIsTriedAgain) {
  const auto log = open();
  ASSERT_TRUE(log->append(line_of("a", "mine")));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{log->end() + 10, before.rlim_max};
  ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const bool kept = log->append(line_of("b", "mine"));
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_FALSE(kept);
  EXPECT_EQ(std::filesystem::file_size(files()[0]), log->end());
  ASSERT_TRUE(log->append(line_of("b", "mine")));
  EXPECT_THAT(all(*log), ElementsAre("b", "a"));
}

TEST_F(NetworkLogTest, ForeignFilesAreLeftAlone) {
  {
    open();
  }
  std::ofstream(directory() + "/notes.jsonl") << "mine\n";
  ASSERT_EQ(::symlink("/etc/passwd", (directory() + "/00000000000000000099-1.jsonl").c_str()), 0);
  const auto log = open();
  EXPECT_EQ(log->end(), 0u);
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(NetworkLogTest, IsReadWhileItIsWrittenAndRemoved) {
  const auto log = open({.bytes = 200'000, .segment_bytes = 20'000});
  constexpr int lines = 2000;
  std::atomic<bool> done = false;
  std::thread asking([&] {
    const LineMatcher wanted(mine());
    while (!done) {
      std::optional<LogPlace> cursor;
      int last = lines;
      do {
        const auto page = log->newest(wanted, cursor, 50);
        for (const auto& host : hosts(page.lines)) {
          const int number = std::stoi(host);
          EXPECT_LT(number, last);
          last = number;
        }
        cursor = page.next;
      } while (cursor);
    }
  });
  std::thread following([&] {
    const LineMatcher wanted(mine());
    NetworkLog::Ahead ahead;
    int last = -1;
    while (last != lines - 1) {
      ahead = log->ahead(wanted, ahead.next);
      if (ahead.at_end) std::this_thread::yield();
      for (const auto& host : hosts(ahead.lines)) {
        const int number = std::stoi(host);
        EXPECT_TRUE(number == last + 1 || ahead.lost) << last << " " << number;
        last = number;
      }
    }
  });
  for (int i = 0; i < lines; ++i) {
    EXPECT_TRUE(log->append(line_of(std::to_string(i), "mine")));
    if (i % 100 == 0) log->tend();
  }
  following.join();
  done = true;
  asking.join();
}

TEST_F(NetworkLogTest, TheJournalKeepsWhatItWrites) {
  const auto log = open();
  const std::string sink = root_ + "/sink";
  {
    Journal journal(Fd(::open(sink.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), log.get());
    LoopJournal loop(journal);
    for (int i = 0; i < 1000; ++i) {
      auto record = loop.take();
      record->workspace = std::make_shared<const std::string>("mine");
      record->host = std::to_string(i);
      record->reason = i % 2 ? Reason::allowed : Reason::in_deny_list;
      record->response_bytes = 3;
      loop.put(std::move(record));
      if (i % 10 == 9) loop.flush();
    }
    loop.flush();
    EXPECT_EQ(journal.close().lost, 0u);
    EXPECT_EQ(journal.counts().by_reason[static_cast<std::size_t>(Reason::in_deny_list)], 500u);
    EXPECT_EQ(journal.counts().response_bytes, 3000u);
    EXPECT_EQ(journal.queued(), 0u);
  }
  const auto text = [](const std::filesystem::path& file) {
    std::ifstream in(file);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_EQ(text(sink), text(files()[0]));
}

/// Takes nothing until it is told to.
class Reluctant final : public LineKeeper {
 public:
  bool append(std::string_view lines) override {
    if (!willing) {
      errno = ENOSPC;
      return false;
    }
    taken += lines;
    return true;
  }
  std::atomic<bool> willing = false;
  std::string taken;
};

TEST(JournalsKeeper, HoldsUpEverythingWhileItTakesNothing) {
  Reluctant keeper;
  testing::internal::CaptureStderr();
  Journal journal(Fd(), &keeper);
  LoopJournal loop(journal);
  loop.put(std::make_unique<Record>());
  loop.flush();
  while (loop.accepting()) std::this_thread::yield();
  keeper.willing = true;
  while (!loop.accepting()) std::this_thread::yield();
  EXPECT_EQ(journal.close().lost, 0u);
  EXPECT_EQ(std::ranges::count(keeper.taken, '\n'), 1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("cannot be written"));
}

}  // namespace
}  // namespace postern::audit
