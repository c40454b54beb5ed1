#pragma once
// Which AWS service and region a host name stands for, and whether a request to it is signed at all.
//
// A signature names both in its scope. A client says there what it meant, which is more than a host name can
// tell (several services share hosts, and some hosts have no region); but it may not have another host's
// scope signed. Names below amazonaws.com that customers serve themselves (load balancers, instances,
// databases) are not endpoints: whoever runs one would be handed a session token and valid signatures.
//
// The forms are those of AWS's General Reference, "Service endpoints", and of the SDKs' endpoint rules
// (November 2026). The isolated partitions (c2s.ic.gov and its like) are not known here.

#include <optional>
#include <string_view>

#include "base/result.h"

namespace postern::credential {

struct AwsEndpoint {
  /// The name that a signature's scope has: "ses" for email.us-east-1.amazonaws.com.
  std::string_view service;
  /// The host's region; where the name has none, the one that global services of its partition sign for.
  std::string_view region;
  bool region_in_host = false;
  /// Answered by code of an AWS customer (API Gateway, function URLs), who is shown the signature and the
  /// session token: nothing that they could use elsewhere, but not AWS's either.
  bool customer_code = false;
};

/// `host`: canonical (lower case, no port, no trailing dot). nullopt: no AWS host, or one where requests are
/// not signed with SigV4 (websites, container registries, git). Views into `host` or into static storage.
std::optional<AwsEndpoint> aws_endpoint(std::string_view host);

struct AwsScope {
  std::string_view region;
  std::string_view service;
};

/// The scope for a request to that endpoint whose client signed for `client` (empty views: it did not).
/// Errors, unsignable_request: a region that is not the host's, a service that is another host's, or names
/// that are none. Views into what was given.
Result<AwsScope> aws_scope(const AwsEndpoint& endpoint, const AwsScope& client);

/// S3 signs paths as they are, and every other service normalised and encoded once more.
bool is_s3_family(std::string_view service);

}  // namespace postern::credential
