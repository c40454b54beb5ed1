#pragma once
// Files of a box, as its own processes see them: run by the agent in a child process, so that a path means
// what it means inside, and a link leads nowhere that the box could not go.
//
//   stat PATH                      one entry
//   read PATH OFFSET LENGTH        bytes of a regular file; LENGTH may be "end"
//   write PATH                     the standard input becomes the file, whole or not at all; folders are
//   made.
//                                  SIGTERM leaves nothing behind
//   glob PATTERN PATH LIMIT        entries below PATH, in the order of their names; ** is any depth
//   grep TEXT PATH GLOB LIMIT      lines that hold TEXT in files whose name or path matches GLOB ("": all)
//
// An entry is fields that end in NUL: path, kind (f, d, l or o), size, modification time in nanoseconds since
// 1970, and a tag that changes with the content. A line is path, number from 1, text. One more than LIMIT is
// written where there is one.

#include <string>
#include <vector>

namespace postern::box {

inline constexpr int file_trouble = 3;  ///< The exit status; errno stands on the standard error, in decimal.

/// Runs one of these, and returns the exit status; 2: it is none of these.
int run_file_command(const std::vector<std::string>& words);

}  // namespace postern::box
