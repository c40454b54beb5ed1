#pragma once
// `postern check`: what would happen to one request, without a sandbox and without a network. It asks the
// very functions that the data plane asks, and never shows a secret: headers are named with their templates.

#include <iosfwd>
#include <string>
#include <vector>

#include "policy/snapshot.h"

namespace CLI {
class App;
}

namespace postern::cli {

struct CheckOptions {
  std::string target;       ///< https://host[:port]/path, http://..., HOST:PORT, or HOST (HTTPS)
  std::string policy_file;  ///< Empty: a document that says nothing.
  std::string method = "GET";
  std::vector<std::string> headers;       ///< "name: value", as the sandbox would send them
  std::vector<std::string> operations;    ///< What the body asks for: "mutation createIssue"
  std::vector<std::string> secrets;       ///< KEY or KEY=VALUE; when any is given, missing ones are told
  std::vector<std::string> secret_files;  ///< KEY=VALUE lines
  std::vector<std::string> allow, deny, allow_private;
  policy::DefaultEgress default_egress = policy::DefaultEgress::hosts_of_rules;  // as `postern run`
  bool json = false;
  bool colour = false;
};

inline constexpr int check_allowed = 0;
inline constexpr int check_unusable = 2;  // the command line or the policy
inline constexpr int check_denied = 3;
inline constexpr int check_depends = 4;  // on the operation in the body, which the question does not say

/// Writes the verdict to `out`, what is wrong with the question to `err`, and returns the exit status.
int check(const CheckOptions& options, std::ostream& out, std::ostream& err);

/// Adds the subcommand; when it is used, `exit_code` is the status of check().
void add_check_command(CLI::App& app, int& exit_code);

}  // namespace postern::cli
