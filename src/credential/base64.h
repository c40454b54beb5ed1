#pragma once
// Base64 (RFC 4648): the forms of keys, signatures and tokens.

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/secret.h"

namespace postern::credential {

/// How many characters append_base64() appends for so many bytes.
constexpr std::size_t base64_size(std::size_t bytes) { return (bytes + 2) / 3 * 4; }
constexpr std::size_t base64url_size(std::size_t bytes) { return (bytes * 4 + 2) / 3; }

/// RFC 4648 §4, with padding. `bytes` are any bytes.
void append_base64(std::string_view bytes, std::string& out);
/// RFC 4648 §5 without padding, as RFC 7515 §2 wants it.
void append_base64url(std::string_view bytes, std::string& out);
std::string base64url(std::string_view bytes);

/// RFC 4648 §4, strictly: padded, no white space, no bits behind the end. nullopt-like Error otherwise
/// (invalid_configuration), which says nothing about the text.
Result<Secret> decode_base64(std::string_view text);

}  // namespace postern::credential
