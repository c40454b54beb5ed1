#pragma once
// The ground of what reads a policy's tree: places, problems, kinds and lists. Every problem is collected, so
// that the author mends them in one go.

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/document.h"
#include "policy/tree.h"

namespace postern::policy {

using Names = std::span<const std::string_view>;

inline bool contains(Names names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

class TreeReader {
 public:
  explicit TreeReader(UnknownFields unknown_fields, References references = References::refuse)
      : unknown_fields_(unknown_fields), references_(references) {}

 protected:
  void fail(std::string where, Position at, std::string message) {
    if (problems_.size() < problems_max) problems_.push_back({std::move(where), at, std::move(message)});
  }

  bool expect(const Node& node, const std::string& where, Node::Kind kind) {
    if (node.kind == kind) return true;
    // The value itself stays unsaid: it may be a credential.
    std::string_view advice;
    if (kind == Node::Kind::string) {
      const bool scalar = node.kind == Node::Kind::number || node.kind == Node::Kind::boolean;
      const bool nested = node.kind == Node::Kind::sequence || node.kind == Node::Kind::mapping;
      if (scalar) advice = ": write it in quotes";
      if (nested) advice = ": a text that begins with { or [, or that holds ': ', needs quotes";
    }
    fail(where, node.at,
         fmt::format("must be {}, not {}{}", name_of(kind),
                     node.kind == Node::Kind::boolean ? "a truth value" : name_of(node.kind), advice));
    return false;
  }

  static std::string child(const std::string& where, std::string_view key) {
    return where.empty() ? std::string(key) : fmt::format("{}.{}", where, key);
  }
  static std::string child(const std::string& where, std::size_t index) {
    return fmt::format("{}[{}]", where, index);
  }

  /// Unknown fields of a mapping, and fields that were named and left empty.
  void check_fields(const Node& mapping, const std::string& where, Names known) {
    for (const Member& member : mapping.members) {
      const bool empty = member.value.kind == Node::Kind::null;
      if (empty && unknown_fields_ == UnknownFields::tolerate) continue;
      if (contains(known, member.key)) {
        if (empty) fail(child(where, member.key), member.at, "is empty: give it a value or leave it out");
      } else if (unknown_fields_ == UnknownFields::refuse) {
        fail(child(where, member.key), member.at,
             fmt::format("unknown field {} (accepted: {})", in_quotes(member.key), fmt::join(known, ", ")));
      }
    }
  }

  /// A member with a value; null was dealt with in check_fields().
  static const Node* find(const Node& mapping, std::string_view key) {
    const Node* node = mapping.find(key);
    return node != nullptr && node->kind != Node::Kind::null ? node : nullptr;
  }

  /// `each(item, where)` for every item of an optional list of at most `max`.
  template <class Each>
  void read_list(const Node& mapping, const std::string& where, std::string_view key, std::size_t max,
                 Each each) {
    const Node* list = find(mapping, key);
    const std::string place = child(where, key);
    if (list == nullptr || !expect(*list, place, Node::Kind::sequence)) return;
    if (list->items.size() > max) {
      return fail(place, list->at,
                  fmt::format("{} entries: at most {} are accepted", list->items.size(), max));
    }
    for (std::size_t i = 0; i < list->items.size(); ++i) each(list->items[i], child(place, i));
  }

  template <class Each>
  void read_strings(const Node& mapping, const std::string& where, std::string_view key, std::size_t max,
                    Each each) {
    read_list(mapping, where, key, max, [&](const Node& item, const std::string& place) {
      if (expect(item, place, Node::Kind::string)) each(item, place);
    });
  }

  /// The string, or nullptr when absent or (then reported) of another kind.
  const Node* read_string(const Node& mapping, const std::string& where, std::string_view key) {
    const Node* node = find(mapping, key);
    return node != nullptr && expect(*node, child(where, key), Node::Kind::string) ? node : nullptr;
  }

  bool read_flag(const Node& mapping, const std::string& where, std::string_view key, bool otherwise) {
    const Node* node = find(mapping, key);
    if (node == nullptr || !expect(*node, child(where, key), Node::Kind::boolean)) return otherwise;
    return node->truth;
  }

  /// The string; absent, the problem says `what`: "a callback needs a 'url'".
  const Node* require_string(const Node& mapping, const std::string& where, std::string_view key,
                             std::string_view what) {
    if (find(mapping, key) == nullptr) {
      if (mapping.find(key) == nullptr || unknown_fields_ == UnknownFields::tolerate)
        fail(where, mapping.at, std::string(what));
      return nullptr;
    }
    return read_string(mapping, where, key);
  }

  /// A value that is to be kept. On the heap, where Secret takes it over without leaving a copy.
  static Secret seal(const Node& value) {
    std::string copy;
    copy.reserve(value.text.size() + 32);
    copy = value.text;
    return Secret(std::move(copy));
  }

  /// `from` of an opaque value. True when there is one, good or not.
  bool read_from(const Node& mapping, const std::string& where, HeaderType type, std::string& out) {
    constexpr std::size_t bytes_max = 4096;
    const Node* from = find(mapping, "from");
    if (from == nullptr) return false;
    const std::string place = child(where, "from");
    if (!expect(*from, place, Node::Kind::string)) return true;
    const std::string_view text = from->text;
    const std::size_t colon = text.find(':');
    const std::string_view form = text.substr(0, colon == std::string_view::npos ? 0 : colon);
    const bool known = form == "file" || form == "cmd" || form == "vault";
    if (references_ == References::refuse)
      fail(
          place, from->at,
          "is only read from files that the operator gives to 'postern run', and that nobody else may write");
    else if (type != HeaderType::opaque)
      fail(place, from->at, "belongs to the type opaque");
    else if (mapping.find("value") != nullptr)
      fail(place, from->at, "stands beside a value: exactly one of 'value' and 'from' is accepted");
    else if (!known || colon + 1 == text.size() || text.size() > bytes_max ||
             text.find('\0') != std::string_view::npos)
      fail(place, from->at, "is not file:PATH, cmd:COMMAND or vault:PATH#FIELD");
    else
      out = text;
    return true;
  }

  UnknownFields unknown_fields_;
  References references_;
  std::vector<Problem> problems_;
};

}  // namespace postern::policy
