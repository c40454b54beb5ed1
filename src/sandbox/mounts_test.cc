#include "sandbox/mounts.h"

#include <gmock/gmock.h>

namespace postern::sandbox {
namespace {

using Kind = MountStep::Kind;
using Place = HiddenPlace::Kind;

MountFacts facts(std::string work = "/home/u/project") {
  return {.working_directory = std::move(work),
          .homes = {"/home/u"},
          .hidden = {{"/home/u/.ssh", Place::directory},
                     {"/home/u/.netrc", Place::file},
                     {"/tmp/agent.sock", Place::file}},
          .state_directory = "/home/u/.local/state/postern",
          .temporary_places = {"/tmp", "/var/tmp"}};
}

/// What a program finds at `path`: the last mount that covers it.
const MountStep& seen_at(const std::vector<MountStep>& steps, std::string_view path) {
  auto last = std::find_if(steps.rbegin(), steps.rend(),
                           [&](const MountStep& step) { return is_within(path, step.destination); });
  return *last;
}

Kind kind_at(const MountFacts& given, std::string_view path) {
  return seen_at(plan_mounts(given), path).kind;
}

TEST(Mounts, TheWorkingDirectoryIsWritableAndTheRestReadOnly) {
  EXPECT_EQ(kind_at(facts(), "/home/u/project/file"), Kind::bind);
  EXPECT_EQ(kind_at(facts(), "/home/u/projects"), Kind::ro_bind);
  EXPECT_EQ(kind_at(facts(), "/usr/bin/env"), Kind::ro_bind);
}

TEST(Mounts, TheSandboxHasItsOwnTemporaryPlaces) {
  for (const char* place : {"/tmp", "/var/tmp"}) EXPECT_EQ(kind_at(facts(), place), Kind::temporary);
  EXPECT_EQ(kind_at(facts(), "/run/docker.sock"), Kind::private_tree);
  EXPECT_EQ(kind_at(facts(), "/proc/1/mem"), Kind::processes);
  EXPECT_EQ(kind_at(facts(), "/dev/sda"), Kind::devices);
}

TEST(Mounts, HiddenPlacesStayHiddenWhereverTheWorkIs) {
  for (const char* work : {"/", "/home", "/home/u", "/home/u/project", "/tmp/x", "/etc"}) {
    EXPECT_EQ(kind_at(facts(work), "/home/u/.ssh/id"), Kind::hide_tree) << work;
    EXPECT_EQ(kind_at(facts(work), "/home/u/.netrc"), Kind::hide_file) << work;
    EXPECT_EQ(kind_at(facts(work), "/home/u/.local/state/postern/ca.key"), Kind::hide_tree) << work;
    EXPECT_EQ(kind_at(facts(work), "/proc/1"), Kind::processes) << work;
  }
}

TEST(Mounts, AWorkingDirectoryBelowTmpIsTheHosts) {
  EXPECT_EQ(kind_at(facts("/tmp/x"), "/tmp/x/file"), Kind::bind);
  EXPECT_EQ(kind_at(facts("/tmp/x"), "/tmp/y"), Kind::temporary);
  // All of /tmp as the working directory shows what is in it, but no socket.
  EXPECT_EQ(kind_at(facts("/tmp"), "/tmp/file"), Kind::bind);
  EXPECT_EQ(kind_at(facts("/tmp"), "/tmp/agent.sock"), Kind::hide_file);
}

TEST(Mounts, TheKernelsPlacesAndRunAreNeverBound) {
  for (const char* work : {"/run", "/proc", "/proc/self", "/sys/kernel", "/dev"}) {
    EXPECT_NE(kind_at(facts(work), work), Kind::bind) << work;
  }
  EXPECT_EQ(kind_at(facts("/dev/shm/x"), "/dev/shm/x"), Kind::bind);
}

TEST(Mounts, ABindOfAHiddenPlaceOpensIt) {
  MountFacts given = facts();
  given.rules = {{PathRule::Kind::ro_bind, "/home/u/.ssh", "/home/u/.ssh"}};
  EXPECT_EQ(kind_at(given, "/home/u/.ssh/id"), Kind::ro_bind);
  EXPECT_EQ(kind_at(given, "/home/u/.netrc"), Kind::hide_file);
}

TEST(Mounts, ABindOfAnAncestorLeavesHiddenPlacesHiddenAlsoAtAnotherPlace) {
  MountFacts given = facts();
  given.rules = {{PathRule::Kind::bind, "/home/u", "/home/u"}, {PathRule::Kind::bind, "/home", "/mnt"}};
  EXPECT_EQ(kind_at(given, "/home/u/file"), Kind::bind);
  EXPECT_EQ(kind_at(given, "/home/u/.ssh/id"), Kind::hide_tree);
  EXPECT_EQ(kind_at(given, "/mnt/u/.ssh/id"), Kind::hide_tree);
  EXPECT_EQ(kind_at(given, "/mnt/u/.netrc"), Kind::hide_file);
  EXPECT_EQ(kind_at(given, "/mnt/u/.local/state/postern/ca.key"), Kind::hide_tree);
}

TEST(Mounts, TheLaterOfTwoRulesWins) {
  MountFacts given = facts();
  given.rules = {{PathRule::Kind::hide, "/opt/x", "/opt/x"}, {PathRule::Kind::bind, "/opt/x", "/opt/x"}};
  given.rule_hides = {{"/opt/x", Place::directory}};
  EXPECT_EQ(kind_at(given, "/opt/x/a"), Kind::bind);
  std::swap(given.rules[0], given.rules[1]);
  EXPECT_EQ(kind_at(given, "/opt/x/a"), Kind::hide_tree);
}

TEST(Mounts, NothingIsMountedBelowAnEmptyTree) {
  MountFacts given = facts();
  given.hidden = {{"/home/u/.gnupg", Place::directory}, {"/home/u/.gnupg/S.gpg-agent", Place::file}};
  for (const MountStep& step : plan_mounts(given)) EXPECT_NE(step.destination, "/home/u/.gnupg/S.gpg-agent");
}

TEST(Mounts, PosternsOwnFilesComeLast) {
  MountFacts given = facts("/");
  given.rules = {{PathRule::Kind::bind, "/etc", "/etc"}};
  given.data = {{Kind::data, {}, "/etc/resolv.conf", "nameserver 100.64.0.1\n"}};
  given.files = {{Kind::ro_bind, "/state/certs", "/etc/ssl/certs", {}}};
  EXPECT_EQ(kind_at(given, "/etc/resolv.conf"), Kind::data);
  EXPECT_EQ(seen_at(plan_mounts(given), "/etc/ssl/certs/x").source, "/state/certs");
}

TEST(Paths, APathIsWithinItselfAndItsAncestorsOnly) {
  EXPECT_TRUE(is_within("/a/b", "/a/b"));
  EXPECT_TRUE(is_within("/a/b", "/a"));
  EXPECT_TRUE(is_within("/a/b", "/"));
  EXPECT_FALSE(is_within("/ab", "/a"));
  EXPECT_FALSE(is_within("/a", "/a/b"));
}

}  // namespace
}  // namespace postern::sandbox
