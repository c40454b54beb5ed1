#include "credential/base64.h"

#include <array>
#include <cstdint>

#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr std::string_view plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view for_urls = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::uint8_t no_digit = 0xff;

constexpr std::array<std::uint8_t, 256> values = [] {
  std::array<std::uint8_t, 256> table{};
  table.fill(no_digit);
  for (std::size_t i = 0; i < plain.size(); ++i)
    table[static_cast<unsigned char>(plain[i])] = static_cast<std::uint8_t>(i);
  return table;
}();

std::uint32_t byte_at(std::string_view bytes, std::size_t at) {
  return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0;
}

void append(std::string_view bytes, std::string_view alphabet, bool padded, std::string& out) {
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::uint32_t group = byte_at(bytes, i) << 16 | byte_at(bytes, i + 1) << 8 | byte_at(bytes, i + 2);
    const std::size_t digits = std::min<std::size_t>(bytes.size() - i, 3) + 1;
    for (std::size_t digit = 0; digit < digits; ++digit) out += alphabet[group >> (18 - 6 * digit) & 63];
    if (padded) out.append(4 - digits, '=');
  }
}

std::unexpected<Error> refuse() { return fail(Reason::invalid_configuration, "is not valid base64"); }

}  // namespace

void append_base64(std::string_view bytes, std::string& out) {
  out.reserve(out.size() + base64_size(bytes.size()));
  append(bytes, plain, true, out);
}

void append_base64url(std::string_view bytes, std::string& out) {
  out.reserve(out.size() + base64url_size(bytes.size()));
  append(bytes, for_urls, false, out);
}

std::string base64url(std::string_view bytes) {
  std::string text;
  append_base64url(bytes, text);
  return text;
}

Result<Secret> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return refuse();
  WipedString decoded(text.size() / 4 * 3);
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    const std::uint8_t value = values[static_cast<unsigned char>(c)];
    if (value == no_digit) return refuse();
    bits = bits << 6 | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    decoded.bytes() += static_cast<char>(bits >> count & 0xff);
  }
  if ((bits & ((1U << count) - 1)) != 0 || count >= 6) return refuse();
  return std::move(decoded).seal();
}

}  // namespace postern::credential
