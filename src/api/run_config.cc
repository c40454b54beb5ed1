#include "api/run_config.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace postern::api {

void read_run_config(BodyFields& body, platform::RunConfig& out) {
  const policy::Node* node = body.mapping("run_config");
  if (!node) return;
  BodyFields fields(*node, "run_config");
  if (auto user = fields.text("user", 64)) out.user = std::move(*user);
  if (auto place = fields.text("work_dir")) out.work_dir = std::move(*place);
  if (auto variables = fields.strings("env_vars", variables_max)) out.env_vars = std::move(*variables);
  body.take_problems(fields);
}

void check_variables(BodyFields& body, std::string_view key, const platform::Variables& variables) {
  for (const auto& [name, value] : variables)
    if (name.empty() || name.find('=') != std::string::npos || name.find('\0') != std::string::npos ||
        value.find('\0') != std::string::npos)
      body.note(key, fmt::format("{} is not a name of an environment variable, or its value holds NUL",
                                 policy::in_quotes(name)));
}

nlohmann::ordered_json run_config_document(const platform::RunConfig& run) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (!run.user.empty()) out["user"] = run.user;
  if (!run.work_dir.empty()) out["work_dir"] = run.work_dir;
  out["env_vars"] = run.env_vars;
  return out;
}

}  // namespace postern::api
