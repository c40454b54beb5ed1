#pragma once
// What a workspace has, in numbers.

#include "api/identity.h"
#include "control/router.h"
#include "store/store.h"

namespace postern::api {

/// GET /usage and GET /usage/costs, below "/v2/sandboxes" and "/api/v2/sandboxes". `boxes_max`: that a
/// workspace may have; 0: no limit. `store` outlives them.
std::vector<control::Route> usage_routes(store::Store& store, Identify identify, std::uint64_t boxes_max = 0);

}  // namespace postern::api
