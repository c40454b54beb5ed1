#include "policy/tree.h"

#include <algorithm>
#include <fmt/format.h>
#include <string.h>

#include "base/utf8.h"

namespace postern::policy {

namespace {

void wipe(std::string& text) {
  text.resize(text.capacity());
  explicit_bzero(text.data(), text.size());
  text.clear();
}

/// Refuses what a parser might end or misread a text at: bad UTF-8 and control characters (yaml-cpp takes
/// 0x04 for the end of the file, which would cut a policy short without a word).
std::optional<Problem> find_bad_character(std::string_view text) {
  Position at{1, 1};
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text.substr(i));
    if (length == 0) return Problem{"", at, fmt::format("byte 0x{:02x} is not UTF-8", byte)};
    const bool control = (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f;
    if (control) return Problem{"", at, fmt::format("control character 0x{:02x} is not allowed", byte)};
    if (byte == '\n') {
      at = {at.line + 1, 1};
    } else {
      ++at.column;
    }
    i += length;
  }
  return std::nullopt;
}

}  // namespace

Node::Node(Kind what, Position where, std::string value) : kind(what), at(where), text(value) { wipe(value); }
Node::Node(Node&&) noexcept = default;
Node& Node::operator=(Node&& other) noexcept {
  if (this != &other) {
    wipe(text);
    kind = other.kind;
    at = other.at;
    truth = other.truth;
    text = std::move(other.text);
    items = std::move(other.items);
    members = std::move(other.members);
  }
  return *this;
}
Node::~Node() { wipe(text); }

const Node* Node::find(std::string_view key) const {
  for (const Member& member : members) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

std::string_view name_of(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::null: return "nothing";
    case Node::Kind::boolean: return "true or false";
    case Node::Kind::number: return "a number";
    case Node::Kind::string: return "a string";
    case Node::Kind::sequence: return "a list";
    case Node::Kind::mapping: return "a mapping";
  }
  return "nothing";
}

std::expected<Node, std::vector<Problem>> read_tree(std::string_view text, Format format, ItemSink* sink) {
  if (text.size() > document_bytes_max) {
    return std::unexpected(std::vector{
        Problem{"", {}, fmt::format("{} bytes: a policy has at most {}", text.size(), document_bytes_max)}});
  }
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark says nothing in UTF-8
  if (auto bad = find_bad_character(text)) return std::unexpected(std::vector{std::move(*bad)});

  TreeBuilder builder(sink);
  if (format == Format::json) {
    read_json(text, builder);
  } else {
    read_yaml(text, builder);
  }
  if (builder.problems().empty() && !builder.done()) builder.fail({1, 1}, "the document is empty");
  if (!builder.problems().empty()) return std::unexpected(std::move(builder.problems()));
  return builder.take();
}

bool TreeBuilder::wants_key() const {
  return !open_.empty() && open_.back().node.kind == Node::Kind::mapping && !open_.back().has_key;
}

bool TreeBuilder::scalar(Node node) {
  const std::size_t before = nodes_;
  return count(node.at) && attach(std::move(node), before);
}

bool TreeBuilder::key(std::string text, Position at) {
  if (!count(at)) return false;
  Open& mapping = open_.back();
  mapping.key = std::move(text);
  mapping.key_at = at;
  mapping.has_key = true;
  return true;
}

bool TreeBuilder::open(Node::Kind kind, Position at) {
  const std::size_t before = nodes_;
  if (!count(at)) return false;
  if (open_.size() >= tree_depth_max) {
    return fail(at, fmt::format("nested deeper than {} levels", tree_depth_max));
  }
  open_.push_back({.node = Node(kind, at), .key = {}, .key_at = {}, .nodes_before = before});
  return true;
}

bool TreeBuilder::close() {
  Node node = std::move(open_.back().node);
  // Sorted neighbours instead of a search per key: a mapping of 100,000 keys stays cheap.
  std::vector<const Member*> sorted;
  sorted.reserve(node.members.size());
  for (const Member& member : node.members) sorted.push_back(&member);
  std::ranges::sort(sorted, [](const Member* a, const Member* b) {
    return a->key != b->key ? a->key < b->key : a < b;  // they stand in one array, in the order of the text
  });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1]->key == sorted[i]->key) {
      fail(sorted[i]->at, fmt::format("key {} appears twice in the same mapping (first on line {})",
                                      in_quotes(sorted[i]->key), sorted[i - 1]->at.line));
    }
  }
  const std::size_t before = open_.back().nodes_before;
  open_.pop_back();
  return attach(std::move(node), before);
}

bool TreeBuilder::goes_to_sink() const {
  return sink_ && open_.size() == 2 && open_[1].node.kind == Node::Kind::sequence &&
         open_[0].node.kind == Node::Kind::mapping && open_[0].key == sink_->key();
}

/// `nodes_before`: how many there were without this one.
bool TreeBuilder::attach(Node node, std::size_t nodes_before) {
  if (open_.empty()) {
    root_ = std::move(node);
    done_ = true;
    return true;
  }
  Open& parent = open_.back();
  if (goes_to_sink()) {
    sink_->take(std::move(node));
    nodes_ = nodes_before;
    ++parent.handed_over;
  } else if (parent.node.kind == Node::Kind::sequence) {
    parent.node.items.push_back(std::move(node));
  } else {
    parent.node.members.push_back({std::move(parent.key), parent.key_at, std::move(node)});
    parent.key.clear();
    parent.has_key = false;
  }
  return true;
}

bool TreeBuilder::count(Position at) {
  if (++nodes_ <= tree_nodes_max) return true;
  return fail(at, fmt::format("more than {} values", tree_nodes_max));
}

bool TreeBuilder::fail(Position at, std::string message) {
  if (problems_.size() < problems_max) problems_.push_back({where(), at, std::move(message)});
  return false;
}

std::string TreeBuilder::where() const {
  std::string out;
  for (const Open& level : open_) {
    if (level.node.kind == Node::Kind::sequence) {
      out += fmt::format("[{}]", level.node.items.size() + level.handed_over);
    } else if (level.has_key) {
      if (!out.empty()) out += '.';
      out += level.key;
    }
  }
  return out;
}

}  // namespace postern::policy
