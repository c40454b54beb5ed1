#include "cli/server_data.h"

#include <cstdlib>

#include "base/environment.h"
#include "cli/state_directory.h"
#include "credential/master_key_file.h"

namespace postern::cli {

using credential::SecretReference;

std::string data_directory(const std::string& said) {
  return said.empty() ? must(state_directory()) + "/server" : said;
}

std::optional<credential::MasterKey> read_master_key(const std::string& said, const std::string& data) {
  if (said.empty() && std::getenv(master_key_variable)) {
    SecretReference reference;
    reference.key = master_key_variable;
    reference.place = master_key_variable;
    reference.kind = SecretReference::Kind::environment;
    auto key = must(credential::read_master_key(reference));
    wipe_variable(master_key_variable);
    return key;
  }
  if (said == "none") return std::nullopt;
  if (said.empty()) return must(credential::load_or_create_master_key(data));
  auto reference = must(credential::read_reference("master_key", "--master-key", said));
  if (reference.kind != SecretReference::Kind::file && reference.kind != SecretReference::Kind::command) {
    complain(
        "--master-key must be file:PATH, cmd:COMMAND or none; the key itself can be in POSTERN_MASTER_KEY");
    throw Stop{};
  }
  return must(credential::read_master_key(reference));
}

}  // namespace postern::cli
