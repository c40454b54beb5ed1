#pragma once
// A policy document in two halves, for whoever keeps it: what print() writes, and the opaque values, each by
// its place in the document ("rules[2].headers[0]", "rules[0].aws.secret_access_key").

#include <string>
#include <vector>

#include "base/secret.h"
#include "policy/document.h"

namespace postern::policy {

struct PlacedValue {
  std::string place;
  Secret value;
};

/// Moves every opaque value out of the document.
std::vector<PlacedValue> take_opaque_values(Document& document);

/// Moves each value to its place. One whose place the document has not is dropped; a place without a value
/// stays empty, which whoever resolves it will say.
void put_opaque_values(Document& document, std::vector<PlacedValue> values);

/// Each opaque entry says that its value is kept under `prefix` and its place, whatever it said before. What
/// they said: the places of those that had a `from`, with it.
struct PlacedReference {
  std::string place;
  std::string from;
};
std::vector<PlacedReference> refer_by_place(Document& document, const std::string& prefix);

}  // namespace postern::policy
