#pragma once
// Snapshots as callers of the API make, see and delete them.

#include "api/boxes.h"
#include "platform/snapshots.h"

namespace postern::api {

/// Below "/v2/sandboxes" and "/api/v2/sandboxes". All outlive them.
std::vector<control::Route> snapshot_routes(platform::Snapshots& snapshots, platform::Boxes& boxes,
                                            store::Store& store, Identify identify);

}  // namespace postern::api
