#pragma once
// `postern key`: API keys of a server, made and revoked in its store while it runs, by whoever may read it.

namespace CLI {
class App;
}

namespace postern::cli {

/// Adds `key` with `create`, `list` and `revoke`. `exit_code` becomes 1 when something could not be done.
void add_key_command(CLI::App& app, int& exit_code);

}  // namespace postern::cli
