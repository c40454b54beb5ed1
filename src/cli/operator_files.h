#pragma once
// The files of `postern serve --operator-policy`, and what their references name: read at the start and at
// each SIGHUP.

#include <memory>
#include <string>
#include <vector>

#include "origin/resolver.h"
#include "platform/operator_policies.h"
#include "store/store.h"

namespace postern::cli {

struct OperatorFiles {
  std::vector<std::string> options;  ///< FILE for every workspace, WORKSPACE=FILE for one.
  origin::Overrides overrides;
  std::vector<std::string> origin_ca;
};

/// Waits for commands and Vault. Complains of everything that is wrong with a file, and throws Stop.
std::shared_ptr<const platform::OperatorPolicies> read_operator_files(const OperatorFiles& files,
                                                                      store::Store& store);

}  // namespace postern::cli
