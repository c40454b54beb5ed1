#include "credential/api_key.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <span>
#include <unistd.h>

#include "credential/base64.h"
#include "credential/random.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr std::string_view prefix = "postern_";
constexpr std::size_t id_bytes = 8;
constexpr std::size_t id_size = 2 * id_bytes;
constexpr std::size_t secret_bytes = 32;
constexpr std::size_t key_size = prefix.size() + id_size + 1 + base64url_size(secret_bytes);

}  // namespace

NewApiKey make_api_key() {
  std::array<std::uint8_t, id_bytes> id;
  fill_at_random(std::as_writable_bytes(std::span(id)));
  WipedString secret(secret_bytes);
  secret.bytes().resize(secret_bytes);
  fill_at_random(std::as_writable_bytes(std::span(secret.bytes())));
  ApiKeyProof proof{hex(id), {}};
  WipedString text(key_size);
  text.bytes() += prefix;
  text.bytes() += proof.id;
  text.bytes() += '_';
  append_base64url(secret.view(), text.bytes());
  proof.digest = sha256(text.view());
  return {std::move(text).seal(), std::move(proof)};
}

Result<void> hand_over(const NewApiKey& key, int descriptor) {
  WipedString line(key.text.unwrap().size() + 1);
  line.bytes() += key.text.unwrap();
  line.bytes() += '\n';
  for (std::string_view left = line.view(); !left.empty();) {
    const ssize_t written = ::write(descriptor, left.data(), left.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      return fail(Reason::internal, fmt::format("the API key cannot be written: {}", std::strerror(errno)));
    left.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

std::optional<ApiKeyProof> read_api_key(std::string_view text) {
  if (text.size() != key_size || !text.starts_with(prefix) || text[prefix.size() + id_size] != '_')
    return std::nullopt;
  const std::string_view id = text.substr(prefix.size(), id_size);
  const bool is_hex =
      std::ranges::all_of(id, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!is_hex) return std::nullopt;
  return ApiKeyProof{std::string(id), sha256(text)};
}

bool same_digest(const Digest& one, const Digest& other) {
  return CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

}  // namespace postern::credential
