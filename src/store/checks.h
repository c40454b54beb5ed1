#pragma once
// What any store refuses before it looks into its tables, and the cursors of lists.

#include <span>
#include <string>
#include <string_view>

#include "store/records.h"

namespace postern::store {

/// 1 to name_bytes_max bytes of UTF-8 without control characters. `what`: for the sentence, "a name".
Outcome<void> check_name(std::string_view what, std::string_view name);
/// The form of an id, which no name has: by it a caller's word is taken for the one or the other.
bool looks_like_uuid(std::string_view text);
/// As check_name(), and not the form of a UUID, by which things are found too.
Outcome<void> check_resource_name(std::string_view name);
/// As check_name(), but may be empty.
Outcome<void> check_tag(std::string_view tag);
Outcome<void> check_text(std::string_view what, std::string_view text, std::size_t bytes_max);
Outcome<void> check_labels(const Labels& labels);
Outcome<void> check_document(Part part, const Document& document);

/// As in policies: letters, digits and _.
Outcome<void> check_secret_key(std::string_view key);

std::string_view token(Status status);
std::string_view token(Scope scope);
std::string_view token(Kind kind);
std::string_view token(Part part);
/// Errors: damaged, for a word that nobody wrote.
template <class Enum>
Outcome<Enum> from_token(std::string_view word);

/// Where a list goes on. Its text says in which list, so that it means nothing in another.
struct Cursor {
  Order order = Order::created;
  Direction direction = Direction::ascending;
  std::uint64_t ordinal = 0;
  std::string key;  ///< Of the last item, by the order.
};
std::string write_cursor(const Cursor& cursor);
/// Errors: invalid.
Outcome<Cursor> read_cursor(std::string_view text, Order order, Direction direction);

}  // namespace postern::store
