#include "base/date.h"

#include <gtest/gtest.h>

namespace postern {
namespace {

using std::chrono::milliseconds;

const WallTime sunday = std::chrono::sys_days{std::chrono::year{2026} / 11 / 29} + std::chrono::hours(13);

TEST(Date, DocumentsHaveMillisecondsAndMessagesHaveTheDay) {
  EXPECT_EQ(date_text(sunday + milliseconds(7)), "2026-11-29T13:00:00.007Z");
  EXPECT_EQ(date_text_in_seconds(sunday + milliseconds(999)), "2026-11-29T13:00:00Z");
  EXPECT_EQ(http_date(sunday + milliseconds(999)), "Sun, 29 Nov 2026 13:00:00 GMT");
}

TEST(Date, WhatIsBefore1970IsRoundedDownToo) {
  EXPECT_EQ(date_text(WallTime(milliseconds(-1))), "1969-12-31T23:59:59.999Z");
  EXPECT_EQ(http_date(WallTime(milliseconds(-1))), "Wed, 31 Dec 1969 23:59:59 GMT");
}

}  // namespace
}  // namespace postern
