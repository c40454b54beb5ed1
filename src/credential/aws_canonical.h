#pragma once
// The canonical forms that SigV4 signs: paths, queries and header fields of one request, byte for byte as AWS
// makes them again on its side. Pure text; shared by aws_sigv4.cc and aws_chunks.cc.
//
// AWS: "Create a signed AWS API request", step 1.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/http.h"

namespace postern::credential {

enum class AwsPathRule : std::uint8_t {
  s3,          // one encoding, nothing normalised: "/dir/../x" is a key
  normalised,  // every other service: dot segments and empty segments removed, then encoded once more
  as_sent,     // encoded once more and not normalised (the public vectors have it)
};

/// `path` as it stands in the request line, without the query. With AwsPathRule::s3 what is escaped stays so,
/// except unreserved characters; with the others an escape's '%' is escaped.
void append_canonical_path(std::string_view path, AwsPathRule rule, std::string& out);

/// A query parameter in canonical form: decoded (a '+' is a space), and encoded by AWS's rule.
struct AwsParameter {
  std::string name;
  std::string value;
  auto operator<=>(const AwsParameter&) const = default;
};

/// The parameters of a query (without '?') in the order in which they came; empty ones are left out.
void read_parameters(std::string_view query, std::vector<AwsParameter>& out);

/// "a=1&b=", sorted by name and then by value. Short cut: nothing is allocated for an empty query.
void append_canonical_query(std::string_view query, std::string& out);
void append_canonical_query(std::vector<AwsParameter>& parameters, std::string& out);

/// Escapes every byte but A-Z a-z 0-9 - . _ ~ (RFC 3986 §2.3), with upper-case digits.
void append_uri_encoded(std::string_view bytes, std::string& out);
/// Undoes percent-escapes; broken ones stay as they are.
std::string uri_decoded(std::string_view text);

/// Without white space around it.
std::string_view aws_trimmed(std::string_view value);

/// "name:value\n" for each name, lower case and sorted; values of one name joined by commas in their order,
/// trimmed, and with single spaces. Sorts `fields`.
void append_canonical_fields(std::span<HeaderField> fields, std::string& out);
/// "host;x-amz-date" for fields that are sorted already.
void append_field_names(std::span<const HeaderField> fields, std::string& out);

}  // namespace postern::credential
