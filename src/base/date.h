#pragma once
// Dates in UTC, as documents and messages have them. The network log has a finer one of its own, which costs
// less (audit/record.h).

#include <string>

#include "base/clock.h"

namespace postern {

/// "2026-11-29T13:00:00.123Z" (RFC 3339).
std::string date_text(WallTime at);
/// "2026-11-29T13:00:00Z" (RFC 3339), for people.
std::string date_text_in_seconds(WallTime at);
/// "Sun, 29 Nov 2026 13:00:00 GMT" (RFC 9110 §5.6.7).
std::string http_date(WallTime at);

}  // namespace postern
