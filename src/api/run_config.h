#pragma once
// The run_config of boxes and snapshots in requests and answers.

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "api/body.h"
#include "platform/settings.h"

namespace postern::api {

inline constexpr std::size_t variables_max = 1'000;

void read_run_config(BodyFields& body, platform::RunConfig& out);
/// Notes names that no environment can have.
void check_variables(BodyFields& body, std::string_view key, const platform::Variables& variables);

nlohmann::ordered_json run_config_document(const platform::RunConfig& run);

}  // namespace postern::api
