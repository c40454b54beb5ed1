#pragma once
// What anybody may ask of the server without a key: whether it lives, and the public halves of its keys.

#include <string>
#include <vector>

#include "control/auth.h"
#include "control/http_server.h"
#include "control/router.h"
#include "platform/server_keys.h"
#include "store/store.h"

namespace postern::api {

/// All but `issuer` outlive them.
std::vector<control::Route> server_pages(store::Store& store, const control::PageGuard& guard,
                                         const platform::ServerKeys& keys, const std::string& issuer);

/// One line of JSON with its line end.
std::string access_line(const control::AccessRecord& record);

}  // namespace postern::api
