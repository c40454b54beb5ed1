#include "api/service_use.h"

#include <gtest/gtest.h>
#include <vector>

namespace postern::api {
namespace {

TEST(ServiceUse, ABoxHasSoManySeatsAndOthersHaveTheirs) {
  const auto use = std::make_shared<ServiceUse>();
  std::vector<std::shared_ptr<ServiceUse::Seat>> seats;
  for (std::size_t i = 0; i < ServiceUse::seats_max; ++i)
    seats.push_back(use->take({"one", static_cast<std::uint16_t>(i % 2 + 1)}));
  EXPECT_EQ(use->take({"one", 3}), nullptr);
  EXPECT_NE(use->take({"two", 1}), nullptr);
  seats.pop_back();
  EXPECT_NE(use->take({"one", 3}), nullptr);
}

TEST(ServiceUse, ACutReachesThePortAloneOrAllOfThem) {
  const auto use = std::make_shared<ServiceUse>();
  int first = 0, second = 0, other = 0, late = 0;
  const auto one = use->take({"one", 1}), two = use->take({"one", 2}), elsewhere = use->take({"two", 1}),
             unready = use->take({"one", 1});
  one->when_cut([&] { ++first; });
  two->when_cut([&] { ++second; });
  elsewhere->when_cut([&] { ++other; });
  use->cut("one", 1);
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 0);
  // Whoever had a seat by then is cut, also when it had not said yet how.
  unready->when_cut([&] { ++late; });
  EXPECT_EQ(late, 1);
  use->cut("one", std::nullopt);
  use->cut("nobody", std::nullopt);
  EXPECT_EQ(first, 1) << "once";
  EXPECT_EQ(second, 1);
  EXPECT_EQ(other, 0);
}

TEST(ServiceUse, WhoHasGoneIsNotCalled) {
  const auto use = std::make_shared<ServiceUse>();
  bool called = false;
  use->take({"one", 1})->when_cut([&] { called = true; });
  use->cut("one", 1);
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace postern::api
