#pragma once
// `postern backup` and `postern restore`: the store of a server as one file, and back.

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes 1 when something could not be done.
void add_backup_commands(CLI::App& app, int& exit_code);

}  // namespace postern::cli
