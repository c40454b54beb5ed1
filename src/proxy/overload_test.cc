#include "proxy/overload.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <list>
#include <span>
#include <sys/mman.h>
#include <vector>

namespace postern::proxy {
namespace {

constexpr ProcessUse calm{.memory_bytes = 0, .descriptors = 0};

class OverloadTest : public testing::Test {
 protected:
  /// As many connections of this tenant as are admitted.
  std::size_t fill(TenantLoad& tenant) {
    std::size_t admitted = 0;
    for (; overload_.admits_connection(tenant, 10); ++admitted) held_.emplace_back(overload_, tenant);
    return admitted;
  }
  LoadLimits limits_{.connections_max = 1000, .exchanges_max = 500, .process = {1'000'000, 6400}};
  Overload overload_{limits_};
  std::vector<TenantLoad> tenants_{2000};  // Outlive what they hold.
  std::list<Overload::ConnectionPlace> held_;
};

TEST_F(OverloadTest, OneGreedyTenantLeavesRoomForOthers) {
  TenantLoad &greedy = tenants_[0], &other = tenants_[1];
  EXPECT_EQ(fill(greedy), 800u);
  EXPECT_FALSE(overload_.admits_connection(greedy, 10));
  EXPECT_TRUE(overload_.admits_connection(other, 10));
}

TEST_F(OverloadTest, EveryFurtherGreedyTenantFindsAShareOfWhatIsLeft) {
  std::size_t last = 1000;
  for (TenantLoad& tenant : std::span(tenants_).first(20)) {
    const std::size_t got = fill(tenant);
    EXPECT_LE(got, last);
    last = got;
  }
  EXPECT_LE(overload_.connections(), 1000u);
  // When the first goes, its room is everybody's again.
  held_.erase(held_.begin(), std::next(held_.begin(), 800));
  EXPECT_GT(fill(tenants_[5]), 100u);
}

TEST_F(OverloadTest, NothingIsAdmittedBeyondTheHardLimit) {
  for (TenantLoad& tenant : tenants_)
    if (overload_.admits_connection(tenant, 10)) held_.emplace_back(overload_, tenant);
  EXPECT_EQ(overload_.connections(), 1000u);
}

TEST_F(OverloadTest, SheddingBeginsBeforeRefusing) {
  std::size_t shedding_at = 0;
  for (TenantLoad& tenant : tenants_) {
    if (!overload_.admits_connection(tenant, 10)) break;
    held_.emplace_back(overload_, tenant);
    if (overload_.shedding() && shedding_at == 0) shedding_at = overload_.connections();
  }
  EXPECT_EQ(shedding_at, 751u);
  held_.clear();
  EXPECT_FALSE(overload_.shedding());
  EXPECT_EQ(overload_.connections(), 0u);
}

TEST_F(OverloadTest, ExchangesAreSharedInTheSameWay) {
  TenantLoad &greedy = tenants_[0], &other = tenants_[1];
  std::list<Overload::ExchangePlace> exchanges;
  while (exchanges.empty() || exchanges.back().admitted()) exchanges.emplace_back(overload_, greedy);
  EXPECT_EQ(greedy.exchanges, 401u);  // and the one that is being refused
  EXPECT_TRUE(overload_.shedding());
  const Overload::ExchangePlace place(overload_, other);
  EXPECT_TRUE(place.admitted());
  exchanges.clear();
  EXPECT_EQ(overload_.exchanges(), 1u);
  EXPECT_EQ(greedy.exchanges, 0u);
  EXPECT_FALSE(overload_.shedding());
}

TEST_F(OverloadTest, MemoryShedsThenRefusesAndRecovers) {
  TenantLoad& tenant = tenants_[0];
  for (int i = 0; i < 20; ++i) held_.emplace_back(overload_, tenant);
  std::list<Overload::ExchangePlace> exchanges;
  for (int i = 0; i < 20; ++i) exchanges.emplace_back(overload_, tenant);

  overload_.measured({.memory_bytes = 749'999, .descriptors = 10});
  EXPECT_FALSE(overload_.shedding());
  overload_.measured({.memory_bytes = 750'000, .descriptors = 10});
  EXPECT_TRUE(overload_.shedding());
  EXPECT_TRUE(overload_.admits_connection(tenant, 10));
  EXPECT_TRUE(overload_.admits_exchange(tenant));
  overload_.measured({.memory_bytes = 900'000, .descriptors = 10});
  EXPECT_FALSE(overload_.admits_connection(tenant, 10));
  EXPECT_FALSE(overload_.admits_exchange(tenant));
  overload_.measured(calm);
  EXPECT_FALSE(overload_.shedding());
  EXPECT_TRUE(overload_.admits_exchange(tenant));
}

TEST_F(OverloadTest, MemoryThatNobodyHereHoldsDoesNotShutTheLoop) {
  TenantLoad& tenant = tenants_[0];
  overload_.measured({.memory_bytes = 999'999, .descriptors = 10});
  EXPECT_TRUE(overload_.admits_exchange(tenant));
  EXPECT_EQ(fill(tenant), 16u);
}

TEST_F(OverloadTest, TheLastDescriptorsAreForOrigins) {
  TenantLoad& tenant = tenants_[0];
  EXPECT_TRUE(overload_.admits_connection(tenant, 6299));
  EXPECT_FALSE(overload_.admits_connection(tenant, 6300));
  overload_.measured({.memory_bytes = 0, .descriptors = 4800});
  EXPECT_TRUE(overload_.shedding());
}

TEST(ProcessMeter, SeesMemoryAndDescriptorsComeAndGo) {
  const ProcessMeter meter;
  const ProcessUse before = meter.measure();
  EXPECT_GT(before.memory_bytes, 1'000'000u);
  EXPECT_GE(before.descriptors, 3u);
  std::vector<Fd> opened;
  for (int i = 0; i < 100; ++i) opened.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  constexpr std::size_t bytes = 64 << 20;
  void* block =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  const ProcessUse during = meter.measure();
  EXPECT_GE(during.descriptors, before.descriptors + 100);
  EXPECT_GE(during.memory_bytes, before.memory_bytes + bytes / 2);
  ::munmap(block, bytes);
  opened.clear();
  const ProcessUse after = meter.measure();
  EXPECT_LT(after.descriptors, before.descriptors + 100);
  EXPECT_LT(after.memory_bytes, before.memory_bytes + bytes / 2);
}

TEST(ProcessMeter, AProcessIsWithinItsLimits) {
  const ProcessUse allowed = allowed_to_process();
  const ProcessUse use = ProcessMeter().measure();
  EXPECT_LT(use.memory_bytes, allowed.memory_bytes);
  EXPECT_LT(use.descriptors, allowed.descriptors);
}

}  // namespace
}  // namespace postern::proxy
