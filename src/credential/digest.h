#pragma once
// SHA-256 and HMAC-SHA256 (OpenSSL), as what is signed and what signs need them: incremental, many times over
// without a new allocation, and never a question of failure. Not thread-safe; one per loop.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;
struct evp_mac_ctx_st;

namespace postern::credential {

using Digest = std::array<std::uint8_t, 32>;

/// Of no bytes at all, as AWS wants it for requests without a body.
inline constexpr std::string_view sha256_of_nothing =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept = default;
  Sha256& operator=(Sha256&&) noexcept = default;
  ~Sha256();

  Sha256& update(std::string_view bytes);
  /// The digest of what was given since the last finish(). The object is as new afterwards.
  Digest finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

Digest sha256(std::string_view bytes);

/// A key that was scheduled once. OpenSSL holds it, and wipes it at the end.
class HmacSha256 {
 public:
  explicit HmacSha256(std::string_view key);
  HmacSha256(HmacSha256&&) noexcept = default;
  HmacSha256& operator=(HmacSha256&&) noexcept = default;
  ~HmacSha256();

  Digest sign(std::string_view message);

 private:
  struct Free {
    void operator()(evp_mac_ctx_st* context) const;
  };
  std::unique_ptr<evp_mac_ctx_st, Free> context_;
};

/// Two lower-case digits per byte.
void append_hex(std::span<const std::uint8_t> bytes, std::string& out);
std::string hex(std::span<const std::uint8_t> bytes);

}  // namespace postern::credential
