#include "cli/server_data.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/environment.h"
#include "base/private_directory.h"
#include "cli/state_directory.h"
#include "credential/master_key_file.h"

namespace postern::cli {

using credential::SecretReference;

std::string data_directory(const std::string& said) {
  if (said.empty()) return must(state_directory()) + "/server";
  // Boxes are started by processes that are somewhere else.
  std::string path = std::filesystem::absolute(said).lexically_normal().string();
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

Fd take_data(const std::string& data) {
  auto directory = must(open_private_directory(data));
  if (::flock(directory.get(), LOCK_EX | LOCK_NB) == 0) return directory;
  if (errno == EWOULDBLOCK) return {};
  complain(fmt::format("'{}' cannot be locked: {}", data, std::strerror(errno)));
  throw Stop{};
}

void expect_store(const std::string& data) {
  if (::access((data + "/store.db").c_str(), R_OK | W_OK) == 0) return;
  complain(
      fmt::format("'{}' has no store that can be used ({}); `postern serve` makes one, --data says where",
                  data, std::strerror(errno)));
  throw Stop{};
}

std::unique_ptr<store::SqliteStore> open_store(const std::string& data, const std::string& master_key,
                                               const Clock& clock) {
  const bool from_environment = std::getenv(master_key_variable) != nullptr;
  auto master = read_master_key(master_key, data);
  const bool beside_the_store = master_key.empty() && !from_environment;
  store::MasterKeyFinder find;
  if (beside_the_store)
    find = [data](const std::string& fingerprint) {
      auto found = credential::find_master_key(data, fingerprint);
      return found ? std::move(*found) : std::nullopt;
    };
  auto store = must(store::SqliteStore::open(data, std::move(master), clock, std::move(find)));
  if (beside_the_store && store->seal() == store::Seal::open)
    must(credential::settle_master_key(data, must(store->master_key_fingerprint())));
  return store;
}

credential::MasterKey read_key_source(const std::string& option, const std::string& said) {
  auto reference = must(credential::read_reference("master_key", option, said));
  if (reference.kind != SecretReference::Kind::file && reference.kind != SecretReference::Kind::command) {
    complain(option + " must be file:PATH or cmd:COMMAND" +
             (option == "--master-key" ? ", or none; the key itself can be in POSTERN_MASTER_KEY" : ""));
    throw Stop{};
  }
  return must(credential::read_master_key(reference));
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
  return read_key_source("--master-key", said);
}

}  // namespace postern::cli
