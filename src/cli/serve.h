#pragma once
// `postern serve`: sandboxes for many, behind an API.

#include <cstdint>
#include <string>
#include <vector>

#include "cli/log_options.h"
#include "cli/otlp_sender.h"

namespace CLI {
class App;
}

namespace postern::cli {

/// Each may be given on the command line, else as POSTERN_..., else in --config (docs/serve.md).
struct ServeOptions {
  std::string listen = "127.0.0.1:8080";  ///< ADDRESS:PORT
  std::string data;                       ///< Empty: "server" in the state directory.
  std::string config;
  std::string public_url;  ///< How callers reach us; empty: as each of them did.
  std::vector<std::string> hosts;
  std::vector<std::string> origins;
  std::string service_domain = "localhost";
  std::string tls_certificate, tls_key;
  std::string bootstrap_api_key_file;
  std::string master_key;  ///< file:PATH or cmd:COMMAND; empty: POSTERN_MASTER_KEY, else a file in `data`.
  std::vector<std::string> allow_private;
  std::vector<std::string> resolve;
  std::vector<std::string> origin_ca;
  std::vector<std::string> images;           ///< Directories.
  std::vector<std::string> operator_policy;  ///< FILE, WORKSPACE=FILE
  LogSettings log;
  OtlpSettings otlp;
  std::uint64_t log_retention_bytes = std::uint64_t{1} << 30;
  std::uint64_t log_retention_days = 30;
  std::uint64_t signing_key_days = 90;
  std::string access_log;
  std::string limits = "auto";  ///< auto, required or off.
  std::string metrics_listen;   ///< ADDRESS:PORT; empty: no metrics.
  bool print_routes = false;    ///< Ends then: for a test of the API's document.
};

/// `exit_code` becomes 1 when the server could not start.
void add_serve_command(CLI::App& app, int& exit_code, const std::string& version);

}  // namespace postern::cli
