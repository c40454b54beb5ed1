#pragma once
// Refresh tokens that a server changed, kept in files from run to run (mode 0600, one for each line of
// descent).

#include <string>

#include "credential/token_sources.h"

namespace postern::credential {

class RefreshTokenFiles final : public RefreshTokens {
 public:
  /// `directory` is made when the first token is kept.
  explicit RefreshTokenFiles(std::string directory) : directory_(std::move(directory)) {}

  /// A file that is not as it should be (another's, open to others) is no token.
  std::optional<Secret> newest(const std::string& key) override;
  /// Waits for the disk: what it keeps may be the only one that is still good. Once in an hour or so.
  Result<void> keep(const std::string& key, const Secret& token) override;

 private:
  std::string directory_;
};

}  // namespace postern::credential
