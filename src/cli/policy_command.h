#pragma once
// `postern policy`: what the sandboxes of a server may reach.

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes a ClientExit's (cli/api_client.h).
void add_policy_command(CLI::App& app, int& exit_code);

}  // namespace postern::cli
