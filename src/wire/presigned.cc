#include "wire/presigned.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "wire/target.h"

namespace postern::wire {

namespace {
constexpr std::array<std::string_view, 10> names = {"X-Amz-Algorithm",
                                                    "X-Amz-Credential",
                                                    "X-Amz-Signature",
                                                    "X-Goog-Algorithm",
                                                    "X-Goog-Credential",
                                                    "X-Goog-Signature",
                                                    "sv",
                                                    "sig",
                                                    "se",
                                                    "si"};
constexpr std::uint32_t aws = 0b111, google = 0b111'000, azure = 0b0011'000'000, azure_end = 0b1100'000'000;
}  // namespace

bool is_presigned(std::string_view target) {
  std::string_view query = query_of(target);
  std::uint32_t seen = 0;
  while (!query.empty()) {
    const std::string_view parameter = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(parameter.size() + 1, query.size()));
    const auto equals = parameter.find('=');
    if (equals == std::string_view::npos || equals + 1 == parameter.size()) continue;
    const std::string_view name = parameter.substr(0, equals);
    for (std::size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) seen |= 1u << i;
  }
  return (seen & aws) == aws || (seen & google) == google ||
         ((seen & azure) == azure && (seen & azure_end) != 0);
}

}  // namespace postern::wire
