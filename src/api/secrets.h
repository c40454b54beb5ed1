#pragma once
// Workspace secrets: what templates of policies name. They come in and never go out.

#include "api/identity.h"
#include "control/router.h"
#include "platform/boxes.h"

namespace postern::api {

/// Below "/api/v1". Both outlive them.
std::vector<control::Route> secret_routes(platform::Boxes& boxes, store::Store& store, Identify identify);

}  // namespace postern::api
