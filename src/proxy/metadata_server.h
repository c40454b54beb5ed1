#pragma once
// What Google's client libraries look for when they are given no credentials: the metadata server of a
// Compute Engine machine. Where a rule of type gcp is in force Postern answers in its place, with a
// placeholder for a token, which the rule replaces on requests to Google. A table of answers: nothing is
// forwarded, and nothing that is secret is known here.
//
// Google: "About VM metadata", "View and query VM metadata", and what google-auth (Python),
// google-auth-library (npm) and cloud.google.com/go/compute/metadata ask.

#include <span>
#include <string>
#include <string_view>

#include "credential/injections.h"
#include "model/http.h"

namespace postern::proxy {

struct MetadataAnswer {
  int status = 404;
  std::string_view type = "application/text";  // as Google's says it
  std::string body;
};

/// `path` is canonical; `query` begins with '?' or is empty.
MetadataAnswer answer_metadata(const credential::GoogleIdentity& identity, std::string_view method,
                               std::string_view path, std::string_view query,
                               std::span<const HeaderField> fields);

}  // namespace postern::proxy
