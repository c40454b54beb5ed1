#pragma once
// Where the options of `postern serve` come from: the command line, the environment, a file.

#include "cli/serve.h"

namespace CLI {
class App;
}

namespace postern::cli {

/// With their environment variables: POSTERN_LISTEN for --listen, and so on; lists are separated by commas.
void add_serve_options(CLI::App& command, ServeOptions& options);

/// Fills in from options.config (YAML or JSON: names of options without the dashes) what neither command line
/// nor environment said. Complains with file, line, key and what is accepted, and throws Stop.
void read_serve_config(CLI::App& command, const ServeOptions& options);

}  // namespace postern::cli
