#pragma once
// What clouds' client libraries look for when they are given no credentials: the metadata server of a virtual
// machine. Where a rule says what their tokens are replaced with, Postern answers in its place, with a
// placeholder. A table of answers: nothing is forwarded, and nothing that is secret is known here.
//
// Google: "About VM metadata", "View and query VM metadata", and what google-auth (Python),
// google-auth-library (npm) and cloud.google.com/go/compute/metadata ask. Azure: "How to use managed
// identities for Azure resources on an Azure VM to acquire an access token", and what azure-identity (Python)
// asks.

#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "credential/injections.h"
#include "model/http.h"
#include "policy/snapshot.h"

namespace postern::proxy {

struct MetadataAnswer {
  int status = 404;
  std::string_view type = "application/text";  // as Google's says it
  std::string body;
};

struct MetadataQuestion {
  std::string_view method;
  std::string_view path;   ///< Canonical.
  std::string_view query;  ///< Begins with '?', or is empty.
  std::span<const HeaderField> fields;
};

/// Whose question it is: by the path, where both clouds have a rule.
std::uint32_t metadata_rule_for(const policy::MetadataRules& rules, std::string_view path);

MetadataAnswer answer_google_metadata(const credential::GoogleIdentity& identity,
                                      const MetadataQuestion& question);
/// `now`: tokens say when they end.
MetadataAnswer answer_azure_metadata(const MetadataQuestion& question, WallTime now);

}  // namespace postern::proxy
