#include "credential/master_key_file.h"

#include <fmt/format.h>

#include "base/private_directory.h"
#include "credential/secret_store.h"
#include "credential/wiped_string.h"

namespace postern::credential {

namespace {

constexpr const char* file = "master.key";
constexpr const char* next_file = "master.key.next";

Result<MasterKey> read(const Secret& text, const std::string& where) {
  auto key = MasterKey::from_text(text);
  if (!key) return fail(Reason::invalid_configuration, fmt::format("{}: {}", where, key.error().detail));
  return key;
}

/// nullopt: there is no such file.
Result<std::optional<MasterKey>> read(const PrivateDirectory& directory, const char* name) {
  WipedString stored(PrivateDirectory::file_bytes_max);
  auto found = directory.read(name, stored.bytes());
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found) return std::nullopt;
  auto key = read(std::move(stored).seal(), directory.path_of(name));
  if (!key) return std::unexpected(std::move(key.error()));
  return std::optional<MasterKey>(std::move(*key));
}

Result<MasterKey> create(const PrivateDirectory& directory, const char* name) {
  MasterKey key = MasterKey::generate();
  const Secret text = key.to_text();
  if (auto written = directory.write(name, text.unwrap()); !written)
    return std::unexpected(std::move(written.error()));
  return key;
}

}  // namespace

Result<MasterKey> load_or_create_master_key(const std::string& path) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  auto kept = read(*directory, file);
  if (!kept) return std::unexpected(std::move(kept.error()));
  if (*kept) return std::move(**kept);
  return create(*directory, file);
}

Result<std::optional<MasterKey>> find_master_key(const std::string& path, const std::string& fingerprint) {
  auto directory = PrivateDirectory::look_into(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  // The first one again: the other may have become it between the two looks.
  for (const char* name : {file, next_file, file}) {
    auto kept = read(*directory, name);
    if (!kept) return std::unexpected(std::move(kept.error()));
    if (*kept && (*kept)->fingerprint() == fingerprint) return std::move(*kept);
  }
  return std::nullopt;
}

Result<void> settle_master_key(const std::string& path, const std::string& fingerprint) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  auto next = read(*directory, next_file);
  if (!next) return std::unexpected(std::move(next.error()));
  if (!*next || (*next)->fingerprint() != fingerprint) return {};
  return directory->rename(next_file, file);
}

Result<MasterKeyRotation> MasterKeyRotation::begin(const std::string& path) {
  auto directory = PrivateDirectory::open(path);
  if (!directory) return std::unexpected(std::move(directory.error()));
  auto current = read(*directory, file);
  if (!current) return std::unexpected(std::move(current.error()));
  if (!*current)
    return fail(
        Reason::invalid_configuration,
        fmt::format("'{}' is not there: the key is somewhere else, or lost", directory->path_of(file)));
  auto next = read(*directory, next_file);
  if (!next) return std::unexpected(std::move(next.error()));
  const bool resumed = next->has_value();
  if (!resumed) {
    auto made = create(*directory, next_file);
    if (!made) return std::unexpected(std::move(made.error()));
    next->emplace(std::move(*made));
  }
  return MasterKeyRotation(std::move(*directory), std::move(**current), std::move(**next), resumed);
}

Result<void> MasterKeyRotation::finish() { return directory_.rename(next_file, file); }

Result<MasterKey> read_master_key(const SecretReference& reference) {
  SecretStore secrets;
  if (auto added = secrets.add(reference); !added) return std::unexpected(std::move(added.error()));
  const Secret* text = secrets.find(reference.key);
  if (!text) return fail(Reason::invalid_configuration, reference.place + ": holds no master key");
  return read(*text, reference.place);
}

}  // namespace postern::credential
