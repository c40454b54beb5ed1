#pragma once
// An update of a policy whose opaque values its author cannot know, since they are never given back: a value
// that is left out stays what it was (section 5 of the policy document). Not where it would go somewhere
// else then: whoever may change a policy must not be able to read what is in it (threat 85).

#include <vector>

#include "policy/document.h"

namespace postern::policy {

/// Moves opaque values of `stored` into those places of `update` that have none: of the rule of that name,
/// the header of that name (ignoring case), or the same secret of the same type; of the callback with that
/// URL (the first with the first, the second with the second), the header of that name.
///
/// Kept only where the rule's hosts are all within those that it had, and what its secret is given to is the
/// same: the token endpoint. A problem for each value that was not kept for that reason; one that was never
/// there stays empty, which whoever resolves it will say. `stored` is used up.
std::vector<Problem> carry_over(Document& update, Document& stored);

}  // namespace postern::policy
