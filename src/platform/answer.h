#pragma once
// What callers of the API are answered when something cannot be done.

#include <expected>
#include <string>

#include "control/errors.h"
#include "store/store.h"

namespace postern::platform {

/// Or what to answer instead.
template <class T>
using Answer = std::expected<T, control::Response>;

control::ApiError api_error(int status, std::string type, std::string message);
control::Response refusal(const store::Failure& failure);
control::ApiError to_api_error(const store::Failure& failure);

}  // namespace postern::platform
