#pragma once
// What `postern run` was told, as text that was checked for form.

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/log_options.h"
#include "cli/otlp_sender.h"
#include "model/address.h"
#include "origin/resolver.h"

namespace CLI {
class App;
}

namespace postern::cli {

/// --bind, --ro-bind and --hide keep their order: later wins.
struct PathOption {
  enum class Kind : unsigned char { bind, ro_bind, hide };
  Kind kind;
  std::string path;
};

struct RunOptions {
  std::vector<std::string> command;
  std::string policy_file;
  std::string policy_text;                ///< A document that we made ourselves, in its place.
  std::vector<std::string> secrets;       ///< KEY, KEY=VALUE, KEY=file:PATH, cmd:COMMAND, vault:PATH#FIELD
  std::vector<std::string> secret_files;  ///< KEY=VALUE lines
  std::chrono::seconds vault_interval{30};
  std::vector<std::string> allow;
  std::vector<std::string> deny;
  std::vector<std::string> allow_private;
  std::vector<std::string> resolve;
  std::vector<std::string> origin_ca;
  std::string callback_jwks;    ///< ADDRESS:PORT
  std::string callback_issuer;  ///< URL
  LogSettings log;
  OtlpSettings otlp;
  std::string version;  ///< Of Postern.
  std::vector<std::string> env;
  std::vector<PathOption> paths;
  bool quiet = false;
  bool verbose = false;
};

/// --bind, --ro-bind and --hide.
void add_path_options(CLI::App& command, RunOptions& options);

/// HOST=IP[:PORT], IPv6 with a port in brackets. Errors name the option and the accepted form.
Result<origin::Overrides> parse_overrides(const std::vector<std::string>& options);
Result<std::vector<Cidr>> parse_networks(const std::vector<std::string>& options);
/// ADDRESS:PORT, IPv6 in brackets; port 0 takes any.
std::optional<Endpoint> parse_listen(std::string_view text);

}  // namespace postern::cli
