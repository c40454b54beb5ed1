#pragma once
// Everything that `postern run` takes secrets from: --secret, --secrets, and the references of the policy.
// Read before anything starts, and looked at again while the program runs. Vault is asked on a loop of its
// own, by the same resolving, checking and verifying as every origin, and never through a sandbox's network.

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "credential/secret_store.h"
#include "origin/resolver.h"
#include "policy/snapshot.h"

namespace postern::cli {

/// What the operator said.
struct SecretOptions {
  std::vector<std::string> secrets;       ///< KEY, KEY=VALUE, KEY=file:PATH, cmd:COMMAND, vault:PATH#FIELD
  std::vector<std::string> secret_files;  ///< Lines of KEY=VALUE
  std::string policy_file;                ///< Where `policy` was read.
  std::shared_ptr<const policy::Snapshot> policy;  ///< May be nullptr.
  origin::Overrides overrides;
  std::vector<std::string> origin_ca;
  std::chrono::seconds vault_interval{
      30};  ///< Between two questions; each costs Vault one small read a path.
};

class SecretSources {
 public:
  static constexpr std::chrono::seconds vault_time{10};  ///< For one entry; the first that fails ends it all.

  explicit SecretSources(SecretOptions options);
  ~SecretSources();
  SecretSources(const SecretSources&) = delete;

  /// Reads them all, and waits for what has to be asked. Files first, so that a --secret of the same name
  /// wins. Errors name the place, the key and what is accepted, never a value.
  Result<credential::SecretStore> read();

  /// Looks whether something may have changed since, and never waits for anybody. nullopt: nothing has, or it
  /// is not known yet. Commands are not run again: what they printed is in `current`.
  std::optional<Result<credential::SecretStore>> look(const credential::SecretStore& current);
  /// Somebody was asked and has not answered: look() again soon.
  bool asking() const;
  /// False: there is nothing that could change.
  bool may_change() const;

  /// The files that secrets and tokens are in: not for the program's eyes.
  std::vector<std::string> files() const;

 private:
  struct Vault;
  struct Round;
  struct Stamp;
  Result<std::vector<credential::SecretReference>> references() const;
  Result<void> begin();
  Result<credential::SecretStore> finish(const credential::SecretStore* earlier);
  std::vector<Stamp> stamps() const;

  SecretOptions options_;
  std::vector<std::string> files_;  ///< As of the first round.
  bool begun_ = false;
  std::vector<Stamp> seen_;
  std::unique_ptr<Vault> vault_;
  std::unique_ptr<Round> round_;
};

}  // namespace postern::cli
