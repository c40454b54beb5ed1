#pragma once
// When what a cloud gave out ends, as it says it: "2026-11-29T13:00:00Z" (RFC 3339, in UTC).

#include <chrono>
#include <optional>
#include <string_view>

namespace postern::credential {

/// Fractions of a second are left out. nullopt: it is no such time.
std::optional<std::chrono::sys_seconds> parse_utc(std::string_view text);

}  // namespace postern::credential
