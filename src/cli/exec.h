#pragma once
// `postern sandbox exec`: a command in a sandbox as if it ran here. Its streams are ours, byte for byte; its
// end is ours; it ends when we do.

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "cli/api_client.h"

namespace postern::cli {

struct ExecOptions {
  ServerOptions server;
  std::string sandbox;
  std::string directory;
  std::vector<std::pair<std::string, std::string>> environment;
  std::chrono::seconds timeout{0};
  bool terminal = false;
  std::vector<std::string> command;
};

inline constexpr int exec_timed_out = 124;  // as timeout(1)
inline constexpr int exec_failed = 125;     // as `postern run`: 1, 2 and 3 may be the command's

int exec(const ExecOptions& options);

}  // namespace postern::cli
