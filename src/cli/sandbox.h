#pragma once
// `postern sandbox`: the sandboxes of a server, for people and for programs.

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes a ClientExit's (cli/api_client.h), or what exec.h says.
void add_sandbox_command(CLI::App& app, int& exit_code);

}  // namespace postern::cli
