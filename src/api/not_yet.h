#pragma once
// Parts of the contract that this server does not have: said so, instead of a 404 that a client would take
// for a wrong address.

#include "api/identity.h"
#include "control/router.h"

namespace postern::api {

/// Below "/v2/sandboxes" and "/api/v2/sandboxes": each answers 501 with the envelope.
std::vector<control::Route> not_yet_routes(Identify identify);

}  // namespace postern::api
