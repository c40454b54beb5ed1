#pragma once
// `require: {json_schema: ...}`: whether a body is JSON of the shape that a policy asks for.
//
// JSON Schema 2020-12 without what needs the network or has no bound, and with the forms of draft 7 that are
// still written (definitions, dependencies, a list for items). A validator of our own, because the body comes
// from a sandbox: patterns run on RE2, equal items are found by sorting, depth and work have limits, and what
// is wrong is said without a word of the body. docs/transformation.md lists the keywords.

#include <cstddef>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

#include "base/units.h"

namespace postern::transform {

inline constexpr std::size_t schema_bytes_max = 256 * KiB;
inline constexpr std::size_t schema_nodes_max = 10'000;
/// Of a body, and of the schemas that one value of it may be held to, one in the other.
inline constexpr std::size_t schema_depth_max = 128;

class BodySchema {
 public:
  /// The complaint says where in the schema (a JSON pointer) and what: "at /properties/id: the keyword
  /// 'nullable' is not known". A keyword that would not be kept is refused, and so is a $ref out of the
  /// schema.
  static std::expected<std::shared_ptr<const BodySchema>, std::string> compile(std::string_view schema);
  ~BodySchema();
  BodySchema(const BodySchema&) = delete;
  BodySchema& operator=(const BodySchema&) = delete;

  /// "at /messages/0/role: is none of the allowed values". Names in the pointer are those of the schema;
  /// other names of the body are "*". Also refused: what is not JSON, a name that is twice in one object (its
  /// readers would differ about it), more depth or work than there is a limit for. From any thread.
  std::expected<void, std::string> validate(std::string_view body) const;

 private:
  struct Node;
  struct Parts;
  class Compiler;
  class Check;
  explicit BodySchema(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace postern::transform
