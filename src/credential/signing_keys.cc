#include "credential/signing_keys.h"

#include <fmt/format.h>

#include "base/private_directory.h"
#include "credential/wiped_string.h"

namespace postern::credential {

Result<JwtKey> load_or_create_signing_key(const std::string& path, const char* file, JwtAlgorithm algorithm) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  WipedString stored(PrivateDirectory::file_bytes_max);
  auto found = directory->read(file, stored.bytes());
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found) {
    JwtKey key = JwtKey::generate(algorithm);
    const Secret pem = key.to_pem();
    if (auto written = directory->write(file, pem.unwrap()); !written)
      return std::unexpected(std::move(written.error()));
    return key;
  }
  auto key = JwtKey::from_pem(std::move(stored).seal());
  const bool eddsa = algorithm == JwtAlgorithm::eddsa;
  const std::string why = !key ? key.error().detail
                          : key->algorithm() == algorithm
                              ? ""
                              : fmt::format("is not an {} key", eddsa ? "Ed25519" : "RSA");
  if (!why.empty())
    return fail(Reason::invalid_configuration, fmt::format("'{}' {}", directory->path_of(file), why));
  return key;
}

Result<JwtKey> load_or_create_callback_key(const std::string& directory) {
  return load_or_create_signing_key(directory, "callback.pem", JwtAlgorithm::eddsa);
}

Result<JwtKey> load_or_create_identity_key(const std::string& directory) {
  return load_or_create_signing_key(directory, "web_identity.pem", JwtAlgorithm::rs256);
}

}  // namespace postern::credential
