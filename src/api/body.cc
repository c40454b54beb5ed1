#include "api/body.h"

#include <charconv>
#include <cstring>
#include <fmt/format.h>

namespace postern::api {

using policy::Node;

std::expected<Node, control::Response> read_body(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return Node(Node::Kind::mapping, {});
  auto tree = policy::read_tree(text, policy::Format::json);
  if (!tree) {
    const policy::Problem& first = tree.error().front();
    return std::unexpected(control::to_response(control::bad_request(fmt::format(
        "the body is no JSON: {} (line {}, column {})", first.message, first.at.line, first.at.column))));
  }
  if (tree->kind != Node::Kind::mapping)
    return std::unexpected(control::validation_response("", "the body must be a mapping"));
  return std::move(*tree);
}

void with_body(const std::shared_ptr<control::Call>& call, std::size_t bytes_max,
               std::function<void(BodyFields&)> then) {
  call->read_body(bytes_max, [call, then = std::move(then)](std::string text) {
    auto body = read_body(text);
    ::explicit_bzero(text.data(), text.size());
    if (!body) return call->answer(std::move(body.error()));
    BodyFields fields(*body);
    then(fields);
  });
}

const Node* BodyFields::find(std::string_view key) const {
  const Node* node = body_.find(key);
  return node && node->kind != Node::Kind::null ? node : nullptr;
}

std::string BodyFields::place(std::string_view key) const {
  return where_.empty() ? std::string(key) : fmt::format("{}.{}", where_, key);
}

void BodyFields::note(std::string_view key, std::string message) {
  if (problems_.size() < policy::problems_max) problems_.push_back({place(key), {}, std::move(message)});
}

void BodyFields::take_problems(BodyFields& inner) {
  for (policy::Problem& problem : inner.problems_) problems_.push_back(std::move(problem));
  inner.problems_.clear();
}

const Node* BodyFields::expect(std::string_view key, Node::Kind kind) {
  const Node* node = find(key);
  if (!node || node->kind == kind) return node;
  note(key, fmt::format("must be {}, not {}", policy::name_of(kind), policy::name_of(node->kind)));
  return nullptr;
}

std::optional<std::string> BodyFields::text(std::string_view key, std::size_t bytes_max) {
  const Node* node = expect(key, Node::Kind::string);
  if (!node) return std::nullopt;
  if (node->text.size() <= bytes_max && node->text.find('\0') == std::string::npos) return node->text;
  note(key, fmt::format("must be at most {} bytes, without NUL", bytes_max));
  return std::nullopt;
}

std::optional<std::int64_t> BodyFields::integer(std::string_view key, std::int64_t min, std::int64_t max) {
  const Node* node = expect(key, Node::Kind::number);
  if (!node) return std::nullopt;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(node->text.data(), node->text.data() + node->text.size(), value);
  if (error == std::errc{} && end == node->text.data() + node->text.size() && value >= min && value <= max)
    return value;
  note(key, fmt::format("must be a whole number from {} to {}", min, max));
  return std::nullopt;
}

std::optional<bool> BodyFields::flag(std::string_view key) {
  const Node* node = expect(key, Node::Kind::boolean);
  if (!node) return std::nullopt;
  return node->truth;
}

std::optional<std::map<std::string, std::string>> BodyFields::strings(std::string_view key,
                                                                      std::size_t entries_max) {
  const Node* node = expect(key, Node::Kind::mapping);
  if (!node) return std::nullopt;
  if (node->members.size() > entries_max) {
    note(key, fmt::format("must have at most {} entries", entries_max));
    return std::nullopt;
  }
  std::map<std::string, std::string> out;
  for (const policy::Member& member : node->members) {
    if (member.value.kind != Node::Kind::string)
      note(fmt::format("{}.{}", key, member.key), "must be a string");
    else
      out.emplace(member.key, member.value.text);
  }
  return out;
}

std::optional<std::vector<std::string>> BodyFields::list(std::string_view key, std::size_t entries_max) {
  const Node* node = expect(key, Node::Kind::sequence);
  if (!node) return std::nullopt;
  if (node->items.size() > entries_max) {
    note(key, fmt::format("must have at most {} entries", entries_max));
    return std::nullopt;
  }
  std::vector<std::string> out;
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    if (node->items[i].kind != Node::Kind::string)
      note(fmt::format("{}[{}]", key, i), "must be a string");
    else
      out.push_back(node->items[i].text);
  }
  return out;
}

const Node* BodyFields::mapping(std::string_view key) { return expect(key, Node::Kind::mapping); }

}  // namespace postern::api
