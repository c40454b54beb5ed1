// Commands through the real agent, which runs here as a process beside the test and not in a sandbox.

#include "box/command.h"

#include <csignal>
#include <filesystem>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "box/test_kit.h"

namespace postern::box {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

TEST_F(WithAgent, ACommandHasItsOutputItsErrorsAndItsStatus) {
  Command command(loop_, link_, shell("echo out; echo err >&2; pwd; echo $LANG; exit 7"));
  EXPECT_EQ(command.state(), Command::State::starting);
  EXPECT_EQ(all(command), fmt::format("out\n{}\nC.UTF-8\n", std::filesystem::current_path().string()));
  EXPECT_EQ(all(command, StreamId::standard_error), "err\n") << "kept for whoever comes later";
  EXPECT_EQ(command.state(), Command::State::exited);
  EXPECT_EQ(command.status(), 7);
  EXPECT_GT(command.process(), 0);
}

TEST_F(WithAgent, ItsDirectoryAndEnvironmentAreThoseOfTheRequestAndNoOther) {
  ::setenv("POSTERN_TEST_SECRET", "canary", 1);
  CommandOptions options = shell("pwd; env; ls /proc/self/fd | wc -l");
  options.request.directory = "/usr";
  Command command(loop_, link_, std::move(options));
  const std::string said = all(command);
  EXPECT_THAT(said, AllOf(StartsWith("/usr\n"), testing::Not(HasSubstr("canary")), EndsWith("\n4\n")))
      << "descriptors 0, 1, 2 and the one that ls reads by";
}

TEST_F(WithAgent, WhatCannotRunIsRefusedWithItsReason) {
  const auto refusal = [&](CommandOptions options) {
    Command command(loop_, link_, std::move(options));
    EXPECT_TRUE(wait([&] { return command.over(); }));
    EXPECT_EQ(command.state(), Command::State::refused);
    return command.error_number();
  };
  CommandOptions options;
  options.request.arguments = {"no-such-program"};
  EXPECT_EQ(refusal(options), ENOENT);
  options.request.arguments = {"/etc/passwd"};
  EXPECT_EQ(refusal(options), EACCES);
  options = shell("true");
  options.request.directory = "/nonexistent";
  EXPECT_EQ(refusal(options), ENOENT);
  options = shell(std::string(300'000, 'x'));
  EXPECT_EQ(refusal(options), EAGAIN) << "larger than a frame";
  options = shell(std::string("true\0false", 10));
  EXPECT_EQ(refusal(options), EINVAL);
  Command good(loop_, link_, shell("echo fine"));
  EXPECT_EQ(all(good), "fine\n");
}

TEST_F(WithAgent, InputArrivesWithItsEndAndTheRestIsDropped) {
  Command command(loop_, link_, shell("read line; echo \"got $line\"; cat", true));
  EXPECT_TRUE(command.input("one\ntwo\n"));
  EXPECT_TRUE(command.input("three"));
  command.close_input();
  EXPECT_EQ(all(command), "got one\ntwo\nthree");
  Command deaf(loop_, link_, shell("exec 0<&-; sleep 0.2; echo done", true));
  for (int i = 0; i < 64; ++i) {
    EXPECT_TRUE(wait([&] { return deaf.input(std::string(64 * 1024, 'x')); }));
  }
  EXPECT_EQ(all(deaf), "done\n");
  Command without(loop_, link_, shell("cat; echo end"));
  EXPECT_TRUE(without.input("nobody asked"));
  EXPECT_EQ(all(without), "end\n");
}

TEST_F(WithAgent, AReaderWhoIsSlowGetsAllOfALargeInput) {
  Command command(loop_, link_, shell("sleep 0.2; wc -c", true));
  std::size_t sent = 0;
  while (sent < 4 * 1024 * 1024) {
    ASSERT_TRUE(wait([&] { return command.input(std::string(100'000, 'x')); }));
    sent += 100'000;
  }
  EXPECT_FALSE(command.input(std::string(window_bytes + 1, 'x'))) << "more than a window is never taken";
  command.close_input();
  EXPECT_EQ(all(command), fmt::format("{}\n", sent));
}

TEST_F(WithAgent, ItIsHeldUpWhileItsOnlyViewerDoesNotRead) {
  Command command(loop_, link_, shell("yes | head -c 20000000; echo written >&2"));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  EXPECT_FALSE(wait([&] { return command.over(); }, std::chrono::seconds(1)));
  std::string out;
  EXPECT_TRUE(wait([&] {
    while (auto chunk = command.pull(viewer, StreamId::standard_output, 50'000)) {
      EXPECT_EQ(chunk->offset, out.size()) << "nothing is lost to whoever reads";
      out += chunk->bytes;
    }
    while (command.pull(viewer, StreamId::standard_error, 100)) {
    }
    return command.at_end(viewer);
  }));
  EXPECT_EQ(out.size(), 20'000'000u);
  command.detach(viewer);
}

TEST_F(WithAgent, WithoutAViewerItRunsToItsEndAndTheLastIsKept) {
  Command command(loop_, link_, shell("yes | head -c 20000000; echo end"));
  EXPECT_TRUE(wait([&] { return command.over(); }));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  const auto first = command.pull(viewer, StreamId::standard_output, 10);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->offset, 20'000'004 - ring_bytes) << "the earliest that is kept";
  command.detach(viewer);
  command.attach(viewer, 20'000'000, 0);
  EXPECT_EQ(command.pull(viewer, StreamId::standard_output, 10)->bytes, "end\n");
  EXPECT_TRUE(command.at_end(viewer));
  command.detach(viewer);
}

TEST_F(WithAgent, AViewerWhoHasGoneToSleepHoldsUpNobody) {
  Command command(loop_, link_, shell("yes | head -c 5000000"));
  Watcher asleep;
  command.attach(asleep, 0, 0);
  EXPECT_EQ(all(command).size(), 5'000'000u);
  const auto late = command.pull(asleep, StreamId::standard_output, 10);
  EXPECT_EQ(late->offset, 5'000'000 - ring_bytes);
  command.detach(asleep);
}

TEST_F(WithAgent, ItIsKilledWithAllThatItStarted) {
  Command command(loop_, link_, shell("sleep 1000 & echo $!; wait"));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  std::optional<Command::Chunk> chunk;
  ASSERT_TRUE(
      wait([&] { return (chunk = command.pull(viewer, StreamId::standard_output, 100)).has_value(); }));
  command.signal(SIGKILL);
  EXPECT_TRUE(wait([&] { return command.over(); }));
  EXPECT_EQ(command.status(), 128 + SIGKILL);
  const pid_t child = std::stoi(chunk->bytes);
  EXPECT_TRUE(wait([&] { return ::kill(child, 0) != 0 || ::getpgid(child) < 0; }, std::chrono::seconds(5)) ||
              ::access(fmt::format("/proc/{}/fd/0", child).c_str(), F_OK) != 0);
  command.detach(viewer);
}

TEST_F(WithAgent, ItEndsWithItsProcessAndWhatItLeftRunningIsLeftAlone) {
  Command command(loop_, link_,
                  shell("(sleep 0.6; echo late; echo alive > /tmp/postern-box-$$; sleep 0.1) & echo $$"));
  const TimePoint begun = clock_.now();
  const std::string said = all(command);
  EXPECT_LT(clock_.now() - begun, std::chrono::milliseconds(500));
  const std::string mark = "/tmp/postern-box-" + said.substr(0, said.find('\n'));
  EXPECT_TRUE(wait([&] { return ::access(mark.c_str(), F_OK) == 0; })) << "its writing did not kill it";
  ::unlink(mark.c_str());
  Command flood(loop_, link_, shell("(timeout 3 yes) & sleep 0.05"));
  EXPECT_TRUE(wait([&] { return flood.over(); }, std::chrono::seconds(2)))
      << "a background flood does not keep it";
}

TEST_F(WithAgent, AllThatItWroteBeforeItsEndIsThereHoweverSlowTheReader) {
  Command command(loop_, link_, shell("yes | head -c 3000000; exit 3"));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  std::size_t size = 0;
  EXPECT_TRUE(wait([&] {
    if (auto chunk = command.pull(viewer, StreamId::standard_output, 300'000)) size += chunk->bytes.size();
    return command.at_end(viewer);
  }));
  EXPECT_EQ(size, 3'000'000u);
  EXPECT_EQ(command.status(), 3);
  command.detach(viewer);
}

TEST_F(WithAgent, ATerminalIsOneWithItsSizeAndItsControlCharacters) {
  CommandOptions options = shell(
      "test -t 0 -a -t 1 -a -t 2 && stty size; read word; stty size; echo \"<$word>\"; while :; do sleep "
      "0.05; done");
  options.request.terminal = true;
  options.request.rows = 10;
  options.request.columns = 20;
  Command command(loop_, link_, std::move(options));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  std::string out;
  const auto says = [&](std::string_view text) {
    return wait([&] {
      while (auto chunk = command.pull_text(viewer, StreamId::standard_output, 1000)) out += chunk->bytes;
      return out.find(text) != std::string::npos;
    });
  };
  EXPECT_TRUE(says("10 20\r\n")) << out;
  command.resize(30, 40);
  EXPECT_TRUE(command.input("word\n"));
  EXPECT_TRUE(says("30 40\r\n<word>\r\n")) << out;
  EXPECT_TRUE(command.input("\x03"));
  EXPECT_TRUE(wait([&] { return command.over(); }));
  EXPECT_EQ(command.status(), 128 + SIGINT);
  command.detach(viewer);
}

TEST_F(WithAgent, ATimeLimitAndNobodyWatchingEndIt) {
  CommandOptions options = shell("sleep 1000");
  options.timeout = std::chrono::seconds(1);
  Command limited(loop_, link_, options);
  EXPECT_TRUE(wait([&] { return limited.over(); }, std::chrono::seconds(5)));
  EXPECT_TRUE(limited.timed_out());
  options.timeout = std::chrono::seconds(0);
  options.idle_timeout = std::chrono::seconds(1);
  Command idle(loop_, link_, options);
  Watcher viewer;
  idle.attach(viewer, 0, 0);
  EXPECT_FALSE(wait([&] { return idle.over(); }, std::chrono::seconds(2))) << "it is watched";
  idle.detach(viewer);
  EXPECT_TRUE(wait([&] { return idle.over(); }, std::chrono::seconds(5)));
  EXPECT_FALSE(idle.timed_out());
  options.idle_timeout = std::chrono::seconds(-1);
  options.kill_without_viewer = true;
  Command bound(loop_, link_, options);
  bound.attach(viewer, 0, 0);
  EXPECT_TRUE(wait([&] { return bound.state() == Command::State::running; }));
  bound.detach(viewer);
  EXPECT_TRUE(wait([&] { return bound.over(); }, std::chrono::seconds(5)));
  EXPECT_EQ(bound.status(), 128 + SIGKILL);
}

TEST_F(WithAgent, AskingTwiceForTheSameNameStartsOne) {
  Commands commands(loop_, link_);
  CommandOptions options = shell("echo once");
  options.keep = std::chrono::seconds(1);
  Command* const first = commands.get_or_start("a", options);
  EXPECT_EQ(commands.get_or_start("a", shell("echo twice")), first);
  EXPECT_EQ(all(*first), "once\n");
  EXPECT_EQ(commands.find("a"), first) << "what is left of it";
  EXPECT_EQ(commands.find("b"), nullptr);
  EXPECT_TRUE(wait([&] { return commands.find("a") == nullptr; }, std::chrono::seconds(5))) << "not for ever";
}

TEST_F(WithAgent, WhatIsWatchedIsKeptHoweverLongAgoItEnded) {
  Commands commands(loop_, link_);
  CommandOptions options = shell("echo once");
  options.keep = std::chrono::seconds(0);
  Command* const command = commands.get_or_start("a", options);
  Watcher viewer;
  command->attach(viewer, 0, 0);
  ASSERT_TRUE(wait([&] { return command->over(); }));
  EXPECT_EQ(commands.find("a"), command);
  command->detach(viewer);
  EXPECT_EQ(commands.find("a"), nullptr);
}

TEST_F(WithAgent, WhatEndedFirstMakesRoom) {
  Commands commands(loop_, link_);
  Watcher viewer;
  for (std::size_t i = 0; i <= commands_kept_max; ++i) {
    Command* const command = commands.get_or_start(std::to_string(i), shell("true"));
    ASSERT_NE(command, nullptr);
    if (i == 0) command->attach(viewer, 0, 0);
    ASSERT_TRUE(wait([&] { return command->over(); }));
  }
  EXPECT_NE(commands.find("0"), nullptr) << "somebody watches it";
  EXPECT_EQ(commands.find("1"), nullptr);
  EXPECT_NE(commands.find("2"), nullptr);
  commands.find("0")->detach(viewer);
}

TEST_F(WithAgent, OutputOfThePastHasALimitOfItsOwn) {
  Commands commands(loop_, link_);
  const std::size_t fit = ended_bytes_max / ring_bytes;
  for (std::size_t i = 0; i <= fit + 1; ++i) {
    Command* const command = commands.get_or_start(std::to_string(i), shell("head -c 2000000 /dev/zero"));
    ASSERT_TRUE(wait([&] { return command->over(); }));
  }
  EXPECT_EQ(commands.find("0"), nullptr);
  EXPECT_NE(commands.find(std::to_string(fit)), nullptr);
}

TEST_F(WithAgent, WhoeverHearsOfTheEndMayLetGoOfOthers) {
  struct Last final : AgentLink::Events {
    AgentLink* link = nullptr;
    std::vector<std::uint32_t> others;
    int losses = 0;
    void started(std::int32_t) override {}
    void output(StreamId, std::string_view) override {}
    void output_ended(StreamId) override {}
    void exited(int) override {}
    void refused(int) override {}
    void input_taken(std::uint32_t) override {}
    void lost() override {
      ++losses;
      for (const std::uint32_t other : others) link->forget(other);
    }
  } events;
  events.link = &link_;
  for (int i = 0; i < 5; ++i) events.others.push_back(link_.run(shell("sleep 1000").request, events));
  int told = 0;
  link_.when_lost([&] { ++told; });
  link_.close();
  link_.close();
  EXPECT_EQ(events.losses, 1);
  EXPECT_EQ(told, 1);
  EXPECT_FALSE(link_.alive());
}

TEST_F(WithAgent, ManyAtOnceAreServedAndTooManyRefused) {
  std::vector<std::unique_ptr<Command>> commands;
  for (std::uint32_t i = 0; i < commands_max + 10; ++i)
    commands.push_back(std::make_unique<Command>(loop_, link_, shell("echo " + std::to_string(i), false)));
  EXPECT_TRUE(
      wait([&] { return std::ranges::all_of(commands, [](const auto& one) { return one->over(); }); }));
  EXPECT_EQ(all(*commands[200]), "200\n");
  EXPECT_EQ(commands[commands_max + 5]->state(), Command::State::refused);
}

TEST_F(WithAgent, WhenTheAgentDiesEverythingIsLost) {
  Command command(loop_, link_, shell("echo before; sleep 1000"));
  Watcher viewer;
  command.attach(viewer, 0, 0);
  ASSERT_TRUE(wait([&] { return command.pull(viewer, StreamId::standard_output, 10).has_value(); }));
  ::kill(agent_, SIGKILL);
  EXPECT_TRUE(wait([&] { return command.over(); }));
  EXPECT_EQ(command.state(), Command::State::lost);
  EXPECT_FALSE(link_.alive());
  Command next(loop_, link_, shell("true"));
  EXPECT_EQ(next.state(), Command::State::lost);
  command.detach(viewer);
}

TEST_F(WithAgent, TheAgentEndsWithUsAndTakesItsCommandsWithIt) {
  std::string child;
  {
    Pair pair;
    const pid_t agent = start_agent(pair.theirs);
    pair.theirs.reset();
    AgentLink link(loop_, std::move(pair.ours));
    Command command(loop_, link, shell("echo $$; exec sleep 1000"));
    Watcher viewer;
    command.attach(viewer, 0, 0);
    std::optional<Command::Chunk> chunk;
    ASSERT_TRUE(
        wait([&] { return (chunk = command.pull(viewer, StreamId::standard_output, 100)).has_value(); }));
    child = chunk->bytes.substr(0, chunk->bytes.size() - 1);
    command.detach(viewer);
    ::waitpid(agent, nullptr, WNOHANG);
  }  // The link goes without a word, as when this process dies.
  EXPECT_TRUE(wait([&] { return ::access(("/proc/" + child + "/fd").c_str(), R_OK) != 0; }));
}

TEST_F(WithAgent, NobodyInTheBoxCanLookIntoTheAgent) {
  // As root everybody can; the rule is for a box, whose processes are nobody special.
  if (::geteuid() == 0) {
    CommandOptions options = shell(
        fmt::format("setpriv --reuid 65534 --clear-groups sh -c 'cat /proc/{}/environ; ls /proc/{}/fd' 2>&1",
                    agent_, agent_));
    Command command(loop_, link_, std::move(options));
    EXPECT_THAT(all(command), HasSubstr("Permission denied"));
  } else {
    Command command(loop_, link_, shell(fmt::format("ls /proc/{}/fd 2>&1", agent_)));
    EXPECT_THAT(all(command), HasSubstr("Permission denied"));
  }
}

// ---- an agent that lies

class FalseAgent : public testing::Test {
 protected:
  FalseAgent() : loop_(clock_), link_(loop_, std::move(pair_.ours)), command_(loop_, link_, shell("true")) {
    turn();
    char bytes[4096];
    EXPECT_GT(::recv(pair_.theirs.get(), bytes, sizeof bytes, 0), 0);
  }
  void say(FrameType type, std::uint32_t value = 0, std::string_view bytes = {}, std::uint8_t stream = 1,
           std::uint32_t command = 1) {
    std::string frame;
    append_frame(type, command, value, static_cast<StreamId>(stream), bytes, frame);
    std::size_t sent = 0;
    while (sent < frame.size() && link_.alive()) {
      const ssize_t size = ::send(pair_.theirs.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
      if (size > 0) sent += static_cast<std::size_t>(size);
      turn();
    }
    turn();
  }
  void turn() {
    for (int i = 0; i < 4; ++i) loop_.run_once(std::chrono::milliseconds(0));
  }

  SystemClock clock_;
  Pair pair_;
  io::Loop loop_;
  AgentLink link_;
  Command command_;
};

TEST_F(FalseAgent, TheTruthIsBelieved) {
  say(FrameType::started, 12);
  say(FrameType::output, 0, "x");
  say(FrameType::exited, 3);
  EXPECT_TRUE(link_.alive());
  EXPECT_EQ(command_.status(), 3);
}

TEST_F(FalseAgent, MoreOutputThanWasAskedForEndsTheLink) {
  Watcher viewer;
  command_.attach(viewer, 0, 0);
  for (int i = 0; i < 100 && link_.alive(); ++i) say(FrameType::output, 0, std::string(32'768, 'x'));
  EXPECT_FALSE(link_.alive());
  EXPECT_EQ(command_.state(), Command::State::lost);
  command_.detach(viewer);
}

TEST_F(FalseAgent, WhatIsNoFrameEndsTheLink) {
  for (int i = 0; i < 8; ++i) {
    Pair pair;
    io::Loop loop(clock_);
    AgentLink link(loop, std::move(pair.ours));
    Command command(loop, link, shell("true"));
    FrameHeader header;
    header.command = 1;
    header.type = FrameType::started;
    switch (i) {
      case 0: header.size = frame_bytes_max + 1; break;
      case 1: header.command = 2; break;
      case 2: header.type = static_cast<FrameType>(200); break;
      case 3: header.type = FrameType::run; break;
      case 4:
        header.type = FrameType::output;
        header.stream = static_cast<StreamId>(3);
        break;
      case 5:
        header.type = FrameType::output;
        header.stream = static_cast<StreamId>(0);
        break;
      case 6:
        header.type = FrameType::wanted;
        header.value = 1;
        break;
      default: header.type = FrameType::ended; break;
    }
    ASSERT_EQ(::send(pair.theirs.get(), &header, sizeof header, MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof header));
    for (int turn = 0; turn < 4; ++turn) loop.run_once(std::chrono::milliseconds(0));
    EXPECT_FALSE(link.alive()) << i;
    EXPECT_EQ(command.state(), Command::State::lost) << i;
  }
}

TEST(Agent, WhatIsNoFrameEndsIt) {
  const std::string run = encode(shell("true").request);
  for (int i = 0; i < 5; ++i) {
    Pair pair;
    const pid_t agent = start_agent(pair.theirs);
    pair.theirs.reset();
    FrameHeader header;
    header.command = 1;
    std::string bytes;
    if (i == 0) header.size = frame_bytes_max + 1;
    // These are answered, or ignored.
    if (i == 1) header.type = FrameType::run, bytes = "nonsense";
    if (i == 2) header.type = FrameType::run, bytes = run.substr(0, run.size() - 1);
    if (i == 3) header.type = static_cast<FrameType>(99);
    if (i == 4) header.type = FrameType::taken, header.value = 1u << 31;
    if (i != 0) header.size = static_cast<std::uint32_t>(bytes.size());
    const std::string frame = std::string(bytes_of(header)) + bytes;
    ASSERT_EQ(::send(pair.ours.get(), frame.data(), frame.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(frame.size()));
    if (i == 1 || i == 2) {
      FrameHeader answer;
      ASSERT_EQ(::fcntl(pair.ours.get(), F_SETFL, 0), 0);
      ASSERT_EQ(::recv(pair.ours.get(), &answer, sizeof answer, MSG_WAITALL),
                static_cast<ssize_t>(sizeof answer));
      EXPECT_EQ(answer.type, FrameType::refused);
      EXPECT_EQ(answer.value, static_cast<std::uint32_t>(EINVAL));
    }
    if (i != 0) ::shutdown(pair.ours.get(), SHUT_RDWR);
    int status = 0;
    EXPECT_EQ(::waitpid(agent, &status, 0), agent);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << i;
  }
}

}  // namespace
}  // namespace postern::box
