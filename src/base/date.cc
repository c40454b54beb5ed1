#include "base/date.h"

#include <fmt/chrono.h>

namespace postern {

namespace {

/// Rounded down, also before 1970.
std::tm calendar(WallTime at) {
  return fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::floor<std::chrono::seconds>(at)));
}

}  // namespace

std::string date_text(WallTime at) {
  const auto rest = at - std::chrono::floor<std::chrono::seconds>(at);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", calendar(at),
                     std::chrono::duration_cast<std::chrono::milliseconds>(rest).count());
}

std::string date_text_in_seconds(WallTime at) { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", calendar(at)); }

std::string http_date(WallTime at) { return fmt::format("{:%a, %d %b %Y %H:%M:%S} GMT", calendar(at)); }

}  // namespace postern
