#pragma once
// Secrets in HashiCorp Vault (and OpenBao), secrets engine KV version 2: GET /v1/MOUNT/data/PATH with a
// token, answered with {"data": {"data": {FIELD: ...}, "metadata": {...}}}. Pure but for the Caller.
//
// Vault API: "KV secrets engine - version 2 (API)", Read secret version; the names of the environment's
// variables are those of Vault's own command line.

#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.h"
#include "base/secret.h"
#include "credential/caller.h"
#include "io/task.h"
#include "wire/url.h"

namespace postern::credential {

inline constexpr std::size_t vault_answer_bytes_max = 1024 * 1024;  // Vault's own limit for an entry
inline constexpr std::size_t vault_path_bytes_max = 512;
inline constexpr std::size_t vault_token_bytes_max = 8 * 1024;  // service tokens have 95, batch tokens more

/// "PATH#FIELD".
struct VaultReference {
  std::string path;   ///< As the API has it, escaped: "secret/data/agents/openai".
  std::string field;  ///< Of the entry's data.
};

/// `text`: "secret/agents/openai#key". As for `vault kv get`, the first segment is where the engine is
/// mounted; a path with a segment `data` in it is the API's own. The error is a sentence about the form.
Result<VaultReference> parse_vault_reference(std::string_view text);

struct VaultSettings {
  wire::Url address;
  Secret token;            ///< From VAULT_TOKEN; else
  std::string token_file;  ///< it is read from here, each time (an agent renews it).
  std::string name_space;
  std::string ca_file;
};

/// VAULT_ADDR, VAULT_TOKEN, VAULT_TOKEN_FILE (else ~/.vault-token), VAULT_NAMESPACE, VAULT_CACERT.
/// `variable` is getenv(). Errors name the variable, and hold nothing of a token.
Result<VaultSettings> vault_settings(const std::function<const char*(const char*)>& variable);

/// The fields of one entry. Those that are no text have an empty value.
using VaultEntry = std::unordered_map<std::string, Secret>;

/// Asks once. Redirects are not followed. Errors: invalid_configuration, saying what is wrong with the path,
/// the token or the server, without the token or anything of the answer.
io::Task<Result<VaultEntry>> ask_vault(Caller& caller, const VaultSettings& settings, const std::string& path,
                                       TimePoint deadline);

/// What an answer says. For ask_vault() and its tests.
Result<VaultEntry> read_vault_answer(int status, std::string_view body);

/// The text of one field. Errors: there is none of that name, or it is no text.
Result<Secret> take_vault_field(const VaultEntry& entry, const std::string& field);

}  // namespace postern::credential
