#include "credential/refresh_tokens.h"

#include <unistd.h>

#include "base/private_directory.h"
#include "credential/wiped_string.h"

namespace postern::credential {

std::optional<Secret> RefreshTokenFiles::newest(const std::string& key) {
  if (::access(directory_.c_str(), F_OK) != 0) return std::nullopt;
  const auto directory = PrivateDirectory::open(directory_);
  if (!directory) return std::nullopt;
  WipedString token(PrivateDirectory::file_bytes_max);
  const auto found = directory->read(key, token.bytes());
  if (!found || !*found || token.view().empty()) return std::nullopt;
  return std::move(token).seal();
}

Result<void> RefreshTokenFiles::keep(const std::string& key, const Secret& token) {
  const auto directory = PrivateDirectory::open(directory_);
  if (!directory) return std::unexpected(directory.error());
  return directory->write(key, token.unwrap());
}

}  // namespace postern::credential
