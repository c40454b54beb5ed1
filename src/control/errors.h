#pragma once
// How the API says no: the envelope that the sandbox SDKs parse, and the list in which pydantic names what is
// wrong with a document. The SDKs derive their exceptions from the status and from `error`, so that both are
// part of the contract.

#include <string>
#include <string_view>
#include <vector>

#include "control/message.h"
#include "policy/problem.h"

namespace postern::control {

/// {"detail": {"error": `type`, "message": `message`, "error_id": …}}
struct ApiError {
  int status = 500;
  std::string type;     ///< "NotFound": a stable token.
  std::string message;  ///< A sentence. Never holds a secret, and never a value that the caller did not send.
  std::string error_id;  ///< Names one occurrence, which the server's own log explains; usually empty.
  Fields fields;         ///< Besides the envelope: Allow, Retry-After.
};

Response to_response(const ApiError& error);

// Those that the server itself needs. Not "InvalidRequest" for 400 and not "ServiceUnavailable" for 503: the
// SDKs read these as "the sandbox is not ready".
ApiError bad_request(std::string message);
ApiError unauthorized();  ///< Always the same words: they do not say what was wrong with a key.
ApiError forbidden(std::string message);
ApiError not_found(std::string message);
ApiError method_not_allowed(std::string_view allow);
ApiError too_large(std::string message);
ApiError timed_out(std::string message);
ApiError overloaded(std::string message);  ///< With Retry-After.
ApiError internal_error();                 ///< With a fresh error_id.
/// What an Error of the ground means to a caller of the API: the status of its reason; its detail when it is
/// about what the caller sent, else internal_error() or overloaded().
ApiError from_error(const Error& error);

/// 422 with {"detail": [{"loc": ["body", `document`, "rules", 2, "headers", 0, "value"], "msg", "type"}]}, as
/// pydantic writes it. `document`: the field of the body that holds the policy, or empty when it is the body
/// itself. A Problem never quotes a header's value (policy/problem.h). `problems` is not empty.
Response validation_response(const std::vector<policy::Problem>& problems,
                             std::string_view document = "proxy_config");
/// The same for one field of the body. `field`: "name", "run_config.user".
Response validation_response(std::string_view field, std::string_view message);

}  // namespace postern::control
