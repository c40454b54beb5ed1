#include "credential/callback_key.h"

#include <fmt/format.h>

#include "base/private_directory.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {
constexpr const char* key_file = "callback.pem";
}

Result<JwtKey> load_or_create_callback_key(const std::string& path) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  WipedString stored(PrivateDirectory::file_bytes_max);
  auto found = directory->read(key_file, stored.bytes());
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found) {
    JwtKey key = JwtKey::generate();
    const Secret pem = key.to_pem();
    if (auto written = directory->write(key_file, pem.unwrap()); !written)
      return std::unexpected(std::move(written.error()));
    return key;
  }
  auto key = JwtKey::from_pem(std::move(stored).seal());
  const std::string why = !key                                      ? key.error().detail
                          : key->algorithm() != JwtAlgorithm::eddsa ? "is not an Ed25519 key"
                                                                    : "";
  if (!why.empty())
    return fail(Reason::invalid_configuration, fmt::format("'{}' {}", directory->path_of(key_file), why));
  return key;
}

}  // namespace postern::credential
