#pragma once
// What a request asks for where one URL serves many operations: the root fields of GraphQL, the methods of
// JSON-RPC, and among those of MCP also the tool, prompt or resource that is named.
//
// Only what the origin will act upon counts. The name that a client gives its GraphQL operation says nothing,
// so it is not looked at.

#include <cstddef>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace postern::transform {

inline constexpr std::size_t operations_body_bytes_max = 1 * MiB;
inline constexpr std::size_t operations_max = 1'000;  // of one request
inline constexpr std::size_t operation_bytes_max = 256;

/// GraphQL: "query", "mutation" or "subscription", and a root field. JSON-RPC: the method; of tools/call and
/// prompts/get the `name`, of resources/read, /subscribe and /unsubscribe the `uri`.
struct Operation {
  std::string name;
  std::string argument;  ///< May be empty.

  bool operator==(const Operation&) const = default;
  std::string text() const { return argument.empty() ? name : name + " " + argument; }
};

/// "mutation createIssue", "tools/call search_*", "tools/list", "eth_*". A star at the end of either word
/// stands for anything, and without a second word any argument is meant.
struct OperationPattern {
  std::string text;  ///< As written.
  std::string name, argument;
  bool name_begins = false, argument_begins = false;  ///< A star followed.

  /// The complaint is a clause: "has more than two words".
  static std::expected<OperationPattern, std::string> parse(std::string_view text);
  bool matches(const Operation& operation) const;
};

struct OperationsQuestion {
  std::string_view method;
  std::string_view query;  ///< Without "?"; as it is sent.
  std::string_view content_type;
  std::string_view body;  ///< Whole, and decoded.
};

/// Everything the request asks for, in its order: all members of a batch, all operations of a GraphQL
/// document, root fields of fragments too (`__typename` left out, unless nothing else is asked for). nullopt
/// when that cannot be told with certainty: another kind of request, persisted queries, a name that is twice
/// in an object, GraphQL in the query and in the body, more than there is a limit for.
std::optional<std::vector<Operation>> read_operations(const OperationsQuestion& asked);

}  // namespace postern::transform
