#include "credential/sealing.h"

#include <array>
#include <cstdlib>
#include <sodium.h>
#include <span>

#include "credential/base64.h"
#include "credential/digest.h"
#include "credential/random.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr char form = 1;
constexpr std::size_t nonce_bytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr std::size_t tag_bytes = crypto_aead_xchacha20poly1305_ietf_ABYTES;
constexpr std::size_t fingerprint_bytes = 16;
constexpr std::size_t wrapped_bytes = 1 + fingerprint_bytes + nonce_bytes + MasterKey::key_bytes + tag_bytes;
static_assert(DataKey::overhead_bytes == 1 + nonce_bytes + tag_bytes);
static_assert(MasterKey::key_bytes == crypto_aead_xchacha20poly1305_ietf_KEYBYTES);
static_assert(MasterKey::key_bytes == crypto_kdf_KEYBYTES);

// Neither fails but where the operating system gives no random numbers, and then nothing may go on.
void must(bool good) {
  if (!good) std::abort();
}

unsigned char* bytes_of(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }
const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

Secret random_key() {
  WipedString key(MasterKey::key_bytes);
  key.bytes().resize(MasterKey::key_bytes);
  fill_at_random(std::as_writable_bytes(std::span(key.bytes())));
  return std::move(key).seal();
}

/// The master key itself is in no cipher: what is derived from it for one use says nothing about another.
WipedString derive(const Secret& key, std::uint64_t use, std::size_t size) {
  static const bool started = sodium_init() >= 0;  // before anything else of the library
  must(started);
  WipedString derived(size);
  derived.bytes().resize(size);
  must(crypto_kdf_derive_from_key(bytes_of(derived.bytes()), size, use, "postern1", bytes_of(key.unwrap())) ==
       0);
  return derived;
}

void append_number(std::uint64_t number, std::string& out) {
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(number >> shift & 0xff);
}

/// Each with its length before it: no two lists of fields have the same bytes.
std::string bound_to(std::initializer_list<std::string_view> fields, std::uint64_t version) {
  std::string out(1, form);
  for (const std::string_view field : fields) {
    append_number(field.size(), out);
    out += field;
  }
  append_number(version, out);
  return out;
}

void append_encrypted(std::string_view plain, std::string_view bound, const Secret& key, std::string& out) {
  const std::size_t begin = out.size();
  out.resize(begin + nonce_bytes + plain.size() + tag_bytes);
  unsigned char* const nonce = bytes_of(out) + begin;
  fill_at_random(std::as_writable_bytes(std::span(nonce, nonce_bytes)));
  must(crypto_aead_xchacha20poly1305_ietf_encrypt(nonce + nonce_bytes, nullptr, bytes_of(plain), plain.size(),
                                                  bytes_of(bound), bound.size(), nullptr, nonce,
                                                  bytes_of(key.unwrap())) == 0);
}

std::expected<Secret, OpenFault> decrypted(std::string_view sealed, std::string_view bound,
                                           const Secret& key) {
  if (sealed.size() < nonce_bytes + tag_bytes) return std::unexpected(OpenFault::damaged);
  const unsigned char* const nonce = bytes_of(sealed);
  const std::size_t size = sealed.size() - nonce_bytes - tag_bytes;
  WipedString plain(size);
  plain.bytes().resize(size);
  if (crypto_aead_xchacha20poly1305_ietf_decrypt(
          bytes_of(plain.bytes()), nullptr, nullptr, nonce + nonce_bytes, sealed.size() - nonce_bytes,
          bytes_of(bound), bound.size(), nonce, bytes_of(key.unwrap())) != 0)
    return std::unexpected(OpenFault::damaged);
  return std::move(plain).seal();
}

std::string bound_to(const SealedPlace& place) {
  return bound_to({"value", place.purpose, place.workspace, place.name}, place.version);
}

std::string bound_to_owner(std::string_view owner) { return bound_to({"data key", owner}, 0); }

std::unexpected<Error> refuse_text() {
  return fail(Reason::invalid_configuration, "a master key is 64 hexadecimal digits, or base64 of 32 bytes");
}

}  // namespace

DataKey DataKey::generate() { return DataKey(random_key()); }

std::string DataKey::seal(const Secret& value, const SealedPlace& place) const {
  std::string out(1, form);
  append_encrypted(value.unwrap(), bound_to(place), key_, out);
  return out;
}

std::expected<Secret, OpenFault> DataKey::open(std::string_view sealed, const SealedPlace& place) const {
  if (!sealed.starts_with(form)) return std::unexpected(OpenFault::damaged);
  return decrypted(sealed.substr(1), bound_to(place), key_);
}

MasterKey::MasterKey(Secret&& key)
    : wrapping_key_(derive(key, 1, key_bytes).seal()), key_(std::move(key)), fingerprint_([this] {
        const WipedString derived = derive(key_, 2, fingerprint_bytes);
        return hex(std::span(bytes_of(derived.view()), fingerprint_bytes));
      }()) {}

MasterKey MasterKey::generate() { return MasterKey(random_key()); }

Result<MasterKey> MasterKey::from_text(const Secret& text) {
  std::string_view rest = text.unwrap();
  if (rest.ends_with('\n')) rest.remove_suffix(1);
  if (rest.ends_with('\r')) rest.remove_suffix(1);
  if (rest.size() == 2 * key_bytes) {
    WipedString key(key_bytes);
    key.bytes().resize(key_bytes);
    std::size_t read = 0;
    if (sodium_hex2bin(bytes_of(key.bytes()), key_bytes, rest.data(), rest.size(), nullptr, &read, nullptr) !=
            0 ||
        read != key_bytes)
      return refuse_text();
    return MasterKey(std::move(key).seal());
  }
  auto key = decode_base64(rest);
  if (!key || key->unwrap().size() != key_bytes) return refuse_text();
  return MasterKey(std::move(*key));
}

Secret MasterKey::to_text() const {
  WipedString text(base64_size(key_bytes));
  append_base64(key_.unwrap(), text.bytes());
  return std::move(text).seal();
}

std::string MasterKey::wrap(const DataKey& key, std::string_view owner) const {
  std::string out(1, form);
  const WipedString fingerprint = derive(key_, 2, fingerprint_bytes);
  out += fingerprint.view();
  append_encrypted(key.key_.unwrap(), bound_to_owner(owner), wrapping_key_, out);
  return out;
}

std::expected<DataKey, OpenFault> MasterKey::open(std::string_view wrapped, std::string_view owner) const {
  if (!wrapped.starts_with(form) || wrapped.size() != wrapped_bytes)
    return std::unexpected(OpenFault::damaged);
  if (hex(std::span(bytes_of(wrapped.substr(1)), fingerprint_bytes)) != fingerprint_)
    return std::unexpected(OpenFault::other_key);
  auto key = decrypted(wrapped.substr(1 + fingerprint_bytes), bound_to_owner(owner), wrapping_key_);
  if (!key) return std::unexpected(key.error());
  return DataKey(std::move(*key));
}

}  // namespace postern::credential
