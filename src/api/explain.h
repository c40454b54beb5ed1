#pragma once
// What a box may reach, told before it is tried: one request at a time, or all of it in a text for an agent.

#include "api/identity.h"
#include "control/router.h"
#include "platform/boxes.h"

namespace postern::api {

/// Below "/v2/sandboxes" and "/api/v2/sandboxes". Both outlive them.
std::vector<control::Route> explain_routes(platform::Boxes& boxes, const platform::Policies& policies,
                                           Identify identify);

/// For whoever works in the box. No secret, and no header's value.
std::string capabilities_text(const policy::Snapshot& snapshot);

}  // namespace postern::api
