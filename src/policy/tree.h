#pragma once
// The text of a policy as a tree that remembers where everything stood. YAML and JSON become the same tree,
// so that every later message names line and column, and so that both are held to the same limits.
// Deliberately less than YAML: no anchors, aliases, tags or merge keys (they let a small file mean a huge
// one, and hide what it says), one document, and no duplicate keys (the reader and the program must not pick
// different ones).

#include <cstddef>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::policy {

inline constexpr std::size_t document_bytes_max = 64 * 1024 * 1024;  // rules_max of some 600 bytes each
inline constexpr std::size_t tree_depth_max = 32;  // the schema needs 6; recursion over the tree stays small
inline constexpr std::size_t tree_nodes_max = 400'000;  // at once; about 100 bytes each: 40 MB at worst

struct Member;

/// One value. Its text may be an opaque credential, so it is wiped.
struct Node {
  enum class Kind { null, boolean, number, string, sequence, mapping };
  Kind kind = Kind::null;
  Position at;
  bool truth = false;           ///< Kind::boolean
  std::string text;             ///< Kind::string, decoded; Kind::number, as written
  std::vector<Node> items;      ///< Kind::sequence
  std::vector<Member> members;  ///< Kind::mapping, in order; keys are unique

  Node() = default;
  Node(Kind what, Position where, std::string value = {});
  Node(Node&&) noexcept;
  Node& operator=(Node&&) noexcept;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node();

  /// The member's value, or nullptr.
  const Node* find(std::string_view key) const;
};

struct Member {
  std::string key;
  Position at;
  Node value;
};

/// "a mapping", "a list", "a string", "a number", "true or false", "nothing"
std::string_view name_of(Node::Kind kind);

/// Takes the items of one list of the root mapping as they are read, so that a document of a hundred thousand
/// rules is never a tree. In the tree that list is empty then.
class ItemSink {
 public:
  virtual std::string_view key() const = 0;
  virtual void take(Node item) = 0;

 protected:
  ~ItemSink() = default;
};

/// What `sink` was given before an error means nothing.
std::expected<Node, std::vector<Problem>> read_tree(std::string_view text, Format format,
                                                    ItemSink* sink = nullptr);

/// Builds the tree from a parser's events and keeps the limits. Every call returns false when reading must
/// stop.
class TreeBuilder {
 public:
  explicit TreeBuilder(ItemSink* sink = nullptr) : sink_(sink) {}
  bool scalar(Node node);
  bool key(std::string text, Position at);
  bool open(Node::Kind kind, Position at);
  bool close();
  bool fail(Position at, std::string message);

  /// True when the next scalar stands where a mapping wants a key (YAML tells keys and values alike).
  bool wants_key() const;
  bool done() const { return done_; }
  std::vector<Problem>& problems() { return problems_; }
  Node take() { return std::move(root_); }

 private:
  struct Open {
    Node node;
    std::string key;
    Position key_at;
    bool has_key = false;
    std::size_t nodes_before = 0;
    std::size_t handed_over = 0;  ///< Items that the sink took.
  };
  bool attach(Node node, std::size_t nodes_before);
  bool goes_to_sink() const;
  bool count(Position at);
  std::string where() const;

  ItemSink* sink_;
  std::vector<Open> open_;
  Node root_;
  bool done_ = false;
  std::size_t nodes_ = 0;  ///< That are there now.
  std::vector<Problem> problems_;
};

/// The two readers behind read_tree(). Errors go to the builder.
void read_yaml(std::string_view text, TreeBuilder& builder);
void read_json(std::string_view text, TreeBuilder& builder);

}  // namespace postern::policy
