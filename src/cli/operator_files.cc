#include "cli/operator_files.h"

#include <algorithm>
#include <fmt/format.h>

#include "cli/secret_sources.h"
#include "cli/server_data.h"
#include "cli/steps.h"
#include "policy/snapshot.h"

namespace postern::cli {

namespace {

struct Said {
  std::string workspace;  ///< Empty: all.
  std::string file;
};

/// "default=npm.yaml"; a file whose name has a '=' is said with its folder, "./a=b.yaml".
Said read_option(const std::string& option) {
  const auto equals = option.find('=');
  const bool named = equals != std::string::npos && option.substr(0, equals).find('/') == std::string::npos;
  Said said = named ? Said{option.substr(0, equals), option.substr(equals + 1)} : Said{{}, option};
  if (!said.file.empty() && (!named || !said.workspace.empty())) return said;
  complain(fmt::format("--operator-policy '{}' is not FILE or WORKSPACE=FILE", option));
  throw Stop{};
}

std::shared_ptr<const platform::OperatorPolicy> read_one(const std::string& file,
                                                         const OperatorFiles& files) {
  // Twice: a document is used up by compiling it, which says what its references are.
  const auto read = [&file] { return must(policy::load_document(file), file); };
  policy::Document document = read();
  for (const policy::Problem& warning : document.warnings)
    complain("warning: " + policy::describe(warning, file));
  const auto snapshot = must(policy::compile(read()), file);
  SecretSources sources(
      {.policy_file = file, .policy = snapshot, .overrides = files.overrides, .origin_ca = files.origin_ca});
  const credential::SecretStore references = must(sources.read());
  return std::make_shared<const platform::OperatorPolicy>(
      must(platform::OperatorPolicy::make(file, std::move(document), references), file));
}

std::string workspace_id(store::Store& store, const std::string& name) {
  auto found = store.workspaces().find_by_name(name);
  if (!found) found = store.workspaces().find(store::WorkspaceId{name});
  if (found) return found->id.text;
  complain(fmt::format("--operator-policy '{}=...': there is no such workspace", name));
  throw Stop{};
}

[[noreturn]] void refuse_second(const std::string& whose) {
  complain(fmt::format("--operator-policy is said twice for {}: one file holds all rules", whose));
  throw Stop{};
}

/// Rules of both stand in one snapshot, whose names records and limits go by.
void expect_other_names(const platform::OperatorPolicy& one, const platform::OperatorPolicy& all) {
  for (const std::string& name : one.rule_names()) {
    if (std::ranges::find(all.rule_names(), name) == all.rule_names().end()) continue;
    complain(fmt::format("{}: the rule '{}' has the name of a rule in {}, which is in force there too",
                         one.file(), name, all.file()));
    throw Stop{};
  }
}

}  // namespace

std::shared_ptr<const platform::OperatorPolicies> read_operator_files(const OperatorFiles& files,
                                                                      store::Store& store) {
  auto out = std::make_shared<platform::OperatorPolicies>();
  for (const std::string& option : files.options) {
    const Said said = read_option(option);
    if (said.workspace.empty()) {
      if (out->of_all) refuse_second("all workspaces");
      out->of_all = read_one(said.file, files);
      continue;
    }
    const std::string id = workspace_id(store, said.workspace);
    if (out->of_workspaces.contains(id)) refuse_second(fmt::format("the workspace '{}'", said.workspace));
    out->of_workspaces.emplace(id, read_one(said.file, files));
  }
  if (out->of_all)
    for (const auto& [id, one] : out->of_workspaces) expect_other_names(*one, *out->of_all);
  return out;
}

}  // namespace postern::cli
