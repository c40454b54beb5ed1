#pragma once
// Who asks, and whether a web page made them ask.
//
// Nothing here says why a key was not taken: an unknown, a revoked and a mistyped one get the same answer
// after the same work, and no key is part of a message, a record or a Principal.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/errors.h"
#include "control/message.h"
#include "credential/api_key.h"

namespace postern::control {

/// What a key is good for. Each includes those before it.
enum class Scope : std::uint8_t {
  read_only,  ///< Reading in its workspace.
  workspace,  ///< Everything in its workspace.
  admin,      ///< Everything in every workspace, which it names with X-Tenant-Id.
};

/// On whose behalf a request is carried out.
struct Principal {
  std::string workspace;
  Scope scope = Scope::read_only;
  std::string key_id;  ///< Public: for records.
};

/// Where keys are kept.
class KeyLookup {
 public:
  virtual ~KeyLookup() = default;
  /// Whose key this is. nullopt: there is none with this id, its digest is another (compared with
  /// credential::same_digest), or it was revoked. Called on worker threads, many at once, and may block.
  virtual Result<std::optional<Principal>> find(const credential::ApiKeyProof& proof) const = 0;
};

/// The key in X-Api-Key, else X-Service-Key, else `Authorization: Bearer`, which needs X-Tenant-Id. Where
/// X-Tenant-Id is given it must be the workspace of the key, or the key be an admin's, who then acts in that
/// one. The values of these fields are wiped from the request, whatever comes out: what follows it needs them
/// no more. Errors: 401, always in the same words; 403 for a workspace that is not the key's, whether there
/// is one or not; 503 when the keys cannot be looked up.
std::expected<Principal, ApiError> authenticate(Request& request, const KeyLookup& keys);

/// 403 unless `principal` may do what needs `scope`.
std::optional<ApiError> require(const Principal& principal, Scope scope);

/// Keeps web pages away from an API that listens where a browser can reach it.
///
/// A page that resolves its own name to our address (DNS rebinding) speaks to us as its own origin, with
/// everything that implies; but its name then stands in Host. A page that asks us as what we are cannot help
/// sending Origin, or else Sec-Fetch-Site. Programs send neither.
class PageGuard {
 public:
  /// `hosts`: names by which this server is known, without a port, canonical. Addresses and localhost are
  /// always taken, as nobody can rebind those. `origins`: "https://console.example", as browsers write it.
  PageGuard(std::vector<std::string> hosts, std::vector<std::string> origins)
      : hosts_(std::move(hosts)), origins_(std::move(origins)) {}

  /// Errors: 421 for a Host that is not ours, 403 for a page that is not let in.
  std::optional<ApiError> refuse(const Request& request) const;

 private:
  bool is_ours(std::string_view authority) const;

  std::vector<std::string> hosts_;
  std::vector<std::string> origins_;
};

}  // namespace postern::control
