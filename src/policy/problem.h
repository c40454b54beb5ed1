#pragma once
// What is wrong with a policy, said so that its author can mend it: place, key, and the accepted values.
// A message never holds the value of a header or of a variable: it may be a credential in the wrong field.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace postern::policy {

enum class Format { yaml, json };

/// By the extension of a file's name: .json, else YAML (of which JSON is nearly a subset).
Format format_of(std::string_view file_name);

struct Position {
  int line = 0;  ///< 1-based; 0 = unknown
  int column = 0;
  bool operator==(const Position&) const = default;
};

struct Problem {
  std::string where;  ///< "rules[2].match_hosts[0]", or empty for the document as a whole
  Position at;
  std::string message;
};

/// A document with hundreds of mistakes is one mistake: the wrong file.
inline constexpr std::size_t problems_max = 50;

/// "policy.yaml:12:5: rules[0].headers[0].type: 'secret' is not a header type (accepted: ...)"
std::string describe(const Problem& problem, std::string_view file_name);
/// One line each.
std::string describe(const std::vector<Problem>& problems, std::string_view file_name);

/// User-given text for a message: quoted, control characters escaped, cut to a readable length.
std::string in_quotes(std::string_view text);

}  // namespace postern::policy
