#include "credential/link_key.h"

#include <algorithm>
#include <openssl/crypto.h>

#include "credential/base64.h"
#include "credential/digest.h"

namespace postern::credential {

namespace {

/// nullopt: it is none, or another form of the same bytes.
std::optional<std::string> decode_base64url(std::string_view text) {
  std::string padded(text);
  if (padded.find_first_of("+/=") != std::string::npos) return std::nullopt;
  std::ranges::replace(padded, '-', '+');
  std::ranges::replace(padded, '_', '/');
  padded.append((4 - padded.size() % 4) % 4, '=');
  const auto bytes = decode_base64(padded);
  if (!bytes) return std::nullopt;
  return std::string(bytes->unwrap());
}

Secret derive(const JwtKey& key) {
  const Secret signature = key.sign_compact(R"({"typ":"postern-link-key"})", "1");
  const Digest digest = sha256(signature.unwrap());
  return Secret(std::string(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

std::string mac(const Secret& key, std::string_view purpose, std::string_view payload) {
  std::string message(purpose);
  message.push_back('\0');
  message += payload;
  const Digest digest = HmacSha256(key.unwrap()).sign(message);
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace

LinkKey::LinkKey(const JwtKey& key) {
  const JwtKey* const one = &key;
  set({&one, 1});
}

void LinkKey::set(std::span<const JwtKey* const> keys) {
  auto derived = std::make_shared<std::vector<Secret>>();
  for (const JwtKey* key : keys) derived->push_back(derive(*key));
  const std::lock_guard lock(mutex_);
  keys_ = std::move(derived);
}

LinkKey::Keys LinkKey::keys() const {
  const std::lock_guard lock(mutex_);
  return keys_;
}

std::string LinkKey::sign(std::string_view purpose, std::string_view payload) const {
  return base64url(payload) + "." + base64url(mac(keys()->front(), purpose, payload));
}

std::optional<std::string> LinkKey::open(std::string_view purpose, std::string_view token) const {
  const std::size_t dot = token.find('.');
  if (token.size() > link_token_bytes_max || dot == std::string_view::npos) return std::nullopt;
  auto payload = decode_base64url(token.substr(0, dot));
  const auto said = decode_base64url(token.substr(dot + 1));
  if (!payload || !said) return std::nullopt;
  bool good = false;
  for (const Secret& key : *keys()) {
    const std::string right = mac(key, purpose, *payload);
    if (said->size() == right.size() && CRYPTO_memcmp(said->data(), right.data(), right.size()) == 0)
      good = true;
  }
  return good ? payload : std::nullopt;
}

}  // namespace postern::credential
