#pragma once
// `postern secret`: the secrets of a workspace. They go in, and never come back.

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes a ClientExit's (cli/api_client.h).
void add_secret_command(CLI::App& app, int& exit_code);

}  // namespace postern::cli
