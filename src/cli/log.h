#pragma once
// `postern log`: what the sandboxes of a server did, for people and for programs.

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes a ClientExit's (cli/api_client.h).
void add_log_command(CLI::App& app, int& exit_code);
/// The same of one, as `postern sandbox logs NAME`.
void add_logs_command(CLI::App& sandbox, int& exit_code);

}  // namespace postern::cli
