#include "credential/master_key_file.h"

#include <fmt/format.h>

#include "base/private_directory.h"
#include "credential/secret_store.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr const char* file = "master.key";

Result<MasterKey> read(const Secret& text, const std::string& where) {
  auto key = MasterKey::from_text(text);
  if (!key) return fail(Reason::invalid_configuration, fmt::format("{}: {}", where, key.error().detail));
  return key;
}

}  // namespace

Result<MasterKey> load_or_create_master_key(const std::string& path) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  WipedString stored(PrivateDirectory::file_bytes_max);
  auto found = directory->read(file, stored.bytes());
  if (!found) return std::unexpected(std::move(found.error()));
  if (*found) return read(std::move(stored).seal(), directory->path_of(file));
  MasterKey key = MasterKey::generate();
  const Secret text = key.to_text();
  if (auto written = directory->write(file, text.unwrap()); !written)
    return std::unexpected(std::move(written.error()));
  return key;
}

Result<MasterKey> read_master_key(const SecretReference& reference) {
  SecretStore secrets;
  if (auto added = secrets.add(reference); !added) return std::unexpected(std::move(added.error()));
  const Secret* text = secrets.find(reference.key);
  if (!text) return fail(Reason::invalid_configuration, reference.place + ": holds no master key");
  return read(*text, reference.place);
}

}  // namespace postern::credential
