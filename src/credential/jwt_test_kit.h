#pragma once
// Reading tokens as those do to whom they are shown.

#include <algorithm>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "credential/base64.h"

namespace postern::credential {

inline std::string from_base64url(std::string_view text) {
  std::string plain(text);
  std::ranges::replace(plain, '-', '+');
  std::ranges::replace(plain, '_', '/');
  plain.append((4 - plain.size() % 4) % 4, '=');
  const auto decoded = decode_base64(plain);
  EXPECT_TRUE(decoded) << text;
  return decoded ? std::string(decoded->unwrap()) : "";
}

/// The claims, whatever the signature.
inline nlohmann::json claims_of(std::string_view token) {
  const auto first = token.find('.');
  const auto second = token.find('.', first + 1);
  if (first == token.npos || second == token.npos) return {};
  return nlohmann::json::parse(from_base64url(token.substr(first + 1, second - first - 1)));
}

}  // namespace postern::credential
