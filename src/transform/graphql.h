#pragma once
// What a GraphQL document asks for (GraphQL, October 2021, §2): the root fields of its operations.

#include <cstddef>
#include <string_view>
#include <vector>

#include "transform/operations.h"

namespace postern::transform {

inline constexpr std::size_t graphql_depth_max = 64;  // of brackets within brackets
inline constexpr std::size_t graphql_fragments_max = 1'000;
inline constexpr std::size_t graphql_steps_max = 100'000;  // fragments looked into, for all operations

/// Appends what all operations of the document ask for, whichever is chosen: fields under their own names,
/// not their aliases, with those of fragments, also where a directive may leave them out. false when that
/// cannot be told: other syntax, other definitions, what servers read differently (see graphql.cc), an
/// unknown fragment, one that is defined twice, or more than there is a limit for. `out` holds anything then.
bool read_graphql(std::string_view document, std::vector<Operation>& out);

}  // namespace postern::transform
