// Boxes as a server has them: with a keeper. Run by root and by an ordinary user (tests/test_box.py).

#include "box/keeper.h"

#include <charconv>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <gmock/gmock.h>
#include <poll.h>
#include <set>
#include <sstream>
#include <sys/stat.h>
#include <thread>

#include "box/box_directory.h"
#include "box/cgroups.h"
#include "box/keeper_protocol.h"
#include "box/tar_test_kit.h"
#include "box/test_kit.h"
#include "box/userland.h"

namespace postern::box {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

bool readable(const Fd& fd, int timeout_ms) {
  pollfd wait{fd.get(), POLLIN, 0};
  return ::poll(&wait, 1, timeout_ms) == 1;
}

/// As much as there is: a file of /proc may go while it is read, which std::ifstream throws at.
std::string content_of(const fs::path& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string content;
  char piece[4096];
  for (ssize_t size; (size = ::read(file.get(), piece, sizeof piece)) > 0;)
    content.append(piece, static_cast<std::size_t>(size));
  return content;
}

/// All processes of a keeper and its boxes: commands aside, which have sessions of their own in a box whose
/// first process is in here.
std::set<pid_t> processes_of(pid_t keeper) {
  std::set<pid_t> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    pid_t process = 0;
    std::from_chars(name.data(), name.data() + name.size(), process);
    if (process <= 0) continue;
    const std::string line = content_of(entry.path() / "stat");
    const std::size_t after = line.rfind(") ");
    if (after == std::string::npos) continue;
    std::istringstream fields(line.substr(after + 2));
    std::string state;
    pid_t parent = 0, group = 0, session = 0;
    fields >> state >> parent >> group >> session;
    if (session == keeper && state != "Z") found.insert(process);
  }
  return found;
}

bool all_gone(pid_t keeper) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!processes_of(keeper).empty())
    if (std::chrono::steady_clock::now() > end || ::poll(nullptr, 0, 5) != 0) return false;
  return true;
}

class WithKeeper : public testing::Test {
 protected:
  WithKeeper() : loop_(clock_) {
    std::string pattern = (fs::temp_directory_path() / "postern-keeper-XXXXXX").string();
    state_ = ::mkdtemp(pattern.data());
    ::setenv("SERVER_PASSWORD", "tell-nobody", 1);
    auto started = Keeper::start();
    if (!started) throw std::runtime_error(started.error().detail);
    keeper_ = std::move(*started);
  }
  ~WithKeeper() override {
    keeper_.reset();
    for (const auto& entry : fs::directory_iterator(state_)) {
      const auto removed =
          entry.is_directory() && !entry.is_symlink() ? remove_box_directory(entry.path()) : Result<void>();
      EXPECT_TRUE(removed) << removed.error().detail;
    }
    fs::remove_all(state_);
  }

  BoxSpec spec(const std::string& name = "one") const {
    return {.name = name,
            .directory = state_ + "/" + name,
            .base = BoxBase::userland,
            .layers = {},
            .environment = {},
            .files = {},
            .state_directory = state_,
            .cgroups = {}};
  }

  /// A box, and a link to its agent.
  struct Running {
    Keeper::Launched launched;
    std::unique_ptr<AgentLink> link;
  };
  Running launch(const BoxSpec& spec) {
    auto launched = keeper_->launch(spec);
    if (!launched) throw std::runtime_error(launched.error().detail);
    Fd agent = std::move(launched->agent);
    return {std::move(*launched), std::make_unique<AgentLink>(loop_, std::move(agent))};
  }

  Ended run(Running& box, const std::string& script) {
    CommandOptions options = shell(script);
    options.request.environment = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8"};
    return run_to_end(loop_, clock_, *box.link, std::move(options), std::chrono::seconds(60));
  }
  std::string out(Running& box, const std::string& script) { return run(box, script).out; }
  void stop(Running& box) {
    keeper_->stop(box.launched.number);
    EXPECT_TRUE(readable(box.launched.exit, 0));
    box.link.reset();
  }

  SystemClock clock_;
  io::Loop loop_;
  std::string state_;
  std::unique_ptr<Keeper> keeper_;
};

TEST_F(WithKeeper, ABoxHasNoMoreProcessesThanItMay) {
  Running box = launch(spec());
  EXPECT_EQ(out(box, "ulimit -H -p; ulimit -p 5000 2>/dev/null || echo no more"),
            fmt::format("{}\nno more\n", processes_max));
  // Counted for this box alone: root's and other boxes' are not in the way.
  EXPECT_EQ(out(box, "ulimit -p 20; for i in $(seq 8); do sleep 60 & done; echo all"), "all\n");
  EXPECT_THAT(out(box, "ulimit -p 20; for i in $(seq 40); do sleep 60 & done; echo all"),
              AllOf(HasSubstr("Cannot fork"), Not(HasSubstr("all\n"))));
  stop(box);
}

TEST_F(WithKeeper, ABoxHasNoMoreMemoryThanItMay) {
  const Cgroups cgroups = Cgroups::open(state_);
  const auto groups = cgroups.make(1, {.cpu_millicores = 1000, .memory_bytes = 64 << 20});
  ASSERT_TRUE(groups) << groups.error().detail;
  BoxSpec limited = spec();
  limited.cgroups = *groups;
  Running box = launch(limited);
  if (cgroups.unenforced().find("memory") == std::string::npos) {
    EXPECT_EQ(out(box, "exec 2> /dev/null; head -c 200M /dev/zero | tail -c 150M > /dev/null; echo $?"),
              "137\n");
    EXPECT_EQ(out(box, "echo still here"), "still here\n");
  }
  stop(box);
  cgroups.remove(1);
  for (const std::string& group : *groups) EXPECT_FALSE(fs::exists(group));
}

TEST_F(WithKeeper, ABoxRunsCommandsAsItsRootAndHasOnlyOurNetwork) {
  Running box = launch(spec());
  EXPECT_EQ(out(box, "id -u; id -un; hostname; pwd; cat /proc/sys/kernel/hostname"),
            "0\nroot\none\n/root\none\n");
  EXPECT_EQ(
      out(box,
          "grep -h ^Cap /proc/self/status | grep -v '0000000000000000'; grep NoNewPrivs /proc/self/status"),
      "NoNewPrivs:\t1\n");
  EXPECT_EQ(out(box, "cat /etc/resolv.conf | head -1; tail -1 /etc/hosts; wc -l < /proc/net/dev"),
            "nameserver 100.64.0.1\n127.0.1.1 one\n3\n");
  EXPECT_TRUE(box.launched.network.tcp4);
  EXPECT_TRUE(box.launched.network.dns_udp4);
  EXPECT_TRUE(box.launched.network.dns_tcp4);
  Command dialling(loop_, *box.link, shell("bash -c 'exec 3<>/dev/tcp/192.0.2.7/80'"));
  const TimePoint end = clock_.now() + std::chrono::seconds(20);
  while (!readable(box.launched.network.tcp4, 0) && clock_.now() < end)
    loop_.run_once(std::chrono::milliseconds(5));
  EXPECT_TRUE(readable(box.launched.network.tcp4, 0));
}

TEST_F(WithKeeper, WhatItWroteIsThereWhenItStartsAgain) {
  {
    Running box = launch(spec());
    const Ended wrote =
        run(box,
            "set -e; for d in /root /home/user /tmp /workspace /usr/local/bin "
            "/usr/local/lib/python3.*/dist-packages /etc /var/lib /opt; "
            "do echo kept > $d/kept; done; rm /etc/services; mkdir /opt/deep; chmod 700 /opt/deep; "
            "echo gone > /run/gone; echo gone > /dev/shm/gone");
    EXPECT_EQ(wrote.status, 0) << wrote.out;
    stop(box);
  }
  Running box = launch(spec());
  EXPECT_EQ(out(box,
                "cat /root/kept /home/user/kept /tmp/kept /workspace/kept /usr/local/bin/kept /etc/kept "
                "/var/lib/kept /opt/kept | uniq -c | tr -d ' '; "
                "ls -d /opt/deep; ls /etc/services /run/gone /dev/shm/gone 2>/dev/null"),
            "8kept\n/opt/deep\n");
  EXPECT_EQ(out(box, "ls /usr/local/lib/python3*/dist-packages/kept | wc -l").find("0"), std::string::npos);
  stop(box);
  Running other = launch(spec("other"));
  EXPECT_EQ(out(other, "ls /root/kept /tmp/kept /usr/local/bin/kept /etc/services 2>/dev/null"),
            "/etc/services\n");
}

TEST_F(WithKeeper, NothingOfTheHostIsVisibleButPrograms) {
  std::ofstream(state_ + "/secret") << "tell-nobody";
  Running box = launch(spec());
  EXPECT_THAT(out(box,
                  "cd /; ls -d bin/ dev etc home lib/ media mnt opt proc root run sbin/ srv sys tmp usr var "
                  "workspace > /dev/null; ls -A / | tr '\\n' ' '; "
                  "ls -A /root /home /sys /run /run/postern /srv /mnt | tr '\\n' ' '"),
              AllOf(HasSubstr("workspace"), Not(HasSubstr("boot")), Not(HasSubstr("work ")),
                    HasSubstr("/home: user  /mnt:  /root:  /run: lock postern user  /run/postern: agent "
                              "launch  /srv:  /sys:")));
  for (const char* hidden :
       {"/etc/shadow",        "/etc/gshadow",         "/etc/ssh",          "/etc/sudoers", "/etc/machine-id",
        "/etc/ssl/private",   "/etc/pip.conf",        "/etc/npmrc",        "/etc/cron.d",  "/etc/security",
        "/var/lib/apt/lists", "/var/lib/docker",      "/var/log/dpkg.log", "/run/dbus",    "/run/docker.sock",
        "/run/systemd",       "/var/run/docker.sock", "/root/.bashrc",     "/root/.ssh",   "/boot",
        "/lost+found"})
    EXPECT_EQ(out(box, fmt::format("ls -d {} 2>/dev/null", hidden)), "") << hidden;
  EXPECT_EQ(out(box, fmt::format("ls {} 2>&1 | grep -c 'No such'", state_)), "1\n");
  EXPECT_EQ(out(box, "cat /proc/*/environ 2>/dev/null | grep -ac SERVER_PASSWORD"), "0\n");
  EXPECT_EQ(out(box, "ls /proc | grep -c '^[0-9]'").size(), 2u) << "no process of the host";
  EXPECT_EQ(out(box, "cut -d: -f1 /etc/passwd | tr '\\n' ' '; find / -xdev -type s 2>/dev/null"),
            "root user nobody ");
}

TEST_F(WithKeeper, ItsRootCanChangeNothingOfTheHost) {
  Running box = launch(spec());
  // Nothing here does harm where it succeeds: files are opened only, and modes are what they are already.
  EXPECT_THAT(out(box,
                  "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/vm/drop_caches "
                  "/proc/sys/net/ipv4/ip_forward "
                  "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sysrq-trigger "
                  "/proc/irq/default_smp_affinity /proc/mtrr /proc/acpi/wakeup "
                  "/proc/kcore /proc/kmsg; do (: >> $f) 2>/dev/null && echo "
                  "written $f; done; "
                  "for f in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; do chmod 666 $f "
                  "2>/dev/null && echo chmod $f; done; "
                  "touch /dev/x 2>/dev/null && echo dev; mknod /tmp/m b 254 0 2>/dev/null && echo mknod; "
                  "mount -t tmpfs x /mnt 2>/dev/null && echo mount; "
                  "umount /proc/sys 2>/dev/null && echo umount; chmod 777 /usr/bin 2>/dev/null && echo usr; "
                  "rm -f /usr/bin/env 2>/dev/null && echo env; "
                  "touch /run/postern/agent /etc/resolv.conf 2>/dev/null && echo ours; rm /etc/hosts "
                  "2>/dev/null && echo hosts; "
                  "find /dev -type b -o -type c | sort | tr '\\n' ' '"),
              testing::MatchesRegex("(/dev/(console|full|null|ptmx|pts/ptmx|random|tty|urandom|zero) )+"));
  struct stat null{};
  ASSERT_EQ(::stat("/dev/null", &null), 0);
  EXPECT_EQ(null.st_mode & 0777, 0666u);
  struct stat written{};
  EXPECT_EQ(run(box, "touch /root/mine").status, 0);
  ASSERT_EQ(::stat((state_ + "/one/root/root/mine").c_str(), &written), 0);
  EXPECT_EQ(written.st_uid, box_owner().user);
  EXPECT_NE(written.st_uid, 0u) << "not the host's root, even for a server that is";
}

TEST_F(WithKeeper, CommonProgramsWork) {
  Running box = launch(spec());
  for (const char* script :
       {"python3 -c 'import ssl, sqlite3, json; print(len(ssl.create_default_context().get_ca_certs()) > "
        "10)' | grep True",
        "bash -lc 'echo $HOME'",
        "git init -q /workspace/r && cd /workspace/r && touch a && git add a && git -c user.name=a -c "
        "user.email=b commit -qm a && git log --oneline | grep a",
        "! command -v pip || pip --version", "curl --version",
        "! command -v node || node -e 'console.log(1)'", "! command -v go || go version",
        "! command -v java || java -version", "! command -v dpkg || dpkg -l bash", "perl -e 'print 1'",
        "! command -v gcc || (echo 'int main(){}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a)",
        "python3 -m venv --without-pip /workspace/v && /workspace/v/bin/python -c 1",
        "cp -r /etc/ssl /tmp/ssl", "ls -l /etc/alternatives | head -1"}) {
    const Ended ended = run(box, script);
    EXPECT_EQ(ended.status, 0) << script << "\n" << ended.out;
  }
}

TEST_F(WithKeeper, ABoxCannotBreakItsNextStartNorLeadItOut) {
  std::ofstream(state_ + "/outside") << "host";
  const std::string host = "/oldroot" + state_;
  {
    Running box = launch(spec());
    const Ended done = run(
        box, fmt::format(
                 "set -e; rm -rf /srv; ln -s {0} /srv; mkdir /opt/x; ln -s / /opt/x/loop; chmod 000 /opt/x; "
                 "chmod 000 /root /tmp /var /workspace; chmod 000 /",
                 host));
    EXPECT_EQ(done.status, 0) << done.out;
    stop(box);
  }
  // What stands for a place that is mounted over while it runs.
  const std::string upper = state_ + "/one/root/";
  ::chmod(upper.c_str(), 0700);
  for (const char* place : {"run", "proc", "dev", "sys", "usr", "etc"}) {
    fs::remove_all(upper + place);
    fs::create_symlink(host, upper + place);
  }
  ::chmod(upper.c_str(), 0);
  const auto before = std::distance(fs::directory_iterator(state_), fs::directory_iterator());
  Running box = launch(spec());
  EXPECT_EQ(out(box,
                "echo ok; cat /etc/resolv.conf | head -1; ls -d /usr/bin /proc/self/ /run/postern /dev/null; "
                "test -L /etc || echo real"),
            "ok\nnameserver 100.64.0.1\n/dev/null\n/proc/self/\n/run/postern\n/usr/bin\nreal\n");
  stop(box);
  EXPECT_EQ(std::distance(fs::directory_iterator(state_), fs::directory_iterator()), before)
      << "nothing was made outside";
  EXPECT_EQ(content_of(state_ + "/outside"), "host");
  EXPECT_FALSE(fs::exists(state_ + "/resolv.conf"));
}

TEST_F(WithKeeper, FilesOfOursCoverTheBoxes) {
  std::ofstream(state_ + "/bundle") << "certificates";
  ::chmod((state_ + "/bundle").c_str(), 0600);
  BoxSpec with = spec();
  using Kind = sandbox::MountStep::Kind;
  with.files = {{Kind::data, {}, "/etc/new/data", std::string("a\0b", 3)},
                {Kind::ro_bind, state_ + "/bundle", "/etc/ssl/certs/ca-certificates.crt", {}},
                {Kind::hide_tree, {}, "/root/.pki/nssdb", {}},
                {Kind::copy, state_ + "/bundle", "/root/.pki/nssdb/cert9.db", {}}};
  ::chmod((state_ + "/bundle").c_str(), 0644);
  for (int start = 0; start < 2; ++start) {
    Running box = launch(with);
    EXPECT_EQ(out(box,
                  "od -An -c /etc/new/data; cat /etc/ssl/certs/ca-certificates.crt; (echo x > "
                  "/etc/ssl/certs/ca-certificates.crt) 2>/dev/null || echo; "
                  "cat /root/.pki/nssdb/cert9.db; echo more >> /root/.pki/nssdb/cert9.db"),
              "   a  \\0   b\ncertificates\ncertificates");
    stop(box);
    // For the second start.
    const std::string certs = state_ + "/one/root/etc/ssl/certs";
    fs::remove_all(certs);
    fs::create_directories(state_ + "/one/root/etc/ssl");
    fs::create_symlink(state_, certs);
    const Owner owner = box_owner();
    EXPECT_EQ(::lchown((state_ + "/one/root/etc/ssl").c_str(), owner.user, owner.group), 0);
  }
  EXPECT_EQ(content_of(state_ + "/bundle"), "certificates");
}

TEST_F(WithKeeper, ErrorsSayWhatIsWrong) {
  const auto error = [&](const BoxSpec& spec) {
    const auto launched = keeper_->launch(spec);
    return launched ? std::string("none") : launched.error().detail;
  };
  BoxSpec bad = spec();
  bad.directory = state_ + "/none/none";
  EXPECT_THAT(error(bad), AllOf(HasSubstr("No such file"), HasSubstr(bad.directory)));
  bad.directory = "relative";
  EXPECT_THAT(error(bad), HasSubstr("no absolute path"));
  fs::create_directory_symlink(state_, state_ + "/link");
  bad.directory = state_ + "/link";
  EXPECT_THAT(error(bad), HasSubstr("Not a directory"));
  bad = spec();
  bad.name = "a b";
  EXPECT_THAT(error(bad), HasSubstr("no host name"));
  bad = spec();
  bad.layers = {state_ + "/none"};
  EXPECT_THAT(error(bad), HasSubstr("/none"));
  bad = spec();
  bad.state_directory = "/none";
  EXPECT_THAT(error(bad), HasSubstr("/none"));
  Running box = launch(spec());
  EXPECT_THAT(error(spec()), HasSubstr("is running"));
  EXPECT_THAT(remove_box_directory(spec().directory).error().detail, HasSubstr("is running"));
  EXPECT_EQ(out(box, "echo still"), "still\n");
}

/// A system of one program, as an archive: the agent's own, which needs nothing else.
TEST_F(WithKeeper, ALayerIsMadeAndABoxRunsOnIt) {
  const std::string archive = state_ + "/image.tar";
  std::ofstream(archive) << Tar().file("etc/greeting", "hello").directory("bin").bytes();
  const Fd source(::open(archive.c_str(), O_RDONLY | O_CLOEXEC));
  const LayerJob job{LayerSource::tar, state_ + "/layer", "", 1 << 20, 100};
  const auto made = keeper_->make_layer(job, source, {});
  ASSERT_TRUE(made) << made.error().detail;
  EXPECT_EQ(made->bytes, 3 * 4096u + 5);
  BoxSpec on = spec();
  on.layers = {job.directory};
  on.base = BoxBase::nothing;
  EXPECT_TRUE(keeper_->launch(on));

  // And one on the host's userland, out of what another wrote.
  Running first = launch(spec("first"));
  EXPECT_EQ(
      run(first,
          "echo mine > /etc/mine; rm /etc/hostname; mkdir /usr/local/new; rm -rf /var/lib; mkdir /var/lib")
          .status,
      0);
  for (const char* state : {"running", "stopped"}) {
    const Fd box(::open((state_ + "/first").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const LayerJob copy{LayerSource::box, state_ + "/copy-" + state, "", 64 << 20, 10'000};
    const auto copied = keeper_->make_layer(copy, box, {});
    ASSERT_TRUE(copied) << copied.error().detail;
    BoxSpec second = spec(std::string("second-") + state);
    second.layers = {copy.directory};
    Running box_of_copy = launch(second);
    EXPECT_EQ(
        out(box_of_copy,
            "cat /etc/mine; ls /etc/hostname 2>&1; ls -A /var/lib; touch /var/lib/x && ls -d /usr/local/new "
            "/usr/bin/cat"),
        "mine\nls: cannot access '/etc/hostname': No such file or directory\n/usr/bin/cat\n/usr/local/new\n");
    // And one on that, where what the one below has is removed.
    EXPECT_EQ(run(box_of_copy, "rm /etc/mine; rmdir /usr/local/new; echo deeper > /etc/deeper").status, 0);
    const Fd upper(::open(second.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const LayerJob more{LayerSource::box, state_ + "/more-" + state, "", 64 << 20, 10'000};
    ASSERT_TRUE(keeper_->make_layer(more, upper, {}));
    BoxSpec third = spec(std::string("third-") + state);
    third.layers = {more.directory, copy.directory};
    Running on_both = launch(third);
    EXPECT_EQ(out(on_both, "cat /etc/deeper; ls -d /etc/mine /usr/local/new /usr/local/etc 2>/dev/null"),
              "deeper\n/usr/local/etc\n");
    stop(on_both);
    stop(box_of_copy);
    if (first.link) stop(first);
  }
}

TEST_F(WithKeeper, ALayerThatCannotBeMadeIsAnError) {
  std::ofstream(state_ + "/bad.tar") << "no archive";
  const Fd source(::open((state_ + "/bad.tar").c_str(), O_RDONLY | O_CLOEXEC));
  const LayerJob job{LayerSource::tar, state_ + "/layer", "", 1 << 20, 100};
  EXPECT_THAT(keeper_->make_layer(job, source, {}).error().detail, HasSubstr("cannot be read"));
  EXPECT_TRUE(remove_box_directory(job.directory));  // It is free.
}

TEST_F(WithKeeper, ABoxThatEndsByItselfIsNoticed) {
  Running box = launch(spec());
  EXPECT_FALSE(readable(box.launched.exit, 0));
  box.link.reset();
  EXPECT_TRUE(readable(box.launched.exit, 10'000));
  keeper_->stop(box.launched.number);
  keeper_->stop(4711);
  EXPECT_EQ(processes_of(keeper_->process()), std::set<pid_t>{keeper_->process()});
}

TEST_F(WithKeeper, StoppingEndsWhatHidesFromIt) {
  Running box = launch(spec());
  EXPECT_EQ(
      run(box, "for i in 1 2 3; do (trap '' TERM INT HUP; setsid sleep 1000) > /dev/null 2>&1 & done").status,
      0);
  stop(box);
  EXPECT_EQ(processes_of(keeper_->process()), std::set<pid_t>{keeper_->process()});
  Running again = launch(spec());
  EXPECT_EQ(out(again, "pgrep sleep | wc -l"), "0\n");
}

TEST_F(WithKeeper, ManyStartAtOnce) {
  constexpr int count = 20;
  std::vector<std::optional<Result<Keeper::Launched>>> launched(count);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i)
      threads.emplace_back(
          [&, i] { launched[static_cast<std::size_t>(i)] = keeper_->launch(spec(fmt::format("box{}", i))); });
  }
  std::set<std::uint64_t> numbers;
  for (int i = 0; i < count; ++i) {
    auto& each = *launched[static_cast<std::size_t>(i)];
    ASSERT_TRUE(each) << each.error().detail;
    numbers.insert(each->number);
    Fd agent = std::move(each->agent);
    Running box{std::move(*each), std::make_unique<AgentLink>(loop_, std::move(agent))};
    EXPECT_EQ(out(box, "hostname"), fmt::format("box{}\n", i));
    stop(box);
  }
  EXPECT_EQ(numbers.size(), static_cast<std::size_t>(count));
}

TEST_F(WithKeeper, WhatHoldsABoxHasSomePagesOfMemory) {
  Running box = launch(spec());
  (void)out(box, "true");  // It runs, and nobody is at work on it any more.
  int holders = 0, seen = 0;
  for (const pid_t process : processes_of(keeper_->process())) {
    const std::string place = fmt::format("/proc/{}/", process);
    if (content_of(place + "comm") != "postern-box\n") continue;
    ++holders;
    EXPECT_EQ(content_of(place + "environ"), "");
    struct stat program{};
    if (::stat((place + "exe").c_str(), &program) != 0) continue;
    ++seen;
    // It runs as the server's user: no owner of a box may have a say in what.
    EXPECT_EQ(program.st_uid, ::geteuid());
    EXPECT_EQ(program.st_mode & 0222, 0U);
    EXPECT_EQ(program.st_nlink, 0U);
    std::istringstream lines(content_of(place + "smaps_rollup"));
    long kib = 0;
    for (std::string word; lines >> word;)
      if (word == "Pss:") lines >> kib;
    EXPECT_GT(kib, 0);
    EXPECT_LT(kib, 40);
  }
  EXPECT_EQ(holders, 2);
  // The outer one's own user cannot look into it; the inner one is in a namespace that is that user's.
  EXPECT_EQ(seen, ::geteuid() == 0 ? 2 : 1);
  stop(box);
}

TEST_F(WithKeeper, ADeadKeeperIsAnErrorAndLeavesNothing) {
  Running box = launch(spec());
  const pid_t keeper = keeper_->process();
  ::kill(keeper, SIGKILL);
  EXPECT_TRUE(readable(box.launched.exit, 10'000));
  EXPECT_TRUE(all_gone(keeper));
  const auto launched = keeper_->launch(spec("other"));
  ASSERT_FALSE(launched);
  EXPECT_EQ(launched.error().reason, Reason::shutting_down);
  keeper_->stop(box.launched.number);
}

TEST_F(WithKeeper, AKilledServerLeavesNothing) {
  for (int round = 0; round < 4; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t server = ::fork();
    if (server == 0) {
      auto keeper = Keeper::start();
      if (!keeper) ::_exit(1);
      const pid_t process = (*keeper)->process();
      if (::write(ends[1], &process, sizeof process) != sizeof process) ::_exit(1);
      std::vector<Keeper::Launched> all;
      std::vector<std::jthread> threads;
      for (int i = 0; i < 3; ++i)
        threads.emplace_back([&, i] {
          for (int k = 0; k < 100; ++k) {
            auto launched = (*keeper)->launch(spec(fmt::format("r{}t{}k{}", round, i, k)));
            if (!launched || ::write(ends[1], "x", 1) != 1) ::_exit(1);
          }
        });
      threads.clear();
      ::_exit(0);
    }
    pid_t keeper = 0;
    char byte = 0;
    ASSERT_EQ(::read(ends[0], &keeper, sizeof keeper), static_cast<ssize_t>(sizeof keeper));
    for (int i = 0; i < round * 2; ++i)
      ASSERT_EQ(::read(ends[0], &byte, 1), 1);  // In the middle of the next ones.
    ::kill(server, SIGKILL);
    ::waitpid(server, nullptr, 0);
    EXPECT_TRUE(all_gone(keeper));
    ::close(ends[0]);
    ::close(ends[1]);
  }
  EXPECT_THAT(content_of("/proc/self/mountinfo"), Not(HasSubstr(state_)));
}

TEST_F(WithKeeper, TheKeeperHasNothingOfTheServer) {
  const fs::path process = fmt::format("/proc/{}", keeper_->process());
  Running box = launch(spec());
  EXPECT_EQ(content_of(process / "comm"), "postern-keeper\n");
  if (::geteuid() != 0) {  // Root looks everywhere.
    EXPECT_FALSE(std::ifstream(process / "environ").get() != EOF) << "not dumpable";
    return;
  }
  EXPECT_THAT(content_of(process / "environ"), Not(HasSubstr("tell-nobody")));
  std::set<std::string> open;
  for (const auto& entry : fs::directory_iterator(process / "fd"))
    open.insert(fs::read_symlink(entry).string().substr(0, 10));
  const std::string socket = fs::read_symlink(process / "fd/3").string().substr(0, 10);
  EXPECT_THAT(open, testing::IsSubsetOf(
                        std::vector<std::string>{"/dev/null", "anon_inode", state_.substr(0, 10), socket}));
  ::kill(keeper_->process(), SIGTERM);
  ::kill(keeper_->process(), SIGINT);
  EXPECT_EQ(out(box, "echo on"), "on\n");
  EXPECT_TRUE(keeper_->launch(spec("another")));
}

TEST_F(WithKeeper, TheFirstCommandComesSoon) {
  std::vector<double> first, again;
  for (int i = 0; i < 21; ++i) {
    for (auto* times : {&first, &again}) {
      const auto begin = std::chrono::steady_clock::now();
      Running box = launch(spec(fmt::format("t{}", i)));
      EXPECT_EQ(out(box, "echo x"), "x\n");
      times->push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
      stop(box);
    }
  }
  std::ranges::sort(first);
  std::ranges::sort(again);
  fmt::print("create to first command: {:.1f} ms, start again: {:.1f} ms (medians)\n", first[10], again[10]);
  EXPECT_LT(first[10], 1000);  // A machine that is busy with tests; the number is what is of interest.
}

TEST(BoxDirectory, AnyTreeCanBeRemovedAndNothingElse) {
  std::string pattern = (fs::temp_directory_path() / "postern-removed-XXXXXX").string();
  const std::string top = ::mkdtemp(pattern.data());
  fs::create_directory(top + "/kept");
  std::ofstream(top + "/kept/file") << "x";
  const std::string box = top + "/box";
  fs::create_directories(box + "/root/a/removed-0/removed-1");
  fs::create_directory_symlink(top + "/kept", box + "/root/link");
  fs::create_directory_symlink(top + "/kept", box + "/removed-1");
  fs::create_hard_link(top + "/kept/file", box + "/root/hard");
  for (int i = 0; i < 3000; ++i) std::ofstream(box + "/root/a/" + std::to_string(i)) << i;
  Fd deep(::open((box + "/root").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < 5000; ++i) {
    ASSERT_EQ(::mkdirat(deep.get(), "deep", 0700), 0);
    deep = Fd(::openat(deep.get(), "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  fs::permissions(box + "/root/a", fs::perms::none);
  fs::permissions(box + "/root/deep/deep", fs::perms::none);
  fs::permissions(box + "/root", fs::perms::none);
  const auto removed = remove_box_directory(box);
  EXPECT_TRUE(removed) << removed.error().detail;
  EXPECT_FALSE(fs::exists(box));
  EXPECT_EQ(content_of(top + "/kept/file"), "x");
  EXPECT_TRUE(remove_box_directory(box)) << "absent already";
  fs::create_directory_symlink(top + "/kept", box);
  EXPECT_FALSE(remove_box_directory(box));
  EXPECT_EQ(content_of(top + "/kept/file"), "x");
  fs::remove_all(top);
}

TEST(Userland, HasOnlyWhatIsOnTheListAndOpenToEverybody) {
  std::string pattern = (fs::temp_directory_path() / "postern-userland-XXXXXX").string();
  const std::string top = ::mkdtemp(pattern.data());
  const std::string etc = top + "/etc";
  fs::create_directories(etc + "/ssl/certs");
  fs::create_directories(etc + "/ssl/private");
  fs::create_directories(etc + "/ssh");
  fs::create_directories(etc + "/ssl/closed");
  const auto make = [&](const std::string& name, mode_t mode) {
    std::ofstream(etc + "/" + name) << "x";
    ::chmod((etc + "/" + name).c_str(), mode);
  };
  make("services", 0644);
  make("shadow", 0644);
  make("nsswitch.conf", 0640);
  make("ssl/openssl.cnf", 0644);
  make("ssl/key", 0600);
  make("ssl/private/open", 0644);
  make("ssl/closed/open", 0644);
  make("ssh/key", 0644);
  make("pip.conf", 0644);
  ::chmod((etc + "/ssl/closed").c_str(), 0700);
  fs::create_symlink("/usr/share/x", etc + "/ssl/certs/link");
  ::mkfifo((etc + "/protocols").c_str(), 0644);
  ::chmod(top.c_str(), 0755);
  {
    const auto userland = Userland::make(top, etc);
    ASSERT_TRUE(userland) << userland.error().detail;
    std::vector<std::string> found;
    const fs::path made = userland->path() + "/root/etc";
    for (const auto& entry : fs::recursive_directory_iterator(made))
      found.push_back(entry.path().lexically_relative(made).string().substr(0, 40));
    std::ranges::sort(found);
    EXPECT_THAT(found, ElementsAre("group", "hostname", "hosts", "mtab", "opt", "passwd", "profile",
                                   "profile.d", "resolv.conf", "services", "skel", "ssl", "ssl/certs",
                                   "ssl/certs/link", "ssl/openssl.cnf"));
    EXPECT_TRUE(Userland::make(top, etc)) << "beside the first";
    EXPECT_TRUE(fs::exists(made)) << "which is in use";
  }
  const auto third = Userland::make(top, etc);
  std::size_t left = 0;
  for (const auto& entry : fs::directory_iterator(top))
    left += entry.path().filename().string().starts_with("userland.");
  EXPECT_EQ(left, 1u) << "what nobody uses any more is removed";
  EXPECT_THAT(Userland::make(top, top + "/none").error().detail, HasSubstr("/etc"));
  fs::remove_all(top);
}

TEST(KeeperProtocol, ARequestIsReadAsItWasWrittenAndNothingElseIs) {
  Request request{RequestKind::launch,
                  7,
                  {"n",
                   "/d",
                   BoxBase::nothing,
                   {"/s", "/u"},
                   {{"A", "b"}, {"C", ""}},
                   {{sandbox::MountStep::Kind::data, "", "/e", std::string("\0x", 2)}},
                   "/t"},
                  {}};
  const std::string bytes = encode(request);
  const auto read = decode_request(bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(encode(*read), bytes);
  EXPECT_EQ(read->spec.files, request.spec.files);
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(decode_request(bytes.substr(0, size)));
  EXPECT_FALSE(decode_request(bytes + "x"));
  EXPECT_TRUE(decode_request(encode(Request{RequestKind::stop, 7, {}, {}})));
  const Request layer{RequestKind::make_layer, 8, {}, {LayerSource::image, "/d", "tag", 1 << 20, 5}};
  EXPECT_EQ(encode(*decode_request(encode(layer))), encode(layer));
  EXPECT_FALSE(decode_request(encode(layer) + "x"));
}

}  // namespace
}  // namespace postern::box
