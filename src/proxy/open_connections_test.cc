#include "proxy/open_connections.h"

#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

namespace postern::proxy {
namespace {

struct Guest final : OpenConnection {
  Guest(OpenConnections& all, Resting& tenant) : OpenConnection(all, tenant) {}
  ~Guest() = default;
  using OpenConnection::rest;
  using OpenConnection::stir;
  void on_drain() override {
    ++drained;
    if (then) then();
  }
  void on_shed() override {
    ++shed;
    if (then) then();
  }
  int drained = 0;
  int shed = 0;
  std::function<void()> then;
};

TEST(OpenConnections, WhoRestedLongestGoesFirst) {
  OpenConnections all;
  Resting tenant;
  Guest first(all, tenant), second(all, tenant), third(all, tenant);
  first.rest();
  second.rest();
  third.rest();
  first.stir();
  first.rest();  // Now the youngest.
  EXPECT_EQ(all.resting(), 3u);
  EXPECT_TRUE(all.shed_oldest());
  EXPECT_EQ(second.shed, 1);
  EXPECT_TRUE(all.shed_oldest());
  EXPECT_EQ(third.shed, 1);
  EXPECT_TRUE(all.shed_oldest());
  EXPECT_EQ(first.shed, 1);
  EXPECT_FALSE(all.shed_oldest());
  EXPECT_EQ(all.resting(), 0u);
}

TEST(OpenConnections, OneAtWorkIsNotShed) {
  OpenConnections all;
  Resting tenant;
  Guest busy(all, tenant);
  EXPECT_FALSE(all.shed_oldest());
  busy.rest();
  busy.rest();
  busy.stir();
  busy.stir();
  EXPECT_FALSE(all.shed_oldest());
  EXPECT_EQ(all.resting(), 0u);
}

TEST(OpenConnections, ATenantsOwnAreTakenFromNoOther) {
  OpenConnections all;
  Resting noisy, quiet;
  Guest old_guest(all, quiet), young_guest(all, noisy);
  old_guest.rest();
  young_guest.rest();
  EXPECT_TRUE(all.shed_oldest(noisy));
  EXPECT_EQ(young_guest.shed, 1);
  EXPECT_FALSE(all.shed_oldest(noisy));
  EXPECT_TRUE(quiet.any());
  EXPECT_TRUE(all.shed_oldest(quiet));
  EXPECT_EQ(old_guest.shed, 1);
}

TEST(OpenConnections, DrainingTellsEveryoneOnceWhoeverGoesMeanwhile) {
  OpenConnections all;
  Resting tenant;
  std::vector<std::unique_ptr<Guest>> guests;
  for (int i = 0; i < 5; ++i) guests.push_back(std::make_unique<Guest>(all, tenant));
  guests[1]->then = [&] { guests[1].reset(); };  // itself
  guests[2]->then = [&] { guests[3].reset(); };  // one that was not told yet
  std::unique_ptr<Guest> late;
  guests[4]->then = [&] { late = std::make_unique<Guest>(all, tenant); };
  all.drain();
  EXPECT_EQ(guests[0]->drained, 1);
  EXPECT_EQ(guests[2]->drained, 1);
  EXPECT_EQ(guests[4]->drained, 1);
  EXPECT_EQ(late->drained, 0);
  guests[2]->then = guests[4]->then = {};
  all.drain();
  EXPECT_EQ(guests[0]->drained, 2);
  EXPECT_EQ(late->drained, 1);
}

TEST(OpenConnections, OneThatGoesLeavesAllLists) {
  OpenConnections all;
  Resting tenant;
  {
    Guest guest(all, tenant);
    guest.rest();
  }
  EXPECT_EQ(all.resting(), 0u);
  EXPECT_FALSE(tenant.any());
  EXPECT_FALSE(all.shed_oldest());
  all.drain();
}

}  // namespace
}  // namespace postern::proxy
