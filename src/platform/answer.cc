#include "platform/answer.h"

namespace postern::platform {

using control::ApiError;
using store::Fault;

ApiError api_error(int status, std::string type, std::string message) {
  ApiError out;
  out.status = status;
  out.type = std::move(type);
  out.message = std::move(message);
  return out;
}

ApiError to_api_error(const store::Failure& failure) {
  switch (failure.fault) {
    case Fault::not_found: return control::not_found(failure.detail);
    case Fault::exists: return api_error(409, "Conflict", failure.detail);
    case Fault::changed: return api_error(409, "Conflict", failure.detail);
    case Fault::invalid: return control::bad_request(failure.detail);
    case Fault::too_large: return control::too_large(failure.detail);
    case Fault::too_many: return api_error(429, "QuotaExceeded", failure.detail);
    case Fault::sealed:
      return api_error(503, "Sealed",
                       "the server has no master key for its secrets: its operator must give it");
    case Fault::unavailable: return control::overloaded("the store cannot be used at the moment");
    case Fault::damaged:
    case Fault::newer: return control::internal_error();
  }
  return control::internal_error();
}

control::Response refusal(const store::Failure& failure) {
  return control::to_response(to_api_error(failure));
}

}  // namespace postern::platform
