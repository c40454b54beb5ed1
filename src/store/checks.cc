#include "store/checks.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "policy/pattern.h"
#include "policy/tree.h"

namespace postern::store {

namespace {

/// An enumerator's place in its list is its word's.
template <class Enum>
constexpr std::array<std::string_view, 0> words;
template <>
constexpr std::array<std::string_view, 6> words<Status> = {"provisioning", "building", "ready",
                                                           "failed",       "stopped",  "deleting"};
template <>
constexpr std::array<std::string_view, 3> words<Scope> = {"admin", "workspace", "read_only"};
template <>
constexpr std::array<std::string_view, 6> words<Kind> = {"workspace",   "api_key", "secret",
                                                         "signing_key", "sandbox", "snapshot"};
template <>
constexpr std::array<std::string_view, 2> words<Part> = {"settings", "policy"};

template <class Enum>
std::string_view word_of(Enum value) {
  return words<Enum>[static_cast<std::size_t>(value)];
}

constexpr std::string_view orders = "cnst";  // by Order

}  // namespace

std::string_view token(Status status) { return word_of(status); }
std::string_view token(Scope scope) { return word_of(scope); }
std::string_view token(Kind kind) { return word_of(kind); }
std::string_view token(Part part) { return word_of(part); }

template <class Enum>
Outcome<Enum> from_token(std::string_view word) {
  const auto found = std::ranges::find(words<Enum>, word);
  if (found == words<Enum>.end()) return fail(Fault::damaged, "the store: a word that was never written");
  return static_cast<Enum>(found - words<Enum>.begin());
}
template Outcome<Status> from_token(std::string_view);
template Outcome<Scope> from_token(std::string_view);
template Outcome<Kind> from_token(std::string_view);

Outcome<void> check_text(std::string_view what, std::string_view text, std::size_t bytes_max) {
  if (text.size() > bytes_max)
    return fail(Fault::too_large, fmt::format("{} has more than {} bytes", what, bytes_max));
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    if (length == 0) return fail(Fault::invalid, fmt::format("{} is not UTF-8", what));
    if (text[i] == '\0') return fail(Fault::invalid, fmt::format("{} has a NUL in it", what));
    i += length;
  }
  return {};
}

Outcome<void> check_name(std::string_view what, std::string_view name) {
  if (name.empty()) return fail(Fault::invalid, fmt::format("{} is empty", what));
  if (std::ranges::any_of(name, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
    return fail(Fault::invalid, fmt::format("{} has a control character in it", what));
  return check_text(what, name, name_bytes_max);
}

bool looks_like_uuid(std::string_view name) {
  if (name.size() != 36) return false;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = static_cast<char>(name[i] | 0x20);
    const bool digit = (name[i] >= '0' && name[i] <= '9') || (c >= 'a' && c <= 'f');
    if (dash ? name[i] != '-' : !digit) return false;
  }
  return true;
}

Outcome<void> check_resource_name(std::string_view name) {
  if (looks_like_uuid(name)) return fail(Fault::invalid, "a name must not look like an id (a UUID)");
  return check_name("a name", name);
}

Outcome<void> check_tag(std::string_view tag) {
  if (tag.empty()) return {};
  return check_name("a tag", tag);
}

Outcome<void> check_labels(const Labels& labels) {
  if (labels.size() > labels_max)
    return fail(Fault::too_many, fmt::format("more than {} labels", labels_max));
  for (const auto& [key, value] : labels) {
    if (auto checked = check_name("a label's key", key); !checked) return checked;
    if (auto checked = check_text("a label's value", value, label_bytes_max); !checked) return checked;
  }
  return {};
}

Outcome<void> check_document(Part part, const Document& document) {
  const std::size_t bytes_max = part == Part::policy ? policy::document_bytes_max : settings_bytes_max;
  if (document.json.size() > bytes_max)
    return fail(Fault::too_large, fmt::format("the {} have more than {} bytes",
                                              part == Part::policy ? "rules" : "settings", bytes_max));
  if (!nlohmann::json::accept(document.json)) return fail(Fault::invalid, "a document is not JSON");
  if (document.secrets.size() > document_secrets_max)
    return fail(Fault::too_many, fmt::format("more than {} secrets in a document", document_secrets_max));
  for (const NamedSecret& secret : document.secrets)
    if (auto checked = check_text("a secret's place", secret.name, text_bytes_max); !checked) return checked;
  return {};
}

Outcome<void> check_secret_key(std::string_view key) {
  if (key.size() > name_bytes_max)
    return fail(Fault::too_large, fmt::format("a secret's key has more than {} bytes", name_bytes_max));
  if (!policy::is_variable_name(key))
    return fail(Fault::invalid, "a secret's key has letters, digits and _, and does not begin with a digit");
  return {};
}

std::string write_cursor(const Cursor& cursor) {
  return fmt::format("{}{}{}:{}", orders[static_cast<std::size_t>(cursor.order)],
                     cursor.direction == Direction::ascending ? 'a' : 'd', cursor.ordinal, cursor.key);
}

Outcome<Cursor> read_cursor(std::string_view text, Order order, Direction direction) {
  Cursor cursor{.order = order, .direction = direction};
  const char ours[] = {orders[static_cast<std::size_t>(order)],
                       direction == Direction::ascending ? 'a' : 'd'};
  const std::string_view prefix(ours, sizeof ours);
  if (text.starts_with(prefix)) {
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + prefix.size(), end, cursor.ordinal);
    if (error == std::errc() && rest != end && *rest == ':') {
      cursor.key.assign(rest + 1, end);
      if (check_text("a cursor", cursor.key, name_bytes_max)) return cursor;
    }
  }
  return fail(Fault::invalid, "the cursor is not of this list");
}

}  // namespace postern::store
