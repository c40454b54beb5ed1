#pragma once
#include <cstdio>

#include "audit/journal.h"

namespace postern::cli {

/// What the program did with its network, a line per host: for people, on stderr at the end of `run`. All
/// hosts when `every_host`, else the busiest ones. Nothing when nothing happened.
void print_summary(const audit::Summary& summary, bool every_host, std::FILE* out);

}  // namespace postern::cli
