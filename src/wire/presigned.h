#pragma once
// URLs that carry their own signature: whoever has one may make that one request, and services refuse it when
// a second credential stands beside it ("only one auth mechanism allowed").
//
// AWS: "Authenticating Requests: Using Query Parameters" (S3); Google Cloud Storage: "Signatures" (V4);
// Azure Storage: "Create a service SAS", "Create an account SAS".

#include <string_view>

namespace postern::wire {

/// `target`: origin-form. True when the query has all that one of the three needs: X-Amz-Algorithm,
/// X-Amz-Credential and X-Amz-Signature; the same of X-Goog-; or sv, sig, and se or si. Names count as they
/// are written, without unescaping.
bool is_presigned(std::string_view target);

}  // namespace postern::wire
