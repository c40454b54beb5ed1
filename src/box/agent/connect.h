#pragma once
// A connection to a port of the box, made from inside it: run by the agent in a child process.
//
//   connect PORT     127.0.0.1, then ::1. Once there is a connection, one NUL on the standard output; then
//                    the standard input goes into it, and what comes out of it goes to the standard output.
//                    The end of either is that of this direction only.

#include <string>

namespace postern::box {

/// Returns the exit status: 0 when both directions have ended, file_trouble (box/agent/files.h) with errno
/// on the standard error when there was no connection or it broke, 2 when `port_text` is no port.
int run_connect(const std::string& port_text);

}  // namespace postern::box
