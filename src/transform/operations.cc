#include "transform/operations.h"

namespace postern::transform {

namespace {

bool matches_word(std::string_view word, bool begins, std::string_view text) {
  return begins ? text.starts_with(word) : text == word;
}

/// A star at its end is taken off.
bool take_star(std::string& word) {
  if (!word.ends_with('*')) return false;
  word.pop_back();
  return true;
}

}  // namespace

std::expected<OperationPattern, std::string> OperationPattern::parse(std::string_view text) {
  OperationPattern out;
  if (text.size() > operation_bytes_max) return std::unexpected("is too long");
  out.text = text;
  const std::size_t space = text.find(' ');
  out.name = text.substr(0, space);
  if (space != std::string_view::npos) out.argument = text.substr(space + 1);
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return std::unexpected("holds a control character");
  if (out.name.empty() || (space != std::string_view::npos && out.argument.empty()))
    return std::unexpected(
        "is no operation, such as \"mutation createIssue\", \"tools/call search_*\" or "
        "\"eth_*\"");
  if (out.argument.find(' ') != std::string::npos) return std::unexpected("has more than two words");
  out.name_begins = take_star(out.name);
  out.argument_begins = space == std::string_view::npos || take_star(out.argument);
  if (out.name.find('*') != std::string::npos || out.argument.find('*') != std::string::npos)
    return std::unexpected("has a star that does not end a word");
  return out;
}

bool OperationPattern::matches(const Operation& operation) const {
  return matches_word(name, name_begins, operation.name) &&
         matches_word(argument, argument_begins, operation.argument);
}

}  // namespace postern::transform
