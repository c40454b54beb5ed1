#include "origin/resolver.h"

#include <algorithm>
#include <gtest/gtest.h>

#include "origin/fake_dns.h"

namespace postern::origin {
namespace {

using namespace std::chrono_literals;
using Addresses = Result<std::vector<IpAddress>>;

class ResolverTest : public testing::Test {
 protected:
  ~ResolverTest() override { loop_.abandon(); }

  static io::Task<void> ask(Resolver& resolver, std::string name, std::optional<Addresses>& out) {
    out.emplace(co_await resolver.addresses_of(std::move(name)));
  }
  Addresses resolve(const std::string& name) {
    std::optional<Addresses> out;
    loop_.spawn(ask(resolver_, name, out));
    for (int turn = 0; turn < 500 && !out; ++turn) loop_.run_once(10ms);
    if (!out) {
      loop_.abandon();
      return fail(Reason::internal, "no answer");
    }
    return std::move(*out);
  }
  static std::vector<std::string> texts(const Addresses& addresses) {
    std::vector<std::string> out;
    if (addresses)
      for (const IpAddress& address : *addresses) out.push_back(address.to_string());
    std::ranges::sort(out);
    return out;
  }

  ManualClock clock_;
  io::Loop loop_{clock_};
  FakeDns dns_{loop_};
  Overrides map_{{"fixed.example.com",
                  {{*IpAddress::parse("10.1.2.3"), 8443}, {*IpAddress::parse("::1"), std::nullopt}}}};
  Resolver resolver_{loop_, std::make_shared<const Overrides>(map_), dns_.server};
};

TEST_F(ResolverTest, GivesEveryAddressOfBothFamilies) {
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4", "5.6.7.8", "2606:4700::1111"}};
  EXPECT_EQ(texts(resolve("a.example.com")),
            (std::vector<std::string>{"1.2.3.4", "2606:4700::1111", "5.6.7.8"}));
}

TEST_F(ResolverTest, ANameWithOneFamilyIsEnough) {
  dns_.names["four.example.com"] = {.addresses = {"1.2.3.4"}};
  dns_.names["six.example.com"] = {.addresses = {"2606:4700::1111"}};
  EXPECT_EQ(texts(resolve("four.example.com")), (std::vector<std::string>{"1.2.3.4"}));
  EXPECT_EQ(texts(resolve("six.example.com")), (std::vector<std::string>{"2606:4700::1111"}));
}

TEST_F(ResolverTest, ANameThatDoesNotExistIsToldFromOneThatCannotBeResolved) {
  dns_.names["broken.example.com"] = {.code = 2};
  dns_.names["empty.example.com"] = {};
  const auto missing = resolve("missing.example.com");
  const auto broken = resolve("broken.example.com");
  const auto empty = resolve("empty.example.com");
  ASSERT_FALSE(missing || broken || empty);
  EXPECT_EQ(missing.error().reason, Reason::name_not_found);
  EXPECT_EQ(empty.error().reason, Reason::name_not_found);
  EXPECT_EQ(broken.error().reason, Reason::resolve_failed);
}

TEST_F(ResolverTest, TheSearchListOfTheHostIsNotForSandboxes) {
  (void)resolve("single");
  for (const auto& [name, count] : dns_.asked) EXPECT_EQ(name, "single");
}

TEST_F(ResolverTest, AnOverrideIsNeverAskedFor) {
  EXPECT_EQ(texts(resolve("fixed.example.com")), (std::vector<std::string>{"10.1.2.3", "::1"}));
  EXPECT_TRUE(dns_.asked.empty());
  ASSERT_NE(resolver_.override_of("fixed.example.com"), nullptr);
  EXPECT_EQ(resolver_.override_of("fixed.example.com")->front().port, 8443);
  EXPECT_EQ(resolver_.override_of("x.fixed.example.com"), nullptr);
}

TEST_F(ResolverTest, QuestionsAtTheSameTimeAreAskedOnce) {
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4"}};
  std::vector<std::optional<Addresses>> out(20);
  for (auto& one : out) loop_.spawn(ask(resolver_, "a.example.com", one));
  for (int turn = 0; turn < 500 && loop_.active() > 0; ++turn) loop_.run_once(10ms);
  for (const auto& one : out) {
    ASSERT_TRUE(one && *one);
    EXPECT_EQ(texts(*one), (std::vector<std::string>{"1.2.3.4"}));
  }
  EXPECT_EQ(dns_.asked["a.example.com"], 1);
}

TEST_F(ResolverTest, AnAnswerIsKeptForItsTtlAndNoLonger) {
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4"}, .ttl = 30};
  EXPECT_TRUE(resolve("a.example.com"));
  dns_.names["a.example.com"].addresses = {"9.9.9.9"};
  clock_.advance(30s - Duration(1));
  loop_.run_once(0ms);
  EXPECT_EQ(texts(resolve("a.example.com")), (std::vector<std::string>{"1.2.3.4"}));
  clock_.advance(1ms);
  loop_.run_once(0ms);
  EXPECT_EQ(texts(resolve("a.example.com")), (std::vector<std::string>{"9.9.9.9"}));
  EXPECT_EQ(dns_.asked["a.example.com"], 2);
}

TEST_F(ResolverTest, AnAnswerForAYearIsForgottenAfterMinutesAndOneForNoTimeServesItsBurst) {
  dns_.names["year.example.com"] = {.addresses = {"1.2.3.4"}, .ttl = 86400 * 365};
  dns_.names["none.example.com"] = {.addresses = {"1.2.3.4"}, .ttl = 0};
  EXPECT_TRUE(resolve("year.example.com"));
  EXPECT_TRUE(resolve("none.example.com"));
  EXPECT_TRUE(resolve("none.example.com"));
  EXPECT_EQ(dns_.asked["none.example.com"], 1);
  clock_.advance(Resolver::ttl_max + 1ms);
  loop_.run_once(0ms);
  EXPECT_TRUE(resolve("year.example.com"));
  EXPECT_EQ(dns_.asked["year.example.com"], 2);
}

TEST_F(ResolverTest, AFailureIsNotKept) {
  EXPECT_FALSE(resolve("late.example.com"));
  dns_.names["late.example.com"] = {.addresses = {"1.2.3.4"}};
  EXPECT_TRUE(resolve("late.example.com"));
}

/// c-ares looks at the real clock, so its time-outs are tried on that, with little patience.
class ResolverTimeOuts : public testing::Test {
 protected:
  ~ResolverTimeOuts() override { loop_.abandon(); }

  static io::Task<void> ask(Resolver& resolver, std::string name, std::optional<Addresses>& out) {
    out.emplace(co_await resolver.addresses_of(std::move(name)));
  }
  void turn_until(const auto& done) {
    for (int turn = 0; turn < 2000 && !done(); ++turn) loop_.run_once(10ms);
  }

  SystemClock clock_;
  io::Loop loop_{clock_};
  FakeDns dns_{loop_};
};

TEST_F(ResolverTimeOuts, AServerThatNeverAnswersIsAskedAsOftenAsSaidAndThenGivenUp) {
  dns_.names["a.example.com"] = {.silent = true};
  Resolver resolver(loop_, nullptr, dns_.server, {.first = 20ms, .tries = 3});
  std::optional<Addresses> out, too;
  loop_.spawn(ask(resolver, "a.example.com", out));
  loop_.spawn(ask(resolver, "a.example.com", too));
  turn_until([&] { return out && too && dns_.asked["a.example.com"] == 3; });
  for (const auto& one : {out, too}) {
    ASSERT_TRUE(one && !*one);
    EXPECT_EQ(one->error().reason, Reason::resolve_failed);
    EXPECT_EQ(one->error().side, Side::origin);
  }
  EXPECT_EQ(dns_.asked["a.example.com"], 3);
  EXPECT_EQ(loop_.active(), 0u);

  // Nothing of it is kept: when the server is back, so is the name.
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4"}};
  out.reset();
  loop_.spawn(ask(resolver, "a.example.com", out));
  turn_until([&] { return out.has_value(); });
  EXPECT_TRUE(out && *out);
}

TEST_F(ResolverTimeOuts, AQuestionThatWasLostIsAskedAgain) {
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4", "2606:4700::1111"}, .lost = 1};
  Resolver resolver(loop_, nullptr, dns_.server, {.first = 20ms, .tries = 9});
  std::optional<Addresses> out;
  loop_.spawn(ask(resolver, "a.example.com", out));
  turn_until([&] { return out.has_value(); });
  ASSERT_TRUE(out && *out);
  EXPECT_EQ((*out)->size(), 2u);
  EXPECT_GE(dns_.asked["a.example.com"], 2);
}

TEST_F(ResolverTimeOuts, ASilentServerIsNoHindranceWhileAnotherAnswers) {
  FakeDns silent(loop_);
  silent.names["a.example.com"] = {.silent = true};
  dns_.names["a.example.com"] = {.addresses = {"1.2.3.4"}};
  Resolver resolver(loop_, nullptr, silent.server + "," + dns_.server, {.first = 20ms, .tries = 9});
  std::optional<Addresses> out;
  loop_.spawn(ask(resolver, "a.example.com", out));
  turn_until([&] { return out.has_value(); });
  ASSERT_TRUE(out && *out);
  EXPECT_GE(silent.asked["a.example.com"], 1);
}

TEST_F(ResolverTest, MayGoWhileQuestionsAreOpen) {
  dns_.names["a.example.com"] = {.silent = true};
  std::optional<Addresses> out;
  {
    Resolver resolver(loop_, nullptr, dns_.server);
    loop_.spawn(ask(resolver, "a.example.com", out));
    loop_.run_once(1ms);
    loop_.abandon();
  }
  for (int turn = 0; turn < 3; ++turn) loop_.run_once(1ms);
  EXPECT_FALSE(out);
}

}  // namespace
}  // namespace postern::origin
