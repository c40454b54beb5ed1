#pragma once
// `postern log`: what the sandboxes of a server did, for people and for programs.

#include <string>

namespace CLI {
class App;
}

namespace postern::cli {

/// `exit_code` becomes a ClientExit's (cli/api_client.h).
void add_log_command(CLI::App& app, int& exit_code);
/// The same of one, as `postern sandbox logs NAME`.
void add_logs_command(CLI::App& sandbox, int& exit_code);

/// What people are told of a record besides its columns: "[limit requests_per_day; redacted email x2;
/// scrubbed x1; workspace_secret:TOKEN v3]". Empty when that is nothing, as for what is no record. Nothing in
/// it speaks to a terminal.
std::string notes_of(const std::string& line);

}  // namespace postern::cli
