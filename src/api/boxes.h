#pragma once
// Boxes as callers of the API make and change them: the control plane. `Box` in JSON, and the routes.

#include <functional>
#include <string>
#include <vector>

#include "api/identity.h"
#include "base/date.h"
#include "control/router.h"
#include "platform/boxes.h"

namespace postern::api {

/// Where callers find this server: "https://sandboxes.example". By the request, unless the operator said it.
using Origin = std::function<std::string(const control::Request&)>;

/// Below "/v2/sandboxes" and "/api/v2/sandboxes". `boxes` outlives them.
std::vector<control::Route> box_routes(platform::Boxes& boxes, store::Store& store, Identify identify,
                                       Origin origin);

/// A box in JSON. `origin`: its dataplane_url begins with it.
std::string box_json(const store::Resource& box, const std::string& origin);

}  // namespace postern::api
