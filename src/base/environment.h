#pragma once
// The environment that this process was started with.

namespace postern {

/// Takes a variable away, and its value out of /proc/PID/environ. Before threads start.
void wipe_variable(const char* name);

}  // namespace postern
