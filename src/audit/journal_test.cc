#include "audit/journal.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <set>
#include <sys/mman.h>
#include <sys/resource.h>
#include <thread>

namespace postern::audit {
namespace {

using namespace std::chrono_literals;

/// A sink in memory.
class Paper {
 public:
  Fd pen() const { return Fd(::dup(file_.get())); }
  std::vector<std::string> lines() const {
    std::string text(static_cast<std::size_t>(::lseek(file_.get(), 0, SEEK_END)), '\0');
    EXPECT_EQ(::pread(file_.get(), text.data(), text.size(), 0), std::ssize(text));
    EXPECT_TRUE(text.empty() || text.back() == '\n');
    std::vector<std::string> out;
    for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1)
      out.push_back(text.substr(at, text.find('\n', at) - at));
    return out;
  }

 private:
  Fd file_{::memfd_create("journal", MFD_CLOEXEC)};
};

std::string field(const std::string& line, const char* name) {
  const auto value = nlohmann::json::parse(line).at(name);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void put(LoopJournal& journal, const std::string& host, Reason reason = Reason::allowed) {
  auto record = journal.take();
  record->host = host;
  record->port = 443;
  record->reason = reason;
  record->request_bytes = 10;
  record->response_bytes = 100;
  journal.put(std::move(record));
}

TEST(Recording, IsOneRecordWhateverPathTheCodeTakes) {
  const Paper paper;
  Journal journal(paper.pen());
  ManualClock clock;
  {
    LoopJournal loop(journal);
    {
      Recording finished(loop, clock);
      finished->host = "finished";
      clock.advance(1500us);
      EXPECT_TRUE(finished.open());
      finished.finish(Reason::denied_by_rule, "because");
      EXPECT_FALSE(finished.open());
    }
    {
      Recording forgotten(loop, clock);
      forgotten->host = "forgotten";
      clock.advance(1ms);
    }
    Recording cut(loop, clock);
    cut->host = "cut";
    loop.finish_open(Reason::shutting_down);
    EXPECT_FALSE(cut.open());
  }
  journal.close();
  const auto lines = paper.lines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(field(lines[0], "host"), "finished");
  EXPECT_EQ(field(lines[0], "reason"), "denied_by_rule");
  EXPECT_EQ(field(lines[0], "detail"), "because");
  EXPECT_EQ(field(lines[0], "duration_ms"), "1.5");
  EXPECT_EQ(field(lines[1], "reason"), "abandoned");
  EXPECT_EQ(field(lines[1], "duration_ms"), "1.0");
  EXPECT_EQ(field(lines[2], "reason"), "shutting_down");
}

TEST(Recording, ManyOpenOnesMayEndInAnyOrder) {
  for (const std::vector<int>& order : {std::vector{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}}) {
    const Paper paper;
    Journal journal(paper.pen());
    const ManualClock clock;
    {
      LoopJournal loop(journal);
      std::vector<std::unique_ptr<Recording>> open;
      for (int i = 0; i < 5; ++i) open.push_back(std::make_unique<Recording>(loop, clock));
      for (const int i : order) {
        if (i == 1)
          open[static_cast<std::size_t>(i)].reset();  // abandoned
        else
          open[static_cast<std::size_t>(i)]->finish(Reason::allowed);
      }
      loop.finish_open(Reason::shutting_down);
      for (const auto& one : open) EXPECT_TRUE(!one || !one->open());
    }
    journal.close();
    EXPECT_EQ(paper.lines().size(), 5u);
  }
}

TEST(Journal, KeepsTheOrderOfALoop) {
  const Paper paper;
  Journal journal(paper.pen());
  LoopJournal loop(journal);
  for (int turn = 0; turn < 50; ++turn) {
    for (int i = 0; i < 20; ++i) put(loop, std::to_string(turn * 20 + i));
    loop.flush();
  }
  journal.close();
  const auto lines = paper.lines();
  ASSERT_EQ(lines.size(), 1000u);
  for (std::size_t i = 0; i < lines.size(); ++i) ASSERT_EQ(field(lines[i], "host"), std::to_string(i));
}

TEST(Journal, TakesFromSeveralLoopsAtOnceAndLosesNothing) {
  const Paper paper;
  Journal journal(paper.pen());
  const ManualClock clock;
  constexpr int loops = 2, turns = 300, each = 7;
  std::vector<std::thread> threads;
  for (int l = 0; l < loops; ++l)
    threads.emplace_back([&, l] {
      LoopJournal loop(journal);
      for (int turn = 0; turn < turns; ++turn) {
        for (int i = 0; i < each; ++i) {
          Recording recording(loop, clock);
          recording->host = std::to_string(l) + "-" + std::to_string(turn * each + i);
          recording.finish(Reason::allowed);
        }
        loop.flush();
        EXPECT_TRUE(loop.accepting());
      }
    });
  for (auto& thread : threads) thread.join();
  const Summary summary = journal.close();
  EXPECT_EQ(summary.records, std::uint64_t{loops * turns * each});
  std::set<std::string> hosts;
  for (const auto& line : paper.lines()) hosts.insert(field(line, "host"));
  EXPECT_EQ(hosts.size(), std::size_t{loops * turns * each});
}

TEST(Journal, SumsUpByHost) {
  Journal journal{Fd()};  // nothing is written, everything is summed up
  LoopJournal loop(journal);
  put(loop, "a");
  put(loop, "a", Reason::origin_closed);
  put(loop, "b", Reason::not_in_allow_list);
  auto record = loop.take();
  record->host = "a";
  record->port = 443;
  record->reason = Reason::allowed;
  record->credentials = {{"Authorization", "plaintext"}};
  loop.put(std::move(record));
  loop.flush();
  const Summary summary = journal.close();
  EXPECT_EQ(summary.records, 4u);
  EXPECT_EQ(summary.lost, 0u);
  ASSERT_EQ(summary.hosts.size(), 2u);
  const auto& a = summary.hosts.at("a:443");
  EXPECT_EQ(a.allowed, 2u);
  EXPECT_EQ(a.failed, 1u);
  EXPECT_EQ(a.denied, 0u);
  EXPECT_EQ(a.request_bytes, 20u);
  EXPECT_EQ(a.response_bytes, 200u);
  EXPECT_EQ(a.with_credentials, 1u);
  EXPECT_EQ(summary.hosts.at("b:443").denied, 1u);
}

TEST(Journal, TheSummaryOfAMillionNamesStaysSmall) {
  Journal journal{Fd()};
  LoopJournal loop(journal);
  constexpr std::size_t many = Journal::summary_hosts_max + 500;
  for (std::size_t i = 0; i < many; ++i) put(loop, std::to_string(i));
  put(loop, "0");  // known ones are still counted
  loop.flush();
  const Summary summary = journal.close();
  EXPECT_EQ(summary.records, many + 1);
  EXPECT_EQ(summary.hosts.size(), Journal::summary_hosts_max);
  EXPECT_EQ(summary.hosts.at("0:443").allowed, 2u);
}

/// A pipe that nobody reads: the writer comes to a halt.
struct StuckPipe {
  Fd read_end, write_end;
  StuckPipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    read_end = Fd(ends[0]);
    write_end = Fd(ends[1]);
    ::fcntl(write_end.get(), F_SETPIPE_SZ, 4096);
  }
  /// Reads until so many lines have come.
  std::size_t drain(std::size_t wanted) {
    std::size_t lines = 0;
    char buffer[65536];
    while (lines < wanted) {
      const ssize_t got = ::read(read_end.get(), buffer, sizeof buffer);
      if (got <= 0) break;
      lines += static_cast<std::size_t>(std::count(buffer, buffer + got, '\n'));
    }
    return lines;
  }
};

TEST(Journal, StopsAcceptingWhileItsWriterIsFarBehindAndLosesNothing) {
  StuckPipe pipe;
  Journal journal(std::move(pipe.write_end));
  LoopJournal loop(journal);
  EXPECT_TRUE(loop.accepting());
  constexpr std::size_t all = Journal::queued_records_max + 2000;
  for (std::size_t i = 0; i < all; ++i) {
    put(loop, "host");
    if (i % 100 == 99) loop.flush();
  }
  loop.flush();
  EXPECT_FALSE(loop.accepting());
  std::size_t lines = 0;
  std::thread reader([&] { lines = pipe.drain(all); });
  const Summary summary = journal.close();
  reader.join();
  EXPECT_TRUE(loop.accepting());
  EXPECT_EQ(lines, all);
  EXPECT_EQ(summary.lost, 0u);
}

TEST(Journal, CloseMayBeCalledAgain) {
  const Paper paper;
  Journal journal(paper.pen());
  LoopJournal loop(journal);
  put(loop, "a");
  loop.flush();
  EXPECT_EQ(journal.close().records, 1u);
  EXPECT_EQ(journal.close().records, 1u);
}

class BrokenSink : public testing::TestWithParam<const char*> {
 protected:
  static Fd open() {
    if (std::string_view(GetParam()) == "full") return Fd(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    ::close(ends[0]);
    return Fd(ends[1]);
  }
};

TEST_P(BrokenSink, IsComplainedAboutOnceCountedAndNothingNewIsAccepted) {
  std::signal(SIGPIPE, SIG_IGN);
  testing::internal::CaptureStderr();
  Journal journal(open());
  LoopJournal loop(journal);
  for (int turn = 0; turn < 3; ++turn) {
    for (int i = 0; i < 10; ++i) put(loop, "host");
    loop.flush();
  }
  // The writer finds out on its own thread.
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (loop.accepting() && std::chrono::steady_clock::now() < end) ::poll(nullptr, 0, 5);
  EXPECT_FALSE(loop.accepting()) << "what cannot be recorded must not happen (threat 98)";
  const Summary summary = journal.close();
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(summary.records, 30u);
  EXPECT_EQ(summary.lost, 30u);
  std::size_t complaints = 0;
  for (std::size_t at = said.find("log cannot be written"); at != std::string::npos;
       at = said.find("log cannot be written", at + 1))
    ++complaints;
  EXPECT_EQ(complaints, 1u) << said;
}

INSTANTIATE_TEST_SUITE_P(All, BrokenSink, testing::Values("full", "closed"),
                         [](const auto& one) { return std::string(one.param); });

/// A loop whose tasks announce, in strict mode.
class Strict : public testing::Test {
 protected:
  Strict() { std::signal(SIGXFSZ, SIG_IGN); }
  void start(Fd sink) {
    journal_.emplace(Sinks{.file = std::make_unique<LogFile>(std::move(sink)), .strict = true});
    mine_.emplace(*journal_, &loop_);
  }
  /// What came of it, and the name that both records have.
  struct Outcome {
    std::optional<bool> accepted;
    Record end;
  };
  io::Task<void> say(Outcome& outcome, Duration time) {
    auto begin = mine_->take();
    begin->host = "api.example";
    const TimePoint deadline = loop_.now() + time;
    outcome.accepted = co_await mine_->announce(std::move(begin), outcome.end, deadline);
  }
  bool announce(Duration time = 10s) {
    Outcome outcome;
    loop_.spawn(say(outcome, time));
    while (!outcome.accepted) loop_.run_once(50ms);
    return *outcome.accepted;
  }

  SystemClock clock_;
  io::Loop loop_{clock_};
  std::optional<Journal> journal_;
  std::optional<LoopJournal> mine_;
};

TEST_F(Strict, WhatIsAcceptedIsWritten) {
  const Paper paper;
  start(paper.pen());
  Outcome first, second;
  loop_.spawn(say(first, 10s));
  loop_.spawn(say(second, 10s));
  while (!first.accepted || !second.accepted) loop_.run_once(50ms);
  EXPECT_TRUE(*first.accepted && *second.accepted);
  const auto lines = paper.lines();
  ASSERT_EQ(lines.size(), 2u) << "before anybody closed the journal";
  EXPECT_EQ(field(lines[0], "phase"), "begin");
  EXPECT_EQ(field(lines[0], "exchange"), first.end.exchange);
  EXPECT_NE(first.end.exchange, second.end.exchange);
  EXPECT_EQ(journal_->close().records, 0u) << "what is only about to happen is not counted";
}

TEST_F(Strict, AFullDiskRefusesAtOnceAndSoDoesWhatComesAfterwards) {
  testing::internal::CaptureStderr();
  start(Fd(::open("/dev/full", O_WRONLY | O_CLOEXEC)));
  const auto before = std::chrono::steady_clock::now();
  EXPECT_FALSE(announce());
  EXPECT_FALSE(announce());
  EXPECT_LT(std::chrono::steady_clock::now() - before, 5s) << "nobody waits for a disk that is full";
  EXPECT_FALSE(mine_->accepting());
  mine_.reset();
  journal_.reset();
  EXPECT_NE(testing::internal::GetCapturedStderr().find("the log cannot be written"), std::string::npos);
}

TEST_F(Strict, SpaceThatReturnsIsUsed) {
  const Paper paper;
  start(paper.pen());
  EXPECT_TRUE(announce());
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit none{1, limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  testing::internal::CaptureStderr();
  EXPECT_FALSE(announce());
  EXPECT_FALSE(mine_->accepting());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (!mine_->accepting() && std::chrono::steady_clock::now() < end) ::poll(nullptr, 0, 5);
  testing::internal::GetCapturedStderr();
  EXPECT_TRUE(announce());
  EXPECT_EQ(paper.lines().size(), 3u) << "the refused one came through in the end, and its end will say so";
}

TEST_F(Strict, APipeThatNobodyReadsRefuses) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd unread(ends[0]);
  while (::write(ends[1], "x", 1) == 1) continue;
  start(Fd(ends[1]));
  const auto before = std::chrono::steady_clock::now();
  EXPECT_FALSE(announce(30s));
  EXPECT_LT(std::chrono::steady_clock::now() - before, 10s);
  char all[65536];
  while (::read(unread.get(), all, sizeof all) > 0) continue;
  EXPECT_TRUE(announce());
}

TEST_F(Strict, AKeeperThatCannotSyncRefuses) {
  struct Keeper final : LineKeeper {
    std::atomic<bool> broken = true;
    std::atomic<int> lines = 0;
    bool append(std::string_view) override { return ++lines > 0; }
    bool sync() override {
      errno = EIO;
      return !broken;
    }
  };
  Keeper keeper;
  testing::internal::CaptureStderr();
  journal_.emplace(Sinks{.keeper = &keeper, .strict = true});
  mine_.emplace(*journal_, &loop_);
  EXPECT_FALSE(announce());
  EXPECT_EQ(keeper.lines, 1);
  keeper.broken = false;
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (!mine_->accepting() && std::chrono::steady_clock::now() < end) ::poll(nullptr, 0, 5);
  EXPECT_TRUE(announce());
  mine_.reset();
  journal_.reset();
  testing::internal::GetCapturedStderr();
}

TEST_F(Strict, ALoopThatIsGoneIsNotTold) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd unread(ends[0]);
  while (::write(ends[1], "x", 1) == 1) continue;
  journal_.emplace(Sinks{.file = std::make_unique<LogFile>(Fd(ends[1])), .strict = true});
  {
    io::Loop loop(clock_);
    LoopJournal mine(*journal_, &loop);
    Outcome outcome;
    struct Say {
      static io::Task<void> it(LoopJournal& journal, io::Loop& on, Outcome& into) {
        const TimePoint deadline = on.now() + 30s;
        into.accepted = co_await journal.announce(journal.take(), into.end, deadline);
      }
    };
    loop.spawn(Say::it(mine, loop, outcome));
    loop.run_once(0ms);
    loop.abandon();
    EXPECT_FALSE(outcome.accepted);
  }
  char all[65536];
  while (::read(unread.get(), all, sizeof all) > 0) continue;
  journal_->close();
}

}  // namespace
}  // namespace postern::audit
