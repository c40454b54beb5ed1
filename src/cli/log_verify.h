#pragma once
// `postern log verify`: reads a chained log again, and names the first line that is not what was written.

namespace CLI {
class App;
}

namespace postern::cli {

/// Below `postern log`. `exit_code` becomes 0 when nothing is wrong, 1 when something is, 2 when it could not
/// be looked at.
void add_log_verify_command(CLI::App& log, int& exit_code);

}  // namespace postern::cli
