#pragma once
// A policy in a file of the caller, on its way to a server: checked here first, since here the line of a
// mistake is known, and the same in JSON.

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "cli/api_client.h"
#include "credential/wiped_string.h"
#include "policy/tree.h"

namespace postern::cli {

struct PolicyFile {
  std::string name;
  policy::Node tree;
  credential::WipedString json;  ///< It may hold opaque values.
};

/// "-": standard input. Complains about each mistake as `postern check` does, and throws Stop.
PolicyFile read_policy_file(const std::string& name);

/// Complains about what a server finds wrong with it (it knows more: secrets, stored values), with the lines
/// of the file where the places are its own.
int exit_of_policy(const Asked<void>& done, const PolicyFile& file);

/// A document that the API gave, as YAML that it takes again. ASCII.
std::string yaml_of(const std::string& json);

}  // namespace postern::cli
